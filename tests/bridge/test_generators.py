"""Claims about decorated async generator functions, the `yield` dependencies of FastAPI among them."""

from __future__ import annotations

import gc
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from offload_db import blocking, offload
from offload_db.bridge.place import Place, place
from tests.support import Gate, pool_of, value

pytestmark = pytest.mark.anyio

elsewhere = blocking(threading.get_ident)


def steps(mode: Any) -> Any:
    """Make a decorated generator function that tells what is sent to it and thrown into it."""

    @offload(mode=mode)
    async def generator(trail: list[Any], first: str = "first") -> AsyncGenerator[Any, Any]:
        """Yield what it gets."""
        try:
            got = yield first
            while True:
                trail.append(got)
                try:
                    got = yield ("got", got)
                except KeyError as error:
                    trail.append(error)
                    got = yield "caught"
        finally:
            trail.append(("closed", elsewhere() != threading.get_ident() or place() is Place.THREAD))

    return generator


both = pytest.mark.parametrize("mode", ["bridge", "thread"])


@both
async def test_values_and_errors_go_both_ways(mode: Any) -> None:
    """Values sent and exceptions thrown in reach the generator, and what it yields and raises comes out."""
    trail: list[Any] = []
    generator = steps(mode)(trail)
    assert await generator.__anext__() == "first"
    assert await generator.asend(1) == ("got", 1)
    assert await generator.__anext__() == ("got", None)
    error = KeyError("thrown")
    assert await generator.athrow(error) == "caught"
    assert await generator.asend(2) == ("got", 2)
    assert trail == [1, None, error, 2]
    unknown = ValueError("not caught")
    with pytest.raises(ValueError, match="not caught") as caught:
        await generator.athrow(unknown)
    assert caught.value is unknown
    assert trail[4:] == [("closed", True)]
    with pytest.raises(StopAsyncIteration):
        await generator.__anext__()


@both
async def test_early_close(mode: Any) -> None:
    """Closing early runs the finally block, bridged or in a thread; closing unstarted or twice does nothing."""
    trail: list[Any] = []
    generator = steps(mode)(trail)
    await generator.__anext__()
    await generator.aclose()
    await generator.aclose()
    assert trail == [("closed", True)]
    unstarted = steps(mode)(trail)
    await unstarted.aclose()
    assert len(trail) == 1


