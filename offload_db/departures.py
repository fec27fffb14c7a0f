"""How the trips of one event loop's tasks depart: one by one, or several in one thread.

Owns which trips share a thread, and how those that come back from a shared one wake their tasks. What a trip is,
``trips.py`` says, how calls share a thread ``sharing.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any

import anyio

from .sharing import POSSIBLE, Hub
from .trips import Trip, travel, unlimited

# Trips in a round of the loop, on the average of late, above which the first one waits for others to join it.
CROWD = 1.5
# How much one round says of what the next will be like.
_WEIGHT = 0.1


class Departures:
    """Sends the trips of one pool's tasks, on one event loop, to worker threads.

    Trips that tasks of asyncio begin in the same round of the loop share a thread where they may, and so do those that
    begin while such a thread is under way: to wake a thread, and a loop by a thread, costs more than a small query. The
    first of a round has a thread of its own otherwise, unless rounds have seen more than :data:`CROWD` on the average.

    :param threads: the most threads at once
    """

    __slots__ = ("_begun", "_carrying", "_company", "_limiter", "_ready", "_shared")

    def __init__(self, threads: float) -> None:
        self._limiter = anyio.CapacityLimiter(threads)
        self._begun = 0
        self._company = 0.0
        self._ready: list[_Ride] = []
        self._shared: _SharedTrip | None = None
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
                loop.call_soon(self._count, loop, context=Context())  # not to keep this task's
            if self._begun > 1 or self._shared is not None or self._company > CROWD:
                ride = _Ride(trip, loop.create_future())
                self._ready.append(ride)
                await ride.back
                return
        await travel(trip, self._limiter)

    def _count(self, loop: asyncio.AbstractEventLoop) -> None:
        self._company += (self._begun - self._company) * _WEIGHT
        self._begun = 0
        if self._ready:
            # A round later those in a cancelled scope are cancelled.
            loop.call_soon(self._depart, self._ready, loop)
            self._ready = []

    def _depart(self, ready: list[_Ride], loop: asyncio.AbstractEventLoop) -> None:
        # A task that was cancelled meanwhile makes no trip.
        rides = [ride for ride in ready if not ride.back.done()]
        if not rides or (self._shared is not None and self._shared.add(rides)):
            return
        self._shared = _SharedTrip(loop)
        self._shared.add(rides)
        task = loop.create_task(self._carry(self._shared))
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # the thread stays a little longer than the trips
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, shared: _SharedTrip) -> None:
        trip = Trip(shared.run)
        try:
            await travel(trip, unlimited())  # each trip that it makes is one of those that are allowed
            trip.outcome()
        except asyncio.CancelledError:  # all tasks of the loop are being cancelled
            shared.end(asyncio.Future.cancel)
            raise
        except Exception as error:  # no thread could be started, or there are too many open files
            shared.end(partial(_fail, error))
        else:
            shared.end()
        finally:
            if self._shared is shared:
                self._shared = None


def _fail(error: Exception, back: asyncio.Future[None]) -> None:
    back.set_exception(error)


class _Ride:
    """One trip that shares a thread, and the future that its task waits for."""

    __slots__ = ("_trip", "back", "context")

    def __init__(self, trip: Trip[Any], back: asyncio.Future[None]) -> None:
        self._trip: Trip[Any] | None = trip
        self.back = back
        self.context: Context | None = copy_context()

    def begin(self) -> Trip[Any]:
        """Give the trip away: what it brings back shall not stay in memory for as long as another one takes."""
        trip, self._trip, self.context = self._trip, None, None
        assert trip is not None
        return trip


class _SharedTrip:
    """Several trips through one thread."""

    __slots__ = ("_hub", "_loop", "_returned", "_rides")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._hub = Hub()
        self._rides: set[_Ride] = set()
        self._returned: list[_Ride] = []

    def add(self, rides: list[_Ride]) -> bool:
        """Take further trips along, on the loop's thread; False if the thread has come to its end."""
        added = self._hub.add((ride.context, partial(self._make, ride)) for ride in rides)
        if added:
            self._rides.update(rides)
        return added

    def run(self) -> None:
        """Make the trips, on the thread."""
        self._hub.run(self._report)

    def _make(self, ride: _Ride) -> None:
        ride.begin().run()
        self._returned.append(ride)

    def _report(self) -> None:
        """Wake the tasks whose trips are over."""
        if self._returned:
            returned, self._returned = self._returned, []
            with suppress(RuntimeError):  # the loop is closed, and with it the tasks gone
                self._loop.call_soon_threadsafe(self._wake, returned)

    def _wake(self, rides: list[_Ride]) -> None:
        for ride in rides:
            self._rides.discard(ride)
            if not ride.back.done():
                ride.back.set_result(None)

    def end(self, finish: Callable[[asyncio.Future[None]], object] | None = None) -> None:
        """Wake all tasks that still wait, or end their waiting in another way."""
        while self._rides:
            back = self._rides.pop().back
            if not back.done():
                back.set_result(None) if finish is None else finish(back)
