"""How a caller comes to a connection of a pool.

Owns checkout: admission first, then a connection at rest, or else a new one. ``checkin.py`` takes connections back,
``idle.py`` has those at rest. Settings and the public names are in ``pool.py``.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
from dbutils.pooled_db import PooledDB

from ..bridge import arms
from ..bridge.call_scope import BridgedCall, Deadline, current_setting
from ..bridge.place import Place, place
from ..bridge.weak_sets import members
from ..connection.driver_call import Connect
from ..connection.executor import Detached, Executor, OnLoopCall
from ..connection.killer import Killer
from ..connection.opening import identify, too_late
from ..connection.physical import PhysicalConnection
from ..drivers.registry import driver_of
from ..errors import CallCancelled, CheckoutTimeout
from ..statistics import Counters, PoolStatistics
from .admission_queue import Admission
from .checkin import Checkins
from .connector import Connector, take_idle
from .idle import DISPLACE_AFTER, IdleConnections
from .lanes import Lane, Permit, pool_closed
from .leaks import CheckoutRecord
from .lease import Lease
from .shutdown import interrupt_all


class PoolCore:
    """What a pool is made of, and the way to its connections.

    :param pool: what makes the connections; those that it holds idle are taken over
    :param common: the settings of the whole pool
    :param lanes: its lanes
    :param fast: let PyMySQL's connections read results faster, and mysqlclient's share a thread
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
        self.number = next(_numbers)
        self._new_admission = partial(Admission, common, lanes)
        self.admission = self._new_admission()
        self._max_age = max_age
        self.min_size = 0
        self.counters = Counters()
        self.executor = Executor(size, self.counters, on_loop_call)
        self.connector = Connector(pool, fast=fast)
        self.killer = Killer(self.connector.connect_admin, self.counters, weakref.ref(self))
        self.idle = IdleConnections(self.executor, self.counters, maxusage=pool._maxusage, maxcached=pool._maxcached)
        self._leak_warning = leak_warning
        self.checkins = Checkins(self.admission, self.idle, self.counters)
        self._broken_off = False
        for raw in take_idle(pool):
            if len(self.idle.links) < size:
                if fast:
                    driver_of(raw).upgrade(raw, self.connector.settings)
                # One of them may have died at rest; then there is one less.
                with suppress(Exception):
                    self.idle.resting.append(self._link(raw, self.connector))
            else:
                driver_of(raw).close(raw)
        _pools.add(self)

    def __repr__(self) -> str:
        admission = self.admission
        return (
            f"<OffloadPool {admission.in_use}/{admission.size} in use, {len(self.idle)} idle, "
            f"{admission.waiting} waiting{', closed' if self.closed else ''}>"
        )

    @property
    def closed(self) -> bool:
        """Whether the pool is closed to who comes."""
        return self.idle.closed

    @property
    def links(self) -> weakref.WeakSet[PhysicalConnection]:
        """All connections that are open."""
        return self.idle.links

    def refuse(self) -> None:
        """Refuse who waits for a connection, and who comes."""
        self.idle.closed = True
        self.admission.close()

    def out(self) -> list[PhysicalConnection]:
        """List the links that somebody holds."""
        return [link for link in self.idle.every() if link not in self.idle]

    def break_off(self) -> None:
        """Bring back the calls that still run, and let no call begin any more; waits for the server."""
        self._broken_off = True
        interrupt_all(self.out())

    def fill(self) -> None:
        """Open connections until there are ``min_size``."""
        leases: list[Lease] = []
        try:
            while len(self.idle.links) < self.min_size and len(leases) < self.min_size:
                leases.append(self.checkout(None))
        finally:
            for lease in leases:
                lease.give_back()

    def checkout(self, lane: str | None, connector: Connector | None = None, *, private: bool = False) -> Lease:
        """Admit the caller and give it a link; see :meth:`offload_db.OffloadPool.connection`.

        :param connector: what opens it, where it is to be of another kind than the pool's own
        :param private: whether it stays in the hands of who asks, and needs no turns
        """
        connector = connector or self.connector
        call = None if arms.choose is None else arms.current_call()
        if call is not None:
            call.used.add(self)
        if connector.kind is not self.connector.kind and self.admission.look is None:
            self.admission.look = partial(self.idle.servable, self.connector.kind, self.admission.size)
        setting = current_setting()
        scope = deadline = None
        if setting is not None:
            scope, deadline = setting.scope, setting.deadline
        if len(self.checkins.leased) >= self.admission.size:
            self._take_back_lost()
        try:
            if setting is not None and setting.cancellation is not None:
                setting.cancellation.check()
            if lane is None and setting is not None:
                lane = setting.lane
            patience = None if deadline is None else deadline.left
            permit = self.admission.acquire(lane, timeout=patience, kind=connector.kind)
        except BaseException as error:
            bridged = place() is Place.BRIDGED
            if isinstance(error, anyio.get_cancelled_exc_class() if bridged else CallCancelled):
                self.counters.add("cancelled")
            elif call is not None and isinstance(error, CheckoutTimeout):
                call.checkout_timeouts += 1
            raise
        if call is not None:
            call.kept_waiting += permit.waited
        if deadline is not None:
            deadline.spend("waiting for a connection", permit.waited)
        return self._serve(permit, connector, None if private else scope, deadline)

    def _take_back_lost(self) -> None:
        """Take back the connections of tasks that can never go on."""
        for link in list(self.checkins.leased):
            call_lock = link.call_lock
            if link.task_is_gone:
                link.take_back(call_lock)

    async def wait_for_loop(self) -> None:
        """Wait, in a task, until the event loop's own thread could have a connection that somebody will give back.

        Nobody has it before the task that goes on, if that asks at once.
        """
        admission = self.admission

        def needs_to() -> bool:
            return admission.in_use >= admission.size and not self.closed and self._gives_back()

        await admission.loop_waiters.wait(needs_to, admission.checkout_timeout(None))

    def _gives_back(self) -> bool:
        """Tell whether somebody has a connection only for as long as their own call takes."""
        leased = list(self.checkins.leased)
        if len(leased) < self.admission.in_use:
            return True  # somebody is connecting
        locks = [(link, link.call_lock) for link in leased]
        return any(lock.lender is not None or (link.busy and lock.owner is None) for link, lock in locks)

    def enter(self, lane: str | None) -> Permit:
        """Let a task that is part of no bridged call have a permit, or queue for one; see :meth:`Admission.enter`."""
        if len(self.checkins.leased) >= self.admission.size:
            self._take_back_lost()
        return self.admission.enter(lane, Place.BRIDGED)

    def serve(self, permit: Permit) -> Lease:
        """Give a link to a task that has entered and was admitted; one call is made on it, so it needs no turns."""
        return self._serve(permit, self.connector, None, None)

    def _serve(
        self, permit: Permit, connector: Connector, scope: BridgedCall | None, deadline: Deadline | None
    ) -> Lease:
        """Give a link to somebody who is admitted."""
        opened: list[PhysicalConnection] = []

        def on_return() -> None:
            # The connection is there though nobody wants it any more.
            self.idle.resting.extend(opened)
            self.idle.opening.pop(permit, None)
            if self.closed:
                self.idle.close_all()
            self.admission.release(permit)

        detached: Detached | None = None
        connector.kind.checkouts += 1 + (permit.ticket.passed >= self.admission.size)
        try:
            started = time.monotonic()
            try:
                link = self.idle.take(connector, None if deadline is None else deadline.left)
                if link is None:
                    link = self._wait_for_share(connector, permit, deadline)
                left = None if deadline is None else deadline.left
                if link is None:
                    self.idle.opening[permit] = connector.kind
                    self.idle.make_room(connector.kind, self.admission.size)
                    # One that was lent to a kill may be back, and who took it back may not have seen this one coming.
                    if self.idle.too_many(self.admission.size):
                        link = self.idle.take(connector, left)
                        if link is not None:
                            self.idle.opening.pop(permit, None)
                if link is None:
                    connect = partial(self._open, connector, left, permit, started - permit.waited)
                    detached = Detached(on_return)
                    self.executor.run("connect", lambda: opened.append(connect()), timeout=left, detached=detached)
                    link = opened[0]
            finally:
                if deadline is not None:
                    deadline.spend("connecting", time.monotonic() - started)
            if self._broken_off:
                # Whoever closes the pool has brought back those who had a connection by then, and waits no longer.
                opened[:] = [link]
                raise pool_closed()  # noqa: TRY301  # the connection goes the way of those that come too late
        except BaseException as error:
            if detached is None or not detached.runs_on:
                on_return()
            if (late := too_late(error, deadline)) is not None:
                raise late from None
            raise
        link.renew(scope, permit.statement_timeout, permit.checkout_timeout)
        self.counters.add_timed("checkouts", permit.waited)
        record = None if self._leak_warning is None else CheckoutRecord(self._leak_warning)
        return Lease(self, permit, link, record)

    @property
    def size(self) -> int:
        """The most connections at once."""
        return self.admission.size

    def lend(
        self, server: tuple[str, ...], connect: Connect | None
    ) -> tuple[PhysicalConnection, Callable[[bool], None]] | None:
        """Take out an idle connection for a kill; see :class:`offload_db.connection.kill_connections.Lender`."""
        link = None if self.closed else self.idle.take_for_kill(server, connect)
        return None if link is None else (link, partial(self._take_back, link))

    def _take_back(self, link: PhysicalConnection, well: bool) -> None:
        """Take back an idle connection that a kill went over, for which nobody has had a permit."""
        if not well:
            link.fault = link.fault or "dead_idle"
            self.idle.discard(link, "dead_idle")
        elif self.checkins.one_too_many():
            self.idle.discard(link, "maxcached")
        else:
            self.idle.rest(link)
            self.idle.shrink(self.admission.size)

    def _wait_for_share(
        self, connector: Connector, permit: Permit, deadline: Deadline | None
    ) -> PhysicalConnection | None:
        """Wait a while for a link of this kind, rather than to throw out one of another; None if none came back."""
        limits = (DISPLACE_AFTER, permit.checkout_timeout, None if deadline is None else deadline.left)
        until = time.monotonic() + min(limit for limit in limits if limit is not None)
        link: PhysicalConnection | None = None
        while link is None and self.idle.wait_for_share(connector.kind, self.admission.size, until):
            link = self.idle.take(connector, None if deadline is None else deadline.left)
        return link

    def _open(self, connector: Connector, seconds: float | None, permit: Permit, came: float) -> PhysicalConnection:
        """Open a link for who has waited since *came*."""
        until = math.inf if seconds is None else time.monotonic() + seconds
        turn_until = math.inf if permit.checkout_timeout is None else came + permit.checkout_timeout
        waits_since = None if place() is Place.LOOP else came
        try:
            raw = connector.connect(seconds, came=waits_since, turn_until=turn_until)
            link = self._link(raw, connector, until)
            self.idle.opening.pop(permit, None)  # it is among the open ones now
            return link
        except Exception as error:
            vars(error)["may_have_run"] = False
            raise

    def _link(self, raw: Any, connector: Connector, until: float = math.inf) -> PhysicalConnection:
        driver = driver_of(raw)
        identity = identify(driver, raw, min(connector.patience, until - time.monotonic()))
        admin = None if connector is self.connector else connector.connect_admin
        link = PhysicalConnection(
            raw, driver, identity, self.executor, self.killer, connector=connector, connect_admin=admin
        )
        if self._max_age is not None:
            link.expires = link.born + self._max_age * random.uniform(0.9, 1.0)
        self.idle.links.add(link)
        return link

    def statistics(self) -> PoolStatistics:
        """Return what the pool holds now and has counted so far."""
        return self.counters.snapshot(
            size=self.admission.size,
            links=len(self.links),
            idle=len(self.idle),
            in_use=self.admission.in_use,
            waiting=self.admission.waiting,
            lanes=self.admission.statistics(),
        )

    def after_fork(self) -> None:
        """Let the child have a pool of its own: the links belong to the parent, and locks may have been held."""
        # Put away first: the garbage collector may drop one of them meanwhile, and that is not the child's any more.
        self.admission = self._new_admission()
        self.checkins.after_fork(self.admission)
        for link in self.idle.after_fork():
            link.after_fork()
        self.counters.after_fork()
        self.connector.after_fork()
        self.killer.renew()


_pools: weakref.WeakSet[PoolCore] = weakref.WeakSet()
_numbers = itertools.count(1)


def every_pool() -> list[PoolCore]:
    """List the pools of this process that somebody still holds, in the order in which they were made."""
    return sorted(members(_pools), key=lambda pool: pool.number)


def _after_fork() -> None:
    for pool in members(_pools):
        pool.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
