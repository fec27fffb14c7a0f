"""Guarantees 3 to 7 on every awaitable call: however it is interrupted, nothing is sent twice, runs on, or is lost."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from pymysql.cursors import Cursor, SSCursor

from offload_db import ConnectionLost, OffloadPool, StatementTimeout, aio
from tests.conftest import MySQL
from tests.support import pool_of, settled

from .checks import asleep, assert_ended, checked, running
from .proxy import Proxy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

Call = Callable[[OffloadPool, str], Awaitable[Any]]

# A write and a wait in one: a second run would be a second row, and the row is there only if all of it ran.
SLOW_WRITE = "INSERT INTO t SELECT n, SLEEP(30) FROM (SELECT 7 AS n) AS numbers"
SLOW_READ = "SELECT SLEEP(30)"


async def fetch_all(pool: OffloadPool, slow: str) -> Any:
    return await pool.fetch_all(slow)


async def fetch_one(pool: OffloadPool, slow: str) -> Any:
    return await pool.fetch_one(slow)


async def fetch_value(pool: OffloadPool, slow: str) -> Any:
    return await pool.fetch_value(slow)


async def execute(pool: OffloadPool, slow: str) -> Any:
    return await pool.execute(slow)


async def insert(pool: OffloadPool, slow: str) -> Any:
    return await pool.insert(slow)


async def execute_many(pool: OffloadPool, slow: str) -> Any:
    return await pool.execute_many(slow, [(), ()])


async def stream(pool: OffloadPool, slow: str) -> Any:
    async with aclosing(pool.stream(slow)) as rows:
        return [row async for row in rows]


async def transaction(pool: OffloadPool, slow: str) -> Any:
    async with pool.transaction() as connection, connection.cursor() as cursor:
        await cursor.execute("INSERT INTO t VALUES (1, 1)")
        await cursor.execute(slow)


async def savepoint(pool: OffloadPool, slow: str) -> Any:
    async with pool.transaction():
        await transaction(pool, slow)


async def run_transaction(pool: OffloadPool, slow: str) -> Any:
    async def work(connection: aio.AsyncConnection) -> None:
        async with connection.cursor() as cursor:
            await cursor.execute(slow)

    await pool.run_transaction(work)


async def cursor_execute(pool: OffloadPool, slow: str) -> Any:
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute("INSERT INTO t VALUES (1, 1)")
        await cursor.execute(slow)


async def cursor_executemany(pool: OffloadPool, slow: str) -> Any:
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.executemany(slow, [(), ()])


async def unbuffered_fetch(pool: OffloadPool, slow: str) -> Any:
    async with pool.acquire() as connection, connection.cursor(SSCursor) as cursor:
        await cursor.execute(slow)
        await cursor.fetchall()


async def awaited_and_released(pool: OffloadPool, slow: str) -> Any:
    connection = await pool.acquire()
    try:
        cursor = await connection.cursor()
        await cursor.execute(slow)
    finally:
        await pool.release(connection)


async def query(pool: OffloadPool, slow: str) -> Any:
    async with pool.acquire() as connection:
        await connection.query(slow)


CALLS: list[Call] = [
    fetch_all,
    fetch_one,
    fetch_value,
    execute,
    insert,
    execute_many,
    stream,
    transaction,
    savepoint,
    run_transaction,
    cursor_execute,
    cursor_executemany,
    unbuffered_fetch,
    awaited_and_released,
    query,
]
every_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: str(call.__name__))
either_statement = pytest.mark.parametrize("slow", [SLOW_READ, SLOW_WRITE], ids=["read", "write"])


@pytest.fixture
def settings(mysql: MySQL, database: dict[str, Any]) -> dict[str, Any]:
    """Give a database with an empty table, to connections that are not in autocommit mode."""
    with mysql.connect(**database) as plain:
        plain.cursor().execute("CREATE TABLE t (id INT, n INT) ENGINE=InnoDB")
    return {**database, "autocommit": False}


async def nothing_is_left(pool: OffloadPool, mysql: MySQL, settings: dict[str, Any]) -> None:
    """Assert that the statement has ended, that nothing of it stays or is locked, and that the pool is whole."""
    await settled(lambda: pool.statistics().in_use == 0)
    assert_ended(mysql, "SLEEP(30)")
    await checked(pool, mysql, settings["database"])
    with mysql.connect(database=settings["database"]) as plain, plain.cursor() as cursor:
        cursor.execute("SET innodb_lock_wait_timeout = 5")
        cursor.execute("SELECT * FROM t FOR UPDATE")
        assert cursor.fetchall() == ()


async def cancel_when_it_runs(way: str, work: Callable[[], Awaitable[Any]], mysql: MySQL) -> None:
    """Cancel a task when the server runs its statement, and return when it has ended."""

    async def run() -> None:
        await work()

    if way == "task.cancel()":
        task = asyncio.get_running_loop().create_task(run())
        await settled(lambda: asleep(mysql, "SLEEP(30)"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return
    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await settled(lambda: asleep(mysql, "SLEEP(30)"))
        group.cancel_scope.cancel()


@every_call
@either_statement
@pytest.mark.parametrize("how", ["task.cancel()", "scope"])
async def test_cancelled(  # noqa: PLR0917  # pytest gives them by name
    how: str, slow: str, call: Call, anyio_backend_name: str, settings: dict[str, Any], mysql: MySQL
) -> None:
    """A cancelled call is killed on the server and rolled back, and a buffered one's connection is as before."""
    if how == "task.cancel()" and anyio_backend_name != "asyncio":
        pytest.skip("trio cancels scopes only")
    with pool_of(1, settings) as pool:
        await cancel_when_it_runs(how, lambda: call(pool, slow), mysql)
        now = pool.statistics()
        assert (now.kills, now.kills_failed) == (1, 0)
        # In a cancelled scope nothing is read, not even the end of what was killed.
        assert now.discards in (({}, {"abandoned_result": 1}) if call in (stream, unbuffered_fetch) else ({},))
        await nothing_is_left(pool, mysql, settings)


