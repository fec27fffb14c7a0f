"""A statement is sent at most once: whatever breaks, the error reaches the caller, and nothing is repeated."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pymysql
import pytest

from offload_db import ConnectionLost, OffloadPool, blocking, offload

from ..conftest import MySQL
from ..support import assert_ended, in_thread, outcome, pool_of, running, settled, together, value

WAYS = pytest.mark.parametrize("way", ["bridge", "thread", "plain"])


def handler(way: str, function: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    """Make a handler of a plain function."""
    if way == "plain":
        return lambda: outcome(in_thread(function))

    @offload(mode="thread" if way == "thread" else "bridge")
    async def run() -> Any:
        return function()

    return run


@pytest.fixture
def table(mysql: MySQL, database: dict[str, Any]) -> dict[str, Any]:
    """Two accounts, and a log that no rollback undoes: how often a statement really ran."""
    with mysql.connect(**database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE account (id INT PRIMARY KEY, n INT NOT NULL)")
        cursor.execute("INSERT INTO account VALUES (1, 100), (2, 100)")
        cursor.execute("CREATE TABLE target (n INT)")
        cursor.execute("CREATE TABLE log (id INT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(20)) ENGINE = MyISAM")
        cursor.execute(
            "CREATE TRIGGER logged BEFORE INSERT ON target FOR EACH ROW INSERT INTO log (what) VALUES ('insert')"
        )
        cursor.execute(
            "CREATE TRIGGER updated BEFORE UPDATE ON account FOR EACH ROW INSERT INTO log (what) VALUES (NEW.id)"
        )
    return database


def accounts(mysql: MySQL, table: dict[str, Any]) -> list[int]:
    with mysql.connect(**table) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT n FROM account ORDER BY id")
        return [row[0] for row in cursor.fetchall()]


def log(mysql: MySQL, table: dict[str, Any]) -> list[str]:
    with mysql.connect(**table) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT what FROM log ORDER BY id")
        return [row[0] for row in cursor.fetchall()]


def assert_serves(pool: OffloadPool) -> None:
    """See that the pool still gives connections that work, and that its numbers add up."""
    assert in_thread(lambda: value(pool.connection(), "SELECT 'fine'")).result(20) == "fine"
    statistics = pool.statistics()
    assert (statistics.in_use, statistics.waiting) == (0, 0)
    assert statistics.open == statistics.idle
    assert statistics.checkouts == statistics.checkins + sum(
        number for reason, number in statistics.discards.items() if reason != "dead_idle"
    )


@pytest.mark.anyio
@WAYS
async def test_a_link_killed_between_two_updates(way: str, mysql: MySQL, table: dict[str, Any]) -> None:
    """With autocommit off, a transaction whose link is killed between its statements fails, and none of it stays."""
    with pool_of(1, table, autocommit=False) as pool:

        def transfer() -> None:
            connection = pool.connection()
            try:
                cursor = connection.cursor()
                cursor.execute("UPDATE account SET n = n - 10 WHERE id = 1")
                mysql.kill_connection(connection.thread_id())
                cursor.execute("UPDATE account SET n = n + 10 WHERE id = 2")
                connection.commit()
            finally:
                connection.close()

        with pytest.raises(ConnectionLost) as caught:
            await handler(way, transfer)()
        assert isinstance(caught.value, pymysql.err.OperationalError)
        assert caught.value.args[0] in (2006, 2013, 1927)
        assert "was not repeated" in str(caught.value)
        assert accounts(mysql, table) == [100, 100]
        assert log(mysql, table) == ["1"]
        assert pool.statistics().discards == {"lost": 1}
        assert_serves(pool)


@pytest.mark.anyio
@WAYS
@pytest.mark.parametrize("autocommit", [False, True])
async def test_a_link_killed_during_an_update(way: str, autocommit: bool, mysql: MySQL, table: dict[str, Any]) -> None:
    """A statement whose link is killed while it runs raises, says that it may have run, and is not sent again."""
    with pool_of(1, table, autocommit=autocommit) as pool:

        def transfer() -> None:
            connection = pool.connection()
            try:
                cursor = connection.cursor()
                cursor.execute("UPDATE account SET n = n - 10 WHERE id = 1")
                cursor.execute("UPDATE account SET n = n + 10 + SLEEP(20) WHERE id = 2")
                connection.commit()
            finally:
                connection.close()

        async def kill() -> None:
            await settled(lambda: running(mysql, table, "SLEEP(20)"))
            (found,) = running(mysql, table, "SLEEP(20)")
            mysql.kill_connection(found)

        began = time.monotonic()
        results = await together(handler(way, transfer), kill)
        assert time.monotonic() - began < 15.0
        error = results[0]
        assert isinstance(error, ConnectionLost)
        assert error.may_have_run
        assert error.args[0] in (2013, 1927)
        assert "the server may or may not have executed it" in str(error)
        await settled(lambda: not running(mysql, table, "SLEEP(20)"))
        assert accounts(mysql, table) == [90 if autocommit else 100, 100]
        assert log(mysql, table).count("2") <= 1
        assert_serves(pool)


@pytest.mark.anyio
@WAYS
async def test_killed_once(way: str, mysql: MySQL, table: dict[str, Any]) -> None:
    """An INSERT that an administrator kills runs once: its rows are written at most once, the error is the server's."""
    with pool_of(1, table) as pool:

        def insert() -> Any:
            with pool.connection() as connection:
                connection.cursor().execute("INSERT INTO target SELECT 1 FROM (SELECT SLEEP(2)) AS wait")

        async def kill() -> None:
            await settled(lambda: running(mysql, table, "SLEEP(2)"))
            (found,) = running(mysql, table, "SLEEP(2)")
            with mysql.connect() as connection, connection.cursor() as cursor:
                cursor.execute("KILL QUERY %s", (found,))

        error = (await together(handler(way, insert), kill))[0]
        assert isinstance(error, pymysql.err.OperationalError)
        assert not isinstance(error, ConnectionLost)
        assert error.args[0] == 1317
        assert_ended(mysql, table, "SLEEP(2)")
        assert log(mysql, table) == []
        assert pool.statistics().statements == 1
        assert_serves(pool)


