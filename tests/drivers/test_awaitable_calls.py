"""Claims about awaitable calls with mysqlclient and mysql-connector-python: they do what they do with PyMySQL."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import pymysql
import pytest

from offload_db import ConfigurationError, OffloadPool, aio
from tests.drivers.test_other_drivers import anyio_backend, driver, pool

__all__ = ["anyio_backend", "driver", "pool"]  # fixtures

pytestmark = [
    pytest.mark.anyio,
    # mysql-connector-python says so of the old ciphers of its own list.
    pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning"),
]


@dataclass
class Word:
    """A row, made by name."""

    n: int
    name: str


@pytest.fixture
async def words(pool: OffloadPool, database: dict[str, Any]) -> AsyncIterator[tuple[OffloadPool, OffloadPool]]:
    """Give the driver's pool and one of PyMySQL's, with a table in the database of both."""
    await pool.execute("CREATE TABLE words (n INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(20) UNIQUE)")
    await pool.execute("INSERT INTO words VALUES (1, 'one'), (2, 'two'), (3, 'three')")
    usual = OffloadPool.create(pymysql, min_size=0, max_size=2, **{**database, "autocommit": True})
    yield pool, usual
    await usual.aclose()


ROWS = "SELECT n, name FROM words WHERE n > %s ORDER BY n"


class _Renamed(pymysql.cursors.DictCursor):
    """A cursor of PyMySQL's that does more than the driver's own can."""


def kinds() -> list[Any]:
    """List what may make rows: callables, names that mean the same with every driver, and none."""
    return [
        *(None, dict, Word, lambda **row: list(row.values()), pymysql.cursors.Cursor, pymysql.cursors.DictCursor),
        *(aio.Cursor, aio.DictCursor, aio.SSCursor, aio.SSDictCursor),
    ]


def own_kinds(driver: Any) -> list[tuple[Any, Any]]:
    """List the driver's classes of cursors, with those of PyMySQL's that give the same rows."""
    if driver.__name__ == "MySQLdb":
        names = {name: name for name in ("Cursor", "DictCursor", "SSCursor", "SSDictCursor")}
        own = importlib.import_module("MySQLdb.cursors")
    else:
        names = {"MySQLCursor": "Cursor", "MySQLCursorDict": "DictCursor", "MySQLCursorBufferedDict": "DictCursor"}
        own = importlib.import_module("mysql.connector.cursor")
    return [(getattr(own, name), getattr(pymysql.cursors, same)) for name, same in names.items()]


async def test_awaitable_reading(words: tuple[OffloadPool, OffloadPool], driver: Any) -> None:
    """The awaitable methods that read give the values that they give with PyMySQL, whatever makes the rows."""
    pool, usual = words
    for own, same in [*((kind, kind) for kind in kinds()), *own_kinds(driver)]:
        for sql, args in ((ROWS, (0,)), (ROWS, [1]), (ROWS, 9), ("SELECT 1 AS n, 'x' AS name", None)):
            read = await pool.fetch_all(sql, args, cursor=own)
            assert read == await usual.fetch_all(sql, args, cursor=same)
            assert await pool.fetch_one(sql, args, cursor=own) == await usual.fetch_one(sql, args, cursor=same)
            assert await pool.fetch_value(sql, args, cursor=own) == await usual.fetch_value(sql, args, cursor=same)
            assert [row async for row in pool.stream(sql, args, chunk_size=2, cursor=own)] == read
    assert await pool.fetch_all("UPDATE words SET n = n") == []
    assert await pool.fetch_one("UPDATE words SET n = n") is None
    assert await pool.fetch_value(ROWS.replace("%s", "%(low)s"), {"low": 2}) == 3
    assert pool.statistics().idle == 1
    assert dict(pool.statistics().discards) == {}


async def test_awaitable_writing(words: tuple[OffloadPool, OffloadPool], driver: Any) -> None:
    """The awaitable methods that write return what they return with PyMySQL, and commit or roll back whole."""
    pool, usual = words
    more = "INSERT INTO words (name) VALUES (%s)"
    each = "UPDATE words SET name = CONCAT(name, %s) WHERE n = %s"
    for each_pool in (pool, usual):
        assert await each_pool.execute("UPDATE words SET name = 'zwei' WHERE n = %s", (2,)) == 1
        number = await each_pool.insert(more, "four")
        assert await each_pool.fetch_value("SELECT n FROM words WHERE name = 'four'") == number
        assert await each_pool.execute_many(more, [("five",), ("six",)]) == 2
        assert await each_pool.execute_many(each, [("!", 1), ("!", 2), ("!", 3)]) == 3
        assert await each_pool.execute_many(more, []) == 0
        with pytest.raises((driver.Error, pymysql.Error)):  # the first of the two is not committed alone
            await each_pool.execute_many("UPDATE words SET name = %s WHERE n = %s", [("new", 1), ("zwei!", 3)])
        assert await each_pool.fetch_all("SELECT name FROM words WHERE n < 4 ORDER BY n") == [
            ("one!",),
            ("zwei!",),
            ("three!",),
        ]
        await each_pool.execute("DELETE FROM words WHERE n > 3")
        await each_pool.execute("UPDATE words SET name = ELT(n, 'one', 'two', 'three')")
    assert pool.statistics().idle == 1
    assert dict(pool.statistics().discards) == {}


async def test_awaitable_connections(words: tuple[OffloadPool, OffloadPool]) -> None:
    """A connection's cursors, transactions and savepoints do what they do with PyMySQL."""
    pool, usual = words
    for each in (pool, usual):
        async with each.acquire() as connection:
            async with connection.cursor() as cursor:
                assert await cursor.execute(ROWS, (0,)) == 3
                assert [await cursor.fetchone(), *await cursor.fetchmany(1)] == [(1, "one"), (2, "two")]
                assert [*await cursor.fetchall()] == [(3, "three")]
                assert await cursor.execute("UPDATE words SET name = 'drei' WHERE n = 3") == 1
                assert await cursor.executemany("UPDATE words SET name = %s WHERE n = %s", [("three", 3)]) == 1
                assert await cursor.executemany("UPDATE words SET name = %s WHERE n = %s", []) is None
            async with connection.cursor(aio.DictCursor) as named:
                await named.execute(ROWS, 2)
                assert await named.fetchone() == {"n": 3, "name": "three"}
            async with connection.cursor(aio.SSCursor) as unbuffered:
                await unbuffered.execute(ROWS, 1)
                assert [row async for row in unbuffered] == [(2, "two"), (3, "three")]
            await connection.begin()
            async with connection.cursor() as cursor:
                await cursor.execute("DELETE FROM words")
            await connection.rollback()
        async with each.transaction(isolation_level="SERIALIZABLE") as connection, connection.cursor() as cursor:
            await cursor.execute("INSERT INTO words VALUES (4, 'four')")
            with suppress(ZeroDivisionError):
                async with each.transaction():
                    await cursor.execute("INSERT INTO words VALUES (5, 'five')")
                    raise ZeroDivisionError
            async with each.transaction():
                await cursor.execute("INSERT INTO words VALUES (6, 'six')")
        with suppress(ZeroDivisionError):
            async with each.transaction() as connection, connection.cursor() as cursor:
                await cursor.execute("DELETE FROM words")
                raise ZeroDivisionError
        assert await each.fetch_all("SELECT n FROM words ORDER BY n") == [(1,), (2,), (3,), (4,), (6,)]
        await each.execute("DELETE FROM words WHERE n > 3")
    assert pool.statistics().idle == 1
    assert dict(pool.statistics().discards) == {}


