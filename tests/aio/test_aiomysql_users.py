"""What code that was written for aiomysql finds here, when nothing but its imports is changed."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections import OrderedDict
from typing import Any, cast

import anyio
import pymysql
import pytest

from offload_db import ConfigurationError, ConnectionLost, aio as aiomysql
from tests.conftest import MySQL
from tests.inside import core
from tests.pool.inside import common_timeout
from tests.support import assert_ended, running, settled, value, watched_wire

NAMES = """
    Connection Cursor DataError DatabaseError DictCursor Error IntegrityError InterfaceError InternalError MySQLError
    NotSupportedError OperationalError Pool ProgrammingError SSCursor SSDictCursor Warning connect create_pool
    escape_dict escape_sequence escape_string
"""


@pytest.fixture
def settings(mysql: MySQL, database: dict[str, Any]) -> dict[str, Any]:
    """Give aiomysql's keywords for a fresh database with a table."""
    with mysql.connect(**database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, n INT NOT NULL) ENGINE=InnoDB")
        cursor.execute("INSERT INTO t VALUES (1, 10), (2, 20), (3, 30)")
    renamed = dict(database)
    renamed["db"] = renamed.pop("database")
    return renamed


def test_names() -> None:
    """Every name that aiomysql exports is there, and so are the modules that its names are imported from."""
    from offload_db.aio.connection import Connection, connect
    from offload_db.aio.cursors import Cursor, DictCursor, SSCursor, SSDictCursor
    from offload_db.aio.pool import Pool, create_pool

    for name in NAMES.split():
        assert hasattr(aiomysql, name), name
    assert (Connection, connect, Pool, create_pool) == (
        aiomysql.Connection,
        aiomysql.connect,
        aiomysql.Pool,
        aiomysql.create_pool,
    )
    for kind in (Cursor, DictCursor, SSCursor, SSDictCursor):
        assert getattr(aiomysql, kind.__name__) is kind
    assert aiomysql.OperationalError is pymysql.err.OperationalError


# The pool


@pytest.mark.anyio
async def test_a_pool_both_ways(settings: dict[str, Any]) -> None:
    """A pool is made by `await` or by `async with`, opens `minsize` connections, and counts as aiomysql's does."""
    pool = await aiomysql.create_pool(minsize=2, maxsize=3, **settings)
    assert isinstance(pool, aiomysql.Pool)
    assert (pool.minsize, pool.maxsize, pool.size, pool.freesize, pool.echo) == (2, 3, 2, 2, False)
    first = await pool.acquire()
    assert isinstance(first, aiomysql.Connection)
    async with pool.acquire() as second, pool.acquire():
        assert (pool.size, pool.freesize) == (3, 0)
        assert not second.closed
    assert (pool.size, pool.freesize) == (3, 2)
    pool.release(first)
    assert (pool.size, pool.freesize) == (3, 3)
    await pool.clear()
    assert (pool.size, pool.freesize) == (0, 0)
    with pytest.raises(RuntimeError):
        await pool.wait_closed()
    pool.close()
    pool.close()
    assert not pool.closed
    with pytest.raises(RuntimeError):
        await pool.acquire()
    await pool.wait_closed()
    await pool.wait_closed()
    assert pool.closed
    async with aiomysql.create_pool(maxsize=0, **settings) as pool:
        assert (pool.maxsize, pool.size) == (None, 1)
    assert (pool.closed, pool.size) == (True, 0)
    async with await aiomysql.create_pool(minsize=0, **settings) as pool:
        assert pool.size == 0
    assert pool.closed


@pytest.mark.anyio
async def test_acquire_waits_without_limit(settings: dict[str, Any]) -> None:
    """By default nobody is refused for having waited long, and a waiter gets what is released."""
    async with aiomysql.create_pool(maxsize=1, **settings) as pool:
        assert common_timeout(core(pool).admission) is None
        held = await pool.acquire()
        got: list[Any] = []

        async def wait() -> None:
            async with pool.acquire() as connection:
                got.append(connection)

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await settled(lambda: pool.statistics().waiting == 1)
            pool.release(held)
        assert len(got) == 1


