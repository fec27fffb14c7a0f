"""Whether who waits for a slot can ever be served, or everybody waits for somebody else.

Owns the search for such circles among those who hold slots and wait for more. Refuses nobody itself, and knows neither
the queue nor the lock that guards it: only who holds what, and who waits for what.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from ..bridge.callers import Caller, rests
from ..bridge.place import Place
from ..bridge.signals import TaskEvent, ThreadEvent


class Room(Protocol):
    """What limits slots besides their number in all."""

    limit: int


class Ticket(Protocol):
    """A slot, or the wait for one."""

    holder: Caller
    signal: TaskEvent | ThreadEvent | None
    """What its holder waits for."""

    @property
    def room(self) -> Room:
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
    """Tell whether a slot can come free for *wanted*; False if all that it could get is held by who cannot go on.

    :param where: where the caller is that wants it
    :param queued: all who wait
    :param held: all slots that are taken
    :param size: how many slots there are
    :param look_at_threads: see whether the threads that took slots still do anything
    """
    me = wanted.holder
    rooms_wanted = {me: [wanted.room]}
    blocked = set()  # threads that stand still in the queue
    for ticket in queued:
        rooms_wanted.setdefault(ticket.holder, []).append(ticket.room)
        if isinstance(ticket.signal, ThreadEvent):
            blocked.add(ticket.holder[0])
    # While the loop's own thread waits, no task of that loop can go on.
    stands = {slot.holder for slot in held if where is Place.LOOP and slot.holder[0] == me[0]}
    if look_at_threads:
        # A framework's thread that opened a connection for a request closes it when the loop tells it to. Until then
        # it rests, or waits in another request's name.
        others = {slot.holder for slot in held} - rooms_wanted.keys()
        stands |= {holder for holder in others if holder[0] in blocked or rests(holder)}
    bound = {slot for slot in held if slot.holder in rooms_wanted or slot.holder in stands}
    # Whoever waits for nothing goes on and gives back; then so do those whom that serves, and so on.
    while True:
        served = {holder for holder, rooms in rooms_wanted.items() if all(_opens(r, bound, size) for r in rooms)}
        if me in served:
            return True
        freed = {slot for slot in bound if slot.holder in served and slot.holder not in stands}
        if not freed:
            return False
        bound -= freed
        for holder in served:
            del rooms_wanted[holder]


def _opens(room: Room, bound: Collection[Ticket], size: int) -> bool:
    """Tell whether the room has a place once all slots that are not *bound* have come back."""
    return len(bound) < size and sum(slot.room is room for slot in bound) < room.limit
