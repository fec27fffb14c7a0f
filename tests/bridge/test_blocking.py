"""Claims about what blocking() takes, and what it makes of it."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from offload_db import ConfigurationError, blocking, offload
from offload_db.bridge import decorator
from offload_db.bridge.place import Place, place
from offload_db.settings import shown
from tests.support import Gate, in_thread

pytestmark = pytest.mark.anyio

elsewhere = blocking(threading.get_ident)


class AsynchronousCall:
    """A callable object."""

    async def __call__(self, value: int) -> tuple[int, bool]:
        return value, elsewhere() != threading.get_ident()


# blocking()


async def test_blocking_hops_when_bridged_only() -> None:
    """blocking() changes the thread in bridged code and nowhere else."""
    here = threading.get_ident()
    assert elsewhere() == here
    assert await anyio.to_thread.run_sync(lambda: elsewhere() == threading.get_ident())
    assert in_thread(lambda: elsewhere() == threading.get_ident()).result()

    @offload
    async def handler() -> int:
        return elsewhere()

    assert await handler() != here


async def test_blocking_keeps_looks_arguments_and_errors() -> None:
    """blocking() keeps the signature, passes arguments on, and raises what the function raises."""

    def division(dividend: int, /, divisor: int = 1, *rest: int, precise: bool) -> float:
        """Divide."""
        return dividend / divisor

    wrapped = blocking(division)
    assert inspect.signature(wrapped) == inspect.signature(division)
    assert wrapped.__name__ == "division"
    assert wrapped.__doc__ == "Divide."

    @offload
    async def handler() -> float:
        assert wrapped(8, 2, 3, precise=True) == 4.0
        return wrapped(1, 0, precise=True)

    with pytest.raises(ZeroDivisionError) as caught:
        await handler()
    assert "division" in [entry.name for entry in caught.traceback]
    assert "handler" in [entry.name for entry in caught.traceback]


async def test_blocking_methods_and_partials() -> None:
    """blocking() takes methods, partials, classes and builtins, and works as a decorator in a class."""

    class Mailer:
        @blocking
        def send(self, text: str) -> tuple[str, Place]:
            return text, place()

    @offload
    async def handler() -> None:
        assert Mailer().send("hello") == ("hello", Place.THREAD)
        assert blocking(Mailer().send)("hello") == ("hello", Place.THREAD)
        assert blocking(functools.partial(int, base=2))("101") == 5
        assert blocking(dict)(a=1) == {"a": 1}

    await handler()


async def test_blocking_iteration() -> None:
    """StopIteration comes out of blocking() the same bridged and inline, so that next() can be made to hop."""
    following = blocking(next)

    def read() -> list[int]:
        iterator, items = iter([1, 2]), []
        while True:
            try:
                items.append(following(iterator))
            except StopIteration:
                return items

    @offload
    async def handler() -> list[int]:
        return read()

    assert read() == [1, 2]
    assert await handler() == [1, 2]


async def test_blocking_is_cancelled_after_it_is_back() -> None:
    """A cancelled task leaves blocking() when the function has come back, also in nested plain code."""
    gate, scope = Gate(), anyio.CancelScope()
    trail: list[int] = []

    @offload
    async def handler() -> None:
        try:
            blocking(gate)()
        finally:
            trail.append(gate.inside)
            trail.append(-1)

    async def victim() -> None:
        with scope:
            await handler()

    async with anyio.create_task_group() as group:
        group.start_soon(victim)
        await gate.entered()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert trail == []
        gate.open()
    assert trail == [0, -1]


async def test_blocking_keeps_to_its_threads_while_winding_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of a cancelled call counts against the limit until it has come back."""
    monkeypatch.setattr(decorator, "THREADS", 1)
    gate, scope = Gate(), anyio.CancelScope()
    hopping = blocking(gate)

    @offload
    async def handler() -> None:
        hopping()

    async def victim() -> None:
        with scope:
            await handler()

    async with anyio.create_task_group() as group:
        group.start_soon(victim)
        await gate.entered()
        scope.cancel()
        group.start_soon(handler)
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(lambda: None)
        gate.open()
    assert gate.calls == 2
    assert gate.most_inside == 1


# Wrong use


async def coroutine_function() -> None: ...


async def generator_function() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    "given", [None, 3, "name", coroutine_function, generator_function, AsynchronousCall(), offload(coroutine_function)]
)
def test_blocking_refuses(given: Any) -> None:
    """blocking() takes plain callables only, and says what kind of thing it was given."""
    with pytest.raises(ConfigurationError, match=r"blocking.*accepted") as caught:
        blocking(given)
    assert shown(given) in str(caught.value)


def test_blocking_refuses_generator_functions() -> None:
    """The body of a generator would run on the loop's thread after all, so blocking() does not take it."""

    def rows() -> Iterator[int]:
        yield 1

    with pytest.raises(ConfigurationError, match=r"blocking.*accepted"):
        blocking(rows)
