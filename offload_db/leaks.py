"""Connections that are held for too long.

Owns the watch over checkouts: one that lasts longer than ``leak_warning`` is reported once with the stack that made
it, and again when it comes back. It never takes a connection away.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

from .background import start
from .errors import ThreadUnavailable

logger = logging.getLogger("offload_db")

_PACKAGE = str(Path(__file__).parent)
# Seconds between looks at what is still out when the pool is closed.
LONGEST_LAST_WAIT = 0.25
# Frames of a checkout's stack that are kept.
_DEPTH = 12


class Checkout:
    """When and where a connection was checked out."""

    __slots__ = ("_stack", "reported", "since")

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.reported = False
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
            frame = frame.f_back
        # Names and lines only: a frame would keep the handler's variables, and the connection among them, alive.
        self._stack = traceback.StackSummary.extract(traceback.walk_stack(frame), limit=_DEPTH, lookup_lines=False)

    @property
    def stack(self) -> str:
        """The stack of the checkout, outermost call first."""
        return "".join(reversed(self._stack.format()))


class LeakWatch:
    """Watches the checkouts of one pool from a thread of its own, which lives while there are any.

    :param seconds: how long a connection may be held before it is reported
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._condition = threading.Condition()
        self._watched: set[Checkout] = set()
        self._thread: threading.Thread | None = None
        self._closed = False

    def begin(self) -> Checkout:
        """Note a checkout."""
        checkout = Checkout()
        with self._condition:
            self._watched.add(checkout)
            if self._thread is None:
                thread = threading.Thread(target=self._watch, name="offload_db leak watch", daemon=True)
                with suppress(ThreadUnavailable):  # the next checkout tries again
                    start(thread)
                    self._thread = thread
        return checkout

    def end(self, checkout: Checkout) -> None:
        """Note that the connection came back."""
        # No lock: a finaliser may call this in the middle of anything.
        self._watched.discard(checkout)
        if checkout.reported:
            logger.warning(
                "a connection that was reported as held for too long came back after %.1f s",
                time.monotonic() - checkout.since,
            )

    def close(self) -> None:
        """End the thread as soon as nothing is out; what is out is watched until it comes back."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _watch(self) -> None:
        while True:
            now = time.monotonic()
            with self._condition:
                pending = [checkout for checkout in self._watched.copy() if not checkout.reported]
                if not pending:
                    self._thread = None
                    return
            for checkout in pending:
                if now - checkout.since >= self.seconds:
                    checkout.reported = True
                    logger.warning(
                        "a connection has been held for %.1f s, longer than leak_warning (%.1f s); "
                        "close it on every path, best in a with block. It was checked out here:\n%s",
                        now - checkout.since,
                        self.seconds,
                        checkout.stack,
                    )
            due = min((c.since for c in pending if not c.reported), default=now) + self.seconds
            wait = max(0.01, min(due - now, self.seconds))
            with self._condition:
                # Nobody tells the thread what came back: finalisers must not take its lock.
                self._condition.wait(min(wait, LONGEST_LAST_WAIT) if self._closed else wait)