@every_call
@either_statement
async def test_timed_out(slow: str, call: Call, settings: dict[str, Any], mysql: MySQL) -> None:
    """A call that runs past its time raises StatementTimeout, was killed, and was not sent again."""
    with pool_of(1, settings, statement_timeout=0.2) as pool:
        with pytest.raises(StatementTimeout) as caught:
            await call(pool, slow)
        assert caught.value.may_have_run
        assert (pool.statistics().kills, pool.statistics().timeouts) == (1, 1)
    with pool_of(1, settings) as pool:
        await nothing_is_left(pool, mysql, settings)


@every_call
@either_statement
async def test_link_cut(slow: str, call: Call, settings: dict[str, Any], proxy: Proxy, mysql: MySQL) -> None:
    """A call whose link breaks raises ConnectionLost, which says that it may have run; it is not sent again."""
    with pool_of(1, {**settings, **proxy.address}) as pool:
        raised: list[BaseException] = []

        async def run() -> None:
            try:
                await call(pool, slow)
            except ConnectionLost as error:
                raised.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await settled(lambda: asleep(mysql, "SLEEP(30)"))
            (process,) = running(mysql, "SLEEP(30)")
            proxy.cut()
        assert [error.may_have_run for error in raised if isinstance(error, ConnectionLost)] == [True]
        assert {found["ID"] for found in running(mysql, "SLEEP(30)")} <= {process["ID"]}, "it was sent again"
        assert pool.statistics().discards == {"lost": 1}
        mysql.kill_connection(process["ID"])  # nobody is there any more to tell the server
        await nothing_is_left(pool, mysql, settings)


async def dirty_fetch(pool: OffloadPool) -> None:
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute("SELECT * FROM t FOR UPDATE")
        await cursor.execute("INSERT INTO t VALUES (1, 1)")


async def dirty_release(pool: OffloadPool) -> None:
    connection = await pool.acquire()
    await connection.begin()
    await (await connection.cursor()).execute("INSERT INTO t VALUES (1, 1)")
    pool.release(connection)


