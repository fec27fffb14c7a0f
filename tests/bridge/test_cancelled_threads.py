"""Claims about code in a worker thread whose task is cancelled: its statement is killed, and it sends no other one."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from functools import partial
from typing import Any

import anyio
import pymysql
import pytest

from offload_db import CallCancelled, OffloadError, OffloadPool, blocking, connect, offload
from tests.conftest import MySQL
from tests.faults.checks import checked
from tests.inside import core, turn_of, waiting_turns
from tests.support import Gate, assert_ended, pool_of, running, settings_for, settled, sleeping, value, watched_wire

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

SLOW = "SELECT SLEEP(30)"
SOON = 10.0
"""Seconds, less than anything here would take that is not stopped."""

Call = Callable[[], Awaitable[Any]]


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    """Give a pool of two connections, with a table."""
    with pool_of(2, database, autocommit=False) as pool:
        with pool.connection() as connection:
            value(connection, "CREATE TABLE t (a INT)")
        yield pool


@pytest.fixture
def shared(database: dict[str, Any]) -> Iterator[Any]:
    """Give a connection that handlers share."""
    with closing(connect(**database, ssl_disabled=True)) as connection:
        yield connection


@pytest.fixture
def is_running(mysql: MySQL, database: dict[str, Any]) -> Callable[[], bool]:
    """Tell whether the slow statement runs."""
    return lambda: bool(sleeping(mysql, database))


async def cancelled(call: Call, when: Callable[[], Any]) -> None:
    """Make a call, cancel it when the condition holds, and see that it ends soon, by its cancellation."""
    scope, raised = anyio.CancelScope(), False

    async def victim() -> None:
        nonlocal raised
        with scope:
            try:
                await call()
            except anyio.get_cancelled_exc_class():
                raised = True
                raise

    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as group:
            group.start_soon(victim)
            await settled(when)
            scope.cancel()
    assert raised


class Legacy:
    """A function that nobody wrote with cancellation in mind; notes what it meets."""

    def __init__(self, open_connection: Callable[[], Any], statement: str = SLOW) -> None:
        self.open_connection = open_connection
        self.statement = statement
        self.met: list[BaseException] = []

    def __call__(self) -> Any:
        connection = self.open_connection()
        cursor = connection.cursor()
        try:
            cursor.execute("INSERT INTO t VALUES (1)")
            try:
                cursor.execute(self.statement)
            except pymysql.MySQLError as error:
                self.met.append(error)
            for go_on in (partial(cursor.execute, "INSERT INTO t VALUES (2)"), connection.commit, cursor.fetchall):
                try:
                    go_on()
                except pymysql.MySQLError as error:
                    self.met.append(error)
            connection.rollback()
        finally:
            cursor.close()
            connection.close()

    def check(self, pool: OffloadPool) -> None:
        """Assert that the statement was killed, and that nothing was sent after it."""
        killed, *refused = self.met
        assert killed.args[0] == 1317
        assert not isinstance(killed, OffloadError)
        assert [type(error) for error in refused] == [CallCancelled, CallCancelled]  # fetchall() asks nobody
        assert "cancelled" in str(refused[0])
        statistics = pool.statistics()
        assert (statistics.kills, statistics.kills_failed, statistics.discards) == (1, 0, {})


def in_thread_mode(legacy: Legacy) -> Call:
    @offload(mode="thread")
    async def handler() -> None:
        legacy()

    return handler


def plain(legacy: Legacy) -> Call:
    return offload(legacy.__call__)


def plain_in_thread_mode(legacy: Legacy) -> Call:
    return offload(mode="thread")(legacy.__call__)


def in_a_generator(legacy: Legacy) -> Call:
    @offload(mode="thread")
    async def generator() -> AsyncIterator[int]:
        yield 1
        legacy()
        yield 2

    async def handler() -> None:
        async for _ in generator():
            pass

    return handler


def as_blocking(legacy: Legacy) -> Call:
    @offload
    async def handler() -> None:
        blocking(legacy.__call__)()

    return handler


def nested(legacy: Legacy) -> Call:
    @offload
    async def outer() -> None:
        await plain(legacy)()

    return outer


def in_an_executor(legacy: Legacy) -> Call:
    """Do the statements in a thread that knows nothing of the call, which waits for it."""

    @offload(mode="thread")
    async def handler() -> None:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(int).result()
            connection = legacy.open_connection()
            legacy.open_connection = lambda: connection
            threads.submit(legacy).result()

    return handler


def in_an_executor_with_its_context(legacy: Legacy) -> Call:
    @offload(mode="thread")
    async def handler() -> None:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(copy_context().run, legacy).result()

    return handler


def in_a_loop_of_its_own(legacy: Legacy) -> Call:
    """Run the statements bridged, in another loop that the function runs in its thread."""

    @offload(mode="thread")
    async def handler() -> None:
        asyncio.run(offload(_asynchronous(legacy))())

    return handler


def _asynchronous(function: Callable[[], Any]) -> Call:
    async def call() -> Any:
        return function()

    return call


WAYS = (
    *(in_thread_mode, plain, plain_in_thread_mode, in_a_generator, as_blocking, nested),
    *(in_an_executor, in_an_executor_with_its_context),
    in_a_loop_of_its_own,
)


@pytest.mark.parametrize("way", WAYS)
async def test_the_statement_is_killed(
    way: Callable[[Legacy], Call],
    pool: OffloadPool,
    is_running: Callable[[], bool],
    mysql: MySQL,
    database: dict[str, Any],
) -> None:
    """The server stops it, the function gets the driver's error and unwinds, and nothing else of it is sent."""
    if way is in_a_loop_of_its_own and asyncio._get_running_loop() is None:
        pytest.skip("in a thread of trio's, anyio takes asyncio for trio")
    legacy = Legacy(pool.connection)
    await cancelled(way(legacy), is_running)
    legacy.check(pool)
    assert pool.statistics().cancelled == 1
    assert not running(mysql, database, SLOW)
    assert await pool.fetch_value("SELECT COUNT(*) FROM t") == 0
    await checked(pool, mysql, database["database"])


