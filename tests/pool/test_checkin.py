"""Claims about connections that come back: no dirty one is used again."""

from __future__ import annotations

from functools import partial
from typing import Any

import pymysql
import pytest

from offload_db import OffloadPool, offload
from tests.conftest import MySQL
from tests.support import PATIENCE, in_thread, pool_of, until, value, watched_wire


def server_connections(mysql: MySQL, database: str) -> int:
    return len(mysql.process_list(database))


# A connection that is dropped without close()


def drop(pool: OffloadPool, *statements: str) -> int:
    """Use a connection and forget it; give its id on the server."""
    connection = pool.connection()
    cursor = connection.cursor()
    for statement in statements:
        cursor.execute(statement)
    cursor.execute("SELECT CONNECTION_ID()")
    number: int = cursor.fetchone()[0]
    return number


def test_a_dropped_clean_connection_is_idle_again(mysql: MySQL) -> None:
    """A connection dropped without close() returns to the pool at once, and its finaliser does no I/O."""
    with pool_of(1, mysql.settings()) as pool:
        connection = pool.connection()
        number = value(connection, "SELECT CONNECTION_ID()")
        with watched_wire() as wire:
            del connection
            assert not wire.events
        statistics = pool.statistics()
        assert (statistics.in_use, statistics.idle, statistics.checkins) == (0, 1, 1)
        assert value(pool.connection(), "SELECT CONNECTION_ID()") == number


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_connection_dropped_in_a_transaction_is_discarded(
    autocommit: bool, mysql: MySQL, database: dict[str, Any]
) -> None:
    """Dropped inside a transaction, a connection is thrown out without I/O, and the server rolls back."""
    with pool_of(1, database, autocommit=autocommit) as pool:
        with pool.connection() as connection:
            connection.cursor().execute("CREATE TABLE t (a INT)")
        connection = pool.connection()
        if autocommit:
            connection.begin()
        connection.cursor().execute("INSERT INTO t VALUES (1)")
        with watched_wire() as wire:
            del connection
            assert not wire.events
        statistics = pool.statistics()
        assert (statistics.in_use, statistics.open) == (0, 0)
        assert statistics.discards == {"dropped_in_transaction": 1}
        until(lambda: server_connections(mysql, database["database"]) == 0)
        assert value(pool.connection(), "SELECT COUNT(*) FROM t") == 0


# No dirty connection is reused


@pytest.fixture
def table(mysql: MySQL, database: dict[str, Any]) -> dict[str, Any]:
    with mysql.connect(**database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, n INT NOT NULL)")
        cursor.execute("INSERT INTO t VALUES (1, 0), (2, 0)")
    return database


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("autocommit", "statements"),
    [
        (False, ["UPDATE t SET n = 1 WHERE id = 1"]),
        (True, ["BEGIN", "UPDATE t SET n = 1 WHERE id = 1"]),
        (True, ["START TRANSACTION", "UPDATE t SET n = 1 WHERE id = 1", "SELECT 1"]),
        (False, ["SELECT * FROM t WHERE id = 1 FOR UPDATE"]),
        (True, ["SET autocommit = 0", "SELECT * FROM t WHERE id = 1 FOR UPDATE"]),
        (True, ["XA START 'x'", "UPDATE t SET n = 1 WHERE id = 1"]),
    ],
    ids=["off", "begin", "start-select", "locks-off", "locks-set-off", "xa"],
)
async def test_an_open_transaction_ends_at_checkin(
    autocommit: bool, statements: list[str], mysql: MySQL, table: dict[str, Any]
) -> None:
    """What a caller left open is rolled back at checkin, and its row locks are gone."""
    with pool_of(1, table, autocommit=autocommit) as pool:

        @offload
        async def careless() -> None:
            with pool.connection() as connection:
                for statement in statements:
                    connection.cursor().execute(statement)

        @offload
        async def next_one() -> tuple[Any, Any]:
            with pool.connection() as connection:
                return value(connection, "SELECT n FROM t WHERE id = 1"), value(connection, "SELECT @@autocommit")

        await careless()
        with mysql.connect(**table) as other, other.cursor() as cursor:
            cursor.execute("SET innodb_lock_wait_timeout = 1")
            cursor.execute("UPDATE t SET n = n + 10 WHERE id = 1")
        assert await next_one() == (10, int(autocommit))
        assert pool.statistics().in_use == 0


def test_session_settings_are_restored(table: dict[str, Any]) -> None:
    """Autocommit and the selected database are as they were when the next caller gets the connection."""

    def by_method(connection: Any) -> None:
        connection.autocommit(False)

    def by_statement(connection: Any) -> None:
        connection.cursor().execute("SET autocommit = 0")

    def other_database(connection: Any) -> None:
        connection.select_db("mysql")

    def other_database_by_statement(connection: Any) -> None:
        connection.cursor().execute("\n use mysql")

    with pool_of(1, table) as pool:
        for change in (by_method, by_statement, other_database, other_database_by_statement):
            with pool.connection() as connection:
                number = value(connection, "SELECT CONNECTION_ID()")
                change(connection)
            with pool.connection() as connection:
                assert value(connection, "SELECT CONCAT(@@autocommit + 0, DATABASE())") == f"1{table['database']}"
                assert value(connection, "SELECT CONNECTION_ID()") == number


