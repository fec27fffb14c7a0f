"""Claims about a connection that all handlers share, where one of them is cancelled in the middle of a transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import anyio
import pytest

from offload_db import offload
from tests.conftest import MySQL
from tests.support import QUICK, pooled, running, settled, unpooled, value

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

Opener = Callable[..., Any]


@pytest.fixture
def booked(mysql: MySQL, database: dict[str, Any]) -> Iterator[Callable[[], list[str]]]:
    """Give what is in the table that the handlers write to."""
    with mysql.connect(database=database["database"]) as watcher, watcher.cursor() as cursor:
        cursor.execute("CREATE TABLE booking (side VARCHAR(9)) ENGINE=InnoDB")

        def rows() -> list[str]:
            cursor.execute("SELECT side FROM booking ORDER BY side")
            return [str(side) for (side,) in cursor.fetchall()]

        yield rows


@pytest.fixture(params=[pooled, unpooled], ids=["pooled", "unpooled"])
def shared(request: pytest.FixtureRequest, database: dict[str, Any]) -> Iterator[Any]:
    """Give a process-wide connection with autocommit off."""
    opener: Opener = request.param
    with ExitStack() as stack:
        yield opener(stack, {**QUICK, **database}, autocommit=False)


def book(connection: Any, between: str, caught: type[BaseException]) -> None:
    """Write both sides of a booking, as legacy code does."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO booking VALUES ('from')")
            cursor.execute(between)
            cursor.execute("INSERT INTO booking VALUES ('to')")
        connection.commit()
    except caught:
        connection.rollback()
        raise


def as_handler(mode: str) -> Callable[..., Any]:
    """Return a handler that books."""
    if mode == "def":
        return offload(book)

    async def handler(connection: Any, between: str, caught: type[BaseException]) -> None:
        book(connection, between, caught)

    return offload(mode="thread")(handler) if mode == "thread" else offload(handler)


async def cancelled_in_the_middle(
    mysql: MySQL, database: dict[str, Any], shared: Any, mode: str, caught: type[BaseException]
) -> None:
    """Let a handler be cancelled between the two sides of its booking."""
    async with anyio.create_task_group() as group:
        group.start_soon(as_handler(mode), shared, "SELECT SLEEP(50)", caught)
        await settled(partial(running, mysql, database, "SELECT SLEEP(50)"))
        group.cancel_scope.cancel()


@pytest.mark.parametrize("caught", [ZeroDivisionError, Exception, BaseException], ids=["none", "errors", "all"])
@pytest.mark.parametrize("mode", ["bridge", "thread", "def"])
async def test_half_a_transaction_is_not_committed_by_the_next(  # noqa: PLR0917  # fixtures and parameters
    mysql: MySQL,
    database: dict[str, Any],
    booked: Callable[[], list[str]],
    shared: Any,
    mode: str,
    caught: type[BaseException],
) -> None:
    """What a cancelled handler has left open is gone when the next one commits, whether it rolls back or not."""
    await cancelled_in_the_middle(mysql, database, shared, mode, caught)
    await as_handler(mode)(shared, "SELECT 1", Exception)
    assert booked() == ["from", "to"]


async def test_a_plain_thread_comes_next(
    mysql: MySQL, database: dict[str, Any], booked: Callable[[], list[str]], shared: Any
) -> None:
    """So it is where the next one is no handler."""
    await cancelled_in_the_middle(mysql, database, shared, "bridge", Exception)
    await anyio.to_thread.run_sync(book, shared, "SELECT 1", Exception)
    assert booked() == ["from", "to"]


async def test_rollback_in_a_cancelled_scope(booked: Callable[[], list[str]], shared: Any) -> None:
    """A cancelled handler can roll back, and the server has done it when the call returns."""

    @offload
    async def handler() -> None:
        with anyio.CancelScope() as scope:  # noqa: ASYNC100  # the calls below suspend the task
            try:
                value(shared, "INSERT INTO booking VALUES ('from') RETURNING 1")
                scope.cancel()
                value(shared, "SELECT 1")
            finally:
                shared.rollback()
                rolled_back.append(True)
        value(shared, "INSERT INTO booking VALUES ('to') RETURNING 1")
        shared.commit()

    rolled_back: list[bool] = []
    await handler()
    assert (rolled_back, booked()) == ([True], ["to"])


@pytest.mark.parametrize("mode", ["bridge", "thread"])
async def test_the_call_itself_may_go_on(booked: Callable[[], list[str]], shared: Any, mode: str) -> None:
    """What a handler has written stays open for it where only a part of it was cancelled, and it commits that."""

    @offload(mode="thread")
    async def threaded() -> None:
        value(shared, "SELECT SLEEP(50)")

    @offload
    async def bridged() -> None:
        value(shared, "SELECT SLEEP(50)")

    @offload
    async def handler() -> None:
        value(shared, "INSERT INTO booking VALUES ('from') RETURNING 1")
        with anyio.move_on_after(0.1), suppress(Exception):
            await (threaded if mode == "thread" else bridged)()
        value(shared, "INSERT INTO booking VALUES ('to') RETURNING 1")
        shared.commit()

    await handler()
    assert booked() == ["from", "to"]
