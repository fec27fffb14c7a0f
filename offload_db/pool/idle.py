"""The connections of a pool that are open, and those of them at rest.

Owns which of them is taken next and whether it still stands, which are thrown out and why. Who holds the others is
``checkin.py``'s, who may have one ``admission_queue.py``'s.
"""

from __future__ import annotations

import math
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from ..bridge.place import Place, place
from ..bridge.portal import suspend
from ..bridge.signals import TaskEvent, ThreadEvent, task_event
from ..bridge.weak_sets import members
from ..connection.driver_call import Connect
from ..connection.executor import Executor
from ..connection.opening import SHORTEST_PATIENCE
from ..connection.physical import PhysicalConnection
from ..connection.unread_results import kill_unread
from ..errors import ThreadUnavailable
from ..statistics import Counters
from .connector import Connector, Kind
from .lanes import Permit

# Seconds of rest after which a link is asked for a sign of life before it is used, and how long that may take.
PING_AFTER, PING_TIMEOUT = 30.0, 5.0
# Seconds of silence after which links that have rested longer are not even asked.
SILENCE = 1.0
# Seconds of rest after which a link makes room for one of another kind that has its fair share already. To open one
# costs some milliseconds, and those that are in use mostly come back sooner.
DISPLACE_AFTER = 0.25
# Checkouts for each connection of the pool after which the earlier ones count for half, where there are several kinds.
LATEST = 50
# Seconds after which it is forgotten that a server was not fit and nothing better was to be had.
NOTED_FOR = 60.0


class _Waiter:
    """A caller who was let in, and waits for a link of its kind to come back."""

    __slots__ = ("kind", "signal", "woken")

    def __init__(self, kind: Kind, signal: TaskEvent | ThreadEvent) -> None:
        self.kind = kind
        self.signal = signal
        self.woken = False


