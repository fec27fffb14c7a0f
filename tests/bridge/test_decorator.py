"""Claims about what @offload takes, and what it makes of it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from offload_db import BridgeError, ConfigurationError, blocking, offload
from offload_db.bridge import call_scope
from offload_db.bridge.place import Place, place
from offload_db.settings import shown
from tests.support import Gate, in_thread, settled

pytestmark = pytest.mark.anyio

elsewhere = blocking(threading.get_ident)


def passing_on(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate as careless people do: a plain def, no functools.wraps."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def wrapping(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a coroutine function with a plain def that looks like it."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def awaiting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a coroutine function with another one that looks like it."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper


def in_a_thread(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Decorate a plain function with a coroutine function that looks like it."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await anyio.to_thread.run_sync(functools.partial(function, *args, **kwargs))

    return wrapper


# What it takes


async def test_coroutine_function() -> None:
    """A decorated async def keeps its code on the loop's thread, awaits, and may suspend in plain code."""

    @offload
    async def handler(first: int, *rest: int, key: str = "k") -> tuple[Any, ...]:
        before = threading.get_ident()
        hopped = elsewhere()
        await anyio.lowlevel.checkpoint()
        return first, rest, key, before, threading.get_ident(), hopped

    *given, before, after, hopped = await handler(1, 2, 3, key="x")
    assert given == [1, (2, 3), "x"]
    assert before == after == threading.get_ident()
    assert hopped != before


async def test_plain_function() -> None:
    """A decorated def runs as a whole in one worker thread."""

    @offload
    def handler(value: int) -> tuple[int, int, int, Place]:
        return value, threading.get_ident(), elsewhere(), place()

    value, first, second, where = await handler(7)
    assert value == 7
    assert first == second != threading.get_ident()
    assert where is Place.THREAD


@pytest.mark.parametrize("decorate", [offload, offload(), offload(mode="bridge"), offload(mode="thread")])
async def test_methods(decorate: Callable[[Any], Any]) -> None:
    """Methods of all kinds can be decorated, static and class methods above and below their own decorator."""

    class Repository:
        name = "class"

        def __init__(self) -> None:
            self.name = "instance"

        @decorate
        async def method(self, value: int) -> tuple[str, int]:
            return self.name, value

        @decorate
        def plain(self, value: int) -> tuple[str, int]:
            return self.name, value

        @staticmethod
        @decorate
        async def static_below(value: int) -> int:
            return value

        @decorate
        @staticmethod
        async def static_above(value: int) -> int:
            return value

        @classmethod
        @decorate
        async def class_below(cls, value: int) -> tuple[str, int]:
            return cls.name, value

        @decorate
        @classmethod
        async def class_above(cls, value: int) -> tuple[str, int]:
            return cls.name, value

    repository = Repository()
    assert await repository.method(1) == ("instance", 1)
    assert await repository.plain(1) == ("instance", 1)
    for owner in (repository, Repository):
        assert await owner.static_below(2) == 2
        assert await owner.static_above(2) == 2
        assert await owner.class_below(3) == ("class", 3)
        assert await owner.class_above(3) == ("class", 3)
    assert await decorate(repository.method)(4) == ("instance", 4)
    assert str(inspect.signature(Repository.method)) == "(self, value: 'int') -> 'tuple[str, int]'"
    assert str(inspect.signature(repository.method)) == "(value: 'int') -> 'tuple[str, int]'"


async def test_partials() -> None:
    """A partial of a coroutine function, a def or a method can be decorated."""

    async def coroutine(first: int, second: int) -> tuple[int, int, bool]:
        return first, second, elsewhere() != threading.get_ident()

    def plain(first: int, second: int) -> tuple[int, int, bool]:
        return first, second, place() is Place.THREAD

    for function in (coroutine, plain):
        decorated = offload(functools.partial(function, 1))
        assert await decorated(2) == (1, 2, True)
        assert await decorated(second=3) == (1, 3, True)
        assert list(inspect.signature(decorated).parameters) == ["second"]
        again: Any = offload(functools.partial(functools.partial(function, 1), second=5))
        assert await again() == (1, 5, True)


class AsynchronousCall:
    """A callable object."""

    async def __call__(self, value: int) -> tuple[int, bool]:
        return value, elsewhere() != threading.get_ident()


