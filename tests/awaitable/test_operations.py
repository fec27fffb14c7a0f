"""Whole operations: each is one trip and one transaction, and shapes its rows as it is asked to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import anyio
import pymysql
import pytest
from pymysql.cursors import Cursor, DictCursor, SSCursor, SSDictCursor

from offload_db import ConfigurationError, Lane, OffloadPool, PoolClosed, StatementTimeout, offload
from tests.conftest import MySQL
from tests.support import assert_ended, in_thread, outcome, pool_of, running, settled, together, value


@dataclass
class Truck:
    """What a row becomes."""

    id: int
    n: int


@pytest.fixture
def table(mysql: MySQL, database: dict[str, Any]) -> dict[str, Any]:
    with mysql.connect(**database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, n INT NOT NULL) ENGINE=InnoDB")
        cursor.execute("INSERT INTO t VALUES (1, 10), (2, 20), (3, 30)")
    return database


OPERATIONS: dict[str, Callable[[OffloadPool], Awaitable[Any]]] = {
    "fetch_all": lambda pool: pool.fetch_all("SELECT id, n FROM t ORDER BY id"),
    "fetch_one": lambda pool: pool.fetch_one("SELECT id, n FROM t ORDER BY id"),
    "fetch_value": lambda pool: pool.fetch_value("SELECT n FROM t WHERE id = %s", 2),
    "execute": lambda pool: pool.execute("UPDATE t SET n = n + 1 WHERE id > %s", (1,)),
    "insert": lambda pool: pool.insert("INSERT INTO t (n) VALUES (%(n)s)", {"n": 40}),
    "execute_many": lambda pool: pool.execute_many("INSERT INTO t (n) VALUES (%s)", iter([(5,), (6,), (7,)])),
}
ANSWERS = {
    "fetch_all": [(1, 10), (2, 20), (3, 30)],
    "fetch_one": (1, 10),
    "fetch_value": 20,
    "execute": 2,
    "insert": 4,
    "execute_many": 3,
}


@pytest.mark.anyio
@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("name", OPERATIONS)
async def test_one_hop_and_one_transaction(name: str, autocommit: bool, table: dict[str, Any], mysql: MySQL) -> None:
    """With an idle connection an operation is one hop; it answers, and what it wrote is committed at once."""
    with pool_of(1, table, autocommit=autocommit) as pool:
        assert await pool.fetch_value("SELECT 1") == 1
        before = pool.statistics()
        assert await OPERATIONS[name](pool) == ANSWERS[name]
        after = pool.statistics()
        assert after.hops - before.hops == 1
        assert after.statements - before.statements == 1
        assert (after.checkouts, after.checkins, after.discards, after.in_use) == (2, 2, {}, 0)
        with mysql.connect(**table) as plain:
            written = value(plain, "SELECT SUM(n) FROM t")
        assert written == {"execute": 62, "insert": 100, "execute_many": 78}.get(name, 60)


@pytest.mark.anyio
async def test_reads_end_their_transaction(table: dict[str, Any], mysql: MySQL) -> None:
    """With autocommit off two reads are two snapshots, and no lock outlives the operation."""
    with pool_of(1, table, autocommit=False) as pool, mysql.connect(**table) as plain:
        assert await pool.fetch_value("SELECT n FROM t WHERE id = 1 FOR UPDATE") == 10
        with plain.cursor() as cursor:
            cursor.execute("SET innodb_lock_wait_timeout = 1")
            cursor.execute("UPDATE t SET n = 11 WHERE id = 1")
        assert await pool.fetch_value("SELECT n FROM t WHERE id = 1") == 11


@pytest.mark.anyio
@pytest.mark.parametrize("autocommit", [True, False])
async def test_execute_many_is_one_transaction(autocommit: bool, table: dict[str, Any], mysql: MySQL) -> None:
    """Of rows that the server refuses half way none is there afterwards, also where each row is a statement."""
    with pool_of(1, table, autocommit=autocommit) as pool, mysql.connect(**table) as plain:
        rows = [(100, 1), (101, 1), (1, 1)]
        for verb in ("INSERT INTO t VALUES (%s, %s)", "INSERT INTO t SET id = %s, n = %s"):
            with pytest.raises(pymysql.err.IntegrityError) as caught:
                await pool.execute_many(verb, rows)
            assert caught.value.args[0] == 1062
            assert value(plain, "SELECT COUNT(*) FROM t") == 3
        assert await pool.execute_many("UPDATE t SET n = %s WHERE id = %s", [(1, 1), (2, 2)]) == 2
        assert await pool.execute_many("INSERT INTO t VALUES (%s, %s)", []) == 0
        assert value(plain, "SELECT SUM(n) FROM t") == 33
        assert pool.statistics().in_use == 0
        assert pool.statistics().discards == {}


@pytest.mark.anyio
@pytest.mark.parametrize("autocommit", [True, False])
async def test_an_error_rolls_back_and_keeps_the_connection(
    autocommit: bool, table: dict[str, Any], mysql: MySQL
) -> None:
    """The server's error comes as PyMySQL raises it; nothing of the statement stays, and the connection does."""
    with pool_of(1, table, autocommit=autocommit) as pool, mysql.connect(**table) as plain:
        session = await pool.fetch_value("SELECT CONNECTION_ID()")
        failing: list[Callable[[], Awaitable[Any]]] = [
            partial(pool.insert, "INSERT INTO t VALUES (50, 1), (1, 1)"),
            partial(pool.execute, "UPDATE t SET id = id + 1 ORDER BY id"),
            partial(pool.fetch_all, "INSERT INTO t VALUES (51, 1), (2, 1) RETURNING id"),
        ]
        for operation in failing:
            with pytest.raises(pymysql.err.IntegrityError):
                await operation()
        with pytest.raises(pymysql.err.ProgrammingError) as caught:
            await pool.fetch_one("SELEC 1")
        assert caught.value.args[0] == 1064
        assert value(plain, "SELECT GROUP_CONCAT(id ORDER BY id) FROM t") == "1,2,3"
        assert await pool.fetch_value("SELECT CONNECTION_ID()") == session
        assert pool.statistics().in_use == 0


