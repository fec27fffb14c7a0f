"""A kill hits the statement that it is meant for, or nothing."""

# ruff: noqa: ASYNC100  # in bridged code a driver call is an await

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import anyio
import pymysql
import pytest

from offload_db import ConnectionLost, OffloadPool, StatementTimeout, offload
from offload_db.connection import killer
from offload_db.drivers.base import Identity
from offload_db.drivers.pymysql import PyMySQLDriver
from tests.conftest import MySQL
from tests.faults.inside import connecting, reaching
from tests.inside import core
from tests.support import PATIENCE, PLACES, in_thread, outcome, pool_of, run_at, settled, until, value

from .checks import asleep, assert_ended, checked, running, serve
from .proxy import Proxy
from .storms import cancel_near_the_end, the_general_way

pytestmark = pytest.mark.anyio

LONG = "SELECT SLEEP(50)"


def way_of_killing(general: bool) -> AbstractContextManager[None]:
    return the_general_way() if general else contextlib.nullcontext()


GENERAL = pytest.mark.parametrize("general", [False, True], ids=["by query id", "general way"])


@GENERAL
@pytest.mark.timing_bound("a kill for which the machine has no time cuts the link, which would pass for a wrong kill")
async def test_cancelled_close_to_the_natural_end(general: bool, database: dict[str, Any], mysql: MySQL) -> None:
    """Statements cancelled about when they end: never is the next one on the link, or another's, killed instead."""
    with way_of_killing(general), pool_of(8, database) as pool:
        fire = await cancel_near_the_end(pool, 300)
        assert fire.innocent == 0
        assert fire.cancelled + fire.natural == 300
        assert fire.cancelled > 50
        assert pool.statistics().kills_failed == 0
        assert pool.statistics().discards == {}
        await checked(pool, mysql, database["database"])


