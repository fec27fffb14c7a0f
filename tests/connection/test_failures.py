"""Claims about errors on their way out of a decorated handler: what they say, and what they leave behind."""

from __future__ import annotations

import asyncio
import gc
import traceback
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pymysql
import pytest

from offload_db import ConnectionLost, OffloadPool, StatementTimeout, blocking, offload
from tests.support import Gate, pool_of, settled

pytestmark = pytest.mark.anyio

KINDS = ["bridge", "thread", "def"]


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    with pool_of(2, database) as pool:
        yield pool


def decorated(kind: str, body: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Make a handler of each kind that does no more than call *body*."""
    if kind == "def":

        @offload
        def handler() -> Any:
            return body()

        return handler

    mode: Any = kind

    @offload(mode=mode)
    async def handler_of_mode() -> Any:
        return body()

    return handler_of_mode


class Refused(Exception):  # named as users name theirs
    """An error that takes more than a message."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(code, reason)
        self.reason = reason


@pytest.mark.parametrize("kind", KINDS)
async def test_errors_keep_type_arguments_and_lines(kind: str) -> None:
    """An error is the same object with the same arguments, and its traceback shows the handler's and helper's lines."""
    error = Refused(3, reason="why")

    def helper() -> None:
        raise error  # raised here

    def body() -> None:
        helper()  # called here

    with pytest.raises(Refused) as caught:
        await decorated(kind, body)()
    assert caught.value is error
    assert caught.value.args == (3, "why")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    lines = [str(entry.line) for entry in traceback.extract_tb(caught.value.__traceback__)]
    assert any("# called here" in line for line in lines)
    assert "# raised here" in lines[-1]


@pytest.mark.parametrize("kind", KINDS)
async def test_driver_errors(kind: str, pool: OffloadPool) -> None:
    """The server's error reaches the handler's own except with PyMySQL's class and arguments, and its line."""

    def body() -> None:
        with pool.connection() as connection, connection.cursor() as cursor:
            with pytest.raises(pymysql.err.ProgrammingError) as early:
                cursor.execute("SELECT * FROM missing")
            assert early.value.args[0] == 1146
            cursor.execute("SELECT * FROM nowhere")  # fails here

    with pytest.raises(pymysql.err.ProgrammingError) as caught:
        await decorated(kind, body)()
    assert caught.value.args[0] == 1146
    assert "nowhere" in caught.value.args[1]
    lines = [str(entry.line) for entry in traceback.extract_tb(caught.value.__traceback__)]
    assert any("# fails here" in line for line in lines)
    assert pool.statistics().in_use == 0


async def test_chained_errors() -> None:
    """What a handler raises from another error keeps it as its cause."""

    @offload
    async def handler() -> None:
        try:
            blocking(int)("x")
        except ValueError as error:
            raise LookupError("no number") from error

    with pytest.raises(LookupError) as caught:
        await handler()
    assert isinstance(caught.value.__cause__, ValueError)


class Local:
    """What a handler keeps in a local variable."""


class Watched:
    """Locals of failed handlers, and whether they are gone."""

    def __init__(self) -> None:
        self.references: list[weakref.ref[Local]] = []

    def local(self) -> Local:
        """Make an object to keep in a local variable."""
        local = Local()
        self.references.append(weakref.ref(local))
        return local

    def alive(self) -> int:
        """Count the objects that are still there."""
        return sum(reference() is not None for reference in self.references)


@pytest.fixture
def watched() -> Iterator[Watched]:
    """Give a watch over local variables, with the garbage collector off: only references count."""
    gc.collect()
    gc.disable()
    try:
        yield Watched()
    finally:
        gc.enable()


async def fails(call: Callable[[], Awaitable[Any]], kind: type[BaseException]) -> None:
    """Check that *call* fails, and forget the error."""
    failed = False
    try:
        await call()
    except kind:
        failed = True
    assert failed
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_handlers_locals_are_freed(kind: str, watched: Watched) -> None:
    """When the error of a handler is forgotten its local variables are gone, without the garbage collector."""

    def body() -> None:
        local = watched.local()
        assert local is not None
        raise LookupError

    await fails(decorated(kind, body), LookupError)
    assert len(watched.references) == 1
    assert watched.alive() == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_statements_locals_are_freed(kind: str, watched: Watched, pool: OffloadPool) -> None:
    """The same after a statement failed; so a connection that nobody closed comes back to its pool."""

    def body() -> None:
        local, connection = watched.local(), pool.connection()
        connection.cursor().execute("SELECT * FROM missing")
        assert local is not None

    await fails(decorated(kind, body), pymysql.err.ProgrammingError)
    assert watched.alive() == 0
    assert pool.statistics().in_use == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_lost_links_locals_are_freed(kind: str, watched: Watched, pool: OffloadPool) -> None:
    """The same after the link broke."""

    def body() -> None:
        local, connection = watched.local(), pool.connection()
        connection.cursor().execute("KILL CONNECTION_ID()")
        assert local is not None

    await fails(decorated(kind, body), (ConnectionLost, pymysql.err.OperationalError))  # type: ignore[arg-type]
    assert watched.alive() == 0
    assert pool.statistics().in_use == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_timeouts_locals_are_freed(kind: str, watched: Watched, database: dict[str, Any]) -> None:
    """The same after a statement ran past its timeout."""
    with pool_of(1, database, statement_timeout=0.05) as pool:

        def body() -> None:
            local, connection = watched.local(), pool.connection()
            connection.cursor().execute("SELECT SLEEP(20)")
            assert local is not None

        await fails(decorated(kind, body), StatementTimeout)
        assert watched.alive() == 0
        assert pool.statistics().in_use == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_checkouts_locals_are_freed(kind: str, watched: Watched, database: dict[str, Any]) -> None:
    """The same after a connection could not be opened."""
    with pool_of(1, {**database, "password": "wrong"}) as pool:

        def body() -> None:
            local = watched.local()
            pool.connection()
            assert local is not None

        await fails(decorated(kind, body), pymysql.err.OperationalError)
        assert watched.alive() == 0
        assert pool.statistics().in_use == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_blocking_calls_locals_are_freed(kind: str, watched: Watched) -> None:
    """The same after a function made blocking failed."""

    def body() -> None:
        local = watched.local()
        blocking(int)("x")
        assert local is not None

    await fails(decorated(kind, body), ValueError)
    assert watched.alive() == 0


async def test_a_suspended_thread_handlers_locals_are_freed(watched: Watched) -> None:
    """The same after a mode="thread" handler suspended."""

    @offload(mode="thread")
    async def handler() -> None:
        local = watched.local()
        await asyncio.sleep(0)
        assert local is not None

    await fails(handler, RuntimeError)
    assert watched.alive() == 0


async def test_a_failed_awaits_locals_are_freed(anyio_backend_name: str, watched: Watched) -> None:
    """The same after something failed that the handler awaited in another task."""
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has tasks that can be awaited")

    async def fail() -> None:
        raise LookupError

    @offload
    async def handler() -> None:
        local = watched.local()
        await asyncio.gather(fail())
        assert local is not None

    await fails(handler, LookupError)
    assert watched.alive() == 0


async def test_a_cancelled_handlers_locals_are_freed(watched: Watched) -> None:
    """The same after a cancellation, inside of a blocking call and of an await."""
    gate = Gate()

    @offload
    async def blocks() -> None:
        local = watched.local()
        blocking(gate)()
        assert local is not None

    @offload
    async def awaits() -> None:
        local = watched.local()
        await anyio.sleep_forever()
        assert local is not None

    scopes: list[anyio.CancelScope] = []

    async def victim(handler: Callable[[], Awaitable[None]]) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await handler()

    async with anyio.create_task_group() as group:
        group.start_soon(victim, blocks)
        group.start_soon(victim, awaits)
        await settled(lambda: gate.inside and len(watched.references) == 2)
        await anyio.wait_all_tasks_blocked()
        for scope in scopes:
            scope.cancel()
        gate.open()
    # The thread that called the gate may take a moment to leave its last frame; a circle would never go.
    await settled(lambda: watched.alive() == 0, timeout=5)


async def test_a_finished_handlers_locals_are_freed(watched: Watched, pool: OffloadPool) -> None:
    """The same, of course, after a success."""

    @offload
    async def handler() -> None:
        local, connection = watched.local(), pool.connection()
        connection.cursor().execute("SELECT 1")
        assert local is not None

    await handler()
    assert watched.alive() == 0
    assert pool.statistics().in_use == 0