@pytest.mark.anyio
async def test_com_insert_counts_each_insert_once(mysql: MySQL, table: dict[str, Any]) -> None:
    """The server's own counter for the session shows one INSERT for each that was asked for, failing ones included."""
    with pool_of(1, table) as pool:

        def inserts() -> int:
            with pool.connection() as connection:
                cursor = connection.cursor()
                for number in range(3):
                    cursor.execute("INSERT INTO target VALUES (%s)", (number,))
                with pytest.raises(pymysql.err.MySQLError):
                    cursor.execute("INSERT INTO target VALUES ((SELECT 1 UNION SELECT 2))")
                cursor.execute("SHOW SESSION STATUS LIKE 'Com_insert'")
                return int(cursor.fetchone()[1])

        # Each round: three inserts that succeed, each with the insert of its trigger, and one that fails.
        assert [await handler(way, inserts)() for way in ("bridge", "thread", "plain")] == [7, 14, 21]
        assert log(mysql, table) == ["insert"] * 9


@contextmanager
def row_locked(mysql: MySQL, table: dict[str, Any]) -> Any:
    with mysql.connect(**table, autocommit=False) as blocker:
        blocker.cursor().execute("UPDATE account SET n = n WHERE id = 1")
        yield
        blocker.rollback()


@pytest.mark.anyio
@WAYS
async def test_a_lock_wait_timeout_reaches_the_caller(way: str, mysql: MySQL, table: dict[str, Any]) -> None:
    """With innodb_lock_wait_timeout=1 the caller has the error 1205 after about a second, not after many tries."""
    with (
        pool_of(1, table, autocommit=False, init_command="SET innodb_lock_wait_timeout = 1") as pool,
        row_locked(mysql, table),
    ):

        def update() -> None:
            with pool.connection() as connection:
                connection.cursor().execute("UPDATE account SET n = 0 WHERE id = 1")
                connection.commit()

        began = time.monotonic()
        with pytest.raises(pymysql.err.OperationalError) as caught:
            await handler(way, update)()
        assert caught.value.args[0] == 1205
        assert type(caught.value) is pymysql.err.OperationalError
        assert 0.9 < time.monotonic() - began < 10.0
        assert pool.statistics().statements == 1


