"""Claims about what users are told of connections: where they were taken, how a statement ended, what they are."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import pymysql
import pytest

from offload_db import OffloadPool, StatementTimeout, aio, offload
from offload_db.connection import killer
from offload_db.drivers.pymysql import PyMySQLDriver
from tests.support import PLACES, attempt, pool_of, run_at, settled, value

pytestmark = pytest.mark.anyio

Hold = Callable[[OffloadPool, anyio.Event], Coroutine[Any, Any, None]]


async def entered(pool: OffloadPool, told: anyio.Event) -> None:
    async with pool.acquire():  # here it is entered
        await told.wait()


async def awaited(pool: OffloadPool, told: anyio.Event) -> None:
    connection = await pool.acquire()  # here it is awaited
    await told.wait()
    await pool.release(connection)


async def in_a_transaction(pool: OffloadPool, told: anyio.Event) -> None:
    async with pool.transaction():  # here it is in_a_transaction
        await told.wait()


async def streamed(pool: OffloadPool, told: anyio.Event) -> None:
    async for _ in pool.stream("SELECT 1"):  # here it is streamed
        await told.wait()


async def waited_for(pool: OffloadPool, told: anyio.Event) -> None:
    async def late() -> None:
        async with pool.acquire():  # here it is waited_for
            await told.wait()

    async with anyio.create_task_group() as group:
        first = await pool.acquire()
        group.start_soon(late)
        await settled(lambda: pool.statistics().waiting)
        await pool.release(first)


async def made_a_task(pool: OffloadPool, told: anyio.Event) -> None:
    if not _on_asyncio():
        pytest.skip("of asyncio")
    taking: asyncio.Task[Any] = asyncio.create_task(pool.acquire())  # here it is made_a_task
    connection = await taking
    await told.wait()
    await pool.release(connection)


async def bridged(pool: OffloadPool, told: anyio.Event) -> None:
    @offload
    async def handler() -> None:
        connection = pool.connection()  # here it is bridged
        await told.wait()
        connection.close()

    await handler()


def _on_asyncio() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


@pytest.mark.parametrize("hold", [entered, awaited, in_a_transaction, streamed, waited_for, made_a_task, bridged])
async def test_where_a_held_connection_was_taken(
    hold: Hold, database: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """What is held for longer than `leak_warning` is reported with the line of the user's that took it."""
    caplog.set_level(logging.WARNING, "offload_db")
    with pool_of(1, database, leak_warning=0.02) as pool:
        told = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(hold, pool, told)
            await settled(lambda: [each for each in caplog.messages if f"# here it is {hold.__name__}\n" in each])
            told.set()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("accepted", [True, False])
async def test_kills_without_effect(
    place: str, accepted: bool, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a statement that went on after its kill it is told that the link was cut, and not that it was killed."""
    monkeypatch.setattr(killer, "PATIENCE", 0.1)
    monkeypatch.setattr(PyMySQLDriver, "kill", lambda *_: accepted)
    with pool_of(1, database, statement_timeout=0.05) as pool:

        def use() -> None:
            with pool.connection() as connection:
                value(connection, "SELECT SLEEP(20)")

        with pytest.raises(StatementTimeout) as caught:
            await run_at(place, use)
    how = "was sent a kill that took no effect in time" if accepted else "could not be killed"
    assert str(caught.value).find(f"execute {how}, and its link was cut: ") >= 0
    assert "was killed" not in str(caught.value)


@pytest.mark.parametrize("place", PLACES)
async def test_copies(place: str, database: dict[str, Any]) -> None:
    """What stands for a connection is not copied: the error says so, and the original goes on."""
    with pool_of(2, database) as pool:

        def use() -> None:
            with pool.connection() as connection, connection.cursor() as cursor:
                for each in (connection, cursor):
                    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
                        name, (text,) = attempt(copied, each)
                        assert (name, text.partition(": ")[0]) == (
                            "TypeError",
                            f"{type(each).__name__} cannot be copied or pickled",
                        )
                cursor.execute("SELECT 1")
            assert attempt(copy.copy, connection)[0] == attempt(copy.deepcopy, cursor)[0] == "TypeError"

        await run_at(place, use)
        async with pool.acquire() as connection, connection.cursor() as cursor:
            for each in (connection, cursor):
                for copied in (copy.copy, copy.deepcopy, pickle.dumps):
                    assert attempt(copied, each)[0] == "TypeError"
        assert pool.statistics().in_use == 0


@pytest.mark.parametrize("place", PLACES)
async def test_dbutils_names(place: str, database: dict[str, Any]) -> None:
    """`dbapi_connection` and `dbapi_cursor` are the driver's own, and what was begun through them is rolled back."""
    with pool_of(1, database) as pool:

        def use() -> None:
            with pool.connection() as connection, connection.cursor() as cursor:
                assert connection.dbapi_connection is connection.driver_connection
                assert isinstance(connection.dbapi_connection, pymysql.connections.Connection)
                assert type(cursor.dbapi_cursor) is pymysql.cursors.Cursor
                assert cursor.dbapi_cursor.connection is connection.dbapi_connection
                cursor.setinputsizes([1])
                cursor.setoutputsize(1)
                cursor.execute("CREATE TABLE IF NOT EXISTS t (n INT)")
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.dbapi_cursor.execute("BEGIN")
                cursor.dbapi_cursor.execute("INSERT INTO t VALUES (1)")
            with pool.connection() as connection:
                assert value(connection, "SELECT COUNT(*) FROM t") == 0
                assert value(connection, "SELECT @@in_transaction") == 0

        await run_at(place, use)


async def test_echo_shows_no_values(database: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """With `echo`, neither parameters nor literals in the text are logged."""
    caplog.set_level(logging.INFO, "offload_db")
    settings = {("db" if name == "database" else name): each for name, each in database.items()}
    pool = await aio.create_pool(echo=True, **settings)
    async with pool, pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute("SELECT %s, 'first secret', 4711", ("second secret",))
        with suppress(pymysql.MySQLError):
            await cursor.callproc("nothing", ("third secret",))
    assert caplog.messages == ["SELECT %s, ?, ?", "CALL nothing"]
