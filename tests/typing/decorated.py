"""What a type checker makes of decorated functions: each `assert_type` is checked, each `ignore` must be needed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from typing_extensions import assert_type

from offload_db import OffloadConnection, OffloadPool, blocking, connect, offload


@offload
async def coroutine(first: int, *, second: str = "x") -> list[str]:
    return [second] * first


@offload
def plain(first: int, *, second: str = "x") -> list[str]:
    return [second] * first


@offload
async def generator(first: int) -> AsyncGenerator[str, int]:
    sent = yield str(first)
    yield str(sent)


@offload
async def iterator(first: int) -> AsyncIterator[str]:
    yield str(first)


@offload(lane="reports", timeout=5.0)
async def with_settings(first: int) -> str:
    return str(first)


@offload(mode="thread")
async def in_thread(first: int) -> str:
    return str(first)


@offload()
def with_brackets(first: int) -> str:
    return str(first)


@offload(mode="thread")
async def generator_in_thread(first: int) -> AsyncGenerator[str, None]:
    yield str(first)


@asynccontextmanager
@offload
async def managed() -> AsyncGenerator[int, None]:
    yield 1


@offload
def without_result() -> None: ...


@offload
def maybe(first: int) -> int | None:
    return first or None


@offload
def untyped_result(first: int) -> Any:
    return first


@blocking
def blocks(first: int, *, second: str) -> bytes:
    return second.encode() * first


class Repository:
    @offload
    async def fetch(self, key: int) -> str:
        return str(key)

    @offload
    def fetch_plain(self, key: int) -> str:
        return str(key)

    @staticmethod
    @offload
    async def static(key: int) -> str:
        return str(key)

    @classmethod
    @offload
    async def of_class(cls, key: int) -> str:
        return str(key)

    @blocking
    def send(self, text: str) -> int:
        return len(text)


async def right(pool: OffloadPool, repository: Repository) -> None:
    """Each result has the type that the user's annotations say."""
    await assert_type(coroutine(1), Coroutine[Any, Any, list[str]])
    assert_type(await coroutine(1, second="y"), list[str])
    await assert_type(plain(1), Coroutine[Any, Any, list[str]])
    assert_type(await plain(1, second="y"), list[str])
    assert_type(generator(1), AsyncGenerator[str, int])
    assert_type(await generator(1).asend(3), str)
    async for item in iterator(1):
        assert_type(item, str)
    assert_type(await with_settings(1), str)
    assert_type(await in_thread(1), str)
    assert_type(await with_brackets(1), str)
    assert_type(generator_in_thread(1), AsyncGenerator[str, None])
    async with managed() as number:
        assert_type(number, int)
    await assert_type(without_result(), Coroutine[Any, Any, None])
    assert_type(await maybe(1), int | None)
    # Any fits each kind of function, so the checker cannot choose one.
    assert_type(await untyped_result(1), Any)  # type: ignore[no-untyped-call]
    assert_type(blocks(1, second="x"), bytes)
    assert_type(await repository.fetch(1), str)
    assert_type(await repository.fetch_plain(1), str)
    assert_type(await repository.static(1), str)
    assert_type(await Repository.static(1), str)
    assert_type(await Repository.of_class(1), str)
    assert_type(repository.send("x"), int)
    assert_type(pool.connection(), OffloadConnection)
    assert_type(connect(host="localhost"), OffloadConnection)
    with pool.connection(lane="reports") as connection:
        assert_type(connection, OffloadConnection)
        connection.cursor().execute("SELECT %s", (1,))
    later: Callable[[int], Coroutine[Any, Any, str]] = with_settings
    assert_type(await later(1), str)


async def wrong(pool: OffloadPool) -> None:
    """Each of these is an error, and stays one: an `ignore` that nothing needs is an error itself."""
    await coroutine("1")  # type: ignore[arg-type]
    await coroutine(1, third="x")  # type: ignore[call-arg]
    await coroutine()  # type: ignore[call-arg]
    await plain("1")  # type: ignore[arg-type]
    await plain()  # type: ignore[call-arg]
    plain(1).append("x")  # type: ignore[attr-defined]  # the result has to be awaited
    await generator(1)  # type: ignore[misc]
    await with_settings("1")  # type: ignore[arg-type]
    await in_thread(1, 2)  # type: ignore[call-arg]
    blocks(1)  # type: ignore[call-arg]
    await blocks(1, second="x")  # type: ignore[misc]
    await Repository().fetch("1")  # type: ignore[arg-type]
    offload(mode="threads")  # type: ignore[call-overload]
    offload(lane=3)  # type: ignore[call-overload]
    offload(timeout="5")  # type: ignore[call-overload]
    offload(coroutine, mode="thread")  # type: ignore[call-overload]
    offload(3)  # type: ignore[call-overload]
    pool.connection(lane=3)  # type: ignore[arg-type]
    OffloadPool(object(), on_loop_call="loud")  # type: ignore[arg-type]