@pytest.mark.anyio
@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("default", [Cursor, DictCursor, SSCursor, SSDictCursor])
async def test_the_cursor_class_shapes_the_rows(default: Any, autocommit: bool, table: dict[str, Any]) -> None:
    """Rows are what the cursor class makes, the pool's or the one asked for; values never depend on it."""
    query = "SELECT id, n FROM t ORDER BY id"
    with pool_of(1, table, autocommit=autocommit, cursorclass=default) as pool:
        for cursor in (None, Cursor, DictCursor, SSCursor, SSDictCursor):
            wanted = cursor or default
            one: Any = {"id": 1, "n": 10} if wanted in (DictCursor, SSDictCursor) else (1, 10)
            rows = await pool.fetch_all(query, cursor=cursor)
            assert isinstance(rows, list)
            assert rows[0] == one
            assert len(rows) == 3
            assert await pool.fetch_one(query, cursor=cursor) == one
            assert await pool.fetch_value(query, cursor=cursor) == 1
            assert await pool.fetch_one("SELECT id FROM t WHERE id = 99", cursor=cursor) is None
            assert await pool.fetch_value("SELECT id FROM t WHERE id = 99", cursor=cursor) is None
            assert await pool.fetch_all("SELECT id FROM t WHERE id = 99", cursor=cursor) == []
        assert await pool.fetch_value("SELECT NULL") is None
        assert await pool.execute("UPDATE t SET n = 0") == 3
        assert await pool.insert("INSERT INTO t (n) VALUES (1), (2)") == 4
        assert pool.statistics().discards == {}


@pytest.mark.anyio
async def test_a_row_factory_makes_the_rows(table: dict[str, Any]) -> None:
    """A callable is given each row's columns by name."""
    with pool_of(1, table) as pool:
        trucks = await pool.fetch_all("SELECT id, n FROM t ORDER BY id", cursor=Truck)
        assert trucks == [Truck(1, 10), Truck(2, 20), Truck(3, 30)]
        truck = await pool.fetch_one("SELECT id, n FROM t WHERE id = %s", 2, cursor=Truck)
        assert truck is not None
        assert truck.n == 20
        assert await pool.fetch_one("SELECT id, n FROM t WHERE id = 99", cursor=Truck) is None
        assert await pool.fetch_all("SELECT id, n FROM t WHERE id = 99", cursor=Truck) == []
        assert await pool.fetch_value("SELECT id, n FROM t WHERE id = 3", cursor=Truck) == 3


