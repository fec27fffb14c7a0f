"""Admission to a pool: one fair queue for tasks and threads.

Owns who may hold a connection, in which order those who wait are served, and when waiting is refused. ``lanes.py`` has
the lanes and the permits, ``deadlock.py`` finds out who would wait in vain. Knows nothing of connections, and does no
I/O.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable

from ..bridge import arms
from ..bridge.background import Timer
from ..bridge.caller_identity import caller
from ..bridge.place import Place, place
from ..bridge.portal import suspend
from ..bridge.settling import Settling
from ..bridge.signals import TaskEvent, ThreadEvent, task_event
from ..errors import CheckoutTimeout, ConfigurationError, LaneFull, ThreadUnavailable
from ..settings import shown
from ..statistics import LaneStatistics
from .deadlock import can_progress
from .lanes import GONE, HELD, WAITING, Lane, LaneState, Permit, Ticket, pool_closed, with_defaults
from .loop_waiters import LoopWaiters

# Seconds for which one connection is kept for the event loop's own thread after it was turned away.
KEEP_SECONDS = 5.0

# Seconds after which the event loop's own thread looks again whether what it waits for can still come.
LOOK_AGAIN = 0.1


class Admission(Settling[Ticket]):
    """The lanes of one pool: at most so many callers in all, and each lane's limit of its own.

    :param common: the settings of the whole pool, which lanes take where they have none of their own

    Waiters are served first come, first served, whether task or thread; one whose lane is full lets those of other
    lanes pass, and one whose kind of connection is in use those of other kinds.
    """

    look: Callable[[], Callable[[object], bool]] | None = None
    """Tells of which kinds of connections one is there, for callers that ask for several; None where all are alike."""

    def __init__(self, common: Lane, lanes: Iterable[Lane]) -> None:
        self.size = common.limit
        self._common = LaneState("the pool", common)
        self._lanes: dict[str, LaneState] = {}
        for lane in lanes:
            if not isinstance(lane, Lane):
                raise ConfigurationError(f"lanes: got {shown(lane)}; accepted are Lane objects")
            if lane.name in self._lanes:
                raise ConfigurationError(f"lanes: {lane.name!r} is there twice; accepted is one Lane for each name")
            self._lanes[lane.name] = LaneState(f"lane {lane.name!r}", with_defaults(lane, common))
        self._all = (self._common, *self._lanes.values())
        self._closed = False
        self._number = 0
        self._lock = threading.Lock()
        self._returned = []
        self._watchers: list[TaskEvent] = []
        self.loop_waiters = LoopWaiters()
        """Tasks that will ask for a place on the loop's own thread, and have to call :meth:`let_others` in the end."""
        self._keep_until = 0.0
        self._keeping: Timer | None = None

    def __repr__(self) -> str:
        lanes = ", ".join(f"{r.label} {r.in_use}/{r.limit} in use, {r.waiting} waiting" for r in self._all)
        return f"<Admission {self.in_use}/{self.size} in use: {lanes}>"

    @property
    def in_use(self) -> int:
        """How many callers are admitted, in all lanes."""
        total = 0
        for lane in self._all:
            total += len(lane.held)
        return total

    @property
    def _held(self) -> list[Ticket]:
        return [ticket for lane in self._all for ticket in lane.held]

    @property
    def waiting(self) -> int:
        """How many callers wait, in all lanes."""
        return sum(lane.waiting for lane in self._all)

    def statistics(self) -> dict[str, LaneStatistics]:
        """Return what each named lane holds now."""
        return {name: LaneStatistics(r.limit, r.in_use, r.waiting) for name, r in self._lanes.items()}

    def checkout_timeout(self, name: str | None) -> float | None:
        """Return the seconds that callers of the lane wait for a connection, None for ever."""
        return self._lane(name).checkout_timeout

    def acquire(self, name: str | None, *, timeout: float | None = None, kind: object = None) -> Permit:
        """Admit the caller, at once or when its turn has come.

        :param name: of a lane, None for the whole pool
        :param timeout: seconds to wait at most, where that is less than the lane's ``checkout_timeout``
        :param kind: of connection that is wanted, None for the pool's own; see :attr:`look`
        :raises ConfigurationError: if there is no such lane
        :raises LaneFull: if ``max_waiting`` callers are queued already
        :raises CheckoutTimeout: if the wait is over, or if it never could be
        :raises PoolClosed: if the lanes are closed
        """
        where = place()
        permit = self.enter(name, where, kind)
        signal = permit.ticket.signal
        if signal is None:
            return permit
        patience, started = permit.checkout_timeout, time.perf_counter()
        if timeout is not None and (patience is None or timeout < patience):
            patience = timeout
        try:
            if isinstance(signal, TaskEvent):
                suspend(signal.wait_for(patience))
            elif where is Place.LOOP:
                self._wait_on_loop(permit.ticket, signal, patience)
            else:
                signal.wait(patience)
        except BaseException:
            self.release(permit)
            raise
        self._waited(permit, patience, started)
        return permit

    def enter(self, name: str | None, where: Place, kind: object = None) -> Permit:
        """Admit the caller at once, or let it queue: then its ticket has a signal, and a task has to :meth:`wait`.

        :param where: where the caller is, or will be when it uses the permit
        """
        lane = self._common if name is None else self._lane(name)
        ticket = Ticket(lane, caller(where), kind, on_loop=where is Place.LOOP)
        permit = Permit(self, ticket)  # before anybody is admitted: from here on nothing can be lost
        self._enter(ticket, where)
        return permit

    async def wait(self, permit: Permit) -> None:
        """Wait for the turn of a task that has entered; see :meth:`acquire`."""
        signal, patience = permit.ticket.signal, permit.checkout_timeout
        assert isinstance(signal, TaskEvent)
        started = time.perf_counter()
        try:
            await signal.wait_for(patience)
        except BaseException:
            self.release(permit)
            raise
        self._waited(permit, patience, started)

    def _waited(self, permit: Permit, patience: float | None, started: float) -> None:
        """Note that the wait is over; raise if it was in vain."""
        ticket, lane = permit.ticket, permit.ticket.lane
        permit.waited = time.perf_counter() - started
        if self._withdraw(ticket):
            raise CheckoutTimeout.because(
                f"{lane.label}: no connection within {patience or 0:.2f} s "
                f"({self._occupation(lane)}); raise {self._limit(lane)} or checkout_timeout, "
                "or hold connections for a shorter time (guide: Scaling)"
            )
        if ticket.state is GONE:
            raise pool_closed()

    def _wait_on_loop(self, ticket: Ticket, signal: ThreadEvent, patience: float | None) -> None:
        """Wait on the event loop's own thread; raises as soon as no holder can give a connection back meanwhile."""
        ends = math.inf if patience is None else time.monotonic() + patience
        while ticket.state is WAITING and (left := ends - time.monotonic()) > 0:
            signal.wait(min(left, LOOK_AGAIN))
            try:
                with self._lock:
                    if ticket.state is WAITING and not self._returned:
                        # Not at once: a thread that rests may be about to take up work that lies ready for it.
                        self._refuse_hopeless(ticket, Place.LOOP, look_at_threads=True)
            finally:
                self._settle()

    def let_others(self) -> None:
        """Admit those who were kept waiting for the loop's own thread."""
        with self._lock:
            self._admit()
        self._settle()

    async def wait_until_idle(self) -> None:
        """Wait until nobody is admitted."""
        signal = task_event()
        with self._lock:
            self._watchers.append(signal)
        self._settle()
        if self.in_use:
            await signal.wait()

    def release(self, permit: Permit) -> None:
        """Give the place to who waits for it; never blocks, so that a finaliser may call it. Twice is fine."""
        if permit.loose:
            self._returned.append(permit.ticket)
            self._settle()
            permit.loose = False  # not before: an exception may come here, and then its finaliser returns it once more

    def close(self) -> None:
        """Refuse all who wait, and all who come later."""
        with self._lock:
            self._closed = True
            self._keep_none()
            for lane in self._all:
                while (ticket := lane.head()) is not None:
                    self._leave_queue(ticket)
                    self._wake(ticket)
        self._settle()

    def _lane(self, name: str | None) -> LaneState:
        if name is None:
            return self._common
        try:
            return self._lanes[name]
        except (KeyError, TypeError):
            names = ", ".join(map(repr, self._lanes)) or "none (OffloadPool takes them as lanes=[…])"
            raise ConfigurationError(f"lane={shown(name, self._lanes)}; the lanes of this pool are: {names}") from None

    def _enter(self, ticket: Ticket, where: Place) -> None:
        lane = ticket.lane
        if self._returned:
            self._settle()
        try:
            with self._lock:
                if self._closed:
                    raise pool_closed()
                if (not lane.queue or ticket.on_loop) and self._has_place(ticket):
                    self._grant(ticket)
                    return
                self._refuse_hopeless(ticket, where)
                if lane.max_waiting is not None and lane.waiting >= lane.max_waiting:
                    raise LaneFull.because(
                        f"{lane.label}: {lane.waiting} callers wait already, max_waiting is {lane.max_waiting} "
                        f"({self._occupation(lane)}); try again later, or raise {self._limit(lane)} or max_waiting"
                    )
                ticket.signal = task_event() if where is Place.BRIDGED else ThreadEvent()
                ticket.state = WAITING
                self._number += 1
                ticket.number = -self._number if ticket.on_loop else self._number
                lane.queue[ticket] = None
                if ticket.on_loop:  # tasks of the loop cannot use what they are given while its own thread waits
                    lane.queue.move_to_end(ticket, last=False)
                if self._keeping:
                    self._admit()  # this may have been the last one who was in and did not wait for another
        finally:
            if self._returned:
                self._settle()

    def _refuse_hopeless(self, ticket: Ticket, where: Place, *, look_at_threads: bool = False) -> None:
        """Raise if every connection the caller could get is held by callers that cannot go on before it does.

        :param look_at_threads: see whether the threads that took connections still do anything
        """
        lane, me = ticket.lane, ticket.holder
        held = self._held
        mine = sum(ticket.holder == me for ticket in held)
        if where is not Place.LOOP and not mine:
            return  # somebody else holds them all, and only who holds one can close the circle
        queued = (ticket for each in self._all for ticket in each.queue)
        if can_progress(ticket, where, queued, held, self.size, look_at_threads=look_at_threads):
            return
        if where is Place.LOOP:
            self._keep_one()
            raise CheckoutTimeout.because(
                f"{lane.label}: no connection ({self._occupation(lane)}), and the event loop's thread cannot wait for "
                "tasks of the same loop to give one back; put @offload_db.offload on the handler that called"
            )
        raise CheckoutTimeout.because(
            f"{lane.label}: this caller holds {mine} of the connections already and waits for one more "
            f"({self._occupation(lane)}), but every holder waits as well; close the first connection before taking "
            f"a second, pass it on instead, or raise {self._limit(lane)} (guide: Scaling)"
        )

    def _occupation(self, lane: LaneState) -> str:
        text = f"{lane.in_use} of {lane.limit} in use, {lane.waiting} waiting"
        return text if lane is self._common else f"{text}; {self.in_use} of {self.size} in the whole pool"

    def _limit(self, lane: LaneState) -> str:
        return "the pool's size" if lane is self._common else "the lane's limit"

    def _has_place(self, ticket: Ticket) -> bool:
        if len(ticket.lane.held) >= ticket.lane.limit:
            return False
        in_use = 0
        for lane in self._all:
            in_use += len(lane.held)
        if in_use < self.size - 1:
            return True
        return in_use < (self.size if ticket.on_loop else self._size_for_others())

    def _size_for_others(self) -> int:
        """Return how many may be in at once, for everybody but the event loop's own thread."""
        if not self.loop_waiters.signals and not arms.expects_inline and self._keep_until <= time.monotonic():
            return self.size
        waiting = {ticket.holder for lane in self._all for ticket in lane.queue}
        held = self._held
        if any(ticket.on_loop for ticket in held) or all(ticket.holder in waiting for ticket in held):
            return self.size  # if all who hold one want another, none comes back before the one that is kept is given
        return max(0 if self.loop_waiters.signals else 1, self.size - 1)

    def _keep_one(self) -> None:
        """Keep one place for the event loop's own thread for a while, because it was turned away.

        In a backend that is being migrated, handlers that are not decorated yet run beside the decorated ones. They
        cannot wait, so under load the decorated ones would leave them nothing.
        """
        self._keep_until = time.monotonic() + KEEP_SECONDS
        if self._keeping is None:
            self._wait_to_stop_keeping()

    def _keep_none(self) -> None:
        self._keep_until = 0.0
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None

    def _wait_to_stop_keeping(self) -> None:
        self._keeping = Timer(self._keep_until - time.monotonic(), self._stop_keeping, "keep")
        try:
            self._keeping.start()
        except ThreadUnavailable:  # nobody would tell those who wait that none is kept any more
            self._keep_none()

    def _stop_keeping(self) -> None:
        with self._lock:
            if self._keep_until > time.monotonic():
                self._wait_to_stop_keeping()
            else:
                self._keep_none()
            if self._keeping is None:
                self._admit()
        self._settle()

    def _grant(self, ticket: Ticket) -> None:
        ticket.lane.held.add(ticket)
        ticket.state = HELD
        if ticket.on_loop and self._keep_until > (now := time.monotonic()):
            self._keep_until = now + KEEP_SECONDS

    def _leave_queue(self, ticket: Ticket) -> None:
        ticket.state = GONE
        ticket.lane.queue.pop(ticket, None)

    def _withdraw(self, ticket: Ticket) -> bool:
        """Take a ticket out of the queue; False if it is out already: it was granted, or the lanes were closed."""
        try:
            with self._lock:
                if ticket.state is not WAITING:
                    return False
                self._leave_queue(ticket)
                return True
        finally:
            self._settle()

    def _admit(self) -> None:
        for lane in self._all:
            if lane.queue:
                self._admit_waiters()
                break
        if self.loop_waiters.signals and self.in_use < self.size:
            self.loop_waiters.wake()
        if self._watchers and self.in_use == 0:
            while self._watchers:
                self._watchers.pop().set()

    def _admit_waiters(self) -> None:
        while (ticket := self._next()) is not None:
            known = ticket.state is HELD  # an exception came in between, the last time
            self._grant(ticket)
            if not known and not self._wake(ticket):
                self._returned.append(ticket)
            ticket.lane.queue.pop(ticket, None)

    def _take_back(self, returned: Ticket) -> None:
        returned.lane.held.discard(returned)
        returned.state = GONE
        returned.lane.queue.pop(returned, None)

    def _next(self) -> Ticket | None:
        if self.in_use >= self.size:
            return None
        firsts = [lane.head() for lane in self._all]
        if self.look is not None:
            serves = self.look()
            # A kind's share is reckoned from what it is given, so who is passed for ever would never get more.
            served = [lane.first(serves, self.size) for lane in self._all]
            firsts = served if any(ticket is not None and self._has_place(ticket) for ticket in served) else firsts
        ready = (ticket for ticket in firsts if ticket is not None and self._has_place(ticket))
        following = min(ready, key=lambda ticket: ticket.number, default=None)
        if following is not None and self.look is not None:
            for lane in self._all:
                lane.note_passed(following)
        return following

    @staticmethod
    def _wake(ticket: Ticket) -> bool:
        """Wake who waits with the ticket; False if nobody is there any more."""
        return ticket.signal is None or ticket.signal.set() is not False
