"""Claims about what mysqlclient and mysql-connector refuse before anything is sent, and how they are called."""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Any

import pymysql
import pytest
from pymysql.constants import CLIENT

from offload_db import ConnectionLost, OffloadPool, aio, blocking, offload
from tests.conftest import MySQL
from tests.drivers.test_other_drivers import anyio_backend, driver, make_pool, pool
from tests.support import PLACES, attempt, pool_of, run_at, settings_for, value, watched_wire

__all__ = ["anyio_backend", "driver", "pool"]  # fixtures

pytestmark = [
    pytest.mark.anyio,
    # mysql-connector-python says so of the old ciphers of its own list.
    pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning"),
]

FEW, MANY = "SELECT seq FROM seq_1_to_9", "SELECT a.seq FROM seq_1_to_10000 a, seq_1_to_10000"


def row_by_row(driver: Any, connection: Any) -> Any:
    """Make a cursor that leaves its rows on the server."""
    if driver.__name__ == "MySQLdb":
        return connection.cursor(importlib.import_module("MySQLdb.cursors").SSCursor)
    return connection.cursor(buffered=False)


@pytest.fixture
def tables(driver: Any, database: dict[str, Any]) -> Iterator[OffloadPool]:
    """Give a pool without autocommit, and a table."""
    pool = make_pool(driver, database, autocommit=False, max_size=1)
    with pool.connection() as connection, closing(connection.cursor()) as cursor:
        cursor.execute("CREATE TABLE t (n INT PRIMARY KEY)")
    yield pool
    pool.close()


@pytest.mark.parametrize("place", PLACES)
async def test_a_result_that_is_not_read(place: str, driver: Any, tables: OffloadPool) -> None:
    """A statement that is refused for another cursor's rows costs nothing: the transaction goes on after them."""

    def use() -> None:
        with tables.connection() as connection:
            cursor = connection.cursor()
            cursor.execute("DELETE FROM t")
            cursor.execute("INSERT INTO t VALUES (1)")
            unread = row_by_row(driver, connection)
            unread.execute(FEW)
            assert unread.fetchone() == (1,)
            for refused in (lambda: cursor.execute("SELECT 1"), connection.commit, connection.ping):
                with pytest.raises(driver.Error) as caught:
                    refused()
                assert not isinstance(caught.value, ConnectionLost)
            assert unread.fetchone() == (2,)
            with suppress(driver.Error):  # mysqlclient says at the end of the rows once more what it said before
                unread.fetchall()
            unread.close()
            cursor.execute("INSERT INTO t VALUES (2)")
            connection.commit()
            cursor.close()
        with tables.connection() as connection:
            assert value(connection, "SELECT COUNT(*) FROM t") == 2

    await run_at(place, use)
    assert dict(tables.statistics().discards) == {}


# What comes to nothing before a statement is sent.
REFUSED: dict[str, Callable[[Any], Any]] = {
    "no statement": lambda cursor: cursor.execute(None, 5),
    "a parameter that is no list": lambda cursor: cursor.execute("SELECT %s", 5),
    "parameters that are no lists": lambda cursor: cursor.executemany("UPDATE t SET n = %s", 5),
    "too few parameters": lambda cursor: cursor.execute("SELECT %s, %s", (1,)),
    "too many parameters": lambda cursor: cursor.execute("SELECT %s", (1, 2)),
    "a parameter that cannot be written": lambda cursor: cursor.execute("SELECT %s", (_Unwritable(),)),
    "text that cannot be encoded": lambda cursor: cursor.execute("SELECT '\ud800'"),
    "a procedure without a name": lambda cursor: cursor.callproc(5),
    "an argument that is not known": lambda cursor: cursor.execute("SELECT 1", nonsense=1),
    "rows that were not asked for": lambda cursor: cursor.execute("DO 1") or cursor.fetchall(),
    "a second result that is not there": lambda cursor: cursor.nextset(),
}


class _Unwritable:
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("place", PLACES)
async def test_what_is_not_sent(place: str, driver: Any, tables: OffloadPool, database: dict[str, Any]) -> None:
    """What the driver cannot send raises what it raises without the pool, and the transaction goes on."""
    bare_settings = settings_for(driver.__name__, database)

    def calls(connection: Any) -> list[Any]:
        with closing(connection.cursor()) as cursor:
            cursor.execute("INSERT INTO t VALUES (1)")
            made = [attempt(call, cursor) for call in REFUSED.values()]
            cursor.execute("SELECT COUNT(*) FROM t")
            assert cursor.fetchone() == (1,)  # still in the transaction
        connection.rollback()
        return made

    def use() -> list[Any]:
        with tables.connection() as connection:
            return calls(connection)

    with closing(driver.connect(**bare_settings)) as bare:
        assert await run_at(place, use) == calls(bare)
    assert dict(tables.statistics().discards) == {}


