"""Stopping a statement on the server.

Owns the way a kill takes: over a connection outside the pool and its limits, within a time of its own, and only to the
server that runs the statement. Where that cannot be had the link is cut instead, so that at least the caller is free.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .drivers import Driver, Identity, driver_of
from .statistics import Counters

logger = logging.getLogger("offload_db")

# Seconds that a kill may take in all before the link is cut.
PATIENCE = 5.0
# Kill connections at the same time: many cancelled at once must not storm the server.
AT_ONCE = 4
# Seconds that a kill waits for the one before it, and for its own effect. MariaDB 10.11 holds a KILL up for 2 s,
# and its victim with it, when another statement just then enters or leaves the same wait, as all those in SLEEP() do:
# with four kills at once that happened in 11 of 164 rounds of eight, one after the other in 2 of 362.
TURN = 0.25
EFFECT = 0.02
# Connections to try for the one that a balancer leads to the right server.
TRIES = 16


class Killer:
    """Stops the running statements of one pool.

    :param connect: opens a connection to the server, given the seconds it may take
    """

    def __init__(self, connect: Callable[[float], Any], counters: Counters) -> None:
        self._connect = connect
        self._counters = counters
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._turn = threading.Lock()

    def stop(self, call: StoppableCall) -> None:
        """Bring the call back: kill its statement, as often as it takes, or else cut its link.

        Returns when the call has come back or its link is cut, after :data:`PATIENCE` seconds at most.
        """
        deadline = time.monotonic() + PATIENCE
        try:
            if call.killable and self._places.acquire(timeout=PATIENCE):
                try:
                    self._kill(call, deadline)
                finally:
                    self._places.release()
        except Exception as error:
            logger.info("a statement could not be killed (%s); its link is cut", type(error).__name__)
        if not call.killable:
            # What has no statement to kill, a commit above all, mostly takes no time: it may finish.
            call.finished.wait(max(0.0, deadline - time.monotonic()))
        if call.finished.is_set():
            if call.killed:
                self._counters.add("kills")
            return
        self._counters.add("kills_failed")
        call.cut()

    def end(self, call: StoppableCall) -> None:
        """Kill, once, the statement whose rows nobody is going to read; its link is closed next, which ends the rest.

        Returns after :data:`PATIENCE` seconds at most, and never raises.
        """
        identity = call.identity
        if identity is None or not self._places.acquire(timeout=PATIENCE):
            return
        try:
            admin = self._reach(identity, call, time.monotonic() + PATIENCE)
            if admin is None:
                return
            try:
                self._send(admin, identity, call)
                if call.killed:
                    self._counters.add("kills")
            finally:
                driver_of(admin).close(admin)
        except Exception as error:
            logger.info("a statement could not be killed (%s); its link is closed", type(error).__name__)
        finally:
            self._places.release()

    def _kill(self, call: StoppableCall, deadline: float) -> None:
        identity = call.identity
        if identity is None:
            return
        admin = self._reach(identity, call, deadline)
        if admin is None:
            return
        pause = 0.002
        try:
            while not call.finished.is_set() and time.monotonic() < deadline:
                self._send(admin, identity, call)
                # The statement may not have reached the server yet, or another one of the same call may follow.
                call.finished.wait(pause)
                pause = min(pause * 2, 0.25)
        finally:
            driver_of(admin).close(admin)

    def _send(self, admin: Any, identity: Identity, call: StoppableCall) -> None:
        my_turn = self._turn.acquire(timeout=TURN)
        try:
            if driver_of(admin).kill(admin, identity):
                call.killed = True
                call.finished.wait(EFFECT)
        finally:
            if my_turn:
                self._turn.release()

    def _reach(self, identity: Identity, call: StoppableCall, deadline: float) -> Any:
        """Open a connection to the very server that runs the statement; None if there is no getting there."""
        for _ in range(TRIES):
            left = deadline - time.monotonic()
            if left <= 0 or call.finished.is_set():
                return None
            admin = self._connect(left)
            driver = driver_of(admin)
            # Behind a balancer the next connection may lead elsewhere, where the id is somebody else's.
            found = driver.identity(admin)
            if found is not None and found.server == identity.server:
                return admin
            driver.close(admin)
        return None


class StoppableCall:
    """One driver call that may have to be stopped."""

    __slots__ = ("_driver", "_raw", "_was_cut", "finished", "identity", "killable", "killed", "late")

    def __init__(self, raw: Any, driver: Driver, identity: Identity | None, *, killable: bool) -> None:
        self._raw = raw
        self._driver = driver
        self.identity = identity
        self.killable = killable
        self.finished = threading.Event()
        self.killed = False
        """Whether a kill was sent while the statement ran."""
        self.late = False
        """Whether it was to be stopped because its own time was over, and not by the end of the pool."""
        self._was_cut = False

    @property
    def stopped(self) -> bool:
        """Whether the call was brought back before its natural end, for all that is known."""
        return self.killed or self._was_cut

    def cut(self) -> None:
        """Cut the link under the call, whose thread then comes back with an error."""
        self._was_cut = True
        with suppress(Exception):
            self._driver.cut(self._raw)