class PlainCall:
    """A callable object whose call blocks."""

    def __call__(self, value: int) -> tuple[int, bool]:
        return value, place() is Place.THREAD


class AsynchronousGeneratorCall:
    """A callable object that makes an async generator: a FastAPI dependency with parameters of its own."""

    async def __call__(self, value: int) -> AsyncIterator[tuple[int, bool]]:
        yield value, elsewhere() != threading.get_ident()


class GeneratorCall:
    """A callable object that makes a generator."""

    def __call__(self) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize("mode", ["bridge", "thread"])
@pytest.mark.parametrize("make", [AsynchronousCall, PlainCall])
async def test_callable_objects(make: Any, mode: Any) -> None:
    """An object with a plain or a coroutine function as __call__ can be decorated."""
    decorated: Any = offload(mode=mode)(make())
    value, right = await decorated(3)
    assert value == 3
    assert right is (mode == "bridge" or make is PlainCall)
    assert list(inspect.signature(decorated).parameters) == ["value"]


async def test_callable_object_that_makes_an_async_generator() -> None:
    """An object whose __call__ is an async generator function stays one."""
    decorated: Any = offload(AsynchronousGeneratorCall())
    assert inspect.isasyncgenfunction(decorated)
    assert [item async for item in decorated(3)] == [(3, True)]


async def test_plain_functions_that_return_coroutines() -> None:
    """A def that returns a coroutine is awaited, and bridged, also below decorators that keep no looks."""

    async def handler(value: int) -> tuple[int, bool, int]:
        return value, elsewhere() != threading.get_ident(), threading.get_ident()

    for wrapper in (passing_on, wrapping, awaiting):
        above: Any = offload(wrapper(handler))
        below: Any = wrapper(offload(handler))
        for decorated in (above, below):
            assert await decorated(4) == (4, True, threading.get_ident()), wrapper.__name__


@pytest.mark.parametrize("decorator", [passing_on, wrapping, awaiting])
async def test_thread_mode_reaches_below_other_decorators(decorator: Any) -> None:
    """In mode="thread" a coroutine runs in a worker thread also where another decorator stands below."""

    async def handler() -> int:
        return threading.get_ident()

    assert await decorator(offload(mode="thread")(handler))() != threading.get_ident()
    above: Any = offload(mode="thread")(decorator(handler))
    assert await above() != threading.get_ident()


async def test_a_decorator_that_turns_plain_into_asynchronous() -> None:
    """A coroutine function that wraps a def, with its looks, runs as what it is."""

    @in_a_thread
    def handler(value: int) -> tuple[int, Place]:
        return value, place()

    decorated: Any = offload(handler)
    assert await decorated(1) == (1, Place.THREAD)