@pytest.mark.anyio
async def test_release_in_a_transaction(settings: dict[str, Any], mysql: MySQL) -> None:
    """A connection that is released in a transaction is thrown out, without a trip, and nothing of it stays."""
    async with aiomysql.create_pool(maxsize=1, **settings) as pool:
        connection = await pool.acquire()
        cursor = await connection.cursor()
        await cursor.execute("UPDATE t SET n = 0")
        assert connection.get_transaction_status()
        with watched_wire() as wire:
            pool.release(connection)
            pool.release(connection)
            assert wire.on(threading.get_ident()) == []
        assert connection.closed
        assert (pool.size, pool.freesize) == (0, 0)
        assert await pool.fetch_value("SELECT SUM(n) FROM t") == 60
        async with pool.acquire() as connection:
            await (await connection.cursor()).execute("UPDATE t SET n = 0")
        assert await pool.fetch_value("SELECT SUM(n) FROM t") == 60


@pytest.mark.anyio
async def test_wait_closed_waits(settings: dict[str, Any]) -> None:
    """After close() holders go on for as long as they like; cancelling who waits for them changes nothing."""
    pool = await aiomysql.create_pool(**settings)
    connection = await pool.acquire()
    pool.close()
    with anyio.move_on_after(0.05) as scope:
        await pool.wait_closed()
    assert scope.cancel_called
    async with connection.cursor() as cursor:
        await cursor.execute("SELECT 42")
        assert await cursor.fetchone() == (42,)
    pool.release(connection)
    await pool.wait_closed()
    assert pool.closed
    assert pool.size == 0


@pytest.mark.anyio
async def test_terminate(settings: dict[str, Any], mysql: MySQL) -> None:
    """terminate() ends what is held and what runs, on the server as well, and waits for nobody."""
    pool = await aiomysql.create_pool(**settings)
    held = await pool.acquire()
    ended: list[BaseException] = []

    async def busy() -> None:
        try:
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await cursor.execute("SELECT SLEEP(30)")
        except aiomysql.OperationalError as error:
            ended.append(error)

    database = {"database": settings["db"]}
    async with anyio.create_task_group() as group:
        group.start_soon(busy)
        await settled(lambda: running(mysql, database, "SLEEP"))
        pool.terminate()
        await pool.wait_closed()
        assert held.closed
    assert len(ended) == 1
    assert_ended(mysql, database, "SLEEP")
    pool.release(held)
    assert (pool.closed, pool.size) == (True, 0)


@pytest.mark.anyio
async def test_pool_recycle(settings: dict[str, Any]) -> None:
    """A connection older than `pool_recycle` is replaced when it is asked for."""
    for recycle, same in ((-1, True), (1000, True), (0, False)):
        async with aiomysql.create_pool(maxsize=1, pool_recycle=recycle, **settings) as pool:
            before = await pool.fetch_value("SELECT CONNECTION_ID()")
            await anyio.sleep(0.01)
            assert (await pool.fetch_value("SELECT CONNECTION_ID()") == before) is same


@pytest.mark.anyio
async def test_bad_settings(settings: dict[str, Any]) -> None:
    """What cannot be meant is refused with the names that the caller used."""
    for bad, named in (
        ({"minsize": -1}, "minsize"),
        ({"minsize": 5, "maxsize": 2}, "minsize=5; accepted is at most maxsize=2"),
        ({"maxsize": -1}, "maxsize"),
        ({"databse": "x"}, "databse"),
    ):
        with pytest.raises(ConfigurationError, match=named):
            aiomysql.create_pool(**cast("dict[str, Any]", bad))
    with pytest.raises(ConfigurationError, match="hots"):
        aiomysql.connect(hots="localhost")
    with pytest.raises(aiomysql.OperationalError):
        await aiomysql.create_pool(**{**settings, "password": "wrong"})


# Connections


@pytest.mark.anyio
async def test_connect_both_ways(settings: dict[str, Any]) -> None:
    """A connection of its own is made by `await` or `async with`, with aiomysql's defaults."""
    connection = await aiomysql.connect(loop=object(), echo=False, **settings)
    try:
        assert connection.get_autocommit() is False
        assert (connection.host, connection.port) == (settings["host"], settings["port"])
        assert (connection.user, connection.db, connection.echo) == (settings["user"], settings["db"], False)
        assert connection.escape("it's") == connection.literal("it's") == "'it\\'s'"
        assert not connection.get_transaction_status()
        await connection.begin()
        assert connection.get_transaction_status()
        await connection.ping()
        connection.close()
        assert connection.closed
        await connection.ping()
        assert not connection.closed
        async with connection.cursor() as cursor:
            assert cursor.connection is connection
            # aiomysql allows several statements in one, and so must what takes its place.
            await cursor.execute("SELECT 1; SELECT 2")
            assert await cursor.fetchone() == (1,)
            assert await cursor.nextset()
            assert await cursor.fetchone() == (2,)
    finally:
        await connection.ensure_closed()
    assert connection.closed
    positional = [settings["host"], settings["user"], settings["password"], settings["db"], settings["port"]]
    async with aiomysql.connect(*positional, autocommit=True) as connection:
        assert connection.get_autocommit() is True
    assert connection.closed


