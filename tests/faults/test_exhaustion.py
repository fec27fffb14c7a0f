"""No descriptors and no threads left: open connections go on, nothing is lost, and what fails is a database error."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pymysql
import pytest

from offload_db import OffloadPool, StatementTimeout, ThreadUnavailable, aio, offload
from offload_db.bridge import reactor
from offload_db.drivers import base, pymysql as drivers
from offload_db.pool import admission_queue
from offload_db.pool.admission_queue import Admission
from offload_db.pool.lanes import Lane
from tests.conftest import MySQL
from tests.inside import core, end_timer_thread
from tests.pool.inside import keep_longer, keep_one
from tests.support import PATIENCE, attempt, in_thread, outcome, pool_of, run_at, settled, together, until, value

from .checks import check, checked, serve

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Open files until the system gives no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd" if os.path.exists("/proc/self/fd") else "/dev/fd")))
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Give a block in which no further thread can be started."""

    @contextmanager
    def block() -> Iterator[None]:
        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            yield

    return block


async def warm(pool: OffloadPool, size: int) -> None:
    """Open connections, and start the threads that they need."""
    await together(*[lambda: pool.fetch_value("SELECT SLEEP(0.05)")] * size)
    limiter = anyio.CapacityLimiter(size)
    barrier = threading.Barrier(size)
    await together(*[lambda: anyio.to_thread.run_sync(partial(barrier.wait, PATIENCE), limiter=limiter)] * size)


async def test_no_descriptors_left(database: dict[str, Any], mysql: MySQL) -> None:
    """Statements over open connections are made as ever, of all surfaces and side by side; to connect fails."""
    with pool_of(5, database) as pool:
        await warm(pool, 4)
        await pool.execute("CREATE TABLE t (a INT)")
        await anyio.sleep(3 * reactor.STAYS)  # the shared thread that is there goes, and with it what it needs

        @offload
        async def handler() -> Any:
            with pool.connection() as connection:
                return value(connection, "SELECT 3")

        async def transaction() -> Any:
            async with pool.transaction() as connection, connection.cursor() as cursor:
                await cursor.execute("INSERT INTO t VALUES (1)")
            return 4

        def in_a_thread() -> Any:
            with pool.connection() as connection:
                return value(connection, "SELECT 5")

        with no_descriptors():
            for _ in range(2):
                results = await together(
                    lambda: pool.fetch_value("SELECT 1"),
                    lambda: pool.fetch_value("SELECT 2"),
                    handler,
                    transaction,
                )
                assert results == [1, 2, 3, 4]
                assert await anyio.to_thread.run_sync(in_a_thread) == 5
            with pytest.raises(pymysql.MySQLError, match="open files"):
                await anyio.to_thread.run_sync(partial(take_all, pool))
            assert await pool.fetch_value("SELECT 6") == 6, "who could not connect holds up nobody"
        assert await pool.fetch_value("SELECT COUNT(*) FROM t") == 2
        await checked(pool, mysql, database["database"])


def take_all(pool: OffloadPool) -> None:
    """Take a connection more than there are open ones."""
    held = []
    try:
        for _ in range(5):
            held.append(pool.connection())  # noqa: PERF401  # those before the one that fails are given back
    finally:
        for connection in held:
            connection.close()


@pytest.mark.parametrize("place", ["bridge", "plain"])
async def test_a_statement_without_a_thread(
    place: str, database: dict[str, Any], mysql: MySQL, no_threads: Callable[[], Any], anyio_backend_name: str
) -> None:
    """What needs a thread and gets none was not sent, fails as a database error, and loses nothing."""
    with pool_of(3, database, statement_timeout=20) as pool:
        await outcome(in_thread(partial(serve, pool)))
        before = pool.statistics().statements

        def use() -> None:
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.execute("SELECT 1")

        @offload
        async def handler() -> None:
            use()

        gate = threading.Event()
        plain = in_thread(lambda: (gate.wait(PATIENCE), attempt(use))[1])
        end_timer_thread()
        with no_threads():
            if place == "plain":
                gate.set()
                result = await outcome(plain)
                assert result[0] == "ThreadUnavailable"
            elif anyio_backend_name == "asyncio":  # trio keeps threads for longer than a loop lives
                for error in await together(handler, handler, handler):
                    assert isinstance(error, ThreadUnavailable)
                    assert isinstance(error, pymysql.MySQLError)
        gate.set()
        await outcome(plain)
        assert pool.statistics().statements == before + (place != "plain")
        await checked(pool, mysql, database["database"])