async def test_a_connection_of_no_pool(
    pool: OffloadPool, is_running: Callable[[], bool], mysql: MySQL, database: dict[str, Any]
) -> None:
    """The same holds for a connection that belongs to no pool, and opens none."""
    legacy = Legacy(lambda: connect(**database, ssl_disabled=True))
    met: list[BaseException] = []

    @offload
    def handler() -> None:
        legacy()
        with pytest.raises(CallCancelled) as refused:
            connect(**database)
        met.append(refused.value)

    await cancelled(handler, is_running)
    assert legacy.met[0].args[0] == 1317
    assert len(met) == 1
    assert await pool.fetch_value("SELECT COUNT(*) FROM t") == 0
    await settled(lambda: len(mysql.process_list(database["database"])) == 1)


async def test_awaitable_calls(
    pool: OffloadPool, is_running: Callable[[], bool], mysql: MySQL, database: dict[str, Any]
) -> None:
    """Awaitable methods that run in the thread are stopped as well."""
    met: list[BaseException] = []

    @offload(mode="thread")
    async def handler() -> None:
        for statement in (SLOW, "SELECT 1"):
            try:
                await pool.fetch_all(statement)
            except pymysql.MySQLError as error:
                met.append(error)

    await cancelled(handler, is_running)
    assert [error.args[0] for error in met] == [1317, 1317]
    assert [isinstance(error, CallCancelled) for error in met] == [False, True]
    await checked(pool, mysql, database["database"])


@pytest.mark.skipif(importlib.util.find_spec("MySQLdb") is None, reason="mysqlclient is not installed")
async def test_another_driver(is_running: Callable[[], bool], database: dict[str, Any]) -> None:
    """What a statement gets that is not sent is also an error of the driver's own."""
    import MySQLdb

    met: list[BaseException] = []
    settings = settings_for("MySQLdb", database)
    with closing(OffloadPool.create(MySQLdb, min_size=0, max_size=1, **settings)) as pool:

        @offload(mode="thread")
        async def handler() -> None:
            with closing(pool.connection()) as connection:
                for statement in (SLOW, "SELECT 1"):
                    try:
                        value(connection, statement)
                    except MySQLdb.Error as error:
                        met.append(error)

        await cancelled(handler, is_running)
        assert [error.args[0] for error in met] == [1317, 1317]
        assert isinstance(met[1], CallCancelled)
        assert pool.statistics().in_use == 0


# --- how it is cancelled


