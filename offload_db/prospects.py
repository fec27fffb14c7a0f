"""Whether a caller that waits for a slot can ever be served.

Owns the search for callers that wait for each other in a circle, among those who hold slots and those who queue for
them. Decides nothing else: who is admitted, and what is said to who is refused, is ``lanes.py``'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from .bridge import Caller, rests
from .trips import ThreadSignal


class Room(Protocol):
    """What slots are limited by: a lane, or the whole pool."""

    limit: int

    @property
    def queue(self) -> Iterable[Ticket]:
        """Those who wait for a slot of this room."""


class Ticket(Protocol):
    """A slot, or the wait for one."""

    holder: Caller

    @property
    def signal(self) -> object:
        """What wakes who waits, of a kind for threads and of another for tasks."""

    @property
    def room(self) -> Room:
        """Where the slot is, or shall be."""


def has_hope(
    ticket: Ticket,
    rooms: Iterable[Room],
    held: Collection[Ticket],
    size: int,
    *,
    on_loop: bool,
    look_at_threads: bool = False,
) -> bool:
    """Tell whether somebody who can go on before the caller does holds what the caller could get.

    :param rooms: all rooms of the pool
    :param held: all slots that are taken
    :param size: how many slots there are
    :param on_loop: whether an event loop's own thread would wait, so that no task of that loop can go on
    :param look_at_threads: see whether the threads that took slots still do anything
    """
    me = ticket.holder
    wanted = {me: [ticket.room]}
    blocked = set()
    for room in rooms:
        for waiting in room.queue:
            wanted.setdefault(waiting.holder, []).append(room)
            if isinstance(waiting.signal, ThreadSignal):
                blocked.add(waiting.holder[0])
    stands = {slot.holder for slot in held if on_loop and slot.holder[0] == me[0]}
    if look_at_threads:
        # A framework's thread that opened a connection for a request closes it when the loop tells it to. Until then
        # it rests, or waits in another request's name.
        others = {slot.holder for slot in held} - wanted.keys()
        stands |= {holder for holder in others if holder[0] in blocked or rests(holder)}
    # Whoever waits for nothing goes on and gives back; then so do those whom that serves, and so on.
    bound = [slot for slot in held if slot.holder in wanted or slot.holder in stands]
    while True:
        served = {holder for holder, rooms in wanted.items() if all(_opens(room, bound, size) for room in rooms)}
        if me in served:
            return True
        left = [slot for slot in bound if slot.holder not in served or slot.holder in stands]
        if len(left) == len(bound):
            return False
        bound = left
        for holder in served:
            del wanted[holder]


def _opens(room: Room, bound: list[Ticket], size: int) -> bool:
    """Tell whether the room has a place once all slots that are not *bound* have come back."""
    return len(bound) < size and sum(slot.room is room for slot in bound) < room.limit
