"""The connections of a pool that are open, and those of them at rest.

Owns which of them is taken next and whether it still stands, which are thrown out and why. Who holds the others is
``checkin.py``'s, who may have one ``admission_queue.py``'s.
"""

from __future__ import annotations

import math
import time
import weakref
from collections import deque
from contextlib import suppress
from functools import partial

from ..bridge.place import Place, place
from ..connection.driver_call import Connect
from ..connection.executor import Executor
from ..connection.opening import SHORTEST_PATIENCE
from ..connection.physical import PhysicalConnection
from ..connection.unread_results import kill_unread
from ..errors import ThreadUnavailable
from ..statistics import Counters
from .admission_queue import Admission
from .connector import Connector

# Seconds of rest after which a link is asked for a sign of life before it is used, and how long that may take.
PING_AFTER, PING_TIMEOUT = 30.0, 5.0
# Seconds of silence after which links that have rested longer are not even asked.
SILENCE = 1.0


class IdleConnections:
    """The connections at rest, and the list of all that are open.

    :param executor: makes what waits for the server
    :param maxusage: statements after which a connection is thrown out; None and 0 set no limit
    :param maxcached: the most connections at rest; 0 sets no limit
    """

    def __init__(self, executor: Executor, counters: Counters, *, maxusage: int | None, maxcached: int) -> None:
        self._executor = executor
        self._counters = counters
        self._max_statements = maxusage
        self._max_idle = maxcached
        self.closed = False
        """Whether those that come back are closed instead."""
        # The one used last stands at the end. A link is put here before its permit is released, so there are never more
        # links than permits; deque operations are atomic and no lock is needed.
        self.resting: deque[PhysicalConnection] = deque()
        self.links: weakref.WeakSet[PhysicalConnection] = weakref.WeakSet()
        self.looks = 0
        """How often somebody has looked for a link at rest, about: who finds none opens one."""

    def __len__(self) -> int:
        return len(self.resting)

    def __contains__(self, link: object) -> bool:
        return link in self.resting

    def after_fork(self) -> list[PhysicalConnection]:
        """Let go of all in a forked child; returns them."""
        links, self.links, self.resting = list(self.links), weakref.WeakSet(), deque()
        return links

    def take(self, connector: Connector, seconds: float | None) -> PhysicalConnection | None:
        """Take an idle link that stands, mostly without a round trip; None if there is none.

        :param seconds: how long a round trip may take, where that is less than :data:`PING_TIMEOUT`
        """
        self.looks += 1
        now = time.monotonic()
        until = math.inf if seconds is None else now + seconds
        while True:
            link = self._pop(connector)
            if link is None:
                return None
            reason = self.outlived(link)
            if reason is None and not link.driver.alive_at_rest(link.raw):
                reason = link.fault = "dead_idle"
            long = now - link.rested > PING_AFTER or not link.sees_rest
            if reason is None and long:
                # Between here and the server something may have forgotten the link without a word.
                asked = time.monotonic()
                patience = max(SHORTEST_PATIENCE, min(PING_TIMEOUT, until - asked))
                try:
                    answers = self._executor.run("ping", partial(link.answers, patience))
                except BaseException:
                    self.resting.append(link)
                    if self.closed:
                        self.close_all()
                    raise
                reason = link.fault = None if answers else "dead_idle"
                if not answers and time.monotonic() - asked >= SILENCE:
                    self._discard_rested(connector, link.rested)
            if reason is None:
                return link
            self.discard(link, reason)
            if time.monotonic() >= until:
                return None

    def _discard_rested(self, connector: Connector, since: float) -> None:
        """Throw out the idle links that have rested for longer than one that is dead without a word.

        What forgot that one will have forgotten them as well, and to ask each would take as long again.
        """
        for link in [link for link in self.resting if link.connector is connector and link.rested <= since]:
            with suppress(ValueError):  # another thread may have taken it
                self.resting.remove(link)
                link.fault = "dead_idle"
                self.discard(link, "dead_idle")

    def _pop(self, connector: Connector) -> PhysicalConnection | None:
        """Take the idle link of this kind that was used last."""
        for link in reversed(list(self.resting)):
            if link.connector is connector:
                try:
                    self.resting.remove(link)
                except ValueError:  # another thread has taken it
                    continue
                return link
        return None

    def make_room(self, connector: Connector, admission: Admission) -> None:
        """Throw out idle links of other kinds where they would be too many with the one that is to be opened."""
        # Every link that is out or being opened has a permit, so this is the most that there can be.
        while admission.in_use + len(self.resting) > admission.size:
            # One of the same kind has come to rest just now: who gave it back still has, or had, a permit for it.
            link = next((link for link in list(self.resting) if link.connector is not connector), None)
            if link is None:
                return
            try:
                self.resting.remove(link)
            except ValueError:  # another thread has taken it
                continue
            self.discard(link, "displaced")

    def take_for_kill(self, server: tuple[str, ...], connect: Connect | None) -> PhysicalConnection | None:
        """Take the idle link that leads to a server and was opened as *connect* does it; None if there is none."""
        for link in reversed(list(self.resting)):
            if link.connect_admin == connect and link.identity is not None and link.identity.server == server:
                try:
                    self.resting.remove(link)
                except ValueError:  # another thread has taken it
                    continue
                if link.driver.alive_at_rest(link.raw):
                    return link
                link.fault = "dead_idle"
                self.discard(link, "dead_idle")
        return None

    def shrink(self, admission: Admission) -> None:
        """Throw out idle links where they are too many: another was opened while one was lent to a kill."""
        while admission.in_use + len(self.resting) > admission.size:
            with suppress(IndexError):
                self.discard(self.resting.popleft(), "displaced")

    def rest(self, link: PhysicalConnection) -> None:
        """Keep a link for the next checkout."""
        link.driver.forget(link.raw)
        link.rested = time.monotonic()
        self.resting.append(link)
        if self.closed:
            self.close_all()
        elif self._max_idle and len(self.resting) > self._max_idle:  # others came back in the same moment
            with suppress(IndexError):
                self.discard(self.resting.popleft(), "maxcached")

    def discard(self, link: PhysicalConnection, reason: str) -> None:
        """Close a connection for good; says goodbye to the server where it is fit for that."""
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
        while (link := self._pop(connector)) is not None:
            self.discard(link, "closed")

    def count_kind(self, connector: Connector) -> tuple[int, int]:
        """Return how many connections of the kind are idle, and how many are out."""
        idle = sum(link.connector is connector for link in self.resting.copy())
        return idle, max(0, sum(link.connector is connector for link in self.links.copy()) - idle)

    def outlived(self, link: PhysicalConnection) -> str | None:
        """Return why a connection that is in order is not kept all the same, None if it is."""
        if self.closed:
            return "closed"
        if self._max_idle and len(self.resting) >= self._max_idle:
            return "maxcached"
        if self._max_statements and link.statements >= self._max_statements:
            return "maxusage"
        return "max_age" if time.monotonic() >= link.expires else None