def test_native_cancellation_again_and_again(pool: OffloadPool, is_running: Callable[[], bool]) -> None:
    """Asyncio's own task.cancel(), however often, kills once, and is raised when the thread is back."""
    gate = Gate()
    legacy = Legacy(pool.connection)
    trail: list[str] = []

    @offload(mode="thread")
    async def handler() -> None:
        legacy()
        gate()
        trail.append("back")

    async def main() -> None:
        task = asyncio.create_task(handler())
        await settled(is_running)
        for _ in range(5):
            task.cancel()
            await asyncio.sleep(0.002)
        await gate.entered()
        assert not task.done()
        task.cancel()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
        trail.append("raised")

    asyncio.run(asyncio.wait_for(main(), SOON))
    assert trail == ["back", "raised"]
    legacy.check(pool)


@pytest.mark.parametrize("limit", ["fail_after", "wait_for"])
async def test_a_timeout_around_the_handler(limit: str, pool: OffloadPool, anyio_backend_name: str) -> None:
    """A time limit around the handler ends it in time."""

    @offload(mode="thread")
    async def handler() -> None:
        with pool.connection() as connection:
            value(connection, SLOW)

    if limit == "wait_for" and anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has this")

    async def limited() -> None:
        with anyio.fail_after(0.2):
            await handler()

    started = time.monotonic()
    with pytest.raises((TimeoutError, asyncio.TimeoutError)):
        await (asyncio.wait_for(handler(), 0.2) if limit == "wait_for" else limited())
    assert time.monotonic() - started < SOON
    assert (pool.statistics().kills, pool.statistics().in_use) == (1, 0)


# --- what there is to stop


async def test_what_has_no_statement_is_waited_for(pool: OffloadPool) -> None:
    """Where nothing of the database is under way the function goes on, up to its next statement or connection."""
    gate = Gate()
    met: list[BaseException] = []

    @offload(mode="thread")
    async def handler() -> None:
        with pool.connection() as connection:
            value(connection, "SELECT 1")
            with watched_wire() as wire:
                threading.Timer(0.05, gate.open).start()
                gate()
                for go_on in (partial(value, connection, "SELECT 2"), pool.connection, connection.begin):
                    try:
                        go_on()
                    except pymysql.MySQLError as error:
                        met.append(error)
            assert wire.events == []

    await cancelled(handler, lambda: gate.inside)
    assert [type(error) for error in met] == [CallCancelled] * 3
    assert (pool.statistics().kills, pool.statistics().in_use) == (0, 0)


@pytest.mark.parametrize("statement", ["ROLLBACK", " rollback ; "])
async def test_a_rollback_is_sent_however_it_is_written(statement: str, pool: OffloadPool, shared: Any) -> None:
    """What ends the call's transaction is sent: a connection that others share must not stay in it."""
    gate = Gate()

    @offload(mode="thread")
    async def handler() -> None:
        value(shared, "INSERT INTO t VALUES (1)")
        threading.Timer(0.05, gate.open).start()
        gate()
        value(shared, statement)
        with pytest.raises(CallCancelled):
            value(shared, "INSERT INTO t VALUES (2)")

    @offload
    async def other() -> int:
        shared.commit()
        return int(value(shared, "SELECT COUNT(*) FROM t"))

    await cancelled(handler, lambda: gate.inside)
    assert await other() == 0