async def dirty_session(pool: OffloadPool) -> None:
    async with pool.acquire() as connection:
        await connection.autocommit(True)
        await connection.select_db("mysql")


async def failed_write(pool: OffloadPool) -> None:
    with pytest.raises(LookupError):
        await pool.fetch_all("SELECT 1 AS n FOR UPDATE", cursor=explode)


async def failed_many(pool: OffloadPool) -> None:
    with pytest.raises(Exception, match="no_such"):
        await pool.execute_many("INSERT INTO t (id, n) SELECT %s, no_such", [(1,), (2,)])


async def stream_left(pool: OffloadPool) -> None:
    async with aclosing(pool.stream("SELECT seq FROM mysql.seq_1_to_3000000", chunk_size=2)) as rows:
        async for _ in rows:
            break


async def unread_result(pool: OffloadPool) -> None:
    async with pool.acquire() as connection:
        cursor = await connection.cursor(SSCursor)
        await cursor.execute("SELECT seq FROM mysql.seq_1_to_3000000")
        await cursor.fetchone()


async def transaction_raised(pool: OffloadPool) -> None:
    with pytest.raises(LookupError):  # noqa: PT012  # the block as a whole is what fails
        async with pool.transaction() as connection, connection.cursor() as cursor:
            await cursor.execute("INSERT INTO t VALUES (1, 1)")
            raise LookupError


def explode(**row: Any) -> None:
    raise LookupError


DIRTY = [
    dirty_fetch,
    dirty_release,
    dirty_session,
    failed_write,
    failed_many,
    stream_left,
    unread_result,
    transaction_raised,
]


@pytest.mark.parametrize("leave", DIRTY, ids=lambda leave: str(leave.__name__))
async def test_returned_dirty(
    leave: Callable[[OffloadPool], Awaitable[None]], settings: dict[str, Any], mysql: MySQL
) -> None:
    """Whatever a call leaves on its connection, the next finds a clean session."""
    with pool_of(1, settings) as pool:
        await leave(pool)
        await settled(lambda: pool.statistics().in_use == 0)
        session = await pool.fetch_one("SELECT DATABASE(), @@autocommit, @@in_transaction", cursor=Cursor)
        assert session == (settings["database"], 0, 0)
        await nothing_is_left(pool, mysql, settings)


async def drop_connection(pool: OffloadPool) -> None:
    connection = await pool.acquire()
    cursor = await connection.cursor()
    await cursor.execute("INSERT INTO t VALUES (1, 1)")


async def drop_cursor_in_mid_result(pool: OffloadPool) -> None:
    connection = await pool.acquire()
    cursor = await connection.cursor(SSCursor)
    await cursor.execute("SELECT seq FROM mysql.seq_1_to_3000000")
    await cursor.fetchone()


async def drop_transaction(pool: OffloadPool) -> None:
    connection = await pool.acquire()
    manager = connection.transaction()
    await manager.__aenter__()
    await (await connection.cursor()).execute("INSERT INTO t VALUES (1, 1)")
    # An event loop ends a generator that is dropped; this one's caller is gone already.
    await manager.gen.aclose()  # type: ignore[attr-defined]  # contextlib's own


async def drop_calls_that_nobody_awaits(pool: OffloadPool) -> None:
    pool.acquire()
    pool.transaction()
    pool.stream("SELECT 1")
    pool.fetch_all("SELECT 1").close()


DROPPED = [drop_connection, drop_cursor_in_mid_result, drop_transaction, drop_calls_that_nobody_awaits]


@pytest.mark.parametrize("drop", DROPPED, ids=lambda drop: str(drop.__name__))
async def test_dropped(drop: Callable[[OffloadPool], Awaitable[None]], settings: dict[str, Any], mysql: MySQL) -> None:
    """What is dropped without being closed comes back to the pool, and leaves nothing behind."""
    with pool_of(1, settings) as pool:
        await drop(pool)
        gc.collect()
        await nothing_is_left(pool, mysql, settings)
