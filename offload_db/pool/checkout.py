"""Which physical connections a pool has, and who has them.

Owns checkout, checkin and discard: connections are opened, rest and end here alone. Settings and the public names are
in ``pool.py``.
"""

from __future__ import annotations

import _thread
import math
import os
import random
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
from dbutils.pooled_db import PooledDB

from ..bridge.background import start
from ..bridge.call_scope import Deadline, current_setting
from ..bridge.place import Place, place
from ..connection.executor import Detached, Executor, OnLoopCall
from ..connection.killer import Killer
from ..connection.opening import SHORTEST_PATIENCE, identify, too_late
from ..connection.physical import PhysicalConnection
from ..drivers.pymysql_connection import upgrade
from ..drivers.registry import driver_of
from ..errors import BlockingCallError, CallCancelled, OffloadError, ThreadUnavailable
from ..statistics import Counters
from .connector import Connector, take_idle
from .lanes import Admission, Lane, Permit, Ticket, pool_closed
from .leaks import CheckoutRecord, LeakWatch

# Seconds of rest after which a link is asked for a sign of life before it is used, and how long that may take.
PING_AFTER, PING_TIMEOUT = 30.0, 5.0
# Seconds of silence after which links that have rested longer are not even asked.
SILENCE = 1.0
# Threads that bring back calls at the end of the pool, besides the one that closes it.
HELPERS = 8


class Lease:
    """One checkout: a link, and the ticket that admits its holder."""

    __slots__ = ("__weakref__", "_core", "_record", "_ticket", "link")

    def __init__(self, core: PoolCore, slot: Permit, link: PhysicalConnection, record: CheckoutRecord | None) -> None:
        assert slot.ticket is not None
        self._core = core
        self._ticket = slot.ticket
        self._record = record
        self.link = link
        link.lease = weakref.ref(self)
        core.leased[link] = self._ticket  # from here on the link is this lease's to give back
        slot.ticket = None

    def __del__(self) -> None:
        # Asked here and not by _holds, which would be one more call for each checkout.
        if hasattr(self, "link") and self._core.leased.get(self.link, self) is self._ticket:  # an exception came before
            self.drop()

    @property
    def _holds(self) -> bool:
        # A forked child holds nothing of what its parent has checked out.
        return self._core.leased.get(self.link) is self._ticket

    def give_back(self) -> None:
        """Return the link to the pool, or throw it out; waits for the server if a rollback is due."""
        self._end_watch()
        if self._holds:
            self._core.checkin(self.link, self._ticket)

    def drop(self) -> None:
        """Return the link from a finaliser, without I/O."""
        self._end_watch()
        if self._holds:
            self._core.reclaim(self.link, self._ticket)

    def disown(self) -> None:
        """Note that it is on its way back, whatever its holder does meanwhile; a finaliser may call this."""
        self._ticket.holder = (self._ticket.holder[0], object())

    def _end_watch(self) -> None:
        if self._record is not None and self._core._leaks is not None:
            self._core._leaks.end(self._record)


