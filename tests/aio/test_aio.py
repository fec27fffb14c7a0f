"""Awaitable connections, cursors and transactions: what aiomysql's users know, over the pool's guarantees."""

from __future__ import annotations

import gc
import threading
from typing import Any

import anyio
import pymysql
import pytest
from pymysql.cursors import DictCursor, SSCursor, SSDictCursor

from offload_db import (
    AsyncConnection,
    AsyncCursor,
    ConnectionClosed,
    ConnectionLost,
    PoolClosed,
)
from offload_db.connection.physical import PhysicalConnection
from offload_db.connection.tidying import tidy
from offload_db.pool import checkin
from tests.conftest import MySQL
from tests.support import assert_ended, pool_of, running, settled, value, watched_wire


@pytest.fixture
def table(mysql: MySQL, database: dict[str, Any]) -> dict[str, Any]:
    with mysql.connect(**database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, n INT NOT NULL) ENGINE=InnoDB")
        cursor.execute("INSERT INTO t VALUES (1, 10), (2, 20), (3, 30)")
    return database


async def run(connection: AsyncConnection, query: str, *args: Any) -> Any:
    """Execute a statement and return the first column of its first row, if it has one."""
    async with connection.cursor(pymysql.cursors.Cursor) as cursor:
        await cursor.execute(query, args or None)
        row = await cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]


# Getting and giving back


@pytest.mark.anyio
async def test_acquire_both_ways(mysql: MySQL) -> None:
    """A connection is acquired by `async with`, or by `await` and given back by `release`, awaited or not."""
    with pool_of(1, mysql.settings()) as pool:
        async with pool.acquire() as connection:
            assert isinstance(connection, AsyncConnection)
            session = await run(connection, "SELECT CONNECTION_ID()")
            assert pool.statistics().in_use == 1
        assert connection.closed
        connection = await pool.acquire()
        assert await run(connection, "SELECT CONNECTION_ID()") == session
        await pool.release(connection)
        assert pool.statistics().in_use == 0
        connection = await pool.acquire()
        pool.release(connection)
        assert pool.statistics().in_use == 0
        with pytest.raises(ConnectionClosed):
            await run(connection, "SELECT 1")
        assert (pool.statistics().checkouts, pool.statistics().checkins) == (3, 3)
    with pytest.raises(PoolClosed):
        await pool.acquire()


@pytest.mark.anyio
@pytest.mark.parametrize("awaited", [True, False])
async def test_release_rolls_back(awaited: bool, table: dict[str, Any], mysql: MySQL) -> None:
    """A connection given back in a transaction is rolled back off the loop's thread, also if nobody awaits that."""
    with pool_of(1, table) as pool:
        connection = await pool.acquire()
        session = await run(connection, "SELECT CONNECTION_ID()")
        await connection.begin()
        await run(connection, "UPDATE t SET n = 0")
        with watched_wire() as wire:
            released = pool.release(connection)
            again = pool.release(connection)
            if awaited:
                await released
                await again
                assert pool.statistics().in_use == 0
            else:
                await settled(lambda: pool.statistics().in_use == 0)
            assert wire.events
            assert not wire.on(threading.get_ident())
        assert await pool.fetch_value("SELECT CONNECTION_ID()") == session
        assert await pool.fetch_value("SELECT SUM(n) FROM t") == 60
        assert (pool.statistics().checkouts, pool.statistics().checkins) == (3, 3)


@pytest.mark.anyio
async def test_a_dropped_connection_comes_back(mysql: MySQL) -> None:
    """A connection that nobody gives back returns when it is forgotten."""
    with pool_of(1, mysql.settings()) as pool:
        connection: AsyncConnection | None = await pool.acquire()
        assert connection is not None
        cursor: AsyncCursor | None = await connection.cursor()
        assert cursor is not None
        await cursor.execute("SELECT 1")
        cursor = connection = None
        gc.collect()
        assert pool.statistics().in_use == 0
        assert pool.statistics().checkins == 1


@pytest.mark.anyio
async def test_cancelled_in_a_block(table: dict[str, Any], mysql: MySQL) -> None:
    """A cursor's statement is killed when its task is cancelled, and the block gives the connection back."""
    with pool_of(1, table) as pool:

        async def victim() -> None:
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await cursor.execute("UPDATE t SET n = 0")
                await cursor.execute("SELECT SLEEP(30)")

        async with anyio.create_task_group() as group:
            group.start_soon(victim)
            await settled(lambda: running(mysql, table, "SLEEP"))
            group.cancel_scope.cancel()
        assert_ended(mysql, table, "SLEEP")
        assert (pool.statistics().in_use, pool.statistics().kills) == (0, 1)
        assert await pool.fetch_value("SELECT 'mine'") == "mine"