@pytest.mark.anyio
async def test_connection_settings(settings: dict[str, Any]) -> None:
    """Aiomysql's settings mean here what they meant there, None included."""
    async with aiomysql.connect(
        **settings,
        autocommit=None,
        charset="utf8mb4",
        connect_timeout=None,
        use_unicode=None,
        init_command="SET @mine = 5",
        sql_mode="'NO_BACKSLASH_ESCAPES'",
        conv={**pymysql.converters.decoders, pymysql.constants.FIELD_TYPE.LONG: lambda text: -int(text)},
        cursorclass=aiomysql.DictCursor,
        auth_plugin="",
        program_name="",
        ssl=None,
    ) as connection:
        assert connection.get_autocommit() is True
        async with connection.cursor() as cursor:
            assert isinstance(cursor, aiomysql.DictCursor)
            await cursor.execute("SELECT @mine AS mine, n, %s AS text FROM t WHERE id = 1", ("it's",))
            assert await cursor.fetchall() == [{"mine": 5, "n": -10, "text": "it's"}]
        assert connection._connection.ssl is False


@pytest.mark.anyio
async def test_ping_does_not_continue_half_a_transaction(settings: dict[str, Any], mysql: MySQL) -> None:
    """Inside a transaction block a lost link is not replaced: what was done on it is gone."""
    async with aiomysql.create_pool(maxsize=1, **settings) as pool:
        with pytest.raises(ConnectionLost):  # noqa: PT012  # the block as a whole is what fails
            async with pool.transaction() as connection:
                mysql.kill_connection(connection.thread_id())
                await connection.ping()


# Cursors


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["Cursor", "DictCursor", "SSCursor", "SSDictCursor"])
async def test_cursor_classes(kind: str, settings: dict[str, Any]) -> None:
    """A cursor is an instance of the class that was asked for, and its rows are shaped like that."""
    chosen: Any = getattr(aiomysql, kind)
    row: Any = {"id": 1, "n": 10} if "Dict" in kind else (1, 10)
    async with aiomysql.create_pool(**settings) as pool:
        async with pool.acquire() as connection:
            async with connection.cursor(chosen) as cursor:
                assert type(cursor) is chosen
                await cursor.execute("SELECT id, n FROM t WHERE id = %s", 1)
                assert await cursor.fetchone() == row
                assert await cursor.fetchone() is None
            async with connection.cursor(getattr(pymysql.cursors, kind)) as cursor:
                assert type(cursor) is chosen
        assert await pool.fetch_one("SELECT id, n FROM t", cursor=chosen) == row
        assert [found async for found in pool.stream("SELECT id, n FROM t LIMIT 1", cursor=chosen)] == [row]
    async with aiomysql.create_pool(cursorclass=chosen, **settings) as pool, pool.acquire() as connection:
        assert type(await connection.cursor()) is chosen


@pytest.mark.anyio
async def test_cursor_subclasses(settings: dict[str, Any]) -> None:
    """A subclass may override methods and set the kind of dictionary; what nobody would call is refused."""

    class Ordered(aiomysql.DictCursor):
        dict_type = OrderedDict

        async def value(self, query: str) -> Any:
            await self.execute(query)
            row = await self.fetchone()
            assert type(row) is OrderedDict
            return next(iter(row.values()))

    with pytest.raises(TypeError, match="_conv_row"):

        class Converting(aiomysql.Cursor):
            def _conv_row(self, row: Any) -> Any:
                return row

    async with aiomysql.connect(cursorclass=Ordered, **settings) as connection:
        cursor = await connection.cursor()
        assert isinstance(cursor, Ordered)
        assert await cursor.value("SELECT SUM(n) FROM t") == 60
        cursor = await connection.cursor(aiomysql.SSCursor, aiomysql.DictCursor)
        assert isinstance(cursor, aiomysql.SSCursor)
        assert isinstance(cursor, aiomysql.DictCursor)
        assert type(await connection.cursor(aiomysql.AsyncCursor)) is aiomysql.AsyncCursor
        for bad in (object, 3, "DictCursor"):
            with pytest.raises(TypeError):
                connection.cursor(bad)


