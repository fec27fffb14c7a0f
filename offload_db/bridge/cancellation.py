"""What becomes of code in a worker thread when the task that waits for it is cancelled.

Owns what such code waits for just now, and how that is stopped. Knows neither tasks nor statements.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..errors import CallCancelled


class Cancellation:
    """Stops what code in a worker thread waits for, and refuses what it begins afterwards; the code unwinds then."""

    __slots__ = ("_lock", "_under_way", "requested")

    def __init__(self) -> None:
        # Held for a few instructions only: the event loop's thread takes it. A finaliser may come by in the middle.
        self._lock = threading.RLock()
        # How to stop what is under way, and, once that is being done, the event that says it is over.
        self._under_way: dict[Callable[[], object], threading.Event | None] = {}
        self.requested = False
        """Whether the task was cancelled."""

    def check(self) -> None:
        """Raise :class:`CallCancelled` if the task was cancelled."""
        if self.requested:
            raise CallCancelled.because(
                "nothing was sent: the task of this call was cancelled while its code ran in a worker thread; let this "
                "error pass, as nobody waits for the result any more"
            )

    def begin(self, stop: Callable[[], object], *, unwinding: bool = False) -> None:
        """Note that something is under way.

        :param stop: brings it back early; called once at most, in another thread
        :param unwinding: begin it also after the cancellation, where nothing stops it any more
        :raises CallCancelled: if the task was cancelled
        """
        with self._lock:
            if not unwinding:
                self.check()
            if not self.requested:
                self._under_way[stop] = None

    def end(self, stop: Callable[[], object]) -> None:
        """Note that it has come back; if it is being stopped, wait until that is over."""
        with self._lock:
            stopping = self._under_way.pop(stop, None)
        if stopping is not None:
            stopping.wait()  # or a kill that comes late would meet what is sent next

    def request(self) -> Callable[[], None] | None:
        """Note that the task was cancelled; returns what stops all that is under way, if anything is.

        That may take some seconds.
        """
        with self._lock:
            self.requested = True
            return self._stop if self._under_way else None

    def _stop(self) -> None:
        with self._lock:
            stops = {stop: threading.Event() for stop in self._under_way}
            self._under_way.update(stops)
        for stop, over in stops.items():
            try:
                stop()
            finally:
                over.set()
