"""Bringing back, at the end of a pool, what still runs on its connections.

Owns the threads that do it at the same time. Each kill is ``connection/killer.py``'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from ..bridge.background import start_thread
from ..connection.physical import PhysicalConnection
from ..errors import ThreadUnavailable

# Threads that bring back calls at the end of the pool, besides the one that closes it.
HELPERS = 8


def interrupt_all(links: Iterable[PhysicalConnection]) -> None:
    """Bring back the calls that run on connections; waits for the server."""
    running = deque(links)

    def interrupt() -> None:
        while True:
            try:
                link = running.popleft()
            except IndexError:
                return
            link.interrupt()

    # Python's own executor takes no more work when the interpreter exits, which is when many pools are closed.
    helpers = []
    for _ in range(min(HELPERS, len(running) - 1)):
        with suppress(ThreadUnavailable):
            helpers.append(start_thread(interrupt, "close"))
    interrupt()
    for helper in helpers:
        helper.join()
