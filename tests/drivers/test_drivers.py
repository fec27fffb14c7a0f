"""Claims about what is known of drivers: PyMySQL to the byte, and careful answers for any other."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from dbutils.pooled_db import PooledDB
from pymysql.cursors import Cursor, DictCursor, SSCursor

from offload_db import ConfigurationError, OffloadPool, offload
from offload_db.drivers.base import GENERIC
from offload_db.drivers.pymysql import PYMYSQL
from offload_db.drivers.registry import driver_of
from tests.conftest import MySQL
from tests.support import PLACES, attempt, run_at

pytestmark = pytest.mark.anyio


@pytest.fixture
def raw(mysql: MySQL) -> Iterator[Any]:
    with mysql.connect() as connection:
        yield connection


def rows(number: int, width: int) -> str:
    return (
        f"WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {number:d}) "
        f"SELECT n, REPEAT('x', {width:d}) FROM c"
    )


def error_of(function: Any, *args: Any) -> BaseException:
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_drivers_are_recognised(raw: Any) -> None:
    """PyMySQL's connections and those of its subclasses are known; everything else is not."""
    assert driver_of(raw) is PYMYSQL
    with sqlite3.connect(":memory:") as connection:
        assert driver_of(connection) is GENERIC
    connection.close()


def test_arrived_rows_are_counted_without_waiting(raw: Any) -> None:
    """Only rows that lie in the client's buffer as a whole are counted, and never the end of the result."""
    cursor = raw.cursor(SSCursor)
    cursor.execute(rows(50, 10))
    first = cursor.fetchone()
    assert first == (1, "x" * 10)
    assert PYMYSQL.arrived(cursor) == 49
    for _ in range(49):
        assert cursor.fetchone() is not None
    assert PYMYSQL.arrived(cursor) == 0
    assert PYMYSQL.streams(cursor)
    assert cursor.fetchone() is None
    assert not PYMYSQL.streams(cursor)
    cursor.execute("SELECT REPEAT('x', 17000000) UNION ALL SELECT 'y'")
    assert PYMYSQL.arrived(cursor) == 0
    cursor.close()


def test_looking_for_rows_leaves_the_timeout_alone(mysql: MySQL) -> None:
    """The socket's own timeout is what it was, and a server that sends nothing is not waited for."""
    raw: Any
    with mysql.connect(read_timeout=30) as raw:
        cursor = raw.cursor(SSCursor)
        cursor.execute("SELECT 1 FROM (SELECT 1) one WHERE SLEEP(0) = 0 UNION ALL SELECT SLEEP(0)")
        before = raw._sock.gettimeout()
        PYMYSQL.arrived(cursor)
        assert raw._sock.gettimeout() == before == 30
        assert len(cursor.fetchall()) == 2


class OwnWay(SSCursor):
    def everything(self) -> list[Any]:
        return list(self.fetchall())


@pytest.mark.parametrize(("kind", "ahead"), [(SSCursor, True), (OwnWay, False)])
def test_own_ways_of_reading_are_not_anticipated(raw: Any, kind: Any, ahead: bool) -> None:
    """Nothing is read ahead of a cursor class with methods of its own, which may read rows unseen."""
    cursor = raw.cursor(kind)
    cursor.execute(rows(5, 1))
    cursor.fetchone()
    assert bool(PYMYSQL.arrived(cursor)) is ahead
    cursor.close()


def test_errors_tell_whether_the_link_is_in_step(raw: Any, mysql: MySQL) -> None:
    """The server's answers and refusals before sending leave the link usable; what breaks off an answer does not."""
    cursor = raw.cursor()
    for statement in ("SELEC", "SELECT * FROM no.such_table", "SIGNAL SQLSTATE '45000'"):
        assert PYMYSQL.in_step(error_of(cursor.execute, statement))
    arguments: tuple[Any, ...]
    for arguments in (("SELECT %s", ()), (None,), ("SELECT %s, %s", (1,)), ("SELECT %(a)s", {})):
        assert PYMYSQL.in_step(error_of(cursor.execute, *arguments))
    assert PYMYSQL.in_step(error_of(raw.ping, 1, 2))
    raw.decoders = {**raw.decoders, 8: lambda text: 1 / 0, 3: lambda text: 1 / 0}
    assert not PYMYSQL.in_step(error_of(cursor.execute, "SELECT 1"))
    lost: Any
    with mysql.connect() as lost:
        mysql.kill_connection(lost.thread_id())
        error = error_of(lost.cursor().execute, "SELECT 1")
        assert not PYMYSQL.in_step(error)
        assert PYMYSQL.lost(error)


