"""How the hops of one event loop's tasks reach worker threads: together in one where they may, else each in its own.

Owns which hops share a thread, and how those that have returned wake their tasks. ``hops.py`` has what one hop is,
``reactor.py`` how calls share a thread.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

import anyio

from .hops import Hop, pause_would_cancel, send_hop, unlimited
from .reactor import POSSIBLE, Reactor

# Seconds after which hops are looked for that have been left behind.
LOOK_AFTER = 1.0


class Expired(Exception):
    """Raised when the time is over before a hop has come back; never reaches a user."""


class Dispatcher:
    """Sends the hops of one pool's tasks, on one event loop, to worker threads.

    Hops of asyncio's tasks share a thread where they may, with those of the same round of the loop and with those that
    are under way: to wake a thread, and a loop by a thread, costs more than a small query. Where no thread can be
    shared out, for lack of descriptors or of memory, each goes by itself.

    :param threads: the most threads at once
    """

    __slots__ = ("_limiter", "_looks_until", "_pending", "_ready", "_shared")

    def __init__(self, threads: float) -> None:
        self._limiter = anyio.CapacityLimiter(threads)
        self._ready: list[_SharedHop] = []
        self._shared: SharedThread | None = None
        self._pending: set[_SharedHop] = set()
        self._looks_until = 0.0

    async def send(self, hop: Hop[Any], *, shared: bool, timeout: float | None = None) -> None:
        """Send *hop* through a worker thread; see :func:`offload_db.bridge.hops.send_hop`.

        :param shared: whether it may share the thread: it waits only by what ``reactor.py`` has for that, and holds no
            lock meanwhile that another one could want
        :param timeout: seconds to wait for it
        :raises Expired: if they are over; the caller has to abandon the hop or to leave it, as after a cancellation
        """
        loop = asyncio._get_running_loop() if shared and POSSIBLE else None
        if loop is None:
            await (send_hop(hop, self._limiter) if timeout is None else self._send_alone(hop, timeout))
            return
        shared_hop = _SharedHop(hop, loop.create_future())
        # A cancel scope would cost four times as much. What is cancelled keeps its context until it would be due.
        alarm = None if timeout is None else loop.call_later(timeout, shared_hop.expire, context=Context())
        # Who comes alone need not be gathered with others, which takes two rounds of the loop.
        alone = not self._pending and not pause_would_cancel()
        self._pending.add(shared_hop)
        try:
            if time.monotonic() > self._looks_until:
                self._look_later(loop)
            if alone:
                self._start_hops([shared_hop], loop)
            else:
                if not self._ready:
                    loop.call_soon(self._gather, loop, context=Context())  # not to keep this task's
                self._ready.append(shared_hop)
            by_itself = await shared_hop.back
        finally:
            self._pending.discard(shared_hop)
            if alarm is not None:
                alarm.cancel()
        if shared_hop.late:
            raise Expired
        if by_itself:
            await self._send_alone(hop, None if alarm is None else alarm.when() - loop.time())

    async def _send_alone(self, hop: Hop[Any], timeout: float | None) -> None:
        if timeout is None:
            await self._send_and_wait(hop)
            return
        with anyio.move_on_after(timeout):
            await self._send_and_wait(hop)
            return
        raise Expired

    async def _send_and_wait(self, hop: Hop[Any]) -> None:
        await send_hop(hop, self._limiter)
        if not hop.back:  # it has begun in a shared thread all the same
            await hop.wait()

    def _gather(self, loop: asyncio.AbstractEventLoop) -> None:
        ready, self._ready = self._ready, []
        # A round later those in a cancelled scope are cancelled.
        loop.call_soon(self._start_hops, ready, loop)

    def _start_hops(self, ready: list[_SharedHop], loop: asyncio.AbstractEventLoop) -> None:
        # A task that was cancelled meanwhile makes no hop.
        shared_hops = [shared_hop for shared_hop in ready if not shared_hop.back.done()]
        try:
            while shared_hops and (self._shared is None or not self._shared.add(shared_hops)):
                shared = SharedThread(loop)
                shared.start(loop)
                self._shared = shared  # not before: a thread that never comes must be given no hops
        except (OSError, RuntimeError, MemoryError):  # no descriptor, no thread, no memory
            for shared_hop in shared_hops:
                shared_hop.end(alone=True)

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(LOOK_AFTER, self._look, loop, context=Context())
        # Twice the time: if anything fails before the next look, the next hop begins with the looking anew.
        self._looks_until = time.monotonic() + 2 * LOOK_AFTER

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """See to hops that a failed callback has left behind: for want of memory not even its frame may be made."""
        if not self._pending:
            self._looks_until = 0.0
            return
        self._look_later(loop)
        if any(shared_hop.seen for shared_hop in self._ready):
            self._ready = []  # nobody gathers them
        for shared_hop in tuple(self._pending):
            if shared_hop.seen:
                shared_hop.look()
            shared_hop.seen = True


class _SharedHop:
    """One hop that shares a thread, and the future that its task waits for.

    Its result is whether the task had better make the hop by itself. One that has begun is not made twice.
    """

    __slots__ = ("_hop", "_over", "back", "context", "late", "seen", "shared")

    def __init__(self, hop: Hop[Any], back: asyncio.Future[bool]) -> None:
        self._hop: Hop[Any] | None = hop
        self._over = False
        self.back = back
        self.seen = self.late = False
        self.context: Context | None = copy_context()
        self.shared: SharedThread | None = None

    def __call__(self) -> None:
        """Make the hop, on the thread."""
        hop, self._hop, self.context = self._hop, None, None
        assert hop is not None
        hop.run()
        self._over = True
        del hop  # what it brings back shall not stay in memory for as long as another one takes
        shared, self.shared = self.shared, None
        assert shared is not None
        shared.returned.append(self)

    def look(self) -> None:
        """Wake the task if its hop is over, or should have begun long ago."""
        if self._over or self._hop is not None:
            self.end(alone=not self._over)

    def expire(self) -> None:
        """Wake the task because its time is over."""
        self.late = not self.back.done()
        self.end(alone=False)

    def end(self, *, alone: bool) -> None:
        """Wake the task, on the loop's thread; it may have been woken already."""
        if not self.back.done():
            self.back.set_result(alone)