@pytest.mark.parametrize("place", ["bridge", "plain"])
async def test_a_limit_without_a_thread(place: str, database: dict[str, Any], no_threads: Callable[[], Any]) -> None:
    """A statement whose time is over is killed as soon as there is a thread again, or by the timers' own thread."""
    with pool_of(1, database, statement_timeout=0.3) as pool:
        await pool.fetch_value("SELECT 1")
        started = anyio.current_time()
        failed: list[Any] = []

        async def late() -> None:
            with pytest.raises(StatementTimeout):
                await run_at(place, lambda: value(pool.connection(), "SELECT SLEEP(30)"))
            failed.append(anyio.current_time() - started)

        async with anyio.create_task_group() as group:
            group.start_soon(late)
            await settled(lambda: any(link.busy for link in core(pool).links))
            with no_threads():
                if place == "bridge":
                    await anyio.sleep(0.6)
                    assert not failed
                else:
                    await settled(lambda: bool(failed))
        assert failed[0] < 10


async def test_a_stream_without_a_thread(database: dict[str, Any], mysql: MySQL, no_threads: Callable[[], Any]) -> None:
    """Rows that were read are given out; who asks for more gets a database error, and nothing is lost."""
    with pool_of(1, database) as pool:
        rows: list[Any] = []
        stream = pool.stream("SELECT seq FROM seq_1_to_1000", chunk_size=10)
        rows.append(await anext(stream))

        async def read() -> None:
            async for row in stream:
                rows.append(row)  # noqa: PERF401  # those before an error count

        with no_threads(), pytest.raises(ThreadUnavailable):
            await read()
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
        assert len(rows) >= 10
        await stream.aclose()
        await settled(lambda: pool.statistics().in_use == 0)
        await checked(pool, mysql, database["database"])


async def test_giving_back_without_a_thread(
    database: dict[str, Any], mysql: MySQL, no_threads: Callable[[], Any]
) -> None:
    """A connection with an open transaction comes back at once, and the server rolls back by itself."""
    with pool_of(1, database) as pool:
        connection = await pool.acquire()
        await connection.begin()
        with no_threads():
            await pool.release(connection)
        assert pool.statistics().in_use == 0
        await checked(pool, mysql, database["database"])


async def test_terminating_without_a_thread(database: dict[str, Any], no_threads: Callable[[], Any]) -> None:
    """`terminate()` cuts what it cannot kill."""
    pool = await aio.create_pool(1, 2, **database, ssl_disabled=True)
    failed: list[BaseException] = []

    async def run() -> None:
        try:
            await pool.fetch_value("SELECT SLEEP(5)")
        except pymysql.MySQLError as error:
            failed.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await settled(lambda: any(link.busy for link in core(pool).links))
        with no_threads():
            pool.terminate()
            await settled(lambda: bool(failed))
    await pool.wait_closed()


def test_a_slot_that_cannot_be_kept(no_threads: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can end the keeping of a slot for the loop's thread, none is kept."""
    monkeypatch.setattr(admission_queue, "KEEP_SECONDS", 0.3)
    lane = Admission(Lane("the pool", 2, checkout_timeout=PATIENCE), ())
    end_timer_thread()
    with no_threads():
        keep_one(lane)
    first, second = lane.acquire(None), lane.acquire(None)
    lane.release(first)
    lane.release(second)

    # One that was kept comes free where its time can't be prolonged for want of a thread.
    keep_one(lane)
    first = lane.acquire(None)
    waiting = in_thread(lambda: lane.acquire(None))
    until(lambda: lane.waiting == 1)
    keep_longer(lane, 0.3)
    with no_threads():
        lane.release(waiting.result(PATIENCE))
    lane.release(first)
    assert lane.in_use == 0


def test_a_ping_without_a_thread(
    database: dict[str, Any], mysql: MySQL, no_threads: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that could not be asked whether it stands is not thrown out."""
    monkeypatch.setattr(drivers.PyMySQLDriver, "sees_rest", lambda driver, raw: False)
    monkeypatch.setattr(drivers.PyMySQLDriver, "limited", base.Driver.limited)
    with pool_of(1, database) as pool:
        value(pool.connection(), "SELECT 1")
        end_timer_thread()
        with no_threads(), pytest.raises(ThreadUnavailable):
            pool.connection()
        assert pool.statistics().discards == {}
        check(pool, mysql, database["database"])