def test_warnings_that_are_errors_break_nothing(raw: Any) -> None:
    """Where warnings are errors, PyMySQL refuses a statement before it is sent."""
    cursor = raw.cursor(SSCursor)
    cursor.execute(rows(900, 50))
    error = error_of(raw.cursor().execute, "SELECT 1")
    assert isinstance(error, UserWarning)
    assert PYMYSQL.in_step(error)
    cursor.close()


@pytest.mark.parametrize("kind", [SSCursor, Cursor])
def test_few_rows_are_finished_and_many_left(raw: Any, kind: Any) -> None:
    """Closing a cursor reads what little is left; of more, the connection remembers that nobody wants it."""
    for number, left in ((100, False), (20000, kind is SSCursor)):
        cursor = raw.cursor(kind)
        cursor.execute(
            "SELECT a.COLUMN_NAME FROM information_schema.COLUMNS a, information_schema.COLUMNS b LIMIT %s", (number,)
        )
        PYMYSQL.finish(cursor)
        assert PYMYSQL.unread(raw) is left
        assert cursor.connection is None
        assert cursor.fetchone() is None or kind is Cursor
        PYMYSQL.skip_rest(raw)
        assert not PYMYSQL.unread(raw)
        with raw.cursor() as after:
            after.execute("SELECT 42")
            assert after.fetchall() == ((42,),)


def test_identity_leaves_no_trace(raw: Any) -> None:
    """Asking who a connection is leaves what users can see of it as it was, whatever their converters do."""
    raw.decoders = {number: (lambda text: 1 / 0) for number in range(256)}
    before = raw.decoders
    identity = PYMYSQL.identity(raw)
    assert identity is not None
    assert identity.session == raw.thread_id()
    assert raw.decoders is before
    assert (raw.insert_id(), raw.affected_rows()) == (0, 0)


class SlowButHonest:
    """A DB-API 2 module around sqlite3 that notes the threads that use it."""

    apilevel, threadsafety, paramstyle = "2.0", 1, "qmark"
    Error = sqlite3.Error
    DatabaseError = sqlite3.DatabaseError
    OperationalError = sqlite3.OperationalError
    InterfaceError = sqlite3.InterfaceError
    InternalError = sqlite3.InternalError

    def __init__(self, file: Path) -> None:
        self.file = file
        self.threads: set[int] = set()
        self.closed_cursors = 0

    def connect(self) -> Any:
        module = self

        class NotedCursor(sqlite3.Cursor):
            def execute(self, *args: Any) -> Any:
                module.threads.add(threading.get_ident())
                return super().execute(*args)

            def fetchone(self) -> Any:
                module.threads.add(threading.get_ident())
                return super().fetchone()

            def close(self) -> None:
                module.threads.add(threading.get_ident())
                module.closed_cursors += 1
                super().close()

        class NotedConnection(sqlite3.Connection):
            def cursor(self, factory: Any = NotedCursor) -> Any:
                return super().cursor(factory)

            def commit(self) -> None:
                module.threads.add(threading.get_ident())
                super().commit()

        module.threads.add(threading.get_ident())
        return sqlite3.connect(self.file, check_same_thread=False, factory=NotedConnection)


@pytest.fixture
def module(tmp_path: Path) -> SlowButHonest:
    return SlowButHonest(tmp_path / "data.db")


