"""Claims about mode="thread": a coroutine that never suspends runs in one worker thread, any other one says where."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from offload_db import BridgeError, blocking, offload
from offload_db.bridge.place import Place, place
from tests.conftest import OLD_TRIO, needs
from tests.support import Gate, Suspending, pool_of, value

pytestmark = pytest.mark.anyio


def raises_at(error: BaseException, function: Callable[..., Any], text: str, name: str | None = None) -> None:
    """Check that a BridgeError names the handler, the file and number of the line with *text*, and the remedy."""
    assert type(error) is BridgeError
    lines, first = inspect.getsourcelines(function)
    number = next(number for number, line in enumerate(lines, start=first) if text in line)
    message = str(error)
    assert (name or function.__name__) in message
    assert f"{__file__}:{number} " in message.replace(",", " "), f"line {number} is not in {message!r}"
    assert "mode='bridge'" in message


async def collected() -> None:
    """Let everything be finalised whose finaliser might complain; a warning is an error here."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
        gc.collect()


async def test_the_whole_coroutine_runs_in_one_thread(database: dict[str, Any]) -> None:
    """A coroutine that never suspends runs in one worker thread, statements and all, in one hop."""
    with pool_of(1, database) as pool:

        @offload(mode="thread")
        async def handler(number: int) -> tuple[Any, set[int], Place]:
            threads = {threading.get_ident()}
            connection = pool.connection()
            answer = value(connection, "SELECT %s", number)
            connection.close()
            threads.add(threading.get_ident())
            threads.add(blocking(threading.get_ident)())
            return answer, threads, place()

        answer, threads, where = await handler(5)
        assert answer == 5
        assert len(threads) == 1
        assert threading.get_ident() not in threads
        assert where is Place.THREAD
        assert pool.statistics().hops == 0
        assert pool.blocking_calls() == []


async def test_awaits_that_never_suspend() -> None:
    """Coroutines, async generators and context managers without a real await work."""

    @asynccontextmanager
    async def manager() -> AsyncIterator[int]:
        yield 1

    async def numbers() -> AsyncIterator[int]:
        yield 2
        yield 3

    async def helper() -> int:
        return 4

    @offload(mode="thread")
    async def handler() -> list[int]:
        async with manager() as first:
            return [first, *[number async for number in numbers()], await helper()]

    assert await handler() == [1, 2, 3, 4]


async def test_the_loop_is_free() -> None:
    """Other tasks run while the thread is busy."""
    gate = Gate()

    @offload(mode="thread")
    async def handler() -> None:
        gate()

    async with anyio.create_task_group() as group:
        group.start_soon(handler)
        await gate.entered()
        assert gate.inside == 1
        gate.open()


async def test_cancellation_comes_when_the_thread_is_back() -> None:
    """A cancelled handler runs to its end, and the cancellation is raised afterwards."""
    gate, scope = Gate(), anyio.CancelScope()
    trail: list[str] = []

    @offload(mode="thread")
    async def handler() -> None:
        gate()
        trail.append("the handler's last line")

    async def victim() -> None:
        with scope:
            try:
                await handler()
            finally:
                trail.append("raised")

    async with anyio.create_task_group() as group:
        group.start_soon(victim)
        await gate.entered()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert trail == []
        gate.open()
    assert trail == ["the handler's last line", "raised"]


async def test_the_task_goes_on_as_before() -> None:
    """After its handler the task can await and suspend, and knows which event loop it is on."""
    import sniffio

    library = sniffio.current_async_library()
    before = set(contextvars.copy_context())

    @offload(mode="thread")
    async def handler() -> int:
        return threading.get_ident()

    @offload
    async def bridged() -> int:
        return blocking(threading.get_ident)()

    here = threading.get_ident()
    assert await handler() != here
    assert sniffio.current_async_library() == library
    assert set(contextvars.copy_context()) == before
    await anyio.sleep(0.001)
    assert await bridged() != here
    assert await handler() != here


async def nested_helper() -> None:
    await anyio.lowlevel.checkpoint()


async def sleeps() -> None:
    time.sleep(0)  # noqa: ASYNC251  # blocks, as such handlers do
    await asyncio.sleep(1)  # here


async def sleeps_for_nothing() -> None:
    await asyncio.sleep(0)  # here


async def sleeps_with_anyio() -> None:
    await anyio.sleep(1)  # here


async def sleeps_for_nothing_with_anyio() -> None:
    await anyio.sleep(0)  # noqa: ASYNC115  # here


async def waits_for_a_future() -> None:
    await Future()  # here


class Future:
    """An awaitable that suspends by itself."""

    def __await__(self) -> Any:
        yield self


async def enters() -> None:
    async with Suspending():  # here
        pass


async def iterates() -> None:
    async for _ in Suspending():  # here
        pass


async def comprehends() -> list[int]:
    return [number async for number in Suspending()]  # here


async def calls_a_helper() -> None:
    """Call a helper of the same file that suspends."""
    await nested_helper()


async def moves_on() -> None:
    with anyio.move_on_after(1):  # noqa: ASYNC100  # here
        pass


async def starts_tasks() -> None:
    async with anyio.create_task_group() as group:  # here
        group.start_soon(nested_helper)


async def gathers() -> None:
    await asyncio.gather()  # here


async def runs_in_an_executor() -> None:
    loop = asyncio.get_event_loop()  # here
    await loop.run_in_executor(None, time.sleep, 0)