async def test_a_commit_under_way_is_not_killed(pool: OffloadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that is under way comes to its end."""
    gate = Gate()
    commit = pymysql.connections.Connection.commit

    def slow(self: Any) -> None:
        gate()
        commit(self)

    monkeypatch.setattr(pymysql.connections.Connection, "commit", slow)

    @offload(mode="thread")
    async def handler() -> None:
        with pool.connection() as connection:
            value(connection, "INSERT INTO t VALUES (1)")
            threading.Timer(0.1, gate.open).start()
            connection.commit()

    await cancelled(handler, lambda: gate.inside)
    assert (pool.statistics().kills, pool.statistics().kills_failed) == (0, 0)
    assert await pool.fetch_value("SELECT COUNT(*) FROM t") == 1


async def test_waiting_for_a_connection(pool: OffloadPool) -> None:
    """A function that waits for a connection is let go at once, and takes none."""
    met: list[BaseException] = []

    @offload(mode="thread")
    async def handler() -> None:
        try:
            pool.connection()
        except pymysql.MySQLError as error:
            met.append(error)
            raise

    async with pool.acquire(), pool.acquire():
        await cancelled(handler, lambda: pool.statistics().waiting == 1)
        assert [type(error) for error in met] == [CallCancelled]
        assert pool.statistics().waiting == 0
    assert (pool.statistics().in_use, pool.statistics().cancelled) == (0, 1)
    assert await pool.fetch_value("SELECT 1") == 1


async def test_waiting_for_a_shared_connection(shared: Any) -> None:
    """A function that waits for its turn is let go at once, and the connection goes on to the next."""
    met: list[BaseException] = []
    used, end = anyio.Event(), anyio.Event()

    @offload
    async def owner() -> None:
        value(shared, "SELECT 1")
        used.set()
        await end.wait()

    @offload(mode="thread")
    async def handler() -> None:
        try:
            value(shared, "SELECT 2")
        except pymysql.MySQLError as error:
            met.append(error)
            raise

    async with anyio.create_task_group() as group:
        group.start_soon(owner)
        await used.wait()
        await cancelled(handler, lambda: waiting_turns(turn_of(shared)) == 1)
        end.set()
    assert [type(error) for error in met] == [CallCancelled]
    assert turn_of(shared).free
    last: Any = offload(partial(value, shared, "SELECT 3"))
    assert await last() == 3


async def test_rows_that_are_left_are_not_read(pool: OffloadPool, mysql: MySQL, database: dict[str, Any]) -> None:
    """A cancelled function that closes its cursor in mid-result reads none of the rest, and no row more."""
    gate = Gate()

    @offload(mode="thread")
    async def handler() -> None:
        with pool.connection() as connection, connection.cursor(pymysql.cursors.SSCursor) as cursor:
            cursor.execute("SELECT REPEAT('x', 1000) FROM seq_1_to_1000000")
            cursor.fetchone()
            threading.Timer(0.05, gate.open).start()
            gate()
            with pytest.raises(CallCancelled):
                cursor.fetchall()

    await cancelled(handler, lambda: gate.inside)
    assert pool.statistics().discards == {"abandoned_result": 1}
    assert_ended(mysql, database, "seq_1_to_1000000")
    await checked(pool, mysql, database["database"])


async def test_only_that_call_is_refused(pool: OffloadPool, is_running: Callable[[], bool]) -> None:
    """The call that it was a part of goes on, over the same connection if need be."""

    @offload
    async def outer() -> Any:
        with pool.connection() as connection:

            @offload(mode="thread")
            async def inner() -> None:
                value(connection, SLOW)

            await cancelled(inner, is_running)
            assert blocking(value)(connection, "SELECT 1") == 1
            return value(connection, "SELECT 2")

    assert await outer() == 2


async def test_no_thread_to_be_had(
    pool: OffloadPool, is_running: Callable[[], bool], monkeypatch: pytest.MonkeyPatch, mysql: MySQL
) -> None:
    """Where no thread can be had to send the kill, the function comes to its own end, and nothing else is sent."""
    legacy = Legacy(pool.connection, "SELECT SLEEP(0.5)")
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "offload_db interrupt":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    await cancelled(in_thread_mode(legacy), lambda: any(link.busy for link in core(pool).links))
    assert CallCancelled in map(type, legacy.met)
    assert pool.statistics().kills == 0
    assert await pool.fetch_value("SELECT COUNT(*) FROM t") == 0


# --- at any moment


async def test_no_later_statement_is_hit(mysql: MySQL, database: dict[str, Any]) -> None:
    """Whenever the kill comes, it hits neither the rollback that follows nor whoever has the connection next."""
    dice = random.Random(25)
    unwound: list[BaseException] = []

    def work(pool: OffloadPool, length: float) -> None:
        connection = pool.connection()
        cursor = connection.cursor()
        try:
            while True:
                cursor.execute("SELECT SLEEP(%s)", (length,))
        finally:
            try:
                connection.rollback()
            except BaseException as error:
                unwound.append(error)
                raise
            finally:
                cursor.close()
                connection.close()

    async def victim(pool: OffloadPool, number: int) -> None:
        for _ in range(8):
            function = partial(work, pool, dice.uniform(0.0, 0.03))
            with anyio.move_on_after(dice.uniform(0.0, 0.03)):
                await (offload(function) if number % 2 else offload(mode="thread")(function))()

    async def innocent(pool: OffloadPool) -> None:
        for number in range(100):
            assert await pool.fetch_value("SELECT %s", number) == number

    with pool_of(6, database) as pool:
        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(victim, pool, number)
            group.start_soon(innocent, pool)
            group.start_soon(innocent, pool)
        assert unwound == []
        assert pool.statistics().kills > 0
        await checked(pool, mysql, database["database"])