@pytest.mark.parametrize("place", PLACES)
async def test_the_users_error_leaves_a_with_block(place: str, driver: Any, tables: OffloadPool, mysql: MySQL) -> None:
    """What closing a cursor would raise, its link being lost or out of step, does not stand over the user's error."""

    def use() -> None:
        with tables.connection() as connection, closing(connection.cursor()) as cursor:
            cursor.execute("SELECT CONNECTION_ID()")
            mysql.kill_connection(cursor.fetchone()[0])
            with suppress(ConnectionLost):
                cursor.execute("SELECT 1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_at(place, use)

    def unread() -> None:
        with tables.connection() as connection:
            rows = row_by_row(driver, connection)
            rows.execute(FEW)
            rows.fetchone()
            try:
                with connection.cursor():
                    raise ZeroDivisionError
            finally:
                rows.close()

    if driver.__name__ == "MySQLdb":  # mysql-connector refuses a second cursor then
        with pytest.raises(ZeroDivisionError):
            await run_at(place, unread)

    async def awaited() -> None:
        async with tables.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute("SELECT CONNECTION_ID()")
            mysql.kill_connection((await cursor.fetchone())[0])
            with suppress(ConnectionLost):
                await cursor.execute("SELECT 1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await awaited()
    assert dict(tables.statistics().discards) == {"lost": 2}


@pytest.mark.parametrize("place", PLACES)
async def test_the_users_error_and_a_later_result(place: str, database: dict[str, Any]) -> None:
    """What the rest of a result would raise is raised by closing, but not over an error that is on its way."""
    statements = "SELECT 1; SIGNAL SQLSTATE '45000'"
    with pool_of(1, database, client_flag=CLIENT.MULTI_STATEMENTS) as pool:

        def use(error: Exception | None) -> None:
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.execute(statements)
                if error is not None:
                    raise error

        async def awaited(error: Exception | None) -> None:
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await cursor.execute(statements)
                if error is not None:
                    raise error

        async def entered(error: Exception | None) -> None:
            async with pool.acquire() as connection, await connection.cursor() as cursor:
                await cursor.execute(statements)
                if error is not None:
                    raise error

        for run in (partial(run_at, place, partial(use, None)), partial(awaited, None), partial(entered, None)):
            with pytest.raises(pymysql.err.OperationalError, match="1644"):
                await run()
        own = ZeroDivisionError()
        for run in (partial(run_at, place, partial(use, own)), partial(awaited, own), partial(entered, own)):
            with pytest.raises(ZeroDivisionError):
                await run()
        assert pool.statistics().in_use == 0


@pytest.mark.parametrize("rows", [FEW, MANY], ids=["few", "many"])
async def test_a_nested_transaction_with_rows_unread(rows: str, driver: Any, tables: OffloadPool) -> None:
    """A nested transaction that an error leaves in the middle of a result is rolled back; the outer one goes on."""
    async with tables.transaction() as connection, connection.cursor() as cursor:
        await cursor.execute("INSERT INTO t VALUES (1)")
        with suppress(ZeroDivisionError):
            async with tables.transaction():
                await cursor.execute("INSERT INTO t VALUES (2)")
                async with connection.cursor(aio.SSCursor) as unread:
                    await unread.execute(rows)
                    assert await unread.fetchone() == (1,)
                    raise ZeroDivisionError
        await cursor.execute("SELECT n FROM t")
        assert [*await cursor.fetchall()] == [(1,)]
    assert await tables.fetch_all("SELECT n FROM t") == [(1,)]
    assert dict(tables.statistics().discards) == {}


@pytest.mark.parametrize("place", PLACES)
async def test_names_of_arguments(place: str, driver: Any, tables: OffloadPool) -> None:
    """Statements take the names that the driver has for their arguments, and are judged by their text all the same."""
    statement, parameters, rows = (
        ("query", "args", "args") if driver.__name__ == "MySQLdb" else ("operation", "params", "seq_params")
    )

    def use() -> None:
        with tables.connection() as connection, closing(connection.cursor()) as cursor:
            cursor.execute("CREATE OR REPLACE PROCEDURE twice(IN n INT) DELETE FROM t WHERE n = 2 * n")
            cursor.execute(**{statement: "SELECT %s", parameters: (1,)})
            assert cursor.fetchone() == (1,)
            cursor.execute("SELECT %s", **{parameters: (2,)})
            assert cursor.fetchone() == (2,)
            cursor.executemany(**{statement: "INSERT INTO t VALUES (%s)", rows: [(1,), (2,)]})
            assert cursor.rowcount == 2
            cursor.executemany("DELETE FROM t WHERE n = %s", **{rows: [(1,), (2,)]})
            cursor.callproc(procname="twice", args=(1,))
            connection.rollback()

    await run_at(place, use)
    assert tables.statistics().statements >= 6
    assert dict(tables.statistics().discards) == {}


def test_text_given_by_name_is_read(driver: Any, database: dict[str, Any]) -> None:
    """LOCK TABLES that was given by name is undone at checkin as any other."""
    statement = "query" if driver.__name__ == "MySQLdb" else "operation"
    with closing(make_pool(driver, database, max_size=2)) as pool:
        with pool.connection() as connection, closing(connection.cursor()) as cursor:
            cursor.execute("CREATE TABLE t (n INT)")
        with pool.connection() as connection, closing(connection.cursor()) as cursor:
            cursor.execute(**{statement: "LOCK TABLES t WRITE"})
        with pool.connection() as one, pool.connection() as other:
            for each in (one, other):
                value(each, "SET lock_wait_timeout = 1")
                value(each, "SELECT COUNT(*) FROM t")


@pytest.fixture
def connector() -> Any:
    return pytest.importorskip("mysql.connector")


async def test_results_set_by_set(connector: Any, database: dict[str, Any]) -> None:
    """Each step of mysql-connector's generators is a trip in a handler, and a blocking call on the loop."""
    pool = make_pool(connector, database, use_pure=True, on_loop_call="allow")

    def use() -> list[Any]:
        with pool.connection() as connection, closing(connection.cursor()) as cursor:
            cursor.execute("SELECT 1; SELECT 2", map_results=True)
            return [(text, [*rows]) for text, rows in cursor.fetchsets()]

    with pool.connection() as connection, closing(connection.cursor()) as cursor:
        if not hasattr(cursor, "fetchsets"):
            pytest.skip("of 9.2 and later")
    before = pool.statistics().hops
    with watched_wire() as wire:
        assert await run_at("bridge", use) == [("SELECT 1", [(1,)]), ("SELECT 2", [(2,)])]
    assert wire.on(threading.get_ident()) == []
    steps = pool.statistics().hops - before
    blocking_calls = pool.statistics().blocking_calls
    assert use() == [("SELECT 1", [(1,)]), ("SELECT 2", [(2,)])]
    assert pool.statistics().blocking_calls - blocking_calls == steps >= 5
    pool.close()


async def test_results_statement_by_statement(connector: Any, database: dict[str, Any]) -> None:
    """`execute(..., multi=True)` of versions before 9.2 gives the cursor itself, with each of its results, by trips."""
    usual: Any = importlib.import_module("mysql.connector.cursor").MySQLCursorBuffered

    class Older(usual):  # type: ignore[misc]  # which is not known to the type checker
        def execute(self, operation: str, params: Any = (), multi: bool = False) -> Any:
            return self._each(operation, params) if multi else super().execute(operation, params)

        def _each(self, operation: str, params: Any) -> Iterator[Any]:
            super().execute(operation, params)
            yield self
            while self.nextset():
                yield self

    kind = usual if "multi" in inspect.signature(usual.execute).parameters else Older
    pool = make_pool(connector, database, use_pure=True)

    @offload
    async def handler() -> list[Any]:
        with pool.connection() as connection, closing(connection.cursor(cursor_class=kind)) as cursor:
            found = []
            for result in cursor.execute("SELECT 1; SELECT 2; DO 3", multi=True):
                assert result is cursor
                found.append(result.fetchall() if result.with_rows else None)
            return found

    with watched_wire() as wire:
        assert await handler() == [[(1,)], [(2,)], None]
    assert wire.on(threading.get_ident()) == []
    assert pool.statistics().blocking_calls == 0
    assert dict(pool.statistics().discards) == {}
    pool.close()


async def test_an_answer_that_comes_too_late(connector: Any, database: dict[str, Any]) -> None:
    """After mysql-connector's own timeout the next statement does not get the answer that comes late."""
    if "read_timeout" not in connector.constants.DEFAULT_CONFIGURATION:
        pytest.skip("of 9.2 and later")
    pool = make_pool(connector, database, use_pure=True, read_timeout=1)

    @offload
    async def handler() -> None:
        with pool.connection() as connection, closing(connection.cursor()) as cursor:
            with pytest.raises(connector.Error) as caught:
                cursor.execute("SELECT SLEEP(2)")
            assert type(caught.value).__name__ == "ReadTimeoutError"
            with pytest.raises(pymysql.err.InterfaceError, match="given up after an earlier error"):
                cursor.execute("SELECT 7")
        with pool.connection() as connection:
            assert value(connection, "SELECT 8") == 8

    await handler()
    assert dict(pool.statistics().discards) == {"driver_error": 1}
    pool.close()


@pytest.mark.parametrize("place", PLACES)
async def test_a_second_result_at_checkin(place: str, driver: Any, tables: OffloadPool) -> None:
    """A further result that nobody went to is not the answer that the next user gets."""
    kwargs = {"buffered": True} if driver.__name__ != "MySQLdb" else {}

    def use() -> Any:
        with tables.connection() as connection:
            connection.cursor(**kwargs).execute("SELECT 1; SELECT 2")
        with tables.connection() as connection:
            return value(connection, "SELECT 3")

    assert await run_at(place, use) == 3
    assert tables.statistics().in_use == 0


async def test_mysqlclients_own_results(database: dict[str, Any]) -> None:
    """Rows of `use_result()` are taken in trips; what is left of them is not read by a finaliser or the next user."""
    pool = make_pool(pytest.importorskip("MySQLdb"), database, max_size=1)

    @offload
    async def handler(rows: str) -> Any:
        with pool.connection() as connection:
            connection.query(rows)
            result = connection.use_result()
            return result.num_fields(), result.fetch_row(), result.fetch_row(maxrows=2, how=1)

    @offload
    async def whole() -> Any:
        with pool.connection() as connection:
            connection.query(FEW)
            return len(connection.use_result().fetch_row(0))

    for rows in (FEW, MANY):
        before = pool.statistics().hops
        assert await handler(rows) == (1, ((1,),), ({"seq": 2}, {"seq": 3}))
        assert pool.statistics().hops - before >= 4
    assert await whole() == 9
    assert await pool.fetch_value("SELECT 42") == 42
    assert pool.statistics().blocking_calls == 0
    assert set(pool.statistics().discards) == {"abandoned_result"}
    await pool.aclose()


@pytest.mark.parametrize("place", PLACES)
async def test_closed_cursors(place: str, driver: Any, tables: OffloadPool) -> None:
    """A closed cursor refuses with the error that the driver has for it."""

    def use() -> None:
        with tables.connection() as connection:
            cursor = connection.cursor()
            cursor.close()
            with pytest.raises(driver.ProgrammingError):
                cursor.execute("SELECT 1")

    await run_at(place, use)


@pytest.mark.parametrize("place", PLACES)
async def test_stop_iteration_comes_through(place: str, database: dict[str, Any]) -> None:
    """What raises StopIteration in a worker raises it for its caller: PyMySQL does of a generator without rows."""
    insert, update = "INSERT INTO t VALUES (%s)", "UPDATE t SET n = %s"
    with pool_of(2, database) as pool:

        def use() -> None:
            with pytest.raises(StopIteration):
                blocking(next)(iter(()))
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.execute("CREATE TABLE IF NOT EXISTS t (n INT)")
                assert not cursor.executemany(insert, [])
                with pytest.raises(StopIteration):
                    cursor.executemany(insert, iter(()))
                assert not cursor.executemany(update, iter(()))

        await run_at(place, use)
        async with pool.acquire() as connection, connection.cursor() as cursor:
            for statement in (insert, update):
                assert await cursor.executemany(statement, []) is None
                assert await cursor.executemany(statement, iter(())) is None
                assert await pool.execute_many(statement, iter(())) == 0
            assert await cursor.executemany(insert, ((n,) for n in (1, 2))) == 2
        assert dict(pool.statistics().discards) == {}
