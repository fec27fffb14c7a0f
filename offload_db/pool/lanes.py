"""Lanes, and what admits a caller to one.

Owns a lane's settings, who is in it and who waits for it, and the ticket and the permit of each of them. Who is
admitted when is decided in ``admission_queue.py``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from itertools import islice
from typing import Protocol

from ..bridge.caller_identity import Caller
from ..bridge.signals import TaskEvent, ThreadEvent
from ..errors import PoolClosed
from ..settings import check_count, check_name, check_seconds

# How many of those who wait are looked at for one whose kind of connection is there.
LOOK_AHEAD = 50


class Releases(Protocol):
    """What takes a permit back."""

    def release(self, permit: Permit) -> None:
        """Give the place to who waits for it; never blocks."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A named bounded limiter with a waiting room, inside a pool (the bulkhead pattern).

    :param name: what ``lane=`` refers to
    :param limit: the most connections that calls of this lane hold at once, 1 or more
    :param max_waiting: how many callers may queue for the lane; None takes the pool's setting
    :param checkout_timeout: seconds to wait for a connection; None takes the pool's setting
    :param statement_timeout: seconds that a statement may take; None takes the pool's setting
    :raises ConfigurationError: if a value is not accepted
    """

    name: str
    limit: int
    _: KW_ONLY
    max_waiting: int | None = None
    checkout_timeout: float | None = None
    statement_timeout: float | None = None

    def __post_init__(self) -> None:
        check_name("Lane", "name", self.name)
        where = f"Lane {self.name!r}"
        check_count(where, "limit", self.limit, minimum=1)
        if self.max_waiting is not None:
            check_count(where, "max_waiting", self.max_waiting, minimum=0)
        check_seconds(where, "checkout_timeout", self.checkout_timeout)
        check_seconds(where, "statement_timeout", self.statement_timeout)


def with_defaults(lane: Lane, common: Lane) -> Lane:
    """Give a lane the settings of the whole pool where it has none of its own."""
    inherited = {
        name: getattr(common, name)
        for name in ("max_waiting", "checkout_timeout", "statement_timeout")
        if getattr(lane, name) is None
    }
    return replace(lane, **inherited)


class LaneState:
    """One lane at work: how many it has admitted, and who waits."""

    __slots__ = ("checkout_timeout", "held", "label", "limit", "max_waiting", "queue", "statement_timeout")

    def __init__(self, label: str, lane: Lane) -> None:
        self.label = label
        self.limit = lane.limit
        self.max_waiting = lane.max_waiting
        self.checkout_timeout = lane.checkout_timeout
        self.statement_timeout = lane.statement_timeout
        # Who is in. Nothing else says so: it takes one step to note it or to take it back, which no exception divides.
        self.held: set[Ticket] = set()
        # Tickets in the order in which they are served. Who stops waiting leaves it at once, wherever it stands: while
        # a connection is held for long there would soon be more of those than of others.
        self.queue: OrderedDict[Ticket, None] = OrderedDict()

    @property
    def in_use(self) -> int:
        """How many are admitted."""
        return len(self.held)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self.queue)

    def head(self) -> Ticket | None:
        """Return who is to be served next."""
        return next(iter(self.queue), None)

    def first(self, serves: Callable[[object], bool], most: int) -> Ticket | None:
        """Return who is to be served next of those whose kind of connection is there, None if it is nobody's.

        :param most: how often anybody is passed; who was passed as often is served whatever is there
        """
        for ticket in islice(self.queue, LOOK_AHEAD):
            if ticket.on_loop or ticket.passed >= most or serves(ticket.kind):
                return ticket
        return None

    def note_passed(self, served: Ticket) -> None:
        """Note who was passed by one that is served."""
        for ticket in islice(self.queue, LOOK_AHEAD):
            if ticket.number >= served.number:
                break
            ticket.passed += 1


WAITING, HELD, GONE = "waiting", "held", "gone"


class Ticket:
    """The wait for admission to the pool and to one lane of it, and then the admission itself."""

    __slots__ = ("holder", "kind", "lane", "number", "on_loop", "passed", "signal", "state")

    def __init__(self, lane: LaneState, holder: Caller, kind: object, *, on_loop: bool) -> None:
        self.lane = lane
        self.kind = kind
        """Of connection that is wanted, None for the pool's own."""
        self.holder = holder
        self.on_loop = on_loop
        self.state = GONE
        self.number = 0
        self.passed = 0
        """How often another one was served that came later."""
        self.signal: TaskEvent | ThreadEvent | None = None


class Permit:
    """Admission to the pool and to one lane of it, for whoever has this object: the last reference releases it.

    An exception may come at any moment, also between the admission and whatever its holder does first. Who has a
    connection for it unsets :attr:`loose`: of what the garbage collector finds together, any finaliser may be called
    first, and the connection is to be back before the admission is.
    """

    __slots__ = ("_lanes", "checkout_timeout", "loose", "statement_timeout", "ticket", "waited")

    def __init__(self, lanes: Releases, ticket: Ticket) -> None:
        self._lanes = lanes
        self.statement_timeout = ticket.lane.statement_timeout
        """Seconds that a statement of this holder may take."""
        self.checkout_timeout = ticket.lane.checkout_timeout
        """Seconds that it may wait for its turn on a connection."""
        self.waited = 0.0
        self.ticket = ticket
        self.loose = True
        """Whether nothing but this object's end releases it: no lease has it, and it was not released."""

    def __del__(self) -> None:
        if getattr(self, "loose", False):
            self._lanes.release(self)


def pool_closed() -> PoolClosed:
    """Make the error for asking a pool that is closed."""
    return PoolClosed.because("the pool is closed; make a new one, or close it later")
