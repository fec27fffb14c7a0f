"""Owns the ways to have work done by threads and tasks that know nothing of the call it is done for."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.support import in_thread, outcome

Work = Callable[[], Any]


class Outside:
    """Threads that know nothing of the calls whose work they do."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(2)
        self.executor.submit(int).result()  # a thread that is there already has no context of anybody's
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Work] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._serve)
        self._worker.start()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work = job
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

    def queued(self, work: Work) -> Future[Any]:
        """Put work into the queue of a thread that has been there all the time."""
        future: Future[Any] = Future()
        self._jobs.put((future, work))
        return future

    def close(self) -> None:
        """End the threads."""
        self._jobs.put(None)
        self._worker.join()
        self.executor.shutdown()


async def by_executor(work: Work, outside: Outside) -> Any:
    return await outcome(outside.executor.submit(work))


async def by_thread(work: Work, outside: Outside) -> Any:
    return await outcome(in_thread(work))


async def by_queue(work: Work, outside: Outside) -> Any:
    return await outcome(outside.queued(work))


async def by_task(work: Work, outside: Outside) -> Any:
    """Have it done by a task of this loop that has a context of its own."""
    made: list[Any] = []

    async def run() -> None:
        made.append(work())

    if _asyncio():
        await contextvars.Context().run(asyncio.get_running_loop().create_task, run())
    else:
        import trio

        over = trio.Event()

        async def run_and_tell() -> None:
            await run()
            over.set()

        trio.lowlevel.spawn_system_task(run_and_tell, context=contextvars.Context())
        await over.wait()
    return made[0]


async def by_another_loop(work: Work, outside: Outside) -> Any:
    """Have it done by a task of a loop in another thread."""

    async def run() -> Any:
        return work()

    return await outcome(in_thread(lambda: asyncio.run(run())))


async def from_a_thread(work: Work, outside: Outside) -> Any:
    """Have it done by a task of this loop that a thread has asked for."""

    async def run() -> Any:
        return work()

    if not _asyncio():
        pytest.skip("only asyncio has this")
    loop = asyncio.get_running_loop()
    return await outcome(outside.executor.submit(lambda: asyncio.run_coroutine_threadsafe(run(), loop).result()))


async def by_callback(work: Work, outside: Outside) -> Any:
    """Have it done by a callback of this loop that has a context of its own."""
    if not _asyncio():
        pytest.skip("only asyncio has this")
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(lambda: future.set_result(work()), context=contextvars.Context())
    return await future


def _asyncio() -> bool:
    return asyncio._get_running_loop() is not None


WAYS = (by_executor, by_thread, by_queue, by_task, by_another_loop, from_a_thread, by_callback)


def asynchronous(function: Work) -> Callable[[], Awaitable[Any]]:
    """Make a coroutine function of it."""

    async def call() -> Any:
        return function()

    return call
