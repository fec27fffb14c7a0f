"""Finds callers that can never be served, because all who hold connections wait for more of them.

Owns the search for such circles among those who hold permits and wait for more. Refuses nobody itself, and knows
neither the queue nor the lock that guards it: only who holds what, and who waits for what.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from ..bridge.caller_identity import Caller, rests
from ..bridge.place import Place
from ..bridge.signals import TaskEvent, ThreadEvent


class LaneLimit(Protocol):
    """A lane: what limits permits besides their number in all."""

    limit: int


class Ticket(Protocol):
    """A permit, or the wait for one."""

    holder: Caller
    signal: TaskEvent | ThreadEvent | None
    """What its holder waits for."""

    @property
    def lane(self) -> LaneLimit:
        """What it counts against."""


def can_progress(
    wanted: Ticket,
    where: Place,
    queued: Iterable[Ticket],
    held: Collection[Ticket],
    size: int,
    *,
    look_at_threads: bool = False,
) -> bool:
    """Tell whether a permit can come free for *wanted*; False if all that it could get is held by who cannot go on.

    :param where: where the caller is that wants it
    :param queued: all who wait
    :param held: all that are taken
    :param size: how many there are
    :param look_at_threads: see whether the threads that took them still do anything
    """
    me = wanted.holder
    lanes_wanted = {me: [wanted.lane]}
    blocked = set()  # threads that stand still in the queue
    for ticket in queued:
        lanes_wanted.setdefault(ticket.holder, []).append(ticket.lane)
        if isinstance(ticket.signal, ThreadEvent):
            blocked.add(ticket.holder[0])
    # While the loop's own thread waits, no task of that loop can go on.
    stands = {ticket.holder for ticket in held if where is Place.LOOP and ticket.holder[0] == me[0]}
    if look_at_threads:
        # A framework's thread that opened a connection for a request closes it when the loop tells it to. Until then
        # it rests, or waits in another request's name.
        others = {ticket.holder for ticket in held} - lanes_wanted.keys()
        stands |= {holder for holder in others if holder[0] in blocked or rests(holder)}
    bound = {ticket for ticket in held if ticket.holder in lanes_wanted or ticket.holder in stands}
    # Whoever waits for nothing goes on and gives back; then so do those whom that serves, and so on.
    while True:
        served = {holder for holder, lanes in lanes_wanted.items() if all(_opens(r, bound, size) for r in lanes)}
        if me in served:
            return True
        freed = {ticket for ticket in bound if ticket.holder in served and ticket.holder not in stands}
        if not freed:
            return False
        bound -= freed
        for holder in served:
            del lanes_wanted[holder]


def _opens(lane: LaneLimit, bound: Collection[Ticket], size: int) -> bool:
    """Tell whether the lane has a place once all permits that are not *bound* have come back."""
    return len(bound) < size and sum(ticket.lane is lane for ticket in bound) < lane.limit