@pytest.mark.anyio
@WAYS
async def test_a_deadlock_reaches_the_caller(way: str, mysql: MySQL, table: dict[str, Any]) -> None:
    """Of two transactions that lock each other out one gets 1213 and keeps nothing, the other all; none is repeated."""
    with mysql.connect(**table) as connection:
        connection.cursor().execute("DROP TRIGGER updated")  # its table lock would hide the deadlock from InnoDB
    with pool_of(2, table, autocommit=False) as pool:
        both = threading.Barrier(2)
        meet = partial(blocking(both.wait), 20)

        def transfer(first: int, second: int) -> str:
            with pool.connection() as connection:
                cursor = connection.cursor()
                cursor.execute("UPDATE account SET n = n + 1 WHERE id = %s", (first,))
                meet()
                cursor.execute("UPDATE account SET n = n + 1 WHERE id = %s", (second,))
                connection.commit()
                return "done"

        results = await together(handler(way, partial(transfer, 1, 2)), handler(way, partial(transfer, 2, 1)))
        errors = [result for result in results if result != "done"]
        assert len(errors) == 1
        assert isinstance(errors[0], pymysql.err.OperationalError)
        assert errors[0].args[0] == 1213
        assert accounts(mysql, table) == [101, 101]
        assert pool.statistics().statements == 4
        assert_serves(pool)


@pytest.mark.anyio
@WAYS
async def test_what_was_not_sent_did_not_run(way: str, mysql: MySQL, table: dict[str, Any]) -> None:
    """Where the link breaks before the whole statement is out, the error says that it did not run."""
    with pool_of(1, table) as pool:

        def update() -> None:
            connection = pool.connection()
            try:
                cursor = connection.cursor()
                cursor.execute("DO 1")
                with suppress(OSError):
                    connection._sock.shutdown(1)  # nothing can be written any more
                cursor.execute("UPDATE account SET n = 0 WHERE id = 1")
            finally:
                connection.close()

        with pytest.raises(ConnectionLost) as caught:
            await handler(way, update)()
        assert caught.value.args[0] == 2006
        assert not caught.value.may_have_run
        assert "did not run" in str(caught.value)
        assert accounts(mysql, table) == [100, 100]
        assert_serves(pool)


@pytest.mark.anyio
@WAYS
async def test_a_commit_whose_link_breaks(way: str, mysql: MySQL, table: dict[str, Any]) -> None:
    """A COMMIT over a killed link raises; it is not sent on another connection, and nothing is committed."""
    with pool_of(1, table, autocommit=False) as pool:

        def update() -> None:
            connection = pool.connection()
            try:
                connection.cursor().execute("UPDATE account SET n = 0 WHERE id = 1")
                mysql.kill_connection(connection.thread_id())
                connection.commit()
            finally:
                connection.close()

        with pytest.raises(ConnectionLost, match="was not repeated"):
            await handler(way, update)()
        assert accounts(mysql, table) == [100, 100]
        assert_serves(pool)


@pytest.mark.anyio
async def test_a_lost_connection_stays_lost(mysql: MySQL, table: dict[str, Any]) -> None:
    """After a lost link, further statements on the same connection fail; none runs outside of the lost transaction."""
    with pool_of(1, table, autocommit=False) as pool:

        @offload
        async def stubborn() -> int:
            failures = 0
            with pool.connection() as connection:
                cursor = connection.cursor()
                cursor.execute("UPDATE account SET n = 1 WHERE id = 1")
                mysql.kill_connection(connection.thread_id())
                for _ in range(3):
                    try:
                        cursor.execute("UPDATE account SET n = 2 WHERE id = 2")
                        connection.commit()
                    except pymysql.err.MySQLError:
                        failures += 1
            return failures

        assert await stubborn() == 3
        assert accounts(mysql, table) == [100, 100]
        assert log(mysql, table) == ["1"]
        assert_serves(pool)