class PoolCore:
    """Keeps the links of one pool.

    :param pool: what makes the connections; those that it holds idle are taken over
    :param common: the settings of the whole pool
    :param lanes: its lanes
    :param fast: let PyMySQL's connections read results faster
    """

    def __init__(
        self,
        pool: PooledDB,
        common: Lane,
        lanes: tuple[Lane, ...],
        *,
        max_age: float | None,
        on_loop_call: OnLoopCall,
        leak_warning: float | None,
        fast: bool,
    ) -> None:
        size = common.limit
        self._new_lanes = partial(Admission, common, lanes)
        self.lanes = self._new_lanes()
        self._max_age = max_age
        self._maxusage: int | None = pool._maxusage
        self._maxcached: int = pool._maxcached
        self.min_size = 0
        self.counters = Counters()
        self.workers = Executor(size, self.counters, on_loop_call)
        self.connector = Connector(pool, fast=fast)
        self.killer = Killer(self.connector.connect_admin, self.counters)
        self._leaks = None if leak_warning is None else LeakWatch(leak_warning)
        # Links at rest, the one used last at the end. A link is put here before its slot is given up, so there are
        # never more links than slots; deque operations are atomic and no lock is needed.
        self.idle: deque[PhysicalConnection] = deque()
        # Those that are out, and their holders' tickets. A link in neither is being opened, asked for a sign of life or
        # closed, and ends with the call that does so.
        self.leased: dict[PhysicalConnection, Ticket | None] = {}
        self.links: weakref.WeakSet[PhysicalConnection] = weakref.WeakSet()
        self.closed = self._broken_off = False
        for raw in take_idle(pool):
            if len(self.links) < size:
                if fast:
                    upgrade(raw)
                # One of them may have died at rest; then there is one less.
                with suppress(Exception):
                    self.idle.append(self._link(raw, self.connector))
            else:
                driver_of(raw).close(raw)
        _pools.add(self)

    def __repr__(self) -> str:
        lanes = self.lanes
        return (
            f"<OffloadPool {lanes.in_use}/{lanes.size} in use, {len(self.idle)} idle, "
            f"{lanes.waiting} waiting{', closed' if self.closed else ''}>"
        )

    def refuse(self) -> None:
        """Refuse who waits for a connection, and who comes."""
        self.closed = True
        if self._leaks is not None:
            self._leaks.close()
        self.lanes.close()

    def out(self) -> list[PhysicalConnection]:
        """List the links that somebody holds."""
        return [link for link in self._every() if link not in self.idle]

    def _every(self) -> list[PhysicalConnection]:
        while True:
            try:
                return list(self.links)
            except RuntimeError:  # another thread has opened one just now
                continue

    def break_off(self) -> None:
        """Bring back the calls that still run, and let no call begin any more; waits for the server."""
        self._broken_off = True
        out = deque(self.out())

        def interrupt() -> None:
            while True:
                try:
                    link = out.popleft()
                except IndexError:
                    return
                link.interrupt()

        # Python's own executor takes no more work when the interpreter exits, which is when many pools are closed.
        helpers = []
        for _ in range(min(HELPERS, len(out) - 1)):
            helper = threading.Thread(target=interrupt, name="offload_db close", daemon=True)
            with suppress(ThreadUnavailable):
                start(helper)
                helpers.append(helper)
        interrupt()
        for helper in helpers:
            helper.join()

    def fill(self) -> None:
        """Open connections until there are ``min_size``."""
        leases: list[Lease] = []
        try:
            while len(self.links) < self.min_size and len(leases) < self.min_size:
                leases.append(self.checkout(None))
        finally:
            for lease in leases:
                lease.give_back()

    def checkout(self, lane: str | None, connector: Connector | None = None) -> Lease:
        """Admit the caller and give it a link; see :meth:`offload_db.OffloadPool.connection`.

        :param connector: what opens it, where it is to be of another kind than the pool's own
        """
        connector = connector or self.connector
        setting = current_setting()
        deadline = None if setting is None else setting.deadline
        if len(self.leased) >= self.lanes.size:
            for link in list(self.leased):
                turn = link.turn
                if link.is_stranded:
                    link.strand(turn)
        try:
            if setting is not None and setting.cancellation is not None:
                setting.cancellation.check()
            if lane is None and setting is not None:
                lane = setting.lane
            slot = self.lanes.acquire(lane, timeout=None if deadline is None else deadline.left)
        except BaseException as error:
            bridged = place() is Place.BRIDGED
            if isinstance(error, anyio.get_cancelled_exc_class() if bridged else CallCancelled):
                self.counters.add("cancelled")
            raise
        if deadline is not None:
            deadline.spend("waiting for a connection", slot.waited)
        return self._serve(slot, connector, deadline)

    def _serve(self, slot: Permit, connector: Connector, deadline: Deadline | None) -> Lease:
        """Give a link to somebody who is admitted."""
        opened: list[PhysicalConnection] = []

        def settle() -> None:
            # The connection is there though nobody wants it any more.
            self.idle.extend(opened)
            if self.closed:
                self.close_idle()
            self.lanes.release(slot)

        leaving = Detached(settle)
        try:
            started = time.monotonic()
            try:
                link = self.rested(connector, None if deadline is None else deadline.left)
                if link is None:
                    left = None if deadline is None else deadline.left
                    self._make_room(connector)
                    connect = partial(self._open, connector, left)
                    self.workers.run("connect", lambda: opened.append(connect()), timeout=left, leaving=leaving)
                    link = opened[0]
            finally:
                if deadline is not None:
                    deadline.spend("connecting", time.monotonic() - started)
            if self._broken_off:
                # Whoever closes the pool has brought back those who had a connection by then, and waits no longer.
                opened[:] = [link]
                raise pool_closed()  # noqa: TRY301  # the connection goes the way of those that come too late
        except BaseException as error:
            if not leaving.left:
                settle()
            if (late := too_late(error, deadline)) is not None:
                raise late from None
            raise
        link.renew(slot.statement_timeout, slot.checkout_timeout)
        self.counters.checked_out(slot.waited)
        return Lease(self, slot, link, None if self._leaks is None else self._leaks.begin())

    def rested(self, connector: Connector, seconds: float | None) -> PhysicalConnection | None:
        """Take an idle link that stands, mostly without a round trip; None if there is none.

        :param seconds: how long a round trip may take, where that is less than :data:`PING_TIMEOUT`
        """
        now = time.monotonic()
        until = math.inf if seconds is None else now + seconds
        while True:
            link = self._pop(connector)
            if link is None:
                return None
            reason = self._outlived(link)
            if reason is None and not link.driver.alive_at_rest(link.raw):
                reason = link.fault = "dead_idle"
            long = now - link.rested > PING_AFTER or not link.driver.sees_rest(link.raw)
            if reason is None and long:
                # Between here and the server something may have forgotten the link without a word.
                asked = time.monotonic()
                patience = max(SHORTEST_PATIENCE, min(PING_TIMEOUT, until - asked))
                try:
                    answers = self.workers.run("ping", partial(link.answers, patience))
                except BaseException:
                    self.idle.append(link)
                    if self.closed:
                        self.close_idle()
                    raise
                reason = link.fault = None if answers else "dead_idle"
                if not answers and time.monotonic() - asked >= SILENCE:
                    self._give_up_rested(connector, link.rested)
            if reason is None:
                return link
            self._discard(link, reason)
            if time.monotonic() >= until:
                return None

    def _give_up_rested(self, connector: Connector, since: float) -> None:
        """Throw out the idle links that have rested for longer than one that is dead without a word.

        What forgot that one will have forgotten them as well, and to ask each would take as long again.
        """
        for link in [link for link in self.idle if link.connector is connector and link.rested <= since]:
            with suppress(ValueError):  # another thread may have taken it
                self.idle.remove(link)
                link.fault = "dead_idle"
                self._discard(link, "dead_idle")

    def _pop(self, connector: Connector) -> PhysicalConnection | None:
        """Take the idle link of this kind that was used last."""
        for link in reversed(list(self.idle)):
            if link.connector is connector:
                try:
                    self.idle.remove(link)
                except ValueError:  # another thread has taken it
                    continue
                return link
        return None

    def _make_room(self, connector: Connector) -> None:
        """Throw out idle links of other kinds where they would be too many with the one that is to be opened."""
        # Every link that is out or being opened has a slot, so this is the most that there can be.
        while self.lanes.in_use + len(self.idle) > self.lanes.size:
            # One of the same kind has come to rest just now: who gave it back still has, or had, a slot for it.
            link = next((link for link in list(self.idle) if link.connector is not connector), None)
            if link is None:
                return
            try:
                self.idle.remove(link)
            except ValueError:  # another thread has taken it
                continue
            self._discard(link, "displaced")

    def _open(self, connector: Connector, seconds: float | None) -> PhysicalConnection:
        until = math.inf if seconds is None else time.monotonic() + seconds
        return self._link(connector.connect(seconds), connector, until)

    def _link(self, raw: Any, connector: Connector, until: float = math.inf) -> PhysicalConnection:
        driver = driver_of(raw)
        identity = identify(driver, raw, min(connector.patience, until - time.monotonic()))
        admin = None if connector is self.connector else connector.connect_admin
        link = PhysicalConnection(
            raw, driver, identity, self.workers, self.killer, connector=connector, connect_admin=admin
        )
        if self._max_age is not None:
            link.expires = link.born + self._max_age * random.uniform(0.9, 1.0)
        self.links.add(link)
        return link

    def checkin(self, link: PhysicalConnection, ticket: Ticket) -> None:
        """Take a link back, or throw it out; waits for the server if a rollback is due."""
        reason = self._fate(link)
        if link.writes_on:
            try:
                link.read_out()
            except BaseException:
                # On the loop's own thread, and where the task is cancelled already, it may not even have begun.
                if not (self._writes_on(link) and self._check_in_later(link, ticket)):
                    self._put_back(link, ticket, self._fate_when_read(link))
                raise
            reason = self._fate_when_read(link)
        self._put_back(link, ticket, reason)

    @staticmethod
    def _writes_on(link: PhysicalConnection) -> bool:
        link.discard_reason()
        return link.writes_on

    def _fate_when_read(self, link: PhysicalConnection) -> str | None:
        if self._writes_on(link):  # there is more than was read
            link.fault = "unread_result"
        return self._fate(link)

    def _put_back(self, link: PhysicalConnection, ticket: Ticket, reason: str | None) -> None:
        """Roll back what is open, and let the link rest, or throw it out for the *reason*."""
        try:
            if reason is None and not link.clean:
                try:
                    link.tidy()
                except BaseException as error:
                    reason = link.fault = "rollback_failed"
                    # The caller is done with the connection: what the server says to the rollback is ours alone.
                    if not isinstance(error, Exception) or isinstance(error, (BlockingCallError, Warning)):
                        raise
        finally:
            slot = Permit(self.lanes, ticket)  # which gives up the ticket whatever exception comes from here on
            try:
                self.leased.pop(link, None)
                if reason is None:
                    self.rest(link)
                    self.counters.add("checkins")
                else:
                    self._discard(link, reason)
            finally:
                self.lanes.release(slot)

    def _check_in_later(self, link: PhysicalConnection, ticket: Ticket) -> bool:
        """Check the link in on a thread of its own; False if there is none to be had. A finaliser may call this."""
        self.leased[link] = None  # the lease has nothing to give back any more
        try:
            # Not by `threading`, which takes locks: the finaliser may have come in their middle.
            _thread.start_new_thread(self._check_in_quietly, (link, ticket))
        except RuntimeError:
            self.leased[link] = ticket
            return False
        return True

    def _check_in_quietly(self, link: PhysicalConnection, ticket: Ticket) -> None:
        with suppress(OffloadError):  # nobody is there any more to be told
            self.checkin(link, ticket)

    def rest(self, link: PhysicalConnection) -> None:
        """Keep a link for the next checkout."""
        link.driver.forget(link.raw)
        link.rested = time.monotonic()
        self.idle.append(link)
        if self.closed:
            self.close_idle()
        elif self._maxcached and len(self.idle) > self._maxcached:  # others came back in the same moment
            with suppress(IndexError):
                self._discard(self.idle.popleft(), "maxcached")

    def _discard(self, link: PhysicalConnection, reason: str) -> None:
        try:
            if reason == "abandoned_result" and place() is not Place.LOOP:
                link.end_result()  # or the server might work on for rows that nobody takes
            if link.fault is None and place() is Place.BRIDGED:
                self.workers.run("close", link.close, shield=True)
        except ThreadUnavailable:  # it goes without a goodbye
            link.fault = reason
        except BaseException:
            link.fault = reason
            raise
        finally:
            link.close()
            self.links.discard(link)
            self.counters.discarded(reason)

    def close_idle(self) -> None:
        """Close the links at rest."""
        while True:
            try:
                link = self.idle.pop()
            except IndexError:  # another thread may have taken the last one
                return
            try:
                self._discard(link, "closed")
            except BaseException:  # the task was cancelled: the rest goes without a goodbye, and so without a trip
                while self.idle:
                    rest = self.idle.pop()
                    rest.fault = rest.fault or "closed"
                    self._discard(rest, "closed")
                raise

    def close_kind(self, connector: Connector) -> None:
        """Close the links at rest that this connector has opened."""
        while (link := self._pop(connector)) is not None:
            self._discard(link, "closed")

    def count_kind(self, connector: Connector) -> tuple[int, int]:
        """Return how many connections of the kind are idle, and how many are out."""
        idle = sum(link.connector is connector for link in self.idle.copy())
        return idle, max(0, sum(link.connector is connector for link in self.links.copy()) - idle)

    def reclaim(self, link: PhysicalConnection, ticket: Ticket) -> None:
        """Take back a link that was dropped; called by a finaliser, so without any I/O."""
        reason = self._fate(link)
        if link.writes_on:
            if self._check_in_later(link, ticket):
                return
            reason = "unread_result"
        if reason is None and not link.clean:
            # A rollback would be I/O. When the link breaks, the server rolls back by itself.
            reason = "dropped_in_transaction"
        slot = Permit(self.lanes, ticket)  # as above
        self.leased.pop(link, None)
        if reason is None:
            link.rested = time.monotonic()
            self.idle.append(link)
            if self.closed:
                # The pool was closed in between, and whoever did that may not have found it here.
                with suppress(ValueError):
                    self.idle.remove(link)
                    reason = "closed"
        if reason is not None:
            link.fault = link.fault or reason
            link.close()
            self.links.discard(link)
        self.counters.finalised(reason)
        self.lanes.release(slot)

    def _fate(self, link: PhysicalConnection) -> str | None:
        """Return why a link that comes back cannot be used again, None if it can."""
        if link.busy:
            # The loop's own thread gave it back, which waits for nobody, or the task was thrown away unfinished.
            link.break_link()
        return link.discard_reason() or self._outlived(link)

    def _outlived(self, link: PhysicalConnection) -> str | None:
        if self.closed:
            return "closed"
        if self._maxcached and len(self.idle) >= self._maxcached:
            return "maxcached"
        if self._maxusage and link.statements >= self._maxusage:
            return "maxusage"
        return "max_age" if time.monotonic() >= link.expires else None

    def after_fork(self) -> None:
        """Let the child have a pool of its own: the links belong to the parent, and locks may have been held."""
        # Put away first: the garbage collector may drop one of them meanwhile, and that is not the child's any more.
        links, self.links, self.idle, self.leased = list(self.links), weakref.WeakSet(), deque(), {}
        for link in links:
            link.after_fork()
        self.lanes = self._new_lanes()
        self.counters.after_fork()
        self.connector.after_fork()
        self.killer.renew()
        if self._leaks is not None:
            self._leaks = LeakWatch(self._leaks.seconds)


_pools: weakref.WeakSet[PoolCore] = weakref.WeakSet()


def every_pool() -> list[PoolCore]:
    """List the pools of this process that somebody still holds."""
    return list(_pools)


def _after_fork() -> None:
    for pool in list(_pools):
        pool.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