class SharedThread:
    """Several hops through one thread."""

    __slots__ = ("_loop", "_reactor", "_shared_hops", "_starting", "_thread", "returned")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # anyio keeps what belongs to a loop for as long as the loop lives
        self._reactor = Reactor()
        self._shared_hops: set[_SharedHop] = set()
        self.returned: deque[_SharedHop] = deque()
        """Those that are over, and whose tasks are to be told."""
        self._thread = Hop(self._run)
        self._starting: asyncio.Task[None] | None = None

    def add(self, shared_hops: list[_SharedHop]) -> bool:
        """Take further hops along, on the loop's thread; False if they had better take another thread."""
        self._shared_hops.update(shared_hops)
        for shared_hop in shared_hops:
            shared_hop.shared = self
        if self._reactor.add(shared_hops):
            return True
        self._shared_hops.difference_update(shared_hops)
        return False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send the thread on its way, by a task that is cancelled when the thread is known to be."""
        self._starting = loop.create_task(self._start())
        # Not for the task itself to do: one that is cancelled at once does nothing at all.
        self._starting.add_done_callback(self._started)

    async def _start(self) -> None:
        # Without limit: each hop that it makes holds one of the connections that are allowed.
        await send_hop(self._thread, unlimited())

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # the task whose hop it was meets the same, if it goes by itself
        if self._thread.detach(_nothing):
            return  # it tells of its hops itself
        self._end()  # no thread could be started, all tasks of the loop are being cancelled, or it is over

    def _run(self) -> None:
        """Make the hops, on the thread."""
        try:
            self._reactor.run(self._report)
        except BaseException:  # such as too little memory
            self._schedule(self._end)
            raise

    def _report(self) -> None:
        """Wake the tasks whose hops are over."""
        if self.returned:
            self._schedule(self._wake)

    def _schedule(self, function: Callable[[], None]) -> None:
        loop = self._loop()
        if loop is not None:
            try:
                loop.call_soon_threadsafe(function)
            except RuntimeError:  # it is closed, and with it the tasks gone
                pass

    def _wake(self) -> None:
        while self.returned:
            shared_hop = self.returned.popleft()
            self._shared_hops.discard(shared_hop)
            if not shared_hop.back.done():
                shared_hop.back.set_result(False)
        # The thread stays a little longer than its last hop. No task shall.
        if not self._shared_hops and self._starting is not None:
            self._starting.cancel()
            self._starting = None

    def _end(self) -> None:
        """Wake everybody, because the thread has ended or never comes."""
        self._reactor.close()
        self._wake()
        while self._shared_hops:
            self._shared_hops.pop().end(alone=True)


def _nothing() -> None:
    pass