def test_a_database_is_left_selected_where_there_is_none_to_go_back_to(mysql: MySQL) -> None:
    """Code on a pool without a database says USE for each use: that must not cost a connection each time."""
    with pool_of(1, mysql.settings()) as pool:
        for _ in range(2):
            with pool.connection() as connection:
                connection.cursor().execute("USE mysql")
        assert (pool.statistics().discards, pool.statistics().checkins) == ({}, 2)


@pytest.mark.anyio
@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("lock", ["LOCK TABLES t WRITE", b"lock table t read", "FLUSH TABLES t WITH READ LOCK"])
async def test_locked_tables_are_unlocked(lock: Any, autocommit: bool, mysql: MySQL, table: dict[str, Any]) -> None:
    """Tables that a caller has left locked, or a caller of the awaitable surface, are there for everybody again."""

    def by_cursor(pool: OffloadPool) -> None:
        with pool.connection() as connection:
            connection.cursor().execute(lock)

    def by_query(pool: OffloadPool) -> None:
        with pool.connection() as connection:
            connection.query(lock)

    def dropped(pool: OffloadPool) -> None:
        pool.connection().cursor().execute(lock)

    with pool_of(1, table, autocommit=autocommit) as pool, mysql.connect(**table) as other:
        other.cursor().execute("SET lock_wait_timeout = 1")
        for use in (by_cursor, by_query, dropped):
            in_thread(partial(use, pool)).result(PATIENCE)
            until(lambda: not _is_locked(other))
        await pool.execute(lock)
        assert not _is_locked(other)
        assert pool.statistics().discards == {"dropped_in_transaction": 1}


def _is_locked(connection: Any) -> bool:
    try:
        connection.cursor().execute("UPDATE t SET n = n + 1")
    except pymysql.err.OperationalError as error:
        return bool(error.args[0] == 1205)
    return False


def test_a_changed_character_set_is_not_passed_on(mysql: MySQL) -> None:
    """A caller that sets another character set does not leave it to the next one."""
    with pool_of(1, mysql.settings(), charset="utf8mb4") as pool:
        with pool.connection() as connection:
            connection.set_character_set("latin1")
            assert value(connection, "SELECT @@character_set_client") == "latin1"
        with pool.connection() as connection:
            assert value(connection, "SELECT @@character_set_client") == "utf8mb4"
            assert connection.charset == "utf8mb4"


@pytest.mark.parametrize("unbuffered", [True, False], ids=["unbuffered", "multi-result"])
def test_an_abandoned_result_is_never_read_by_the_next(unbuffered: bool, table: dict[str, Any]) -> None:
    """A connection with many rows that nobody read is thrown out; further results are read to their end."""
    with pool_of(1, table, client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS) as pool:
        connection = pool.connection()
        cursor = connection.cursor(pymysql.cursors.SSCursor if unbuffered else pymysql.cursors.Cursor)
        cursor.execute("SELECT seq FROM seq_1_to_100000" if unbuffered else "SELECT 1; SELECT 2; SELECT 3")
        assert cursor.fetchone() == (1,)
        connection.close()
        assert pool.statistics().discards == ({"abandoned_result": 1} if unbuffered else {})
        assert value(pool.connection(), "SELECT 'mine'") == "mine"


def explode(text: Any) -> Any:
    if text in ("7", b"7"):
        raise LookupError("a converter that fails")
    return int(text)


@pytest.mark.anyio
@pytest.mark.parametrize("unbuffered", [False, True], ids=["buffered", "unbuffered"])
async def test_a_converter_that_fails_in_mid_result(unbuffered: bool, mysql: MySQL) -> None:
    """Its error reaches the caller; nobody reads the rest of that answer as the answer to something else."""
    converters = {**pymysql.converters.conversions, pymysql.constants.FIELD_TYPE.LONGLONG: explode}
    with pool_of(1, mysql.settings("mysql"), conv=converters) as pool:

        @offload
        async def work() -> tuple[int, Any]:
            connection = pool.connection()
            number = connection.thread_id()
            cursor = connection.cursor(pymysql.cursors.SSCursor if unbuffered else None)
            with pytest.raises(LookupError, match="a converter that fails"):  # noqa: PT012  # one of them, by cursor
                cursor.execute("SELECT seq FROM seq_1_to_20")
                cursor.fetchall()
            # The connection is of no more use, but never gives a wrong answer.
            for _ in range(2):
                with pytest.raises((pymysql.err.MySQLError, LookupError)):
                    value(connection, "SELECT 'mine'")
            with pytest.raises(pymysql.err.MySQLError):
                connection.commit()
            cursor.close()
            connection.close()
            with pool.connection() as connection:
                return number, (connection.thread_id(), value(connection, "SELECT 'mine'"))

        before, (after, answer) = await work()
        assert answer == "mine"
        assert after != before
        assert sum(pool.statistics().discards.values()) == 1
        assert pool.statistics().in_use == 0