@GENERAL
@pytest.mark.parametrize("autocommit", [False, True])
async def test_a_kill_that_comes_late_is_absorbed(
    general: bool, autocommit: bool, database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill sent just after the statement has ended on the server hits neither the next one nor the next caller's."""
    original = PyMySQLDriver.kill

    def late(self: PyMySQLDriver, admin: Any, identity: Identity) -> bool:
        # The statement has ended on the server by now, and its thread may have come back.
        until(lambda: not running(mysql, "SLEEP(0.2)"))
        return original(self, admin, identity)

    monkeypatch.setattr(PyMySQLDriver, "kill", late)
    with way_of_killing(general), pool_of(1, database, autocommit=autocommit) as pool:

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                with anyio.move_on_after(0.1):
                    value(connection, "SELECT SLEEP(0.2)")
                assert value(connection, "SELECT SLEEP(0.05)") == 0
            with pool.connection() as connection:
                with anyio.move_on_after(0.1):
                    value(connection, "SELECT SLEEP(0.2)")
            with pool.connection() as connection:
                assert value(connection, "SELECT SLEEP(0.05)") == 0

        await handler()
        await checked(pool, mysql, database["database"])


async def test_a_statement_that_reaches_the_server_late_is_killed(
    database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill that finds nothing yet is tried again: the statement that is still on its way does not survive it."""
    sending, looked = threading.Event(), threading.Event()
    kill, cursor_execute = PyMySQLDriver.kill, pymysql.cursors.Cursor.execute

    def spy(self: PyMySQLDriver, admin: Any, identity: Identity) -> bool:
        hit = kill(self, admin, identity)
        looked.set()
        return hit

    def held_back(self: Any, query: Any, args: Any = None) -> int:
        if query == LONG:
            sending.set()
            assert looked.wait(20)
        return cursor_execute(self, query, args)

    monkeypatch.setattr(PyMySQLDriver, "kill", spy)
    monkeypatch.setattr(pymysql.cursors.Cursor, "execute", held_back)
    with pool_of(1, database) as pool:

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, LONG)

        async with anyio.create_task_group() as group:
            group.start_soon(handler)
            await settled(sending.is_set)
            group.cancel_scope.cancel()
        assert looked.is_set()
        assert_ended(mysql, LONG)
        assert pool.statistics().kills == 1
        await checked(pool, mysql, database["database"])


def test_several_want_the_same_call_to_end(
    database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that several bring back at the same time, its limit and the end of the pool say, is one kill."""
    together = threading.Barrier(2, timeout=20)
    kill = PyMySQLDriver.kill

    def at_once(self: PyMySQLDriver, admin: Any, identity: Identity) -> bool:
        with contextlib.suppress(threading.BrokenBarrierError):  # a second try, when the other one is through
            together.wait()
            together.abort()
        return kill(self, admin, identity)

    monkeypatch.setattr(PyMySQLDriver, "kill", at_once)
    with pool_of(1, database) as pool:

        def run() -> None:
            with pool.connection() as connection, pytest.raises(pymysql.err.OperationalError, match="interrupted"):
                value(connection, LONG)

        victim = in_thread(run)
        until(lambda: running(mysql, LONG))
        (link,) = core(pool).links
        for thread in [in_thread(link.interrupt) for _ in range(2)]:
            thread.result(PATIENCE)
        victim.result(PATIENCE)
        assert (pool.statistics().kills, pool.statistics().kills_failed) == (1, 0)


@pytest.mark.parametrize("cancel", [True, False], ids=["cancel", "timeout"])
async def test_no_kill_possible(
    cancel: bool, database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no connection to kill with can be opened, the link is cut, counted and thrown out; the caller is free."""
    with pool_of(1, database, statement_timeout=None if cancel else 0.3) as pool:

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, "SELECT SLEEP(1.5)")

        with monkeypatch.context() as patch:

            def refuse(seconds: float) -> Any:
                raise pymysql.err.OperationalError(1040, "Too many connections")

            connecting(patch, pool, refuse)
            patch.setattr(killer, "PATIENCE", 0.5)
            if cancel:
                with anyio.move_on_after(0.3) as scope:
                    await handler()
                assert scope.cancel_called
            else:
                with pytest.raises(StatementTimeout, match="link was cut") as caught:
                    await handler()
                assert caught.value.may_have_run
        now = pool.statistics()
        assert (now.kills, now.kills_failed, now.open) == (0, 1, 0)
        assert sum(now.discards.values()) == 1
        await checked(pool, mysql, database["database"])


@GENERAL
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("closed", [False, True], ids=["cursor open", "cursor closed"])
async def test_rolling_back_ends_a_result_that_is_being_read(
    closed: bool, place: str, general: bool, database: dict[str, Any], mysql: MySQL
) -> None:
    """Rolling back amid a long unbuffered result kills its statement instead of reading on; the link stays good."""

    def use() -> None:
        with pool.connection() as connection:
            with connection.cursor() as cursor:
                cursor.execute("CREATE TABLE t (n INT) ENGINE=InnoDB")
                connection.begin()
                cursor.execute("INSERT INTO t VALUES (1)")
            reading = connection.cursor(pymysql.cursors.SSCursor)
            reading.execute("SELECT seq, REPEAT('x', 9999) FROM seq_1_to_9000000")
            assert reading.fetchone()[0] == 1
            if closed:
                reading.close()
            connection.rollback()
            for number in range(3):
                assert value(connection, "SELECT %s", number) == number
            assert value(connection, "SELECT COUNT(*) FROM t") == 0

    with way_of_killing(general), pool_of(1, database) as pool:
        with anyio.fail_after(PATIENCE):
            await run_at(place, use)
        assert pool.statistics().kills == 1
        assert pool.statistics().discards == {}
        assert_ended(mysql, "seq_1_to_9000000")


async def test_an_update_that_is_killed_has_no_effect(database: dict[str, Any], mysql: MySQL) -> None:
    """A killed write takes nothing with it: the table is as before, and its locks are free."""
    name = database["database"]
    with mysql.connect() as plain, pool_of(1, database) as pool:
        cursor = plain.cursor()
        cursor.execute(f"CREATE TABLE {name}.t (id INT PRIMARY KEY, n INT) ENGINE=InnoDB")
        cursor.execute(f"INSERT INTO {name}.t SELECT seq, 0 FROM {name}.seq_1_to_100")

        @offload
        async def handler() -> None:
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.execute("UPDATE t SET n = n + 1 + IF(id = 90, SLEEP(50), 0)")

        with anyio.move_on_after(0.3):
            await handler()
        cursor.execute("SET innodb_lock_wait_timeout = 1")
        cursor.execute(f"UPDATE {name}.t SET n = n + 10")
        cursor.execute(f"SELECT DISTINCT n FROM {name}.t")
        assert cursor.fetchall() == ((10,),)
        await checked(pool, mysql, name)


async def test_a_killed_insert_runs_once(database: dict[str, Any], mysql: MySQL) -> None:
    """A statement killed from the server's side is not sent again: the caller gets the error."""
    name = database["database"]
    with mysql.connect() as plain, pool_of(1, database) as pool:
        cursor = plain.cursor()
        cursor.execute(f"CREATE TABLE {name}.t (text VARCHAR(20))")

        def insert() -> None:
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.execute("INSERT INTO t SELECT SLEEP(1)")

        thread = in_thread(insert)
        await settled(lambda: asleep(mysql, "SLEEP(1)"))
        cursor.execute(f"KILL QUERY {running(mysql, 'SLEEP(1)')[0]['ID']}")
        with pytest.raises(pymysql.err.OperationalError, match="interrupted"):
            await outcome(thread)
        cursor.execute(f"SELECT COUNT(*) FROM {name}.t")
        assert cursor.fetchone() == (0,)
        assert pool.statistics().discards == {}
        await checked(pool, mysql, name)


@pytest.mark.parametrize("sent", ["execute", "commit"])
async def test_a_connection_killed_under_a_call(sent: str, database: dict[str, Any], mysql: MySQL) -> None:
    """A session that is killed raises ConnectionLost once; its link is thrown out, and nothing is repeated."""
    with pool_of(2, database, autocommit=False) as pool:

        @offload
        async def handler() -> bool:
            with pool.connection() as connection:
                session = value(connection, "SELECT CONNECTION_ID()")
                mysql.kill_connection(session)
                with pytest.raises(ConnectionLost, match="not repeated") as caught:
                    connection.commit() if sent == "commit" else value(connection, "SELECT 1")
                with pytest.raises(pymysql.err.InterfaceError):
                    connection.cursor().execute("SELECT 1")
                return caught.value.may_have_run

        assert await handler() in (True, False)
        assert pool.statistics().discards == {"lost": 1}
        await checked(pool, mysql, database["database"])


def test_kills_are_bounded_in_number(database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many statements that time out at the same time, no more than four are killed at once."""
    inside, most = 0, 0
    lock = threading.Lock()

    with pool_of(12, database, statement_timeout=0.4) as pool:
        connect = core(pool).connector.connect_admin

        def counted(seconds: float) -> Any:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            raw = connect(seconds)
            close = raw.close

            def closing() -> None:
                nonlocal inside
                with lock:
                    inside -= 1
                close()

            raw.close = closing
            return raw

        connecting(monkeypatch, pool, counted)
        _all_time_out(pool, 12)
        assert 1 <= most <= 4
        assert pool.statistics().kills == 12


def _all_time_out(pool: OffloadPool, number: int) -> None:
    def run() -> None:
        with pool.connection() as connection, pytest.raises(StatementTimeout):
            value(connection, LONG)

    for thread in [in_thread(run) for _ in range(number)]:
        thread.result(30)


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what takes the time are the kills, in threads
@pytest.mark.timing_bound("each of sixty kills has its own time, which a machine that stands still meanwhile uses up")
async def test_many_at_once_over_a_slow_network(proxy: Proxy, through: dict[str, Any], mysql: MySQL) -> None:
    """When sixty are cancelled together each is killed, though their kills take longer than one may."""
    with pool_of(60, through) as pool:
        await outcome(in_thread(lambda: serve(pool)))

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, LONG)

        before = proxy.accepted
        async with anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(handler)
            await settled(lambda: len(running(mysql, LONG)) == 60)
            proxy.delay = 0.04
            group.cancel_scope.cancel()
        proxy.delay = 0.0
        assert_ended(mysql, LONG)
        now = pool.statistics()
        assert (now.kills, now.kills_failed, now.discards) == (60, 0, {})
        assert proxy.accepted - before <= 2 * killer.AT_ONCE  # connections are handed on
        await checked(pool, mysql, through["database"])


async def test_a_kill_on_its_way_spares_the_commit(
    database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that ends while its kill is on the way is committed, and nobody shoots at the commit."""
    shots: list[int] = []
    committing, aimed = threading.Event(), threading.Event()
    commit = pymysql.connections.Connection.commit

    def slow_commit(self: Any) -> None:
        committing.set()
        assert aimed.wait(10)
        threading.Event().wait(0.2)  # long enough for a shot
        commit(self)

    def slow_reach(reach: Callable[[], Any], *args: Any) -> Any:
        admin = reach()
        assert committing.wait(10)
        aimed.set()
        return admin

    def kill(self: PyMySQLDriver, admin: Any, identity: Identity) -> bool:
        shots.append(identity.session)
        return False

    monkeypatch.setattr(pymysql.connections.Connection, "commit", slow_commit)
    reaching(monkeypatch, slow_reach)
    monkeypatch.setattr(PyMySQLDriver, "kill", kill)
    with pool_of(1, database, autocommit=False) as pool:
        with mysql.connect(database=database["database"]) as plain:
            plain.cursor().execute("CREATE TABLE t (id INT PRIMARY KEY)")
            async with anyio.create_task_group() as group:
                group.start_soon(pool.execute, "INSERT INTO t SELECT 1 FROM (SELECT SLEEP(0.5)) s")
                await settled(lambda: asleep(mysql, "SLEEP(0.5)"))
                group.cancel_scope.cancel()
            assert aimed.is_set()
            assert shots == []
            assert value(plain, "SELECT COUNT(*) FROM t") == 1
        await checked(pool, mysql, database["database"])


async def test_no_thread_to_kill_with(database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process can have no further thread, a cancelled statement comes to its end, and so the cancellation."""
    with pool_of(1, database) as pool:

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, "SELECT SLEEP(0.7)")

        def refuse(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        async with anyio.create_task_group() as group:
            group.start_soon(handler)
            await settled(lambda: asleep(mysql, "SLEEP(0.7)"))
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await settled(lambda: pool.statistics().in_use == 0)
        assert pool.statistics().discards == {}
        await checked(pool, mysql, database["database"])
