"""Stopping a statement on the server.

Owns how a call is brought back: its statement is killed, on the server that runs it alone, and where that cannot be
done soon the link is cut, so that at least the caller is free, and the session ended besides. Which connections kills
go over is ``kill_connections.py``'s.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from ..bridge.background import start_thread
from ..bridge.signals import ThreadEvent
from ..drivers.base import Identity
from ..drivers.registry import driver_of
from ..errors import ThreadUnavailable
from ..statistics import Counters
from .driver_call import Connect, DriverCall
from .kill_connections import Admin, KillConnections, Lender, Silent

logger = logging.getLogger("offload_db")

# Seconds that a kill may take in all before the link is cut, and those that any one answer on the way is waited for.
# Where one does not come, or the link breaks, there is a second try, as it may have led to another server, and more
# where other kills on this one come through.
PATIENCE = 5.0
TRY = 1.0
# Kills on one server at the same time: many cancelled at once must not storm it.
AT_ONCE = 4
# Seconds that a kill waits for the one before it, and for its own effect. MariaDB 10.11 holds a KILL up for 2 s,
# and its victim with it, when another statement just then enters or leaves the same wait, as all those in SLEEP() do:
# with four kills at once that happened in 11 of 164 rounds of eight, one after the other in 2 of 362.
TURN = 0.25
EFFECT = 0.02
HELD_UP = 3.0
# Seconds between looks at whether a call has come back while its kill waits for a place.
GLANCE = 0.05


class Killer:
    """Stops the running statements of one pool.

    :param connect: opens a connection to the server, given the seconds it may take; calls on connections that were
        opened with other settings bring theirs
    :param lender: gives the pool whose idle connections kills may go over, as long as it is there
    """

    def __init__(self, connect: Connect, counters: Counters, lender: Callable[[], Lender | None] | None = None) -> None:
        self._connections = partial(KillConnections, connect, lender)
        self._counters = counters
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked child: threads of the parent may have been in the middle of kills."""
        self.connections = self._connections()
        self._lock = threading.Lock()  # for what stands below, for a few instructions only
        self._stops: Counter[DriverCall] = Counter()  # by the calls that are being brought back
        self._servers: dict[tuple[str, ...], _Server] = {}  # those where anything is being killed
        # Sessions whose links were cut before their statements were killed, and until when that is tried.
        self._left: deque[tuple[Identity, Connect | None, float]] = deque()
        self._goes_on = False

    def stop(self, call: DriverCall) -> None:
        """Bring the call back: kill its statement, as often as it takes, or else cut its link.

        Returns when the call has come back or its link is cut: after :data:`PATIENCE` seconds, sooner where the server
        is silent, and later only while it waits for other kills that come through.
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
        began, hopeless = time.monotonic(), False
        try:
            if call.killable:
                self._kill(call)
        except Exception as error:
            hopeless = not _silent_since(began)
            logger.info("a statement could not be killed (%s); its link is cut", type(error).__name__)
        if not call.killable:
            # What has no statement to kill, a commit above all, mostly takes no time: it may finish, on a server that
            # is there.
            call.finished.wait(max(0.0, began + min(TRY, PATIENCE) - time.monotonic()), shield=True)
            if not call.finished.is_set() and self._answers(call):
                call.finished.wait(max(0.0, began + PATIENCE - time.monotonic()), shield=True)
        if not call.finished.is_set():
            call.cut()
            if call.killable and call.identity is not None and not hopeless:
                self._go_on(call.identity, call.connect)

    def _answers(self, call: DriverCall) -> bool:
        """Tell whether the call's server is there, as far as that is to be seen."""
        began = time.monotonic()
        if call.identity is None:
            return True
        way = call.identity.server, call.connect, call.finished.is_set, began + TRY, TRY
        try:
            with self.connections, self.connections.way_to(*way):
                return True
        except Exception:
            return not _silent_since(began)

    def end(self, call: DriverCall) -> None:
        """Kill, once, the statement whose rows nobody is going to read; its link is closed next, which ends the rest.

        Returns after :data:`PATIENCE` seconds at most, and never raises.
        """
        try:
            self._kill(call, once=True)
            if call.killed:
                self._counters.add("kills")
        except Exception as error:
            logger.info("a statement could not be killed (%s); its link is closed", type(error).__name__)

    def _kill(self, call: DriverCall, *, once: bool = False) -> None:
        identity = call.identity
        if identity is None:
            return
        with self.connections, self._at(identity.server) as server:
            if not server.enter(call.finished):
                return
            reached = False
            try:
                reached = self._try(call, identity, server, time.monotonic() + PATIENCE, once=once)
            finally:
                server.places.release()
                with self._lock:
                    if reached or call.finished.is_set():
                        server.through += 1
                    else:
                        server.vain += 1

    @contextmanager
    def _at(self, address: tuple[str, ...]) -> Iterator[_Server]:
        """Keep what is known of a server while statements on it are being killed."""
        with self._lock:
            server = self._servers.setdefault(address, _Server())
            server.present += 1
        try:
            yield server
        finally:
            with self._lock:
                server.present -= 1
                if not server.present:
                    del self._servers[address]

    def _try(self, call: DriverCall, identity: Identity, server: _Server, deadline: float, *, once: bool) -> bool:
        """Kill the statement; False if its server was not reached."""
        way = identity.server, call.connect, call.finished.is_set, deadline, TRY
        failed, through = False, server.through
        while True:
            began = time.monotonic()
            try:
                with self.connections.way_to(*way) as admin:
                    if admin is None:
                        return False
                    _shoot(admin, call, identity, server, deadline, once=once)
                    return True
            except Silent:
                raise
            except Exception as error:
                gone = _silent_since(began) or call.link.driver.lost(error)
                if not gone or (failed and server.through == through):
                    raise
                failed, through = True, server.through

    def _go_on(self, identity: Identity, connect: Connect | None) -> None:
        """Have a session ended whose link was cut: the server does not notice that before its statement is done."""
        with self._lock:
            self._left.append((identity, connect, time.monotonic() + PATIENCE))
            begins, self._goes_on = not self._goes_on, True
        if begins:
            try:
                start_thread(self._end_sessions, "kill")
            except ThreadUnavailable:
                with self._lock:
                    self._left.clear()
                    self._goes_on = False

    def _end_sessions(self) -> None:
        with self.connections:
            while True:
                with self._lock:
                    if not self._left or self.connections.closed:
                        self._left.clear()
                        self._goes_on = False
                        return
                    identity, connect, until = self._left.popleft()
                began = time.monotonic()
                try:
                    self._end_session(identity, connect, until)
                except Exception:
                    if _silent_since(began) and time.monotonic() < until:
                        with self._lock:
                            self._left.append((identity, connect, until))

    def _end_session(self, identity: Identity, connect: Connect | None, until: float) -> None:
        with self.connections.way_to(identity.server, connect, lambda: False, until, TRY) as admin:
            if admin is not None:
                driver = driver_of(admin.raw)
                with driver.limited(admin.raw, HELD_UP):
                    driver.end_session(admin.raw, identity)


