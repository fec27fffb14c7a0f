"""Awaitable connections, cursors and transactions: what aiomysql's users know, over the pool's guarantees."""

from __future__ import annotations

import gc
import threading
from functools import partial
from typing import Any, cast

import anyio
import pymysql
import pytest
from pymysql.cursors import DictCursor, SSCursor, SSDictCursor

from offload_db import (
    AsyncConnection,
    AsyncCursor,
    ConfigurationError,
    ConnectionClosed,
    ConnectionLost,
    OffloadPool,
    PoolClosed,
)
from offload_db.connection.physical import PhysicalConnection
from tests.conftest import MySQL
from tests.support import assert_ended, attempt, pool_of, running, settled, together, value, watched_wire


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


# Transactions


@pytest.mark.anyio
@pytest.mark.parametrize("autocommit", [True, False])
async def test_commit_and_rollback(autocommit: bool, table: dict[str, Any], mysql: MySQL) -> None:
    """A transaction is committed at its end, and rolled back whole on an exception, which passes."""
    with pool_of(1, table, autocommit=autocommit) as pool, mysql.connect(**table) as plain:
        async with pool.transaction() as connection:
            await run(connection, "UPDATE t SET n = n + 1")
            assert value(plain, "SELECT SUM(n) FROM t") == 60
        assert value(plain, "SELECT SUM(n) FROM t") == 63
        with pytest.raises(LookupError, match="changed my mind"):  # noqa: PT012  # the block as a whole is what fails
            async with pool.transaction() as connection:
                await run(connection, "UPDATE t SET n = 0")
                raise LookupError("changed my mind")
        assert value(plain, "SELECT SUM(n) FROM t") == 63
        async with pool.acquire() as held:
            async with held.transaction():
                await run(held, "UPDATE t SET n = n + 1")
            assert value(plain, "SELECT SUM(n) FROM t") == 66
        statistics = pool.statistics()
        assert (statistics.checkouts, statistics.checkins, statistics.discards) == (3, 3, {})


@pytest.mark.anyio
async def test_cancelled_in_a_transaction(table: dict[str, Any], mysql: MySQL) -> None:
    """A transaction that is cancelled in a statement or between two is rolled back, and its locks are gone."""
    with pool_of(1, table) as pool, mysql.connect(**table) as plain:
        plain.cursor().execute("SET innodb_lock_wait_timeout = 1")
        written = anyio.Event()

        async def victim(in_statement: bool) -> None:
            async with pool.transaction() as connection:
                await run(connection, "UPDATE t SET n = 0")
                written.set()
                if in_statement:
                    await run(connection, "SELECT SLEEP(30)")
                await anyio.sleep_forever()

        for in_statement in (True, False):
            written = anyio.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(victim, in_statement)
                await written.wait()
                if in_statement:
                    await settled(lambda: running(mysql, table, "SLEEP"))
                group.cancel_scope.cancel()
            assert pool.statistics().in_use == 0
            assert_ended(mysql, table, "SLEEP")
            plain.cursor().execute("UPDATE t SET n = n + 0")
            assert value(plain, "SELECT SUM(n) FROM t") == 60
        assert pool.statistics().kills == 1


@pytest.mark.anyio
async def test_nested_in_the_same_task(table: dict[str, Any], mysql: MySQL) -> None:
    """A transaction inside another is a savepoint on the same connection, undone alone or with the outer one."""
    with pool_of(1, table) as pool, mysql.connect(**table) as plain:
        async with pool.transaction() as outer:
            await run(outer, "UPDATE t SET n = 11 WHERE id = 1")
            async with pool.transaction() as inner:
                assert inner is outer
                await run(inner, "UPDATE t SET n = 21 WHERE id = 2")
                with pytest.raises(LookupError):  # noqa: PT012  # the block as a whole is what fails
                    async with pool.transaction() as innermost:
                        await run(innermost, "UPDATE t SET n = 0")
                        raise LookupError
            with pytest.raises(LookupError):  # noqa: PT012  # the block as a whole is what fails
                async with outer.transaction():
                    await run(outer, "UPDATE t SET n = 0")
                    raise LookupError
            with pytest.raises(ConfigurationError, match="savepoint"):
                async with pool.transaction(read_only=True):
                    raise AssertionError("never entered")
        assert value(plain, "SELECT GROUP_CONCAT(n ORDER BY id) FROM t") == "11,21,30"
        with pytest.raises(LookupError):  # noqa: PT012  # the block as a whole is what fails
            async with pool.transaction() as outer:
                async with pool.transaction():
                    await run(outer, "UPDATE t SET n = 0")
                raise LookupError
        assert value(plain, "SELECT GROUP_CONCAT(n ORDER BY id) FROM t") == "11,21,30"
        assert pool.statistics().checkouts == 2


