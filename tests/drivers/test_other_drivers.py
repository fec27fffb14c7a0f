"""Claims about mysqlclient and mysql-connector-python through the same pool, on the real drivers."""

from __future__ import annotations

import gc
import importlib
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import pymysql
import pytest

from offload_db import ConfigurationError, ConnectionLost, OffloadPool, StatementTimeout, aio, offload
from offload_db.connection import killer
from offload_db.drivers.base import GENERIC
from offload_db.drivers.registry import driver_of
from offload_db.pool import idle
from tests.conftest import MySQL
from tests.faults.proxy import Proxy
from tests.support import PLACES, assert_ended, attempt, run_at, running, settled, value

pytestmark = [
    pytest.mark.anyio,
    # mysql-connector-python says so of the old ciphers of its own list.
    pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning"),
]

NAMES = ("MySQLdb", "mysql.connector")


@pytest.fixture
def anyio_backend() -> str:
    """Give one event loop: each call is a thread's own, and what a loop does about that is shown with PyMySQL."""
    return "asyncio"


@pytest.fixture(params=NAMES)
def driver(request: pytest.FixtureRequest) -> Any:
    try:
        return importlib.import_module(request.param)
    except ImportError as error:
        pytest.skip(f"{request.param} is not installed: {error}")


def make_pool(driver: Any, database: dict[str, Any], **options: Any) -> OffloadPool:
    settings = {name: database[name] for name in ("host", "port", "user", "password", "database")}
    if driver.__name__ == "MySQLdb":
        settings["ssl_mode"] = "DISABLED"
        settings["autocommit"] = True
    else:
        settings.update(ssl_disabled=True, autocommit=True)
    return OffloadPool.create(driver, **{"min_size": 0, "max_size": 2, **settings, **options})


@pytest.fixture
def pool(driver: Any, database: dict[str, Any]) -> Iterator[OffloadPool]:
    pool = make_pool(driver, database)
    with pool.connection() as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE t (n INT PRIMARY KEY)")
        cursor.close()
    yield pool
    pool.close()


@pytest.mark.parametrize("place", PLACES)
async def test_an_answer_too_many(place: str, mysql: MySQL, database: dict[str, Any]) -> None:
    """Of mysql-connector in pure Python all that has come is to be seen: a stray answer is taken for nobody's."""
    connector = pytest.importorskip("mysql.connector")

    def use() -> list[Any]:
        found: list[Any] = []
        for word in (101, 102, 103):
            with pool.connection() as connection:
                if word == 101:
                    proxy.double(b"SELECT 101")
                found.append(value(connection, f"SELECT {word}"))
        with pool.connection() as connection:
            proxy.double(b"SELECT 104")
            found.append(value(connection, "SELECT 104"))
            with pytest.raises(ConnectionLost, match="nothing was sent") as caught:
                value(connection, "SELECT 105")
        assert isinstance(caught.value, connector.errors.OperationalError)
        return [*found, caught.value.may_have_run]

    with Proxy((mysql.host, mysql.port)) as proxy:
        pool = make_pool(connector, {**database, **proxy.address}, max_size=1, use_pure=True)
        assert await run_at(place, use) == [101, 102, 103, 104, False]
        pool.close()


@pytest.mark.parametrize("place", PLACES)
async def test_statements(place: str, pool: OffloadPool, driver: Any) -> None:
    """Everyday statements give what the driver gives, with its own errors, from wherever they are made."""

    def use() -> None:
        with pool.connection() as connection:
            assert driver_of(connection.driver_connection) is not GENERIC
            assert connection.dbapi() is driver
            cursor = connection.cursor()
            cursor.executemany("INSERT INTO t VALUES (%s)", [(1,), (2,), (3,)])
            assert cursor.rowcount == 3
            cursor.execute("SELECT n FROM t WHERE n > %s ORDER BY n", (1,))
            assert list(cursor.fetchall()) == [(2,), (3,)]
            cursor.execute("SELECT n FROM t ORDER BY n")
            assert (cursor.fetchone(), list(cursor.fetchmany(2)), cursor.fetchone()) == ((1,), [(2,), (3,)], None)
            with pytest.raises(driver.IntegrityError):
                cursor.execute("INSERT INTO t VALUES (1)")
            with pytest.raises(driver.ProgrammingError):
                cursor.execute("SELECT nonsense FROM nowhere")
            cursor.execute("SELECT COUNT(*) FROM t")
            assert cursor.fetchone() == (3,)
            cursor.execute("DELETE FROM t")
            cursor.close()
        assert pool.statistics().in_use == 0

    await run_at(place, use)
    assert dict(pool.statistics().discards) == {}
    assert pool.statistics().blocking_calls == 0