@pytest.mark.anyio
async def test_a_row_factory_that_fails(table: dict[str, Any], mysql: MySQL) -> None:
    """Its own error reaches the caller, what the statement wrote is rolled back, and the connection stays."""

    def refuse(**columns: Any) -> Any:
        raise LookupError(f"no use for {columns}")

    with pool_of(1, table, autocommit=False) as pool, mysql.connect(**table) as plain:
        session = await pool.fetch_value("SELECT CONNECTION_ID()")
        for fetch in (pool.fetch_all, pool.fetch_one):
            with pytest.raises(LookupError, match="no use for"):
                await fetch("INSERT INTO t VALUES (50, 1) RETURNING id", cursor=refuse)
        assert value(plain, "SELECT COUNT(*) FROM t") == 3
        assert await pool.fetch_value("SELECT CONNECTION_ID()") == session
        assert pool.statistics().in_use == 0


@pytest.mark.anyio
async def test_arguments_of_every_kind(table: dict[str, Any]) -> None:
    """A tuple, a list, a mapping, a single value and None are taken as PyMySQL takes them."""
    with pool_of(1, table) as pool:
        one = "SELECT n FROM t WHERE id = %s"
        assert [await pool.fetch_value(one, args) for args in ((2,), [2], 2, "2")] == [20] * 4
        assert await pool.fetch_value("SELECT n FROM t WHERE id = %(id)s", {"id": 2}) == 20
        assert await pool.fetch_value("SELECT '100%'") == "100%"
        assert await pool.fetch_value("SELECT %s", "O'Neil; DROP TABLE t") == "O'Neil; DROP TABLE t"
        assert await pool.fetch_value("CREATE TABLE u (a INT)") is None
        assert await pool.fetch_all("DROP TABLE u") == []


@pytest.mark.anyio
async def test_bad_input_is_refused(table: dict[str, Any]) -> None:
    """What cannot be meant raises before anything is sent, and costs no connection."""
    with pool_of(1, table, lanes=[Lane("reports", 1)]) as pool:
        for operation in (pool.fetch_all, pool.fetch_one, pool.fetch_value, pool.execute, pool.insert):
            with pytest.raises(TypeError, match=r"sql=NoneType"):
                await operation(cast("Any", None))
            for timeout in (0, -1, float("nan"), "soon"):
                with pytest.raises(ConfigurationError, match="timeout="):
                    await operation("SELECT 1", timeout=cast("Any", timeout))
            with pytest.raises(ConfigurationError, match=r"lane=.*; the lanes of this pool are"):
                await operation("SELECT 1", lane="nowhere")
        for rows in (5, "12", {1: 2}):
            with pytest.raises(TypeError):
                await pool.execute_many("INSERT INTO t (n) VALUES (%s)", cast("Any", rows))
        wrong_cursors: tuple[Any, ...] = (0, "DictCursor", [])
        for cursor in wrong_cursors:
            for read in (pool.fetch_all, pool.fetch_one, pool.fetch_value):
                with pytest.raises(ConfigurationError, match="cursor="):
                    await read("INSERT INTO t (n) VALUES (1) RETURNING n", cursor=cursor)
            with pytest.raises(ConfigurationError, match="cursor="):
                pool.stream("SELECT 1", cursor=cursor)
        for level in (5, b"SERIALIZABLE", "SNAPSHOT"):
            with pytest.raises(ConfigurationError, match="isolation_level="):
                async with pool.transaction(isolation_level=cast("Any", level)):
                    raise AssertionError("never entered")
        with pytest.raises(TypeError, match=r"release\(.*acquire"):
            pool.release(cast("Any", 5))
        assert (pool.statistics().statements, pool.statistics().open) == (0, 0)
        with pytest.raises((TypeError, pymysql.err.ProgrammingError), match="not enough arguments"):
            await pool.fetch_all("SELECT %s, %s", (1,))
        assert await pool.fetch_value("SELECT 1") == 1
        assert pool.statistics().in_use == 0
    with pytest.raises(PoolClosed):
        await pool.fetch_value("SELECT 1")