async def test_awaitable_methods_of_any_other_driver(module: SlowButHonest) -> None:
    """They take its own cursors, and refuse what only a driver that is known can make, at no cost."""
    pool = OffloadPool(PooledDB(creator=module, maxconnections=1))
    await pool.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)", ())
    assert await pool.execute_many("INSERT INTO t VALUES (?)", [(1,), (2,), (3,)]) == 3
    assert await pool.fetch_all("SELECT n FROM t WHERE n > ? ORDER BY n", 1) == [(2,), (3,)]
    assert await pool.fetch_value("SELECT n FROM t WHERE n > ? ORDER BY n", 1) == 2
    for kind in (dict, DictCursor, sqlite3.Cursor):
        with pytest.raises(ConfigurationError, match=r"has no such cursors; accepted are"):
            await pool.fetch_all("DELETE FROM t", (), cursor=kind)
    with pytest.raises(ConfigurationError, match="unbuffered"):
        await anext(pool.stream("DELETE FROM t", ()))
    assert await pool.fetch_value("SELECT COUNT(*) FROM t WHERE n > ?", 0) == 3
    assert dict(pool.statistics().discards) == {}
    await pool.aclose()


@pytest.mark.parametrize("place", PLACES)
async def test_any_other_driver_works(module: SlowButHonest, place: str) -> None:
    """A driver of which nothing is known works, off the loop's thread with all it does."""
    pool = OffloadPool(PooledDB(creator=module, maxconnections=2))

    def use() -> None:
        with pool.connection() as connection:
            cursor = connection.cursor()
            cursor.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY)")
            cursor.executemany("INSERT INTO t VALUES (?)", [(1,), (2,), (3,), (4,)])
            connection.commit()
            cursor.execute("SELECT n FROM t ORDER BY n")
            assert cursor.fetchone() == (1,)
            assert cursor.fetchmany(2) == [(2,), (3,)]
            assert list(cursor) == [(4,)]
            assert cursor.fetchone() is None
            assert cursor.description[0][0] == "n"
            cursor.execute("SELECT n FROM t WHERE n > ?", (2,))
            assert cursor.fetchall() == [(3,), (4,)]
            assert attempt(cursor.execute, "INSERT INTO t VALUES (1)")[0] == "IntegrityError"
            cursor.execute("DELETE FROM t")  # not committed: leaving rolls it back
            cursor.close()
            cursor.close()
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM t")
            assert cursor.fetchone() == (4,)
            connection.begin()
            connection.commit()
            assert connection.total_changes >= 0

    await run_at(place, use)
    assert module.closed_cursors == 2
    assert threading.get_ident() not in module.threads
    assert pool.statistics().in_use == 0
    pool.close()


def test_another_server_is_not_asked_what_only_mysql_knows(module: SlowButHonest) -> None:
    """What would unlock tables in MySQL is not sent anywhere else, whatever words a statement has."""
    pool = OffloadPool(PooledDB(creator=module, maxconnections=1))
    with pool.connection() as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE lock (use INT, n INT)")
        cursor.executescript("INSERT INTO lock VALUES (1, 2); UPDATE lock SET n = 3")
    assert dict(pool.statistics().discards) == {}
    pool.close()


async def test_other_drivers_errors_cost_the_connection_in_doubt(module: SlowButHonest) -> None:
    """An error that may come from a broken link throws the connection out when it comes back; others do not."""
    pool = OffloadPool(PooledDB(creator=module, maxconnections=1))

    @offload
    async def handler() -> None:
        with pool.connection() as connection:
            assert attempt(connection.cursor().execute, "SELECT no such thing")[0] == "OperationalError"
        assert dict(pool.statistics().discards) == {"driver_error": 1}
        with pool.connection() as connection:
            assert attempt(connection.cursor().execute, "SELECT ?", ())[0] == "ProgrammingError"

    await handler()
    assert dict(pool.statistics().discards) == {"driver_error": 1}
    assert pool.statistics().idle == 1
    pool.close()


async def test_other_drivers_closing_in_a_cancelled_scope(module: SlowButHonest) -> None:
    """A cancelled handler's ``finally`` gives back a connection of any driver."""
    pool = OffloadPool(PooledDB(creator=module, maxconnections=1))

    @offload
    async def handler() -> None:
        connection = pool.connection()
        cursor = connection.cursor()
        try:
            scope.cancel()
            await anyio.sleep(60)
        finally:
            cursor.close()
            connection.close()

    with anyio.CancelScope() as scope:
        await handler()
    assert pool.statistics().in_use == 0
    pool.close()
