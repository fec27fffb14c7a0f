"""What a type checker makes of the awaitable surface: each `assert_type` is checked, each `ignore` must be needed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from pymysql import cursors
from typing_extensions import assert_type

from offload_db import AsyncConnection, AsyncCursor, OffloadPool, PoolStatistics, aio, queries


@dataclass
class Truck:
    """What a row becomes."""

    truck_id: str


class Ordered(aio.DictCursor):
    """A user's own class of cursors."""

    async def count(self) -> int:
        return await self.execute("SELECT 1")


def from_row(**row: Any) -> tuple[str, int]:
    return str(row), len(row)


async def operations(pool: OffloadPool) -> None:
    """Let the cursor class or the row factory decide what a row is."""
    assert_type(await pool.fetch_all("SELECT 1"), list[Any])
    assert_type(await pool.fetch_all("SELECT %s", (1,), lane="reports", timeout=5.0), list[Any])
    assert_type(await pool.fetch_all("SELECT 1", cursor=cursors.DictCursor), list[dict[str, Any]])
    assert_type(await pool.fetch_all("SELECT 1", cursor=aio.DictCursor), list[dict[str, Any]])
    assert_type(await pool.fetch_all("SELECT 1", cursor=Truck), list[Truck])
    assert_type(await pool.fetch_all("SELECT 1", cursor=from_row), list[tuple[str, int]])
    assert_type(await pool.fetch_one("SELECT 1", cursor=cursors.DictCursor), dict[str, Any] | None)
    assert_type(await pool.fetch_one("SELECT 1", cursor=aio.DictCursor), dict[str, Any] | None)
    assert_type(await pool.fetch_one("SELECT 1", cursor=Truck), Truck | None)
    assert_type(await pool.fetch_one("SELECT 1"), Any)
    assert_type(await pool.fetch_value("SELECT 1"), Any)
    assert_type(await pool.execute("DO 1"), int)
    assert_type(await pool.insert("DO 1"), int)
    assert_type(await pool.execute_many("DO %s", [(1,), (2,)]), int)
    assert_type(pool.stream("SELECT 1"), AsyncGenerator[Any, None])
    assert_type(pool.stream("SELECT 1", cursor=Truck), AsyncGenerator[Truck, None])
    async for row in pool.stream("SELECT 1", chunk_size=10, cursor=cursors.SSDictCursor):
        assert_type(row, dict[str, Any])
    async for row in pool.stream("SELECT 1", cursor=aio.SSDictCursor):
        assert_type(row, dict[str, Any])
    assert_type(pool.statistics(), PoolStatistics)


async def connections(pool: OffloadPool) -> None:
    """Both ways of acquiring, and both ways of making a cursor, give the same."""
    async with pool.acquire() as connection:
        assert_type(connection, AsyncConnection)
        async with connection.cursor() as cursor:
            assert_type(cursor, AsyncCursor)
            assert_type(await cursor.execute("SELECT 1"), int)
            assert_type(await cursor.executemany("DO %s", [(1,)]), int | None)
            assert_type(await cursor.fetchone(), Any)
            assert_type(await cursor.nextset(), bool | None)
            assert_type((cursor.rowcount, cursor.rownumber, cursor.closed), tuple[int, int, bool])
            async for row in cursor:
                assert_type(row, Any)
        async with connection.cursor(cursors.DictCursor) as named:
            assert_type(named, aio.DictCursor)
            assert_type(await named.fetchone(), dict[str, Any] | None)
            assert_type(await named.fetchmany(5), Sequence[dict[str, Any]])
            assert_type(await named.fetchall(), Sequence[dict[str, Any]])
            async for found in named:
                assert_type(found, dict[str, Any])
        async with connection.cursor(aio.SSCursor) as unbuffered:
            assert_type(unbuffered, aio.SSCursor)
            assert_type(await unbuffered.fetchone(), tuple[Any, ...] | None)
        async with connection.cursor(Ordered) as own:
            assert_type(await own.count(), int)
    connection = await pool.acquire(lane="reports")
    assert_type(connection, AsyncConnection)
    assert_type(await connection.cursor(aio.DictCursor), aio.DictCursor)
    assert_type(await connection.cursor(cursors.SSDictCursor), aio.SSDictCursor)
    assert_type((connection.closed, connection.get_transaction_status()), tuple[bool, bool])
    await pool.release(connection)


async def transactions(pool: OffloadPool) -> None:
    """Give a transaction's connection, and the result of a function that is run in one."""
    assert_type(pool.transaction(), AbstractAsyncContextManager[AsyncConnection])
    async with pool.transaction(isolation_level="SERIALIZABLE", read_only=True) as connection:
        assert_type(connection, AsyncConnection)
        async with connection.transaction() as inner:
            assert_type(inner, AsyncConnection)

    async def work(connection: AsyncConnection) -> Truck:
        return Truck(str(connection.closed))

    assert_type(await pool.run_transaction(work, attempts=2), Truck)


async def functions() -> None:
    """Use the functions of the default pool, which have plain types."""
    assert_type(await queries.get_async_pool(), OffloadPool)
    assert_type(await queries.execute_query("SELECT 1"), list[dict[str, Any]])
    assert_type(await queries.execute_query_one("SELECT 1"), dict[str, Any] | None)
    assert_type(await queries.execute_insert("DO 1"), int)
    assert_type(await queries.execute_update("DO 1"), int)
    assert_type(await queries.execute_delete("DO 1"), int)
    assert_type(await queries.execute_many("DO %s", [(1,)]), int)
    assert_type(queries.get_pool_stats(), PoolStatistics | None)
    assert_type(await queries.health_check(), dict[str, Any])
    await queries.close_async_pool()


async def from_aiomysql() -> None:
    """Aiomysql's names have types."""
    async with aio.create_pool(host="localhost", db="fleet", minsize=1, maxsize=5, echo=False) as pool:
        assert_type(pool, aio.Pool)
        async with pool.acquire() as connection:
            assert_type(connection, aio.Connection)
        assert_type((pool.size, pool.maxsize), tuple[int, int | None])
        assert_type(await pool.fetch_one("SELECT 1", cursor=Truck), Truck | None)
    assert_type(await aio.create_pool(), aio.Pool)
    async with aio.connect(host="localhost", db="fleet") as single:
        assert_type(single, AsyncConnection)


async def wrong(pool: OffloadPool, connection: AsyncConnection, cursor: aio.DictCursor) -> None:
    """Each of these is an error, and stays one: an `ignore` that nothing needs is an error itself."""
    pool.acquire().cursor()  # type: ignore[attr-defined]  # acquire() has to be awaited or entered
    connection.cursor().execute("SELECT 1")  # type: ignore[attr-defined]
    with pool.acquire():  # type: ignore[attr-defined]
        pass
    async for _ in pool.fetch_all("SELECT 1"):  # type: ignore[attr-defined]
        pass
    await pool.stream("SELECT 1")  # type: ignore[misc]
    await pool.fetch_all("SELECT 1", timeout="5")  # type: ignore[call-overload]
    await pool.execute("DO 1", cursor=Truck)  # type: ignore[call-arg]
    await pool.transaction(read_only="yes")  # type: ignore[misc, arg-type]
    (await cursor.fetchone())["truck_id"]  # type: ignore[index]  # there may be no row
    aio.create_pool(minsize="1")  # type: ignore[arg-type]
    await queries.execute_query("SELECT 1", timeout="5")  # type: ignore[arg-type]
