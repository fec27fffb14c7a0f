"""Claims about awaitable transactions: they end as a whole, nest, and run again where that helps."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import anyio
import pymysql
import pytest

from offload_db import (
    AsyncConnection,
    ConfigurationError,
    ConnectionLost,
    OffloadPool,
)
from tests.aio.test_aio import run, table
from tests.conftest import MySQL
from tests.support import assert_ended, attempt, pool_of, running, settled, together, value

__all__ = ["table"]  # a fixture


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
