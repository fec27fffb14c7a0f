"""How the trips of one event loop's tasks depart: one by one, or several in one thread.

Owns which trips share a thread, and how those that come back from a shared one wake their tasks. What a trip is,
``trips.py`` says, how calls share a thread ``sharing.py``.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any

import anyio

from .sharing import POSSIBLE, Hub
from .trips import Trip, travel

# Trips in a round of the loop, on the average of late, above which the first one waits for others to join it.
CROWD = 1.5
# How much one round says of what the next will be like.
_WEIGHT = 0.1


class Departures:
    """Sends the trips of one pool's tasks, on one event loop, to worker threads.

    Trips that tasks of asyncio begin in the same round of the loop share a thread where they may: to wake a thread, and
    a loop by a thread, costs more than a small query. The first of a round has a thread of its own, unless rounds
    have seen more than :data:`CROWD` on the average.

    :param threads: the most threads at once
    """

    __slots__ = ("_begun", "_carrying", "_company", "_limiter", "_ready")

    def __init__(self, threads: float) -> None:
        self._limiter = anyio.CapacityLimiter(threads)
        self._begun = 0
        self._company = 0.0
        self._ready: list[_Ride] = []
        self._carrying: set[asyncio.Task[None]] = set()

    async def travel(self, trip: Trip[Any], *, shared: bool) -> None:
        """Send *trip* through a worker thread; see :func:`offload_db.trips.travel`.

        :param shared: whether it may share the thread: it waits by :mod:`offload_db.sharing` alone, and holds no lock
            meanwhile that another one could want
        """
        loop = asyncio._get_running_loop() if shared and POSSIBLE else None
        if loop is not None:
            self._begun += 1
            if self._begun == 1:
                loop.call_soon(self._depart, loop, context=Context())  # not to keep this task's
            if self._begun > 1 or self._company > CROWD:
                ride = _Ride(trip, loop.create_future())
                self._ready.append(ride)
                await ride.back
                return
        await travel(trip, self._limiter)

    def _depart(self, loop: asyncio.AbstractEventLoop) -> None:
        self._company += (self._begun - self._company) * _WEIGHT
        self._begun = 0
        if self._ready:
            ready, self._ready = self._ready, []
            task = loop.create_task(self._carry(ready, loop))
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)

    async def _carry(self, ready: list[_Ride], loop: asyncio.AbstractEventLoop) -> None:
        # A task that was cancelled makes no trip. A round has passed since all were ready, and so a cancelled scope has
        # cancelled them by now.
        rides = [ride for ride in ready if not ride.back.done()]
        if not rides:
            return
        trip: Trip[Any] = Trip(_SharedTrip(rides, loop).run if len(rides) > 1 else rides[0].make_alone)
        try:
            await travel(trip, self._limiter)
        except asyncio.CancelledError:  # all tasks of the loop are being cancelled
            for ride in rides:
                ride.back.cancel()
            raise
        except Exception as error:  # no thread could be started
            for ride in rides:
                if not ride.back.done():
                    ride.back.set_exception(error)
        else:
            _wake(rides)


class _Ride:
    """One trip that may share a thread, and the future that its task waits for."""

    __slots__ = ("_trip", "back", "context")

    def __init__(self, trip: Trip[Any], back: asyncio.Future[None]) -> None:
        self._trip: Trip[Any] | None = trip
        self.back = back
        self.context: Context | None = copy_context()

    def make_alone(self) -> None:
        """Make the trip, on a thread, in the context of its task."""
        context = self.context
        assert context is not None
        context.run(self.begin().run)

    def begin(self) -> Trip[Any]:
        """Give the trip away: what it brings back shall not stay in memory for as long as another one takes."""
        trip, self._trip, self.context = self._trip, None, None
        assert trip is not None
        return trip


class _SharedTrip:
    """Several trips through one thread."""

    __slots__ = ("_loop", "_returned", "_rides")

    def __init__(self, rides: list[_Ride], loop: asyncio.AbstractEventLoop) -> None:
        self._rides = rides
        self._loop = loop
        self._returned: list[_Ride] = []

    def run(self) -> None:
        """Make the trips, on the thread."""
        Hub().run(((ride.context, partial(self._make, ride)) for ride in self._rides), self._report)

    def _make(self, ride: _Ride) -> None:
        ride.begin().run()
        self._returned.append(ride)

    def _report(self) -> None:
        """Wake the tasks whose trips are over while others still wait; the last ones come back with the thread."""
        if self._returned:
            returned, self._returned = self._returned, []
            with suppress(RuntimeError):  # the loop is closed, and with it the tasks gone
                self._loop.call_soon_threadsafe(_wake, returned)


def _wake(rides: list[_Ride]) -> None:
    for ride in rides:
        if not ride.back.done():
            ride.back.set_result(None)
