"""Tasks that wait until the event loop's own thread could have a connection.

Owns their wait, before a call begins that will make its checkouts there and cannot wait in their middle. Whether it
would find a connection is ``admission_queue.py``'s to say.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ..bridge.signals import TaskEvent, task_event


class LoopWaiters:
    """Those that wait. It has no lock: each step that adds or removes one is made as a whole."""

    __slots__ = ("signals",)

    def __init__(self) -> None:
        self.signals: list[TaskEvent] = []
        """One for each of them."""

    def wake(self) -> None:
        """Let all of them look again: mostly one after the other has its turn, in one round of the loop."""
        for signal in tuple(self.signals):
            signal.set()

    async def wait(self, needs_to: Callable[[], bool], seconds: float | None) -> bool:
        """Wait for as long as a task needs to, and the seconds are not over; False if it need not at all."""
        ends = math.inf if seconds is None else time.monotonic() + seconds
        waited = False
        while needs_to() and (left := ends - time.monotonic()) > 0:
            signal = task_event()
            self.signals.append(signal)
            waited = True
            try:
                if needs_to():  # else what it waits for has come meanwhile, and wakes nobody any more
                    await signal.wait_for(None if left == math.inf else left)
            finally:
                self.signals.remove(signal)
        return waited