# What may leave a transaction open on a connection that is in autocommit mode.
OPENERS: dict[str, Callable[[Any], Any]] = {
    "begin()": lambda connection: getattr(connection, "start_transaction", connection.begin)(),
    "BEGIN": lambda connection: connection.cursor().execute("BEGIN"),
    "a procedure": lambda connection: connection.cursor().callproc("opens"),
    "the driver's own connection": lambda connection: connection.driver_connection.cursor().execute("BEGIN"),
    "autocommit": lambda connection: connection.autocommit(False),
}


async def test_one_trip(driver: Any, pool: OffloadPool) -> None:
    """In autocommit mode, everyday statements of mysqlclient leave nothing to roll back: each is one trip, no more."""
    if driver.__name__ != "MySQLdb":
        pytest.skip("it tells of no connection whether autocommit is on, without asking the server")
    if driver.version_info < (2, 3):
        pytest.skip("it does not tell whether more results come, so that closing a cursor is a trip as well")

    @offload
    async def handler(*statements: str) -> None:
        with pool.connection() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
                cursor.fetchall()

    for statements in (["SELECT 1"], ["INSERT INTO t VALUES (9)", "UPDATE t SET n = 8", "DELETE FROM t"]):
        before = pool.statistics().hops
        await handler(*statements)
        assert pool.statistics().hops - before == len(statements)


@pytest.mark.parametrize("opener", OPENERS)
def test_an_open_transaction_is_rolled_back(driver: Any, opener: str, pool: OffloadPool) -> None:
    """However a transaction was begun, nothing of it is there for who comes next, whatever stands alone after it."""
    if opener == "autocommit" and driver.__name__ != "MySQLdb":
        pytest.skip("there it is a property")
    with pool.connection() as connection:
        value(connection, "SELECT 1")
        with closing(connection.cursor()) as cursor:
            cursor.execute("CREATE PROCEDURE opens() START TRANSACTION")

    with pool.connection() as connection:
        OPENERS[opener](connection)
        with closing(connection.cursor()) as cursor:
            cursor.execute("INSERT INTO t VALUES (7)")
    with pool.connection() as connection:
        assert value(connection, "SELECT COUNT(*) FROM t") == 0
        assert value(connection, "SELECT @@in_transaction") == 0
        assert value(connection, "SELECT @@autocommit") == 1


async def test_the_loop_turns_meanwhile(pool: OffloadPool) -> None:
    """While a statement waits, the loop goes on."""
    turns = 0

    @offload
    async def handler() -> Any:
        with pool.connection() as connection:
            found = value(connection, "SELECT SLEEP(0.3)")
            scope.cancel()
            return found

    async def turn() -> None:
        nonlocal turns
        while True:
            await anyio.sleep(0.001)
            turns += 1

    async with anyio.create_task_group() as group:
        scope = group.cancel_scope
        group.start_soon(turn)
        group.start_soon(handler)
    assert turns > 20


async def test_a_cancelled_statement_is_killed(pool: OffloadPool, mysql: MySQL, database: dict[str, Any]) -> None:
    """The statement ends on the server, the connection is given back and used again."""

    @offload
    async def handler() -> None:
        with pool.connection() as connection:
            value(connection, "SELECT SLEEP(60)")

    async with anyio.create_task_group() as group:
        group.start_soon(handler)
        await settled(lambda: running(mysql, database, "SLEEP(60)"))
        group.cancel_scope.cancel()
    assert_ended(mysql, database, "SLEEP(60)")
    assert (pool.statistics().kills, pool.statistics().kills_failed, pool.statistics().in_use) == (1, 0, 0)

    def again() -> Any:
        with pool.connection() as connection:
            return value(connection, "SELECT 42")

    assert await run_at("bridge", again) == 42