class IdleConnections:
    """The connections at rest, and the list of all that are open.

    :param executor: makes what waits for the server
    :param maxusage: statements after which a connection is thrown out; None and 0 set no limit
    :param maxcached: see :attr:`most`
    """

    def __init__(self, executor: Executor, counters: Counters, *, maxusage: int | None, maxcached: int) -> None:
        self._executor = executor
        self._counters = counters
        self._max_statements = maxusage
        self.most = maxcached
        """The most connections that may rest for nobody in particular; 0 sets no limit."""
        self.closed = False
        """Whether those that come back are closed instead."""
        # The one used last stands at the end. A link is put here before its permit is released, so there are never more
        # links than permits; deque operations are atomic and no lock is needed.
        self.resting: deque[PhysicalConnection] = deque()
        self.links: weakref.WeakSet[PhysicalConnection] = weakref.WeakSet()
        self.opening: dict[Permit, Kind] = {}
        """For whom links are being opened, and of which kind they will be."""
        # Who waits for a link of its kind; deque operations are atomic.
        self._waiters: deque[_Waiter] = deque()
        # When a connection was last found to lead to a server that is not fit, by server.
        self._unfit: dict[tuple[str, ...], float] = {}

    def __len__(self) -> int:
        return len(self.resting)

    def __contains__(self, link: object) -> bool:
        return link in self.resting

    def after_fork(self) -> list[PhysicalConnection]:
        """Let go of all in a forked child; returns them."""
        links, self.links, self.resting = list(self.links), weakref.WeakSet(), deque()
        self.opening, self._waiters = {}, deque()
        return links

    def take(self, connector: Connector, seconds: float | None) -> PhysicalConnection | None:
        """Take an idle link that stands, mostly without a round trip; None if there is none.

        :param seconds: how long a round trip may take, where that is less than :data:`PING_TIMEOUT`
        """
        now = time.monotonic()
        until = math.inf if seconds is None else now + seconds
        while True:
            link = self._pop(connector)
            if link is None:
                return None
            reason = self.outlived(link)
            if reason is None and not link.driver.alive_at_rest(link.raw):
                reason = link.fault = "dead_idle"
            doubtful = bool(self._unfit) and self._is_doubtful(link)
            if reason is None and (doubtful or now - link.rested > PING_AFTER or not link.sees_rest):
                # Between here and the server something may have forgotten the link without a word.
                asked = time.monotonic()
                patience = max(SHORTEST_PATIENCE, min(PING_TIMEOUT, until - asked))
                try:
                    answers = self._executor.run("ping", partial(link.answers, patience, fit=doubtful))
                except BaseException:
                    self.resting.append(link)
                    if self.closed:
                        self.close_all()
                    raise
                reason = link.fault = None if answers else "unfit_server" if doubtful else "dead_idle"
                if not answers and time.monotonic() - asked >= SILENCE:
                    self._discard_rested(connector, link.rested)
            if reason is None:
                if link.connector is not connector:
                    connector.adopt(link)
                return link
            self.discard(link, reason)
            if time.monotonic() >= until:
                return None

    def note_unfit(self, link: PhysicalConnection) -> None:
        """Note that a connection has led to a server that is not fit any more; a finaliser may call this.

        The others that lead there, and have rested since, are looked at before they are given out. One that was opened
        after such a note shows that there is no better server to be had, and changes nothing.
        """
        server, now = _server_of(link), time.monotonic()
        noted = self._unfit.get(server, -math.inf)
        if link.born < noted or now - noted > NOTED_FOR:
            self._unfit[server] = now

    def _is_doubtful(self, link: PhysicalConnection) -> bool:
        return link.rested <= self._unfit.get(_server_of(link), -math.inf)

    def _discard_rested(self, connector: Connector, since: float) -> None:
        """Throw out the idle links that have rested for longer than one that is dead without a word.

        What forgot that one will have forgotten them as well, and to ask each would take as long again.
        """
        for link in list(self.resting):
            if link.rested <= since and _kind_of(link) is connector.kind and self._take_out(link):
                link.fault = "dead_idle"
                self.discard(link, "dead_idle")

    def _pop(self, connector: Connector) -> PhysicalConnection | None:
        """Take the idle link of this kind that was used last, rather one that was this connector's before."""
        alike: PhysicalConnection | None = None
        for link in reversed(list(self.resting)):
            if link.connector is connector:
                if self._take_out(link):
                    return link
            elif alike is None and _kind_of(link) is connector.kind:
                alike = link
        if alike is None:
            return None
        connector.looks()  # which may raise, so it is done before the link is taken
        return alike if self._take_out(alike) else self._pop(connector)

    def _take_out(self, link: PhysicalConnection) -> bool:
        """Take a link from those at rest; False if another thread has taken it."""
        try:
            self.resting.remove(link)
        except ValueError:
            return False
        return True

    def wait_for_share(self, kind: Kind, size: int, until: float) -> bool:
        """Wait for a link of this kind to come back, where another kind's would have to be thrown out for a new one.

        That is where this kind has its fair share of the links already, and the others have been used just now. If
        the task is cancelled, it waits no longer.

        :param size: the most links that there may be
        :param until: when to stop waiting
        :return: whether one is back; another caller may take it all the same
        """
        where = place()
        while where is not Place.LOOP:  # which what comes back may have to wait for
            waiter = _Waiter(kind, task_event() if where is Place.BRIDGED else ThreadEvent())
            try:
                self._waiters.append(waiter)
                left = min(self._seconds_to_wait(kind, size), until - time.monotonic())
                if left <= 0:
                    return False
                if any(_kind_of(link) is kind for link in list(self.resting)):
                    return True
                if isinstance(waiter.signal, TaskEvent):
                    suspend(waiter.signal.wait_for(left))
                else:
                    waiter.signal.wait(left)
            finally:
                with suppress(ValueError):  # an interrupt came before it was there
                    self._waiters.remove(waiter)
        return False

    def _seconds_to_wait(self, kind: Kind, size: int) -> float:
        if self._has_room(size) or self._below_share(kind, size):
            return 0.0
        rested = (link.rested for link in list(self.resting))
        return min(rested, default=-math.inf) + DISPLACE_AFTER - time.monotonic()

    def _has_room(self, size: int) -> bool:
        """Tell whether one more link can be opened."""
        return len(self.links) + len(self.opening) < size

    def too_many(self, size: int) -> bool:
        """Tell whether there are more links, or will be, than there may be."""
        return len(self.links) + len(self.opening) > size

    def _below_share(self, kind: Kind, size: int) -> bool:
        """Tell whether there are fewer links of this kind than its share of the latest checkouts, or none."""
        links = self._by_kind()
        checkouts = sum(each.checkouts for each in links)
        if checkouts > LATEST * size:
            for each in links:
                each.checkouts //= 2
        return links[kind] < max(1, size * kind.checkouts // max(1, checkouts))

    def servable(self, own: Kind, size: int) -> Callable[[object], bool]:
        """Give what tells whether a caller can be served at once who wants a kind of link.

        :param own: the kind that is meant where none is named
        :param size: the most links that there may be
        """
        room, resting = self._has_room(size), Counter(map(_kind_of, list(self.resting)))
        resting.subtract(waiter.kind for waiter in list(self._waiters))  # who have been let in already
        known: dict[object, bool] = {}

        def serves(named: object) -> bool:
            kind = named if isinstance(named, Kind) else own
            if kind not in known:
                known[kind] = room or resting[kind] > 0 or self._below_share(kind, size)
            return known[kind]

        return serves

    def _by_kind(self) -> Counter[Kind]:
        """Count the links of each kind, those as well that are being opened."""
        return Counter([kind for kind in map(_kind_of, self.every()) if kind is not None] + list(self.opening.values()))

    def make_room(self, kind: Kind, size: int) -> None:
        """Throw out idle links of other kinds where they would be too many with the one that is to be opened.

        The first to go is the one that has rested longest, of the kind that has most.
        """
        # The one that is to be opened is among those that are being opened.
        while self.too_many(size):
            # One of the same kind has come to rest just now: who gave it back still has, or had, a permit for it.
            others = [link for link in list(self.resting) if _kind_of(link) is not kind]
            if not others:
                return
            links = self._by_kind()
            link = max(others, key=lambda link: links[_kind_of(link) or kind])
            if self._take_out(link):
                self.discard(link, "displaced")

    def every(self) -> list[PhysicalConnection]:
        """List the links that are open."""
        return members(self.links)

    def take_for_kill(self, server: tuple[str, ...], connect: Connect | None) -> PhysicalConnection | None:
        """Take the idle link that leads to a server and was opened as *connect* does it; None if there is none."""
        for link in reversed(list(self.resting)):
            if link.connect_admin == connect and _server_of(link) == server and self._take_out(link):
                if link.driver.alive_at_rest(link.raw):
                    return link
                link.fault = "dead_idle"
                self.discard(link, "dead_idle")
        return None

    def shrink(self, size: int) -> None:
        """Throw out idle links where they are too many: another was opened while one was lent to a kill."""
        while self.resting and self.too_many(size):
            self.discard_oldest("displaced")

    def rest(self, link: PhysicalConnection) -> None:
        """Keep a link for the next checkout."""
        link.driver.forget(link.raw)
        link.rested = time.monotonic()
        self.resting.append(link)
        if self._waiters:
            self._wake(link)
        if self.closed:
            self.close_all()

    def discard_oldest(self, reason: str) -> None:
        """Close the connection that has rested longest, if any does."""
        with suppress(IndexError):  # another thread may have taken the last one
            self.discard(self.resting.popleft(), reason)

    def _wake(self, link: PhysicalConnection) -> None:
        """Wake the first who waits for a link of this kind."""
        for waiter in list(self._waiters):
            if waiter.kind is _kind_of(link) and not waiter.woken:
                waiter.woken = True
                waiter.signal.set()
                return

    def discard(self, link: PhysicalConnection, reason: str) -> None:
        """Close a connection for good; says goodbye to the server where it is fit for that."""
        if reason == "unfit_server":
            self.note_unfit(link)
        try:
            if reason == "abandoned_result" and place() is not Place.LOOP:
                kill_unread(link)  # or the server might work on for rows that nobody takes
            if link.fault is None and place() is Place.BRIDGED:
                self._executor.run("close", link.close, shield=True)
        except ThreadUnavailable:  # it goes without a goodbye
            link.fault = reason
        except BaseException:
            link.fault = reason
            raise
        finally:
            link.close()
            self.links.discard(link)
            self._counters.discarded(reason)

    def close_all(self) -> None:
        """Close the links at rest."""
        while True:
            try:
                link = self.resting.pop()
            except IndexError:  # another thread may have taken the last one
                return
            try:
                self.discard(link, "closed")
            except BaseException:  # the task was cancelled: the rest goes without a goodbye, and so without a hop
                while self.resting:
                    rest = self.resting.pop()
                    rest.fault = rest.fault or "closed"
                    self.discard(rest, "closed")
                raise

    def close_kind(self, connector: Connector) -> None:
        """Close the links at rest that this connector has opened."""
        for link in list(self.resting):
            if link.connector is connector and self._take_out(link):
                self.discard(link, "closed")

    def count_kind(self, connector: Connector) -> tuple[int, int]:
        """Return how many connections of the kind are idle, and how many are out."""
        idle = sum(link.connector is connector for link in self.resting.copy())
        return idle, max(0, sum(link.connector is connector for link in self.every()) - idle)

    def outlived(self, link: PhysicalConnection) -> str | None:
        """Return why a connection that is in order is not kept all the same, None if it is."""
        if self.closed:
            return "closed"
        if self._max_statements and link.statements >= self._max_statements:
            return "maxusage"
        return "max_age" if time.monotonic() >= link.expires else None


def _server_of(link: PhysicalConnection) -> tuple[str, ...]:
    """Return what tells the server apart that a connection leads to; nothing where that is not known."""
    return () if link.identity is None else link.identity.server


def _kind_of(link: PhysicalConnection) -> Kind | None:
    """Return what a connection is like, as far as a connector has said so."""
    return link.connector.kind if isinstance(link.connector, Connector) else None