@pytest.mark.anyio
async def test_nested_in_another_task(table: dict[str, Any]) -> None:
    """A task started inside a transaction has transactions of its own, and so has another pool."""
    with pool_of(2, table) as pool, pool_of(1, table) as other:
        seen: list[Any] = []

        async def child() -> None:
            async with pool.transaction() as connection:
                seen.append(await run(connection, "SELECT n FROM t WHERE id = 1"))
                await run(connection, "UPDATE t SET n = 21 WHERE id = 2")

        with pytest.raises(LookupError):  # noqa: PT012  # the block as a whole is what fails
            async with pool.transaction() as outer:
                await run(outer, "UPDATE t SET n = 0 WHERE id = 1")
                async with other.transaction() as foreign:
                    assert foreign is not outer
                async with anyio.create_task_group() as group:
                    group.start_soon(child)
                raise LookupError
        assert seen == [10]
        assert await pool.fetch_value("SELECT GROUP_CONCAT(n ORDER BY id) FROM t") == "10,21,30"
        assert pool.statistics().in_use == other.statistics().in_use == 0


@pytest.mark.anyio
async def test_isolation_level(table: dict[str, Any], mysql: MySQL) -> None:
    """The isolation level decides what the transaction sees and locks, and does not hold for the next one."""
    look = "SELECT n FROM t WHERE id = 1"
    with pool_of(1, table) as pool, mysql.connect(**table) as plain:

        async def sees(level: str | None) -> tuple[Any, Any, Any, bool]:
            """Look before, during and after another's transaction, and try to lock what was seen."""
            async with pool.transaction(isolation_level=level) as connection:
                before = await run(connection, look)
                locked = attempt(value, plain, f"{look} FOR UPDATE NOWAIT")
                if locked != before:
                    assert locked[1][0] == 1205
                    return before, None, None, True
                plain.begin()
                plain.cursor().execute("UPDATE t SET n = n + 1 WHERE id = 1")
                during = await run(connection, look)
                plain.commit()
                return before, during, await run(connection, look), False

        assert await sees("READ UNCOMMITTED") == (10, 11, 11, False)
        assert await sees(None) == (11, 11, 11, False)
        assert await sees("read committed") == (12, 12, 13, False)
        assert await sees("REPEATABLE READ") == (13, 13, 13, False)
        assert await sees("SERIALIZABLE") == (14, None, None, True)
        assert await sees(None) == (14, 14, 14, False)
        for bad in ("SNAPSHOT", "", "READ COMMITTED; DROP TABLE t"):
            with pytest.raises(ConfigurationError, match="REPEATABLE READ"):
                async with pool.transaction(isolation_level=bad):
                    raise AssertionError("never entered")
        assert pool.statistics().in_use == 0


@pytest.mark.anyio
async def test_read_only(table: dict[str, Any]) -> None:
    """In a read-only transaction the server refuses writes; the next transaction may write."""
    with pool_of(1, table) as pool:
        with pytest.raises(pymysql.err.MySQLError) as caught:  # noqa: PT012  # what is read first must not raise
            async with pool.transaction(read_only=True) as connection:
                assert await run(connection, "SELECT SUM(n) FROM t") == 60
                await run(connection, "UPDATE t SET n = 0")
        assert caught.value.args[0] == 1792
        async with pool.transaction() as connection:
            await run(connection, "UPDATE t SET n = n + 1")
        assert await pool.fetch_value("SELECT SUM(n) FROM t") == 63
        assert pool.statistics().in_use == 0


async def deadlock(pool: OffloadPool, retried: bool) -> tuple[list[Any], int]:
    """Let two transactions wait for each other; give what became of them and how often they ran."""
    runs = 0
    both = [anyio.Event(), anyio.Event()]

    async def cross(me: int, connection: AsyncConnection) -> None:
        nonlocal runs
        runs += 1
        await run(connection, "UPDATE t SET n = n + 1 WHERE id = %s", me + 1)
        both[me].set()
        await both[1 - me].wait()
        await run(connection, "UPDATE t SET n = n + 1 WHERE id = %s", 2 - me)

    async def alone(me: int) -> None:
        if retried:
            await pool.run_transaction(partial(cross, me))
        else:
            async with pool.transaction() as connection:
                await cross(me, connection)

    return await together(partial(alone, 0), partial(alone, 1)), runs


@pytest.mark.anyio
async def test_a_deadlock_reaches_the_caller(table: dict[str, Any]) -> None:
    """Of two transactions in a deadlock one gets the server's error unchanged, and nothing of it stays."""
    with pool_of(2, table) as pool:
        outcomes, runs = await deadlock(pool, retried=False)
        errors = [error for error in outcomes if error is not None]
        assert runs == 2
        assert len(errors) == 1
        assert type(errors[0]) is pymysql.err.OperationalError
        assert errors[0].args[0] == 1213
        assert await pool.fetch_value("SELECT GROUP_CONCAT(n ORDER BY id) FROM t") == "11,21,30"
        assert pool.statistics().in_use == 0


@pytest.mark.anyio
async def test_run_transaction_repeats_the_whole(table: dict[str, Any]) -> None:
    """The transaction that lost in a deadlock is run once more from its beginning, and both are there."""
    with pool_of(2, table) as pool:
        outcomes, runs = await deadlock(pool, retried=True)
        assert outcomes == [None, None]
        assert runs == 3
        assert await pool.fetch_value("SELECT GROUP_CONCAT(n ORDER BY id) FROM t") == "12,22,30"