@pytest.mark.parametrize("place", PLACES)
async def test_statement_timeouts(place: str, driver: Any, database: dict[str, Any]) -> None:
    """A statement that takes too long is killed; the error is ours and one that the driver's users catch."""
    pool = make_pool(driver, database, statement_timeout=0.3)

    def use() -> None:
        with pool.connection() as connection:
            with pytest.raises(StatementTimeout) as caught:
                value(connection, "SELECT SLEEP(60)")
            assert isinstance(caught.value, driver.OperationalError)
            assert "was killed" in str(caught.value)
            if driver.__name__ == "MySQLdb":  # of mysql-connector's the unread answer is left
                assert value(connection, "SELECT 42") == 42

    await run_at(place, use)
    assert (pool.statistics().timeouts, pool.statistics().in_use) == (1, 0)
    pool.close()


@pytest.mark.parametrize("place", PLACES)
async def test_lost_connections(place: str, pool: OffloadPool, driver: Any, mysql: MySQL) -> None:
    """A link that breaks in use is an error, and the statement not repeated; one that broke at rest is not noticed."""

    def use() -> None:
        with pool.connection() as connection:
            session = value(connection, "SELECT CONNECTION_ID()")
            cursor = connection.cursor()
            mysql.kill_connection(session)
            with pytest.raises(ConnectionLost) as caught:
                cursor.execute("SELECT 1")
            assert isinstance(caught.value, driver.OperationalError)
            assert caught.value.args[0] in (2006, 2013, 2055, -1)
        with pool.connection() as connection:
            session = value(connection, "SELECT CONNECTION_ID()")
        mysql.kill_connection(session)
        with pool.connection() as connection:
            assert value(connection, "SELECT CONNECTION_ID()") != session

    await run_at(place, use)
    assert dict(pool.statistics().discards) == {"lost": 1, "dead_idle": 1}


def test_a_lost_link_is_closed_without_harm_to_others(pool: OffloadPool, driver: Any, mysql: MySQL) -> None:
    """What another part of the program opens under the number of a lost link's socket stays open."""
    opened: list[socket.socket] = []
    before = {each for each in os.listdir("/dev/fd") if each.isdigit()}
    with pool.connection() as connection:
        raw = connection.driver_connection
        mysql.kill_connection(int(value(connection, "SELECT CONNECTION_ID()")))
        with pytest.raises(driver.Error):
            raw.cursor().execute("SELECT 1")
        for _ in before:  # the lowest numbers that are free are given out first
            opened.extend(socket.socketpair())
        driver_of(raw).abandon(raw)
    pool.close()
    for one, other in zip(opened[::2], opened[1::2], strict=True):
        one.sendall(b"still there")
        assert other.recv(100) == b"still there"
        one.close()
        other.close()


@pytest.mark.parametrize("place", PLACES)
async def test_checkin_leaves_nothing_behind(place: str, driver: Any, database: dict[str, Any]) -> None:
    """What is open is rolled back at checkin, and a changed autocommit mode does not go to the next user."""
    pool = make_pool(driver, database, autocommit=False, max_size=1)

    def use() -> None:
        with pool.connection() as connection:
            cursor = connection.cursor()
            cursor.execute("CREATE TABLE IF NOT EXISTS t (n INT PRIMARY KEY)")
            cursor.execute("DELETE FROM t")
            connection.commit()
            cursor.execute("INSERT INTO t VALUES (1)")
        with pool.connection() as connection:
            assert value(connection, "SELECT COUNT(*) FROM t") == 0
            if driver.__name__ == "MySQLdb":
                connection.autocommit(True)
            else:
                connection.autocommit = True
                assert connection.autocommit is True
        with pool.connection() as connection:
            assert value(connection, "SELECT @@autocommit") == 0

    await run_at(place, use)
    assert pool.statistics().in_use == 0
    pool.close()