async def test_a_decorator_that_turns_asynchronous_into_plain() -> None:
    """A def that wraps a coroutine function, with its looks, and runs it itself gives its result."""

    def run(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return in_thread(lambda: asyncio.run(function(*args))).result()

        return wrapper

    @run
    async def handler(value: int) -> int:
        return value

    decorated: Any = offload(handler)
    assert await decorated(1) == 1


async def test_a_decorator_that_collects_a_generator() -> None:
    """A def that wraps a generator function, with its looks, is a def."""

    def collected(function: Callable[..., Iterator[int]]) -> Callable[..., list[int]]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> list[int]:
            return list(function(*args))

        return wrapper

    @offload
    @collected
    def handler(number: int) -> Iterator[int]:
        yield from range(number)

    assert await handler(3) == [0, 1, 2]


async def test_a_context_manager() -> None:
    """Below asynccontextmanager it is bridged; above it either works as well or refuses, but is never nonsense."""

    @asynccontextmanager
    @offload
    async def below() -> AsyncIterator[int]:
        yield elsewhere()

    async with below() as thread:
        assert thread != threading.get_ident()

    async def generator() -> AsyncIterator[int]:
        yield elsewhere()

    try:
        above: Any = offload(asynccontextmanager(generator))
    except ConfigurationError:
        return
    async with above() as thread:
        assert thread != threading.get_ident()


async def test_builtins() -> None:
    """A function without Python code can be decorated."""
    assert await offload(threading.get_ident)() != threading.get_ident()
    await offload(time.sleep)(0)


def test_looks() -> None:
    """What tools read from a function is the user's: signature, names, annotations, docstring, file, source, kind."""

    async def handler(first: int, *, second: str = "x") -> list[int]:
        """Say what it does."""
        return [first]

    handler.__dict__["mark"] = "kept"
    decorated: Any = offload(handler)
    assert inspect.signature(decorated) == inspect.signature(handler)
    assert decorated.__name__ == "handler"
    assert decorated.__qualname__ == handler.__qualname__
    assert decorated.__module__ == __name__
    assert decorated.__annotations__ == handler.__annotations__
    assert decorated.__globals__ is handler.__globals__
    assert decorated.__wrapped__ is handler
    assert decorated.mark == "kept"
    assert inspect.getdoc(decorated) == "Say what it does."
    assert inspect.getfile(decorated) == __file__
    assert inspect.getsource(decorated) == inspect.getsource(handler)
    assert inspect.getsourcelines(decorated)[1] == inspect.getsourcelines(handler)[1]
    assert inspect.iscoroutinefunction(decorated)
    assert not inspect.isasyncgenfunction(decorated)

    def plain() -> None: ...

    assert inspect.iscoroutinefunction(offload(plain))
    assert inspect.getfile(offload(plain)) == __file__


# Calls within calls


async def test_recursion() -> None:
    """A decorated function may call itself, in each mode."""

    @offload
    async def bridged(depth: int) -> int:
        assert elsewhere() != threading.get_ident()
        return 0 if depth == 0 else 1 + await bridged(depth - 1)

    @offload(mode="thread")
    async def threaded(depth: int) -> int:
        return 0 if depth == 0 else 1 + await threaded(depth - 1)

    @offload
    def plain(depth: int) -> int:
        return depth

    assert await bridged(20) == 20
    assert await threaded(20) == 20
    assert await plain(20) == 20


MODES = ["bridge", "thread", "plain"]


@pytest.mark.parametrize("inner_mode", MODES)
@pytest.mark.parametrize("outer_mode", ["bridge", "thread"])
async def test_nesting(outer_mode: Any, inner_mode: str) -> None:
    """A decorated handler can await another in each combination of modes: off the loop once means off the loop."""
    here = threading.get_ident()

    async def coroutine() -> tuple[int, int]:
        return threading.get_ident(), elsewhere()

    def plain() -> tuple[int, int]:
        return threading.get_ident(), elsewhere()

    inner: Any = offload(plain) if inner_mode == "plain" else offload(mode=inner_mode)(coroutine)  # type: ignore[call-overload]

    @offload(mode=outer_mode)
    async def outer() -> tuple[int, tuple[int, int], int]:
        return threading.get_ident(), await inner(), elsewhere()

    own, (inner_own, inner_blocking), blocked = await outer()
    if outer_mode == "bridge":
        assert own == here
        assert blocked != here
        assert (inner_own == here) is (inner_mode == "bridge")
        assert inner_blocking != here
    else:
        assert own == inner_own == inner_blocking == blocked != here


async def test_many_at_once_and_each_bridged() -> None:
    """Handlers that run side by side, nested ones among them, do not get into each other's portals."""
    gate = Gate()
    results: list[int] = []

    @offload
    async def inner(number: int) -> int:
        blocking(gate)()
        await anyio.lowlevel.checkpoint()
        return number

    @offload
    async def outer(number: int) -> None:
        results.append(await inner(number))

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(outer, number)
        await settled(lambda: gate.inside == 10)
        gate.open()
    assert sorted(results) == list(range(10))


async def test_decorated_twice() -> None:
    """Decorating twice changes nothing."""

    @offload
    @offload
    async def handler() -> int:
        return elsewhere()

    assert await handler() != threading.get_ident()


async def test_outside_of_a_task(anyio_backend_name: str) -> None:
    """A handler that is driven by hand on the loop's thread, outside of a task, says that it needs one."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio runs nothing of the user's outside of tasks")
    errors: list[BaseException] = []
    done = anyio.Event()

    @offload
    async def handler() -> None:
        raise AssertionError

    def callback() -> None:
        try:
            handler().send(None)
        except BaseException as error:
            errors.append(error)
        done.set()

    asyncio.get_running_loop().call_soon(callback)
    await done.wait()
    assert isinstance(errors[0], BridgeError)
    assert "handler" in str(errors[0])
    assert "task" in str(errors[0])


def test_driven_by_hand_off_the_loop() -> None:
    """Where no loop runs a handler that needs none gives its result."""

    @offload
    async def handler() -> int:
        return elsewhere()

    with pytest.raises(StopIteration) as stopped:
        handler().send(None)
    assert stopped.value.value == threading.get_ident()


# Context variables

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


@pytest.mark.parametrize("kind", MODES)
async def test_context_variables(kind: str) -> None:
    """A handler sees its task's context variables, and what a coroutine sets in it persists as without decorator."""
    variable.set("before")
    seen: list[str] = []

    async def coroutine() -> None:
        seen.append(variable.get())
        variable.set("set by the handler")
        seen.append(blocking(variable.get)())

    def plain() -> None:
        seen.extend([variable.get(), "set by the handler"])

    handler: Any = offload(plain) if kind == "plain" else offload(mode=kind)(coroutine)  # type: ignore[call-overload]
    await handler()
    assert seen == ["before", "set by the handler"]
    assert variable.get() == ("before" if kind == "plain" else "set by the handler")


async def test_context_variables_survive_suspensions() -> None:
    """Values and tokens of a bridged handler are its own after other tasks ran in between."""
    results: list[str] = []

    @offload
    async def handler(name: str) -> None:
        token = variable.set(name)
        for _ in range(3):
            elsewhere()
            await anyio.lowlevel.checkpoint()
            assert variable.get() == name
        variable.reset(token)
        results.append(variable.get("unset"))

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(handler, f"handler {number}")
    assert results == ["unset"] * 5


# Wrong use


async def coroutine_function() -> None: ...


@pytest.mark.parametrize("mode", ["threads", "", None, True, 1, b"thread", ["thread"]])
def test_unknown_modes(mode: Any) -> None:
    """An unknown mode is named, with those that there are."""
    with pytest.raises(ConfigurationError, match=r"offload: mode=.*'bridge' and 'thread'") as caught:
        offload(mode=mode)
    assert shown(mode, ("thread",)) in str(caught.value)


@pytest.mark.parametrize("lane", ["", 3, b"reports", ["reports"], True])
def test_bad_lanes(lane: Any) -> None:
    """What is no lane's name is named, with what is accepted."""
    with pytest.raises(ConfigurationError, match=r"offload: lane=.*accepted") as caught:
        offload(lane=lane)
    assert shown(lane) in str(caught.value)


@pytest.mark.parametrize("given", [3, "reports", ("a",), property(lambda self: None), coroutine_function])
def test_not_callable(given: Any) -> None:
    """What cannot be called is refused, and its kind named: a forgotten keyword, a property."""
    if callable(given):
        given = given()
    with pytest.raises(ConfigurationError, match=r"@offload: got .*accepted are functions") as caught:
        offload(given)
    assert shown(given) in str(caught.value)


def test_classes() -> None:
    """A class is refused by its name, with what to do instead."""

    class Handlers: ...

    with pytest.raises(ConfigurationError, match=r"class .*Handlers.*methods"):
        offload(Handlers)


def test_generator_functions() -> None:
    """A generator function is refused by its name, with what to do instead."""

    def dependency() -> Iterator[int]:
        yield 1

    for given in (dependency, functools.partial(dependency), GeneratorCall()):
        with pytest.raises(ConfigurationError, match=r"generator function .*async generator"):
            offload(given)


def test_unknown_settings() -> None:
    """A misspelt setting and a second positional argument are errors of the call."""
    with pytest.raises(TypeError, match="modus"):
        offload(modus="thread")  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        offload(coroutine_function, "thread")  # type: ignore[call-overload]


async def test_wrong_arguments_of_a_handler() -> None:
    """Arguments that the function does not take raise TypeError with the function's own name."""

    @offload
    async def handler(truck: int) -> int:
        return truck

    @offload
    def plain(truck: int) -> int:
        return truck

    for function in (handler, plain):
        with pytest.raises(TypeError, match=f"{function.__name__}.*missing 1 required positional argument: 'truck'"):
            await function()  # type: ignore[call-arg]


def test_scopes_of_thrown_away_handlers() -> None:
    """A coroutine that nobody finishes is closed without a fuss, wherever that happens."""

    @offload
    async def handler() -> None:
        await asyncio.sleep(0)

    def start() -> Awaitable[None]:
        coroutine = handler()
        contextvars.copy_context().run(coroutine.send, None)
        return coroutine

    started: Any = start()
    started.close()
    assert call_scope.current_bridged_call() is None