# Admission, timeouts, cancellation


@pytest.mark.anyio
async def test_lane(table: dict[str, Any], mysql: MySQL) -> None:
    """An operation counts against the lane it names, and others pass by one that is full."""
    with pool_of(4, table, lanes=[Lane("reports", 1)]) as pool, mysql.connect(**table) as barrier:
        lock = table["database"]
        assert value(barrier, "SELECT GET_LOCK(%s, 0)", lock) == 1
        order: list[str] = []

        async def report(name: str) -> None:
            await pool.fetch_value("SELECT GET_LOCK(%s, 20) + RELEASE_LOCK(%s)", (lock, lock), lane="reports")
            order.append(name)

        async with anyio.create_task_group() as group:
            group.start_soon(report, "first")
            await settled(lambda: running(mysql, table, "GET_LOCK"))
            group.start_soon(report, "second")
            await settled(lambda: pool.statistics().waiting == 1)
            assert pool.statistics().lanes["reports"].in_use == 1
            assert await pool.fetch_value("SELECT 1") == 1
            assert order == []
            assert value(barrier, "SELECT RELEASE_LOCK(%s)", lock) == 1
        assert order == ["first", "second"]


SLOW: dict[str, Callable[..., Awaitable[Any]]] = {
    "fetch_all": lambda pool, **how: pool.fetch_all("SELECT SLEEP(30), n FROM t", **how),
    "fetch_one": lambda pool, **how: pool.fetch_one("SELECT SLEEP(30), n FROM t", **how),
    "fetch_value": lambda pool, **how: pool.fetch_value("SELECT SLEEP(30)", **how),
    "execute": lambda pool, **how: pool.execute("UPDATE t SET n = 0 WHERE id = 1 OR SLEEP(30)", **how),
    # Of several rows: a kill that MariaDB sees in the last row's SLEEP only ends the SLEEP, and the row is written.
    "insert": lambda pool, **how: pool.insert("INSERT INTO t (n) SELECT n FROM t WHERE SLEEP(30)", **how),
    "execute_many": lambda pool, **how: pool.execute_many(
        "UPDATE t SET n = %s WHERE id = %s OR (id > 1 AND SLEEP(%s))", [(0, 1, 0), (0, 1, 30)], **how
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", SLOW)
async def test_a_timeout_kills_the_statement(name: str, table: dict[str, Any], mysql: MySQL) -> None:
    """A statement that runs past its timeout is killed and undone, and the slot serves the next one."""
    with pool_of(1, table) as pool, mysql.connect(**table) as plain:
        await pool.fetch_value("SELECT 1")
        with pytest.raises(StatementTimeout, match="killed"):
            await SLOW[name](pool, timeout=0.1)
        assert_ended(mysql, table, "SLEEP")
        assert value(plain, "SELECT SUM(n) FROM t") == 60
        statistics = pool.statistics()
        assert (statistics.timeouts, statistics.kills, statistics.in_use) == (1, 1, 0)
        assert await pool.fetch_value("SELECT SUM(n) FROM t") == 60


@pytest.mark.anyio
@pytest.mark.parametrize("name", SLOW)
async def test_a_cancellation_kills_the_statement(name: str, table: dict[str, Any], mysql: MySQL) -> None:
    """A cancelled operation is killed and undone, and the slot serves the next one."""
    with pool_of(1, table) as pool, mysql.connect(**table) as plain:
        ended: list[str] = []

        async def victim() -> None:
            await SLOW[name](pool)
            ended.append("a cancelled call returned")

        async with anyio.create_task_group() as group:
            group.start_soon(victim)
            await settled(lambda: running(mysql, table, "SLEEP"))
            group.cancel_scope.cancel()
        assert ended == []
        assert_ended(mysql, table, "SLEEP")
        assert value(plain, "SELECT SUM(n) FROM t") == 60
        statistics = pool.statistics()
        assert (statistics.kills, statistics.in_use, statistics.waiting) == (1, 0, 0)
        assert await pool.fetch_value("SELECT SUM(n) FROM t") == 60


@pytest.mark.anyio
async def test_cancelled_while_waiting(table: dict[str, Any]) -> None:
    """An operation that is cancelled in the queue leaves it, and nothing is sent."""
    with pool_of(1, table) as pool:
        async with pool.acquire():
            async with anyio.create_task_group() as group:
                group.start_soon(pool.execute, "DELETE FROM t")
                await settled(lambda: pool.statistics().waiting == 1)
                group.cancel_scope.cancel()
            assert pool.statistics().waiting == 0
        assert await pool.fetch_value("SELECT COUNT(*) FROM t") == 3
        assert pool.statistics().in_use == 0


# In every place


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["bridge", "thread"])
async def test_inside_decorated_handlers(mode: Any, table: dict[str, Any]) -> None:
    """Awaitable calls work in decorated handlers beside synchronous ones, in either mode."""
    with pool_of(2, table, on_loop_call="raise") as pool:

        @offload(mode=mode)
        async def handler() -> list[Any]:
            with pool.connection() as connection:
                seen: list[Any] = [value(connection, "SELECT n FROM t WHERE id = 1")]
                seen.append(await pool.fetch_value("SELECT n FROM t WHERE id = %s", 2))
            async with pool.acquire() as held, held.cursor() as cursor:
                await cursor.execute("SELECT n FROM t WHERE id = 3")
                seen.append((await cursor.fetchone())[0])
            async with pool.transaction() as outer, outer.cursor() as cursor:
                await cursor.execute("UPDATE t SET n = n + 1")
                async with pool.transaction():
                    await cursor.execute("UPDATE t SET n = n + 1")
            seen += [row[0] async for row in pool.stream("SELECT n FROM t ORDER BY id", chunk_size=2)]
            connection_awaited = await pool.acquire()
            await pool.release(connection_awaited)
            return seen

        assert await handler() == [10, 20, 30, 12, 22, 32]
        assert (pool.statistics().in_use, pool.statistics().blocking_calls) == (0, 0)


@pytest.mark.anyio
async def test_all_surfaces_share_one_pool(table: dict[str, Any], mysql: MySQL) -> None:
    """Decorated handlers, threads and awaitable code together stay within the size, and every checkout is accounted."""
    size, each = 5, 15
    with pool_of(size, table, autocommit=False, lanes=[Lane("reports", 2)]) as pool:
        most: list[int] = []
        add = "UPDATE t SET n = n + 1 WHERE id = 1"

        def legacy() -> None:
            with pool.connection() as connection:
                connection.cursor().execute(add)
                connection.commit()

        async def bridged() -> None:
            await offload(_asynchronous(legacy))()

        async def threaded() -> None:
            await offload(mode="thread")(_asynchronous(legacy))()

        async def plain() -> None:
            await outcome(in_thread(legacy))

        async def operation() -> None:
            assert await pool.execute(add) == 1

        async def transaction() -> None:
            async with pool.transaction() as connection, connection.cursor() as cursor:
                await cursor.execute(add)

        async def undone() -> None:
            with pytest.raises(LookupError):  # noqa: PT012  # the block as a whole is what fails
                async with pool.transaction() as connection, connection.cursor() as cursor:
                    await cursor.execute(add)
                    raise LookupError

        async def stream() -> None:
            rows = [row async for row in pool.stream("SELECT seq FROM seq_1_to_50", chunk_size=20, lane="reports")]
            assert len(rows) == 50
            most.append(len(mysql.process_list(table["database"])))

        kinds = [bridged, threaded, plain, operation, transaction, undone, stream]
        results = await together(*[kind for _ in range(each) for kind in kinds])
        assert results == [None] * (each * len(kinds))
        assert max(most) <= size
        assert await pool.fetch_value("SELECT n FROM t WHERE id = 1") == 10 + each * 5
        statistics = pool.statistics()
        assert statistics.checkouts == each * len(kinds) + 1 == statistics.checkins
        assert statistics.discards == {}
        assert (statistics.in_use, statistics.waiting, statistics.blocking_calls) == (0, 0, 0)
        assert statistics.open == statistics.idle <= size
        assert statistics.lanes["reports"].in_use == 0


def _asynchronous(function: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def call() -> None:
        function()

    return call
