"""Events that tasks and threads wake each other with.

Owns waiting for one event, in a thread or a task, and setting it from anywhere, a finaliser included.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from contextvars import Context

import anyio
import anyio.to_thread

from .call_scope import current_cancellation


class ThreadEvent:
    """An event that threads wait for; a finaliser may set it, also in the middle of a wait of the same thread's.

    `threading.Event` takes a lock in both `wait` and `set`: a finaliser that runs in between would wait for itself. It
    also costs ten times as much.
    """

    __slots__ = ("_lock", "_over")

    def __init__(self) -> None:
        self._over = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> bool:
        """Wake those who wait, and let nobody wait any more."""
        self._over = True
        try:  # suppress() would be three calls more for each statement
            self._lock.release()
        except RuntimeError:  # it was set before, or who waited lets others on just now
            pass
        return True

    def is_set(self) -> bool:
        """Tell whether it was set."""
        return self._over

    def wait(self, seconds: float | None, shield: bool = False) -> None:
        """Wait until the event is set, or the seconds are over.

        :param shield: keep the cancellation of the task that waits for this thread's work from interrupting
        :raises CallCancelled: if that task is cancelled
        """
        cancellation = None if shield else current_cancellation()
        if cancellation is not None:
            cancellation.begin(self.set)
        try:
            patience = -1 if seconds is None else min(seconds, threading.TIMEOUT_MAX)
            if not self._over and self._lock.acquire(timeout=patience):
                self.set()  # for others that wait
        finally:
            if cancellation is not None:
                cancellation.end(self.set)
        if cancellation is not None:
            cancellation.check()


class TaskEvent:
    """An event that one task of asyncio waits for, at one place at a time; any thread may set it.

    It does what anyio's does with a sixth of the objects: ten thousand tasks may wait, and the garbage collector looks
    at all that they hold.
    """

    __slots__ = ("_loop", "_over", "_thread", "_waiter")

    def __init__(self) -> None:
        self._over = False
        self._thread = threading.get_ident()
        self._loop = asyncio._get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> bool:
        """Wake the task, from any thread; False if its loop is closed, and with it the task gone."""
        try:
            if threading.get_ident() == self._thread:
                self._end()  # of a loop that has ended it raises as well, where the thread goes on without one
            else:
                self._schedule()
        except RuntimeError:
            return False
        return True

    def _schedule(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._over = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _waiting(self) -> asyncio.Future[None]:
        assert self._loop is not None
        self._waiter = self._loop.create_future()
        return self._waiter

    async def wait(self) -> None:
        """Wait until the signal is set."""
        if not self._over:
            waiting = self._waiting()
            if not self._over:  # a finaliser may have set it when there was nobody yet to wake
                await waiting

    async def wait_for(self, seconds: float | None, shield: bool = False) -> None:
        """Wait until the signal is set, or the seconds are over.

        :param shield: keep cancel scopes from interrupting
        """
        if shield or self._loop is None:
            with anyio.move_on_after(seconds, shield=shield):
                await self.wait()
        elif seconds is None:
            await self.wait()
        elif not self._over:
            # One that is cancelled stays until it would be due, and shall not keep what the task's own context holds.
            alarm = self._loop.call_later(seconds, self._wake, context=Context())
            try:
                waiting = self._waiting()
                if not self._over:  # as above
                    await waiting
            finally:
                alarm.cancel()

    async def wait_out(self, seconds: float = math.inf) -> None:
        """Wait until the signal is set, or the seconds are over, however often the task is cancelled meanwhile.

        The caller re-raises the cancellation that brought it here, so none is lost.
        """
        ends = anyio.current_time() + seconds
        while not self._over and anyio.current_time() < ends:
            try:
                with anyio.CancelScope(deadline=ends, shield=True):
                    await self.wait()
            except anyio.get_cancelled_exc_class():  # asyncio's task.cancel() passes through a shield
                continue


class _TrioEvent(TaskEvent):
    """The same for a task of trio."""

    __slots__ = ("_event", "_token")

    def __init__(self) -> None:
        super().__init__()
        self._event = anyio.Event()
        self._token = sys.modules["trio"].lowlevel.current_trio_token()

    def _schedule(self) -> None:
        self._token.run_sync_soon(self._end)

    def _wake(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        """Wait until the signal is set."""
        await self._event.wait()


def task_event() -> TaskEvent:
    """Make a signal for the running task."""
    return TaskEvent() if asyncio._get_running_loop() is not None else _TrioEvent()