def _shoot(admin: Admin, call: DriverCall, identity: Identity, server: _Server, deadline: float, *, once: bool) -> None:
    """Kill the statement until the call has come back."""
    pause = 0.002
    while not call.finished.is_set() and call.killable:
        server.send(admin, identity, call)
        if once or time.monotonic() >= deadline:
            return
        # The statement may not have reached the server yet, or another one of the same call may follow.
        call.finished.wait(pause, shield=True)
        pause = min(pause * 2, 0.25)


def _silent_since(moment: float) -> bool:
    """Tell whether what has failed now may have failed because nobody answered."""
    return time.monotonic() - moment > TRY / 2


class _Server:
    """A server where statements are being killed, and what is known of it meanwhile."""

    def __init__(self) -> None:
        self.places = threading.BoundedSemaphore(AT_ONCE)
        self.present = 0
        """Kills that are being made or wait."""
        self.through = 0
        """Kills that have come through."""
        self.vain = 0
        """Kills that have not, because the server could not be reached."""
        self._sending = threading.Lock()

    def enter(self, finished: ThreadEvent) -> bool:
        """Wait for a place, as long as kills before this one come through; False if no kill is needed any more."""
        if self.places.acquire(blocking=False):
            return True
        through, vain, deadline = self.through, self.vain, time.monotonic() + PATIENCE
        while not finished.is_set() and time.monotonic() < deadline:
            admitted = self.places.acquire(timeout=GLANCE)
            if self.through != through:
                through, vain, deadline = self.through, self.vain, time.monotonic() + PATIENCE
            if self.vain != vain:  # who waited meanwhile need not find that out once more
                if admitted:
                    self.places.release()
                return False
            if admitted:
                return True
        return False

    def send(self, admin: Admin, identity: Identity, call: DriverCall) -> None:
        """Kill what the call's session runs, if it is anything."""
        alone = self._sending.acquire(timeout=TURN)
        driver = driver_of(admin.raw)
        try:
            with driver.limited(admin.raw, HELD_UP):
                hit = driver.kill(admin.raw, identity)
        except Exception:
            if not identity.by_query:  # it may still come, and would meet the next statement
                call.cut()
            elif call.finished.is_set():  # it may be what has brought it back
                call.killed = True
            raise
        else:
            if hit:
                call.killed = True
                call.finished.wait(EFFECT, shield=True)
        finally:
            if alone:
                self._sending.release()
