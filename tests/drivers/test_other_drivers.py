"""Claims about mysqlclient and mysql-connector-python through the same pool, on the real drivers."""

from __future__ import annotations

import gc
import importlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import anyio
import pytest

from offload_db import ConnectionLost, OffloadPool, StatementTimeout, offload
from offload_db.connection import killer
from offload_db.drivers.base import GENERIC
from offload_db.drivers.registry import driver_of
from offload_db.pool import idle
from tests.conftest import MySQL
from tests.faults.proxy import Proxy
from tests.support import PLACES, assert_ended, attempt, run_at, running, settings_for, settled, value

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
    settings = settings_for(driver.__name__, database)
    return OffloadPool.create(driver, **{"min_size": 0, "max_size": 2, "autocommit": True, **settings, **options})


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