async def test_awaitable_transactions_run_again(words: tuple[OffloadPool, OffloadPool], driver: Any) -> None:
    """After a deadlock the whole function runs again, and after any other error it does not."""
    pool, _ = words
    runs: list[int] = []

    async def deadlocked(connection: aio.AsyncConnection, code: int = 1213) -> int:
        runs.append(code)
        async with connection.cursor() as cursor:
            await cursor.execute("DELETE FROM words")
            if code != 1213 or len(runs) < 3:
                await cursor.execute(f"SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = {code}")
        return 42

    assert await pool.run_transaction(deadlocked) == 42
    assert runs == [1213] * 3
    with pytest.raises(driver.Error):
        await pool.run_transaction(partial(deadlocked, code=1214))
    assert runs == [1213] * 3 + [1214]
    assert dict(pool.statistics().discards) == {}


async def test_awaitable_streams_are_left_early(words: tuple[OffloadPool, OffloadPool]) -> None:
    """Detached a stream reads no rest: what is read ahead is killed, or the connection given up, as with PyMySQL."""
    pool, _ = words
    rows = "SELECT seq, REPEAT('x', 1000) FROM seq_1_to_100000000"
    with anyio.fail_after(20):
        async with aclosing(pool.stream(rows)) as stream:
            assert (await anext(stream))[0] == 1
        discards = dict(pool.statistics().discards)
        assert set(discards) <= {"abandoned_result"}
        with suppress(ZeroDivisionError):
            async with pool.transaction() as connection, connection.cursor(aio.SSCursor) as unbuffered:
                await unbuffered.execute(rows)
                await unbuffered.fetchone()
                raise ZeroDivisionError
        discards = dict(pool.statistics().discards)
        assert set(discards) <= {"abandoned_result", "closed"}
        async with pool.transaction() as connection:
            async with connection.cursor(aio.SSCursor) as cursor:
                await cursor.execute("SELECT seq FROM seq_1_to_10000")
                assert await cursor.fetchone() == (1,)
                await cursor.fetchall()
            async with connection.cursor() as cursor:
                await cursor.execute(ROWS, 2)
                assert await cursor.fetchone() == (3, "three")
    assert dict(pool.statistics().discards) == discards


async def test_awaitable_refusals(words: tuple[OffloadPool, OffloadPool], driver: Any) -> None:
    """A cursor class that the driver cannot make is refused before anything is sent, and costs no connection."""
    pool, usual = words
    session = await pool.fetch_value("SELECT CONNECTION_ID()")
    statements = pool.statistics().statements

    async def streamed() -> None:
        async for _ in pool.stream("DELETE FROM words", cursor=_Renamed):
            pass

    async def acquired() -> None:
        async with pool.acquire() as connection, connection.cursor(_Renamed):
            pass

    uses: list[Callable[[], Awaitable[Any]]] = [
        lambda: pool.fetch_all("DELETE FROM words", cursor=_Renamed),
        lambda: pool.fetch_one("DELETE FROM words", cursor=_Renamed),
        lambda: pool.fetch_value("DELETE FROM words", cursor=_Renamed),
        streamed,
        acquired,
    ]
    for use in uses:
        with pytest.raises(ConfigurationError, match=rf"_Renamed: {driver.__name__} has no such cursors; accepted are"):
            await use()
    with pytest.raises(ConfigurationError, match="PyMySQL has no such cursors; accepted are"):
        await usual.fetch_all("DELETE FROM words", cursor=own_kinds(driver)[0][0])
    assert pool.statistics().statements == statements
    assert len(await pool.fetch_all(ROWS, 0)) == 3
    assert await pool.fetch_value("SELECT CONNECTION_ID()") == session
    assert dict(pool.statistics().discards) == {}
