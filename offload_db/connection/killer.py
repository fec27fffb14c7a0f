"""Stopping a statement on the server.

Owns the way a kill takes: over a connection outside the pool and its limits, within a time of its own, and only to the
server that runs the statement. Where that cannot be had the link is cut instead, so that at least the caller is free.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import Any

from ..drivers.base import Identity
from ..drivers.registry import driver_of
from ..statistics import Counters
from .driver_call import Connect, DriverCall

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
# Seconds between looks at whether a call has come back while its kill waits for a place.
GLANCE = 0.05


class Killer:
    """Stops the running statements of one pool.

    :param connect: opens a connection to the server, given the seconds it may take; calls on connections that were
        opened with other settings bring theirs
    """

    def __init__(self, connect: Connect, counters: Counters) -> None:
        self._connect = connect
        self._counters = counters
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked child: threads of the parent may have been in the middle of kills."""
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._sending = threading.Lock()
        self._lock = threading.Lock()  # for what stands below, for a few instructions only
        self._present = self._waiting = self._through = 0
        self._stops: Counter[DriverCall] = Counter()  # by the calls that are being brought back
        self._silent: Counter[tuple[str, ...]] = Counter()  # by server
        # Connections that a kill has left to those who wait, their servers, and what opened them: when a hundred
        # statements are stopped at once, opening a connection for each takes too long.
        self._spare: list[tuple[tuple[str, ...], Connect, Any]] = []

    def stop(self, call: DriverCall) -> None:
        """Bring the call back: kill its statement, as often as it takes, or else cut its link.

        Returns when the call has come back or its link is cut: after :data:`PATIENCE` seconds, and later only while
        it waits for other kills that come through.
        """
        with self._lock:
            if call.finished.is_set():
                return
            self._stops[call] += 1
        try:
            self._bring_back(call)
        finally:
            with self._lock:
                self._stops[call] -= 1
                last = not self._stops[call]
                if last:
                    del self._stops[call]
        # Several may want the same call to end: its limit, who closes the connection, the end of the pool.
        if last and call.stopped:
            self._counters.add("kills_failed" if call.was_cut else "kills")

    def _bring_back(self, call: DriverCall) -> None:
        deadline = time.monotonic() + PATIENCE
        try:
            if call.killable and self._enter(call):
                try:
                    self._kill(call)
                finally:
                    self._leave()
        except Exception as error:
            logger.info("a statement could not be killed (%s); its link is cut", type(error).__name__)
        if not call.killable:
            # What has no statement to kill, a commit above all, mostly takes no time: it may finish.
            call.finished.wait(max(0.0, deadline - time.monotonic()), shield=True)
        if not call.finished.is_set():
            call.cut()

    def end(self, call: DriverCall) -> None:
        """Kill, once, the statement whose rows nobody is going to read; its link is closed next, which ends the rest.

        Returns after :data:`PATIENCE` seconds at most, and never raises.
        """
        if call.identity is None or not self._enter(call):
            return
        try:
            self._kill(call, once=True)
            if call.killed:
                self._counters.add("kills")
        except Exception as error:
            logger.info("a statement could not be killed (%s); its link is closed", type(error).__name__)
        finally:
            self._leave()

    def _enter(self, call: DriverCall) -> bool:
        """Wait for a place, as long as kills before this one come through; False if no kill is needed any more."""
        with self._lock:
            self._present += 1
        if self._places.acquire(blocking=False):
            return True
        with self._lock:
            self._waiting += 1
        server = () if call.identity is None else call.identity.server
        through, silent, deadline = self._through, self._silent[server], time.monotonic() + PATIENCE
        admitted = False
        while not admitted and not call.finished.is_set() and time.monotonic() < deadline:
            admitted = self._places.acquire(timeout=GLANCE)
            if self._through != through:
                through, silent, deadline = self._through, self._silent[server], time.monotonic() + PATIENCE
        with self._lock:
            self._waiting -= 1
        # Who waited while the server was silent need not find that out once more.
        if admitted and self._silent[server] == silent:
            return True
        self._leave(admitted=admitted)
        return False

    def _leave(self, *, admitted: bool = True) -> None:
        if admitted:
            self._places.release()
        left: list[tuple[tuple[str, ...], Connect, Any]] = []
        with self._lock:
            self._present -= 1
            if not self._present:
                left, self._spare = self._spare, left
        for _, _, admin in left:
            driver_of(admin).close(admin)

    def _kill(self, call: DriverCall, *, once: bool = False) -> None:
        identity = call.identity
        if identity is None:
            return
        deadline = time.monotonic() + PATIENCE
        through = False
        try:
            admin = self._reach(identity, call, deadline)
            if admin is None:
                return
            pause = 0.002
            try:
                while not call.finished.is_set() and call.killable:
                    self._send(admin, identity, call)
                    through = True
                    if once or time.monotonic() >= deadline:
                        break
                    # The statement may not have reached the server yet, or another one of the same call may follow.
                    call.finished.wait(pause, shield=True)
                    pause = min(pause * 2, 0.25)
            except BaseException:
                through = False
                raise
            finally:
                self._part(admin, identity.server, call.connect or self._connect, well=through)
        finally:
            with self._lock:
                if through or call.finished.is_set():
                    self._through += 1
                elif time.monotonic() > deadline - PATIENCE / 2:
                    self._silent[identity.server] += 1

    def _part(self, admin: Any, server: tuple[str, ...], connect: Connect, *, well: bool) -> None:
        """Leave the connection to a kill that waits for its place, or close it."""
        with self._lock:
            if well and self._waiting > len(self._spare):
                self._spare.append((server, connect, admin))
                return
        driver_of(admin).close(admin)

    def _send(self, admin: Any, identity: Identity, call: DriverCall) -> None:
        alone = self._sending.acquire(timeout=TURN)
        try:
            if driver_of(admin).kill(admin, identity):
                call.killed = True
                call.finished.wait(EFFECT, shield=True)
        finally:
            if alone:
                self._sending.release()

    def _reach(self, identity: Identity, call: DriverCall, deadline: float) -> Any:
        """Get a connection to the very server that runs the statement; None if it can't be reached."""
        if call.finished.is_set():
            return None
        # As the call's own connection was opened: it may have verified what another one did not.
        connect = call.connect or self._connect
        with self._lock:
            spare = self._spare.pop() if self._spare else None
        if spare is not None:
            server, opened_by, admin = spare
            if server == identity.server and opened_by == connect:
                return admin
            driver_of(admin).close(admin)
        for _ in range(TRIES):
            left = deadline - time.monotonic()
            if left <= 0 or call.finished.is_set():
                return None
            admin = connect(left)
            driver = driver_of(admin)
            # Behind a balancer the next connection may lead elsewhere, where the id is somebody else's.
            found = driver.identity(admin)
            if found is not None and found.server == identity.server:
                return admin
            driver.close(admin)
        return None
