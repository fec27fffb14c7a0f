"""The pace of attempts to connect.

Owns how many there are at once, and when the next one may begin while the server can't be reached.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from ..errors import CheckoutTimeout
from .reachability import like, reached, timed_out

# Attempts to connect at the same time. Each costs the interpreter's lock some 20 ms with PyMySQL 1.2 and TLS, so more
# at once would only make the event loop wait.
AT_ONCE = 4
# Seconds between attempts while the server can't be reached: doubled after each, from the first to the second.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 1.0


class ConnectThrottle:
    """Lets few attempts through at once, and while the server can't be reached one after the other with pauses."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew."""
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._given = math.inf
        self._failures = 0
        self._not_before = 0.0
        self._probing = False

    def attempt(self, connect: Callable[[], Any], until: float, patience: float) -> Any:
        """Call *connect* when it is its turn.

        :param until: when the caller's own time is over: what fails then says nothing of the server
        :param patience: seconds that the server is given to answer
        """
        left = min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX)
        places = self._places
        if not places.acquire(timeout=left):
            raise CheckoutTimeout.because("no connection was opened in time: others were being opened before it")
        try:
            probe = self._enter(patience)
            try:
                raw = connect()
            except BaseException as error:
                says = reached(error) if isinstance(error, Exception) and time.monotonic() < until else None
                if says:
                    self._stands(probe)
                else:
                    self._failed(None if says is None else error, probe, patience)
                raise
            self._stands(probe)
            return raw
        finally:
            places.release()

    def _enter(self, patience: float) -> bool:
        with self._lock:
            error = self._error
            if error is None or patience > self._given:
                return False
            if not self._probing and time.monotonic() >= self._not_before:
                self._probing = True
                return True
        raise like(error)

    def _stands(self, probe: bool) -> None:
        with self._lock:
            self._error, self._failures = None, 0
            self._probing = self._probing and not probe

    def _failed(self, error: BaseException | None, probe: bool, patience: float) -> None:
        with self._lock:
            self._probing = self._probing and not probe
            if error is None:
                return
            if probe or self._error is None:
                self._not_before = time.monotonic() + min(SHORTEST_PAUSE * 2**self._failures, LONGEST_PAUSE)
                self._failures = min(self._failures + 1, 10)
            self._error = like(error)
            # Who gives the server more time than it was given here is told nothing by its not answering.
            self._given = patience if timed_out(error) else math.inf