# Cursors


@pytest.mark.anyio
async def test_cursor_methods(table: dict[str, Any]) -> None:
    """Executing, fetching, scrolling and the attributes are PyMySQL's; attributes are plain properties."""
    with pool_of(1, table) as pool:
        async with pool.acquire() as connection:
            cursor = await connection.cursor()
            assert (cursor.rowcount, cursor.description, cursor.closed, cursor.arraysize) == (-1, None, False, 1)
            assert cursor.connection is connection
            assert await cursor.execute("SELECT id, n FROM t ORDER BY id") == 3
            assert (cursor.rowcount, cursor.rownumber) == (3, 0)
            assert [column[0] for column in cursor.description] == ["id", "n"]
            assert await cursor.fetchone() == (1, 10)
            assert cursor.rownumber == 1
            assert await cursor.fetchmany() == ((2, 20),)
            await cursor.scroll(-2)
            cursor.arraysize = 2
            assert await cursor.fetchmany() == ((1, 10), (2, 20))
            await cursor.scroll(0, mode="absolute")
            assert await cursor.fetchmany(1) == ((1, 10),)
            assert await cursor.fetchall() == ((2, 20), (3, 30))
            assert await cursor.fetchone() is None
            assert tuple(await cursor.fetchall()) == ()
            with pytest.raises(IndexError):
                await cursor.scroll(5)
            assert cursor.mogrify("SELECT %s", ("it's",)) == "SELECT 'it\\'s'"
            assert await cursor.execute("INSERT INTO t (n) VALUES (%s)", (40,)) == 1
            assert cursor.lastrowid == 4
            assert await cursor.executemany("INSERT INTO t (n) VALUES (%s)", [(50,), (60,)]) == 2
            await cursor.close()
            await cursor.close()
            assert cursor.closed
            assert cursor.connection is None
            assert cursor.rowcount == 2
            with pytest.raises(pymysql.err.ProgrammingError):
                await cursor.execute("SELECT 1")
        assert await pool.fetch_value("SELECT SUM(n) FROM t") == 210


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [None, DictCursor, SSCursor, SSDictCursor])
async def test_cursor_classes_and_iteration(kind: Any, table: dict[str, Any]) -> None:
    """Any cursor class gives its rows to `async for`, without a call on the loop's thread."""
    with pool_of(1, table, on_loop_call="raise") as pool:
        async with pool.acquire() as connection, connection.cursor(*([kind] if kind else [])) as cursor:
            await cursor.execute("SELECT id, n FROM t ORDER BY id")
            rows = [row async for row in cursor]
            pairs = [(1, 10), (2, 20), (3, 30)]
            dicts = kind in (DictCursor, SSDictCursor)
            assert rows == ([{"id": number, "n": n} for number, n in pairs] if dicts else pairs)
            await cursor.execute("SELECT seq FROM mysql.seq_1_to_3000000 LIMIT 5000")
            assert await cursor.fetchone()
            if kind in (SSCursor, SSDictCursor):
                await cursor.scroll(10)
                row = await cursor.fetchone()
                assert (row["seq"] if dicts else row[0]) == 12
                with pytest.raises(pymysql.err.NotSupportedError):
                    await cursor.scroll(-1)
        assert (pool.statistics().in_use, pool.statistics().blocking_calls) == (0, 0)


@pytest.mark.anyio
async def test_procedures_and_more_results(table: dict[str, Any]) -> None:
    """The methods callproc and nextset go through all the results of a procedure."""
    with pool_of(1, table) as pool:
        await pool.execute("CREATE PROCEDURE twice(IN a INT) BEGIN SELECT a; SELECT n FROM t WHERE id = a; END")
        async with pool.acquire() as connection, connection.cursor() as cursor:
            assert await cursor.callproc("twice", (2,)) == (2,)
            assert await cursor.fetchall() == ((2,),)
            assert await cursor.nextset()
            assert await cursor.fetchall() == ((20,),)
            while await cursor.nextset():
                pass
            await cursor.execute("SELECT 3")
            assert await cursor.fetchone() == (3,)
        assert pool.statistics().discards == {}