@both
async def test_iteration_ends(mode: Any) -> None:
    """An exhausted generator ends an async for."""

    @offload(mode=mode)
    async def numbers(limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            yield number

    assert [number async for number in numbers(4)] == [0, 1, 2, 3]
    assert [number async for number in numbers(0)] == []


@both
async def test_a_generator_that_goes_on_when_it_is_closed(mode: Any) -> None:
    """A generator that yields while it is closed is told so, as without the decorator."""

    @offload(mode=mode)
    async def stubborn() -> AsyncGenerator[int, None]:
        try:
            yield 1
        except GeneratorExit:
            yield 2

    generator = stubborn()
    await generator.__anext__()
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        await generator.aclose()


def test_looks() -> None:
    """It stays an async generator function with the user's signature, docstring and globals."""
    for mode in ("bridge", "thread"):
        function = steps(mode)
        assert inspect.isasyncgenfunction(function)
        assert not inspect.iscoroutinefunction(function)
        assert list(inspect.signature(function).parameters) == ["trail", "first"]
        assert inspect.getdoc(function) == "Yield what it gets."
        assert function.__name__ == "generator"
        assert function.__globals__ is globals()


async def test_each_step_is_bridged_and_the_user_of_it_is_not() -> None:
    """The generator's own code is bridged between its yields, the code around it is not."""
    places: list[Place] = []

    @offload
    async def generator() -> AsyncIterator[int]:
        places.append(place())
        yield 1
        places.append(place())

    async for _ in generator():
        assert place() is Place.LOOP
    assert places == [Place.BRIDGED, Place.BRIDGED]


async def test_as_context_manager(database: dict[str, Any]) -> None:
    """A dependency that lends a connection takes it back after success, failure and cancellation."""
    with pool_of(1, database) as pool:

        @asynccontextmanager
        @offload
        async def connection() -> AsyncIterator[Any]:
            lent = pool.connection()
            try:
                yield lent
            finally:
                lent.close()

        @offload
        async def use(lent: Any) -> Any:
            return value(lent, "SELECT 7")

        async with connection() as lent:
            assert await use(lent) == 7
            assert pool.statistics().in_use == 1
        assert pool.statistics().in_use == 0
        async with connection() as lent:
            with pytest.raises(ZeroDivisionError):
                await use(lent) // 0
        with suppress(LookupError):
            async with connection() as lent:
                await use(lent)
                raise LookupError
        assert pool.statistics().in_use == 0
        with anyio.CancelScope() as scope:
            async with connection() as lent:
                await use(lent)
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        assert scope.cancel_called
        assert pool.statistics().in_use == 0
        assert pool.statistics().checkins == 4
        assert pool.blocking_calls() == []


@both
async def test_cancellation_inside_of_a_step(mode: Any) -> None:
    """A task that is cancelled inside of a step sees it when the blocking call is back, finally blocks included."""
    gate, scope = Gate(), anyio.CancelScope()
    trail: list[Any] = []

    @offload(mode=mode)
    async def generator() -> AsyncIterator[int]:
        try:
            blocking(gate)()
            yield 1
        finally:
            trail.append(("closed", gate.inside, place() is not Place.LOOP))

    async def victim() -> None:
        with scope:
            iterator: Any = generator()
            try:
                await iterator.__anext__()
            finally:
                trail.append("raised")

    async with anyio.create_task_group() as group:
        group.start_soon(victim)
        await gate.entered()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert trail == []
        gate.open()
    assert scope.cancel_called
    assert trail == [("closed", 0, True), "raised"]


variable: ContextVar[str] = ContextVar("variable", default="unset")


@both
async def test_context_variables(mode: Any) -> None:
    """What a generator sets before its yield is there for its user, and can be reset after it."""

    @offload(mode=mode)
    async def generator() -> AsyncIterator[None]:
        token = variable.set("set")
        yield
        assert variable.get() == "set"
        if mode == "bridge":  # each step has a thread's context of its own, where the token is not valid
            variable.reset(token)

    iterator: Any = generator()
    await iterator.__anext__()
    assert variable.get() == "set"
    with pytest.raises(StopAsyncIteration):
        await iterator.__anext__()
    assert variable.get() == ("unset" if mode == "bridge" else "set")


@both
async def test_errors_show_the_line(mode: Any) -> None:
    """An error in a generator keeps its type and arguments, and shows the generator's frame."""

    @offload(mode=mode)
    async def generator() -> AsyncIterator[int]:
        yield 1
        raise LookupError("missing", 3)

    iterator: Any = generator()
    await iterator.__anext__()
    with pytest.raises(LookupError) as caught:
        await iterator.__anext__()
    assert caught.value.args == ("missing", 3)
    assert caught.traceback[-1].name == "generator"


@both
async def test_a_replaced_error_is_chained(mode: Any) -> None:
    """A generator that turns a thrown error into another one keeps the first as its cause."""

    @offload(mode=mode)
    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        except KeyError as error:
            raise ValueError("turned") from error

    iterator: Any = generator()
    await iterator.__anext__()
    with pytest.raises(ValueError, match="turned") as caught:
        await iterator.athrow(KeyError("first"))
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_dropped_generator_is_finalised(anyio_backend_name: str) -> None:
    """A generator that is dropped half way is closed by the event loop, bridged, and nothing complains."""
    if anyio_backend_name == "trio":
        pytest.skip("trio warns of any async generator that is dropped half way")
    closed = anyio.Event()
    threads: list[int] = []

    @offload
    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            threads.append(elsewhere())
            closed.set()

    iterator: Any = generator()
    await iterator.__anext__()
    del iterator
    gc.collect()
    with anyio.fail_after(20):
        await closed.wait()
    assert threads
    assert threads[0] != threading.get_ident()


async def test_side_by_side() -> None:
    """Generators of several tasks do not disturb each other."""
    sums: list[int] = []

    @offload
    async def numbers(number: int) -> AsyncIterator[int]:
        for step in range(5):
            elsewhere()
            yield number * step

    async def add(number: int) -> None:
        total = 0
        async for item in numbers(number):
            await anyio.lowlevel.checkpoint()
            total += item
        sums.append(total)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(add, number)
    assert sorted(sums) == [0, 10, 20, 30, 40]


@both
async def test_a_thrown_error_keeps_nothing_alive(mode: Any) -> None:
    """An error thrown into a generator that lets it through is freed without the garbage collector."""
    freed = threading.Event()

    class Local:
        def __del__(self) -> None:
            freed.set()

    @offload(mode=mode)
    async def generator() -> AsyncIterator[int]:
        yield 1

    async def fail() -> None:
        local = Local()
        assert local is not None
        raise LookupError

    async def use() -> None:
        iterator: Any = generator()
        await iterator.__anext__()
        try:
            try:
                await fail()
            except LookupError as error:
                await iterator.athrow(error)
        except LookupError:
            pass

    gc.collect()
    gc.disable()
    try:
        await use()
        await anyio.lowlevel.checkpoint()
        assert freed.is_set()
    finally:
        gc.enable()
