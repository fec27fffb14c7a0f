"""The pace of attempts to connect.

Owns how many there are at once, when the next one may begin while the server can't be reached, and who waits for it.
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
# Seconds in which no attempt has come through, after which what fails concerns everybody who waits. Behind a balancer
# of which one node in three refuses, some attempts in a row fail by chance.
AWAY_AFTER = 1.0


class ConnectThrottle:
    """Lets few attempts through at once, and while the server can't be reached one after the other with pauses.

    An attempt that fails is its own caller's alone; the others wait for theirs. Only where none has come through for
    :data:`AWAY_AFTER` seconds, its error is everybody's who waited for it.
    """

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew."""
        self._changed = threading.Condition()
        self._running: set[object] = set()
        self._error: BaseException | None = None
        self._given = math.inf
        self._pause = SHORTEST_PAUSE
        self._not_before = self._failing_since = 0.0
        # When an attempt came through last, or the first one of those that fail now began, whichever is later.
        self._stood = -math.inf
        self._away = -math.inf  # when an attempt failed last, while none comes through

    @property
    def paced(self) -> bool:
        """Whether attempts are made one after the other now, as the server could not be reached."""
        return self._error is not None

    def attempt(
        self,
        connect: Callable[[], Any],
        until: float,
        patience: float,
        *,
        came: float | None = None,
        turn_until: float = math.inf,
    ) -> Any:
        """Call *connect* when it is its turn.

        :param until: when the caller's own time is over: what fails then says nothing of the server
        :param patience: seconds that the server is given to answer
        :param came: since when the caller waits; None for one that does not wait for a server that can't be reached,
            but gets the last error
        :param turn_until: until when it waits for its turn, where that is less than its own time
        :raises CheckoutTimeout: if the turn does not come in time
        """
        me = object()
        try:
            began = self._wait_for_turn(me, came, min(until, turn_until), patience)
            try:
                raw = connect()
            except BaseException as error:
                says = reached(error) if isinstance(error, Exception) and time.monotonic() < until else None
                if says:
                    self._stands()
                elif says is not None:
                    self._failed(error, began, patience)
                raise
            self._stands()
            return raw
        finally:
            with self._changed:
                self._running.discard(me)
                self._changed.notify_all()

    def _wait_for_turn(self, me: object, came: float | None, ends: float, patience: float) -> float:
        """Wait for the turn of *me*; returns when that is."""
        with self._changed:
            while True:
                now = time.monotonic()
                error = self._error if patience <= self._given else None
                full = len(self._running) >= AT_ONCE
                comes = not full and (error is None or now >= self._not_before)
                if error is not None and (not comes if came is None else came < self._away):
                    raise like(error)
                if comes:
                    self._running.add(me)
                    self._not_before = now + self._pause
                    return now
                if now >= ends:
                    why = (
                        "others were being opened before it; offload-db doctor tells how long one takes, and "
                        "checkout_timeout or the call's timeout how long it may take"
                        if error is None
                        else f"{error}"
                    )
                    raise CheckoutTimeout.because(f"no connection was opened in time: {why}") from (
                        None if error is None else like(error)
                    )
                wake = ends if full or error is None else min(ends, self._not_before)
                self._changed.wait(min(wake - now, threading.TIMEOUT_MAX))

    def _stands(self) -> None:
        with self._changed:
            self._error, self._pause = None, SHORTEST_PAUSE
            self._stood, self._away = time.monotonic(), -math.inf

    def _failed(self, error: BaseException, began: float, patience: float) -> None:
        with self._changed:
            now = time.monotonic()
            if self._error is None:
                self._failing_since, self._stood = now, max(began, self._stood)
            elif began >= self._failing_since:  # those that had begun before were on their way together
                self._pause = min(self._pause * 2, LONGEST_PAUSE)
            self._not_before = now + self._pause
            if now - self._stood >= AWAY_AFTER:
                self._away = now
            self._error = like(error)
            # Who gives the server more time than it was given here is told nothing by its not answering.
            self._given = patience if timed_out(error) else math.inf