@pytest.mark.anyio
async def test_what_run_transaction_repeats(table: dict[str, Any]) -> None:
    """Lock wait timeouts and deadlocks are tried again so many times, other errors and nested ones never."""
    with pool_of(1, table) as pool:
        runs = 0

        async def fail(error: Exception, connection: AsyncConnection) -> None:
            nonlocal runs
            runs += 1
            await run(connection, "UPDATE t SET n = n + 1")
            raise error

        for error, attempts, expected in (
            (pymysql.err.OperationalError(1205, "Lock wait timeout exceeded"), 3, 3),
            (pymysql.err.OperationalError(1213, "Deadlock found"), 2, 2),
            (pymysql.err.OperationalError(1213, "Deadlock found"), 1, 1),
            (pymysql.err.OperationalError(2013, "Lost connection"), 3, 1),
            (pymysql.err.OperationalError(), 3, 1),
            (pymysql.err.IntegrityError(1062, "Duplicate entry"), 3, 1),
            (LookupError("mine"), 3, 1),
        ):
            runs = 0
            with pytest.raises(type(error)) as caught:
                await pool.run_transaction(partial(fail, error), attempts=attempts)
            assert caught.value is error
            assert runs == expected
        runs = 0
        with pytest.raises(pymysql.err.OperationalError):
            async with pool.transaction():
                await pool.run_transaction(partial(fail, pymysql.err.OperationalError(1213, "Deadlock found")))
        assert runs == 1

        async def succeed(connection: AsyncConnection) -> str:
            return str(await run(connection, "SELECT 'mine'"))

        assert await pool.run_transaction(succeed, isolation_level="SERIALIZABLE") == "mine"
        for attempts in (0, -1, cast("int", 1.5)):
            with pytest.raises(ConfigurationError, match="attempts"):
                await pool.run_transaction(succeed, attempts=attempts)
        assert await pool.fetch_value("SELECT SUM(n) FROM t") == 60
        assert pool.statistics().in_use == 0


@pytest.mark.anyio
async def test_a_lost_commit_says_so(table: dict[str, Any], mysql: MySQL) -> None:
    """When the link breaks before the commit's answer, the error says that the commit may have happened."""
    with pool_of(1, table) as pool:
        with pytest.raises(ConnectionLost) as caught:  # noqa: PT012  # the block as a whole is what fails
            async with pool.transaction() as connection:
                await run(connection, "UPDATE t SET n = 0")
                session = connection.thread_id()
                mysql.kill_connection(session)
                await settled(lambda: all(row["ID"] != session for row in mysql.process_list()))
        assert caught.value.may_have_run
        assert pool.statistics().in_use == 0
        assert sum(pool.statistics().discards.values()) == 1
        assert await pool.fetch_value("SELECT SUM(n) FROM t") == 60


@pytest.mark.anyio
async def test_a_link_lost_in_a_transaction(table: dict[str, Any], mysql: MySQL) -> None:
    """When the link breaks inside the block, that error passes, and nothing more is sent for the transaction."""
    with pool_of(1, table) as pool:
        with pytest.raises(ConnectionLost):  # noqa: PT012  # the block as a whole is what fails
            async with pool.transaction() as connection:
                await run(connection, "UPDATE t SET n = 0")
                mysql.kill_connection(connection.thread_id())
                async with pool.transaction():
                    await run(connection, "UPDATE t SET n = 1")
        with pytest.raises(pymysql.err.InterfaceError):  # noqa: PT012  # the block as a whole is what fails
            async with pool.transaction() as connection:
                await run(connection, "UPDATE t SET n = 0")
                mysql.kill_connection(connection.thread_id())
                with pytest.raises(ConnectionLost):
                    await run(connection, "UPDATE t SET n = 1")
        assert pool.statistics().in_use == 0
        assert await pool.fetch_value("SELECT SUM(n) FROM t") == 60


@pytest.mark.anyio
async def test_many_transactions_side_by_side(table: dict[str, Any]) -> None:
    """No update is lost among many transactions over few connections, nested ones included."""
    with pool_of(3, table, autocommit=False) as pool:

        async def transfer() -> None:
            async with pool.transaction() as connection:
                n = await run(connection, "SELECT n FROM t WHERE id = 1 FOR UPDATE")
                async with pool.transaction():
                    await run(connection, "UPDATE t SET n = %s WHERE id = 1", n + 1)

        assert await together(*[transfer] * 40) == [None] * 40
        assert await pool.fetch_value("SELECT n FROM t WHERE id = 1") == 50
        statistics = pool.statistics()
        assert statistics.checkouts == statistics.checkins == 41
        assert statistics.open == statistics.idle <= 3


@pytest.mark.anyio
async def test_several_tasks_await_one_release(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them goes on when the connection is back."""
    waiting = threading.Event()
    tidy = PhysicalConnection.tidy

    def tidy_later(link: PhysicalConnection) -> None:
        assert waiting.wait(20)
        tidy(link)

    monkeypatch.setattr(PhysicalConnection, "tidy", tidy_later)
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