async def test_unread_results(pool: OffloadPool, driver: Any) -> None:
    """A result that was left in the middle is not read by the next user, nor by a finaliser."""

    @offload
    async def handler() -> None:
        with pool.connection() as connection:
            kind = {"cursorclass": driver.cursors.SSCursor} if driver.__name__ == "MySQLdb" else {}
            cursor = connection.cursor(**kind)
            cursor.execute("SELECT a.COLUMN_NAME FROM information_schema.COLUMNS a, information_schema.COLUMNS b")
            cursor.fetchone()
            del cursor
            gc.collect()
        with pool.connection() as connection:
            assert value(connection, "SELECT 42") == 42

    if driver.__name__ == "MySQLdb":
        importlib.import_module("MySQLdb.cursors")
    with anyio.fail_after(20):
        await handler()
    assert dict(pool.statistics().discards) == {"abandoned_result": 1}


async def test_dropped_connections_come_back(pool: OffloadPool) -> None:
    """A connection that nobody closes is collected, and its slot free again."""

    @offload
    async def handler() -> None:
        connection: Any = pool.connection()
        value(connection, "SELECT 1")
        del connection
        gc.collect()
        assert pool.statistics().in_use == 0

    for _ in range(3):
        await handler()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_leaves_the_parents_links_alone(pool: OffloadPool) -> None:
    """The parent's idle link still stands when a child that used the pool has ended."""
    with pool.connection() as connection:
        session = value(connection, "SELECT CONNECTION_ID()")
    child = os.fork()
    if child == 0:
        try:
            with pool.connection() as connection:
                os._exit(0 if value(connection, "SELECT CONNECTION_ID()") != session else 3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pool.connection() as connection:
        assert value(connection, "SELECT CONNECTION_ID()") == session


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


def test_servers_that_cannot_be_reached(driver: Any, database: dict[str, Any]) -> None:
    """Connecting fails with the driver's own error."""
    pool = make_pool(driver, {**database, "port": 1})
    with pytest.raises(driver.Error):
        pool.connection()
    assert pool.statistics().in_use == 0


def test_what_is_pymysqls_alone(pool: OffloadPool) -> None:
    """`pool.connect` tells that it is for PyMySQL."""
    assert attempt(pool.connect, host="localhost")[0] == "ConfigurationError"


async def test_a_dead_link_costs_a_bounded_wait(
    driver: Any, database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a network that forwards nothing, a cancelled statement comes back, and so does the ping of a rested link."""
    monkeypatch.setattr(killer, "PATIENCE", 0.5)
    monkeypatch.setattr(idle, "PING_AFTER", 0.0)
    monkeypatch.setattr(idle, "PING_TIMEOUT", 0.5)
    timeout = "connect_timeout" if driver.__name__ == "MySQLdb" else "connection_timeout"
    with Proxy((mysql.host, mysql.port)) as proxy:
        pool = make_pool(driver, {**database, **proxy.address}, **{timeout: 1})

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, "SELECT SLEEP(15)")

        @offload
        async def checkout() -> None:
            pool.connection().close()

        async with anyio.create_task_group() as group:
            group.start_soon(handler)
            await settled(lambda: running(mysql, database, "SLEEP"))
            proxy.blackhole()
            started = time.monotonic()
            group.cancel_scope.cancel()
        assert time.monotonic() - started < 8
        assert pool.statistics().kills_failed == 1
        proxy.flow()
        await checkout()
        assert pool.statistics().idle == 1
        proxy.blackhole()
        started = time.monotonic()
        with pytest.raises(driver.Error):
            await checkout()
        assert time.monotonic() - started < 8
        assert pool.statistics().discards == {"lost": 1, "dead_idle": 1}
        proxy.flow()
        await settled(lambda: pool.statistics().in_use == 0)
        pool.close()