@pytest.mark.anyio
async def test_an_unbuffered_cursor_of_a_lost_link(mysql: MySQL) -> None:
    """When the link breaks in mid-result, that is the error, and not what closing the cursor runs into."""
    with pool_of(1, mysql.settings("mysql")) as pool:
        seen = 0
        with pytest.raises(ConnectionLost):  # noqa: PT012  # the loop is what raises
            async with pool.acquire() as connection, connection.cursor(SSCursor) as cursor:
                session = connection.thread_id()
                await cursor.execute("SELECT seq FROM seq_1_to_3000000")
                while rows := await cursor.fetchmany(1000):
                    if not seen:
                        mysql.kill_connection(session)
                    seen += len(rows)
        assert 1000 <= seen < 3_000_000
        assert pool.statistics().in_use == 0
        assert await pool.fetch_value("SELECT 'mine'") == "mine"


# Connections


@pytest.mark.anyio
async def test_connection_methods(table: dict[str, Any], mysql: MySQL) -> None:
    """begin, commit, rollback, autocommit, ping, select_db, show_warnings and the attributes work as aiomysql's do."""
    with pool_of(1, table, on_loop_call="raise") as pool, mysql.connect(**table) as plain:
        async with pool.acquire() as connection:
            await connection.ping()
            await connection.begin()
            await run(connection, "UPDATE t SET n = 0 WHERE id = 1")
            await connection.rollback()
            assert value(plain, "SELECT SUM(n) FROM t") == 60
            await connection.begin()
            await run(connection, "UPDATE t SET n = 0 WHERE id = 1")
            assert value(plain, "SELECT SUM(n) FROM t") == 60
            await connection.commit()
            assert value(plain, "SELECT SUM(n) FROM t") == 50
            await connection.autocommit(False)
            assert connection.get_autocommit() is False
            await run(connection, "UPDATE t SET n = 0 WHERE id = 2")
            assert value(plain, "SELECT SUM(n) FROM t") == 50
            assert connection.host == table["host"]
            assert connection.thread_id() == await run(connection, "SELECT CONNECTION_ID()")
            assert connection.escape("it's") == "'it\\'s'"
            await connection.select_db("mysql")
            assert await run(connection, "SELECT DATABASE()") == "mysql"
            await run(connection, "SELECT CAST('x' AS SIGNED)")
            assert "x" in str(await connection.show_warnings())
            await connection.set_charset("latin1")
            assert await run(connection, "SELECT @@character_set_client") == "latin1"
        assert value(plain, "SELECT SUM(n) FROM t") == 50
        assert await pool.fetch_value("SELECT CONCAT(DATABASE(), @@autocommit + 0)") == f"{table['database']}1"
        assert await pool.fetch_value("SELECT @@character_set_client") == "utf8mb4"
        assert pool.statistics().blocking_calls == 0


@pytest.mark.anyio
async def test_close_and_ensure_closed(mysql: MySQL) -> None:
    """close() breaks the link off without I/O, ensure_closed() says goodbye; the pool throws the connection out."""
    with pool_of(1, mysql.settings()) as pool:
        connection = await pool.acquire()
        assert not connection.closed
        with watched_wire() as wire:
            connection.close()
            connection.close()
            assert not wire.events
        assert connection.closed
        with pytest.raises(pymysql.err.InterfaceError):
            await run(connection, "SELECT 1")
        await pool.release(connection)
        assert (pool.statistics().in_use, pool.statistics().open) == (0, 0)
        connection = await pool.acquire()
        with watched_wire() as wire:
            await connection.ensure_closed()
            await connection.ensure_closed()
            assert [name for name, _ in wire.events] == ["sendall"]
            assert not wire.on(threading.get_ident())
        assert connection.closed
        assert (pool.statistics().in_use, pool.statistics().open) == (0, 0)
        await pool.release(connection)
        assert sum(pool.statistics().discards.values()) == 2 == pool.statistics().checkouts
        assert await pool.fetch_value("SELECT 'mine'") == "mine"


@pytest.mark.anyio
async def test_several_tasks_await_one_release(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them goes on when the connection is back."""
    waiting = threading.Event()

    def tidy_later(link: PhysicalConnection) -> None:
        assert waiting.wait(20)
        tidy(link)

    monkeypatch.setattr(checkin, "tidy", tidy_later)
    with pool_of(1, database, autocommit=False) as pool:
        connection = await pool.acquire()
        await connection.query("CREATE TABLE t (a INT)")
        await connection.query("INSERT INTO t VALUES (1)")
        released = pool.release(connection)

        async def wait() -> None:
            await released

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                group.start_soon(wait)
                await anyio.sleep(0.05)
                waiting.set()
        assert pool.statistics().idle == 1