@pytest.mark.anyio
async def test_what_a_cursor_returns(settings: dict[str, Any]) -> None:
    """Results without rows are what aiomysql returns."""
    async with aiomysql.connect(**settings) as connection, connection.cursor() as cursor:
        await cursor.execute("DO 1")
        assert await cursor.fetchmany() == []
        assert await cursor.fetchone() is None
        assert await cursor.executemany("INSERT INTO t (n) VALUES (%s)", []) is None
        assert await cursor.executemany("INSERT INTO t (n) VALUES (%s)", [(1,), (2,)]) == 2
        with pytest.raises(aiomysql.ProgrammingError):
            await (await connection.cursor()).fetchone()


@pytest.mark.anyio
async def test_what_was_sent_can_be_read(settings: dict[str, Any]) -> None:
    """The text that was sent last can be read under aiomysql's name, that of many rows together, too."""
    assert aiomysql.cursors.RE_INSERT_VALUES.match("INSERT INTO t (n) VALUES (%s)")
    async with aiomysql.connect(**settings) as connection, connection.cursor() as cursor:
        await cursor.execute("SELECT %s", ("it",))
        assert cursor._last_executed == "SELECT 'it'"
        await cursor.executemany("INSERT INTO t (n) VALUES (%s)", [(1,), (2,)])
        assert bytes(cursor._last_executed) == b"INSERT INTO t (n) VALUES (1),(2)"


@pytest.mark.anyio
async def test_echo(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """With `echo` each statement is logged, and no parameter."""
    caplog.set_level(logging.INFO, "offload_db")
    async with aiomysql.create_pool(echo=True, **settings) as pool, pool.acquire() as connection:
        assert connection.echo
        async with connection.cursor() as cursor:
            assert cursor.echo
            await cursor.execute("SELECT %s", ("secret",))
            await cursor.executemany("INSERT INTO t (n) VALUES (%s)", [(4711,)])
    assert caplog.messages == ["SELECT %s", "INSERT INTO t (n) VALUES (%s)"]


@pytest.mark.anyio
async def test_a_cancelled_statement_leaves_the_connection_usable(settings: dict[str, Any], mysql: MySQL) -> None:
    """Where aiomysql breaks the link off and lets the server work on, the statement is killed."""
    async with aiomysql.create_pool(maxsize=1, **settings) as pool, pool.acquire() as connection:
        cursor = await connection.cursor()
        async with anyio.create_task_group() as group:
            group.start_soon(cursor.execute, "SELECT SLEEP(30)")
            await settled(lambda: running(mysql, {"database": settings["db"]}, "SLEEP"))
            group.cancel_scope.cancel()
        assert_ended(mysql, {"database": settings["db"]}, "SLEEP")
        await cursor.execute("SELECT 42")
        assert await cursor.fetchone() == (42,)


@pytest.mark.parametrize("use_uvloop", [False, True])
def test_tasks_of_asyncio(use_uvloop: bool, settings: dict[str, Any], mysql: MySQL) -> None:
    """What a call returns goes into create_task, gather and wait_for, as coroutines do."""
    if use_uvloop:
        pytest.importorskip("uvloop")

    async def main() -> None:
        pool = await asyncio.wait_for(aiomysql.create_pool(maxsize=3, loop=asyncio.get_running_loop(), **settings), 20)
        one = asyncio.create_task(pool.acquire())
        two, three = await asyncio.gather(pool.acquire(), asyncio.wait_for(pool.acquire(), 20))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(pool.acquire(), 0.05)
        task = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for connection in (await one, two, three):
            await pool.release(connection)
        assert pool.freesize == 3
        pool.close()
        await pool.wait_closed()

    anyio.run(main, backend="asyncio", backend_options={"use_uvloop": use_uvloop})
    gc.collect()
    with mysql.connect() as plain:
        assert value(plain, "SELECT 1") == 1