async def runs_in_a_running_loops_executor() -> None:
    loop = asyncio.get_running_loop()  # here
    await loop.run_in_executor(None, time.sleep, 0)


async def hops() -> None:
    await anyio.to_thread.run_sync(time.sleep, 0)  # here


async def hops_with_asyncio() -> None:
    await asyncio.to_thread(time.sleep, 0)  # here


async def waits_in_finally() -> None:
    try:
        await asyncio.sleep(0)  # here
    finally:
        await asyncio.sleep(0)


async def waits_in_finally_only() -> None:
    try:
        time.sleep(0)  # noqa: ASYNC251
    finally:
        await asyncio.sleep(0)  # here


async def fails_in_finally() -> None:
    try:
        await asyncio.sleep(0)  # here
    finally:
        raise KeyError("the clean-up failed")


@pytest.mark.parametrize(
    "function",
    [
        sleeps,
        sleeps_for_nothing,
        sleeps_with_anyio,
        sleeps_for_nothing_with_anyio,
        waits_for_a_future,
        enters,
        iterates,
        comprehends,
        moves_on,
        starts_tasks,
        gathers,
        runs_in_an_executor,
        runs_in_a_running_loops_executor,
        hops,
        hops_with_asyncio,
        waits_in_finally,
        waits_in_finally_only,
        fails_in_finally,
    ],
)
async def test_suspensions(function: Callable[[], Awaitable[Any]]) -> None:
    """A handler that suspends raises BridgeError, which names the line; nothing is left behind to complain later."""
    with pytest.raises(BridgeError) as caught:
        await offload(mode="thread")(function)()
    raises_at(caught.value, function, "# here")
    await collected()


async def test_suspension_in_a_helper() -> None:
    """Where a helper suspends a line of the handler's file is named, and no other."""
    with pytest.raises(BridgeError) as caught:
        await offload(mode="thread")(calls_a_helper)()
    raises_at(caught.value, nested_helper, "checkpoint()", "calls_a_helper")


@needs("trio")
@OLD_TRIO
async def test_suspensions_of_trio() -> None:
    """The same with trio's own functions."""
    import trio

    async def sleeps() -> None:
        await trio.sleep(1)  # here

    async def checkpoints() -> None:
        await trio.lowlevel.checkpoint()  # here

    async def opens_a_nursery() -> None:
        async with trio.open_nursery():  # here
            pass

    for function in (sleeps, checkpoints, opens_a_nursery):
        with pytest.raises(BridgeError) as caught:
            await offload(mode="thread")(function)()
        raises_at(caught.value, function, "# here")
        await collected()


async def test_suspension_of_methods_and_wrapped_functions() -> None:
    """The line is found in a method, below functools.wraps and in a callable object, too."""

    class Repository:
        @offload(mode="thread")
        async def fetch(self) -> None:
            await asyncio.sleep(0)  # here

    with pytest.raises(BridgeError) as caught:
        await Repository().fetch()
    raises_at(caught.value, inspect.unwrap(Repository.fetch), "# here")

    class Handler:
        async def __call__(self) -> None:
            await asyncio.sleep(0)  # here

    with pytest.raises(BridgeError) as caught:
        await offload(mode="thread")(Handler())()
    raises_at(caught.value, Handler.__call__, "# here", "Handler")


async def test_suspension_of_an_async_generator() -> None:
    """An async generator that suspends is named with its line, at each step."""

    @offload(mode="thread")
    async def dependency() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0)  # here

    generator: Any = dependency()
    assert await generator.__anext__() == 1
    with pytest.raises(BridgeError) as caught:
        await generator.__anext__()
    raises_at(caught.value, inspect.unwrap(dependency), "# here")
    del generator
    await collected()


async def test_errors_that_only_look_like_a_suspension() -> None:
    """A RuntimeError of the handler's own passes unchanged."""

    @offload(mode="thread")
    async def handler() -> None:
        raise RuntimeError("the event loop of life")

    with pytest.raises(RuntimeError, match="of life") as caught:
        await handler()
    assert type(caught.value) is RuntimeError


async def test_cleaning_up_after_a_suspension() -> None:
    """A handler that suspends runs its finally blocks on its thread before the error is raised."""
    trail: list[Place] = []

    @offload(mode="thread")
    async def handler() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            trail.append(place())

    with pytest.raises(BridgeError):
        await handler()
    assert trail == [Place.THREAD]


async def test_cleaning_up_after_a_generators_suspension() -> None:
    """An async generator that suspends runs its finally blocks before the error is raised, as a coroutine does."""
    trail: list[Place] = []

    @offload(mode="thread")
    async def dependency() -> AsyncIterator[int]:
        try:
            await asyncio.sleep(0)
            yield 1
        finally:
            trail.append(place())

    generator: Any = dependency()
    with pytest.raises(BridgeError):
        await generator.__anext__()
    assert trail == [Place.THREAD]


async def test_nothing_is_never_awaited() -> None:
    """Neither wrong arguments nor a cancellation before the start leave a coroutine that was never awaited."""

    @offload(mode="thread")
    async def handler(number: int) -> int:
        return number

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(TypeError):
            await handler()  # type: ignore[call-arg]
        with anyio.CancelScope() as scope:
            scope.cancel()
            await handler(1)
        await collected()
    assert [str(warning.message) for warning in caught] == []
