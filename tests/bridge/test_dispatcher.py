"""Claims about who shares a thread: statements of several tasks do, the user's own code does not."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import threading
import time
import weakref
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pymysql
import pytest
from pymysql.cursors import Cursor

from offload_db import ThreadUnavailable, offload
from offload_db.bridge import dispatcher
from offload_db.bridge.dispatcher import Dispatcher, Expired
from offload_db.bridge.hops import Hop
from offload_db.bridge.reactor import BUSY, Reactor, current_reactor
from offload_db.drivers import pymysql_results
from tests.bridge.inside import depart, is_back, on_waking, shared_thread
from tests.conftest import MySQL
from tests.faults.checks import checked
from tests.support import Gate, pool_of, running, settled, together, until, value, warm, watched_wire

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

SLOW = "SELECT SLEEP(30)"


@pytest.fixture
def shares(anyio_backend_name: str) -> bool:
    """Tell whether this event loop's tasks share threads."""
    return anyio_backend_name == "asyncio"


async def test_one_thread_for_all(*, shares: bool, database: dict[str, Any], mysql: MySQL) -> None:
    """Statements that tasks send in one round go through one thread, and run at the same time."""
    with pool_of(10, database) as pool, mysql.connect(**database) as other, other.cursor() as locks:
        await warm(pool, 10)
        locks.execute("CREATE TABLE t (a INT)")
        locks.execute("LOCK TABLES t WRITE")
        before = pool.statistics()

        @offload
        async def handler() -> int:
            with pool.connection() as connection:
                return int(value(connection, "SELECT COUNT(*) + CONNECTION_ID() FROM t"))

        async def let_go() -> None:
            await settled(lambda: len(running(mysql, database, "FROM t")) == 10)  # not one after the other
            locks.execute("UNLOCK TABLES")

        with watched_wire() as wire:
            ids = (await together(*[handler] * 10, let_go))[:10]
        assert len(set(ids)) == 10
        threads = {thread for name, thread in wire.events if name == "sendall"} - {threading.get_ident()}
        assert (len(threads) == 1) == shares
        after = pool.statistics()
        assert (after.hops - before.hops, after.statements - before.statements) == (10, 10)


@pytest.mark.parametrize("surface", ["fetch_all", "fetch_one", "fetch_value", "execute"])
async def test_awaitable_calls(surface: str, *, shares: bool, database: dict[str, Any]) -> None:
    """Awaitable calls share a thread as well."""
    with pool_of(6, database) as pool:
        await warm(pool, 6)
        with watched_wire() as wire:
            await together(*[lambda: getattr(pool, surface)("SELECT SLEEP(0.2)")] * 6)
        assert (len({thread for name, thread in wire.events if name == "sendall"}) == 1) == shares


@pytest.mark.parametrize("ending", ["commit", "close"])
async def test_ends_of_transactions(ending: str, *, shares: bool, database: dict[str, Any]) -> None:
    """Commits share a thread, and so do the rollbacks of connections that are given back."""
    with pool_of(6, database, autocommit=False) as pool:
        await warm(pool, 6)
        present, ready = [0], anyio.Event()

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, "SELECT COUNT(*) FROM information_schema.tables")
                present[0] += 1
                if present[0] == 6:
                    wire.clear()
                    ready.set()
                await ready.wait()
                if ending == "commit":
                    connection.commit()

        with watched_wire() as wire:
            assert await together(*[handler] * 6) == [None] * 6
        assert len([name for name, _ in wire.events if name == "sendall"]) == 6
        if shares:
            assert len({thread for name, thread in wire.events if name == "sendall"}) == 1
        assert pool.statistics().discards == {}


async def test_those_that_come_later_join(*, shares: bool, database: dict[str, Any]) -> None:
    """While statements share a thread, those that tasks send meanwhile go through the same one, and wait for none."""
    with pool_of(2, database) as pool:
        await warm(pool, 2)
        with watched_wire() as wire:
            async with anyio.create_task_group() as group:
                group.start_soon(pool.fetch_value, SLOW)
                await settled(lambda: [name for name, _ in wire.events].count("sendall") == 1)
                for number in range(20):
                    assert await pool.fetch_value("SELECT %s", number) == number
                threads = {thread for name, thread in wire.events if name == "sendall"}
                group.cancel_scope.cancel()
        assert (len(threads) == 1) == shares


@pytest.mark.parametrize("surface", ["executemany", "execute_many"])
async def test_many_rows_of_parameters(surface: str, *, shares: bool, database: dict[str, Any]) -> None:
    """Statements for many rows have a thread of their own: to put them together takes a while."""
    with pool_of(2, database) as pool:
        await warm(pool, 2)
        await pool.execute("CREATE TABLE t (a INT)")

        @offload
        async def handler() -> None:
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.executemany("INSERT INTO t VALUES (%s)", [(1,), (2,)])

        async def many() -> None:
            if surface == "executemany":
                await handler()
            else:
                assert await pool.execute_many("INSERT INTO t VALUES (%s)", [(1,), (2,)]) == 2

        with watched_wire() as wire:
            async with anyio.create_task_group() as group:
                group.start_soon(pool.fetch_value, "SELECT SLEEP(0.2)")
                await settled(lambda: [name for name, _ in wire.events].count("sendall") == 1)
                await many()  # when the other one is under way, or it might get its thread when that is over
        assert len({thread for name, thread in wire.events if name == "sendall"}) == 2
        assert await pool.fetch_value("SELECT COUNT(*) FROM t") == 2


async def test_a_busy_thread_gets_no_more(
    *, shares: bool, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one statement keeps the thread by something that never waits, those that come go through another one."""
    entered, leave = threading.Event(), threading.Event()
    decode = pymysql_results.FastResult._read_rowdata_packet

    def slow(self: Any) -> None:
        decode(self)
        if self.rows == (("slow",),):
            entered.set()
            leave.wait(30)

    monkeypatch.setattr(pymysql_results.FastResult, "_read_rowdata_packet", slow)
    with pool_of(3, database) as pool:
        await warm(pool, 3)
        async with anyio.create_task_group() as group:
            group.start_soon(pool.fetch_value, "SELECT 'slow'")
            await settled(entered.is_set)
            await anyio.sleep(2 * BUSY)
            try:
                with anyio.fail_after(20):
                    assert await pool.fetch_value("SELECT 1") == 1
            finally:
                leave.set()


async def test_a_pause_before_the_thread_begins(
    *, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch, anyio_backend_name: str
) -> None:
    """A long garbage collection just before a shared thread begins loses no statement."""

    class Paused(Reactor):
        def __init__(self) -> None:
            super().__init__()
            time.sleep(2 * BUSY)

    monkeypatch.setattr(dispatcher, "Reactor", Paused)
    with pool_of(2, database) as pool, anyio.fail_after(20):
        assert await together(*[lambda: pool.fetch_value("SELECT 1")] * 2) == [1, 1]


class Serial(Cursor):
    """A user's cursor: one statement at a time in the whole process."""

    lock = threading.Lock()

    def execute(self, query: Any, args: Any = None) -> int:
        """Send the statement."""
        assert current_reactor() is None
        with self.lock:
            return super().execute(query, args)


def convert(text: Any) -> Any:
    """Convert a number as a user may."""
    assert current_reactor() is None
    return int(text)


@pytest.mark.parametrize("what", ["cursor", "converter", "row factory", "patched"])
async def test_the_users_own_code_has_a_thread_of_its_own(
    what: str, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the user has written may keep the thread, or hold a lock, so it shares none."""
    settings = {
        **database,
        **({"cursorclass": Serial} if what == "cursor" else {}),
        **({"conv": {**pymysql.converters.conversions, 8: convert}} if what == "converter" else {}),
    }

    def make(**row: Any) -> Any:
        assert current_reactor() is None
        return row["n"]

    original = pymysql.connections.Connection.query

    @functools.wraps(original)
    def logged(self: Any, *args: Any, **kwargs: Any) -> Any:
        assert current_reactor() is None
        return original(self, *args, **kwargs)

    if what == "patched":
        monkeypatch.setattr(pymysql.connections.Connection, "query", logged)
    with pool_of(5, settings) as pool:
        await warm(pool, 5)
        cursor = make if what == "row factory" else None
        rows = await together(*[lambda: pool.fetch_one("SELECT 7 AS n, SLEEP(0.01)", cursor=cursor)] * 5)
        assert [row[0] if isinstance(row, tuple) else row for row in rows] == [7] * 5


async def test_a_generator_of_rows(database: dict[str, Any], mysql: MySQL) -> None:
    """Rows that a generator of the user's makes are made in a thread of their own, where it may wait as it likes."""
    with pool_of(4, database) as pool:
        await warm(pool, 4)
        await pool.execute("CREATE TABLE t (a INT)")
        lock = threading.Lock()

        def rows() -> Iterator[tuple[int]]:
            assert current_reactor() is None
            with lock:
                yield (1,)
                yield (2,)

        @offload
        async def handler() -> None:
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.executemany("UPDATE t SET a = %s + SLEEP(0.01)", rows())

        assert await together(handler, handler, handler) == [None] * 3
        await checked(pool, mysql, database["database"])


async def test_unlocking_tables_with_the_users_cursor(database: dict[str, Any], mysql: MySQL) -> None:
    """Giving back a connection that holds locks, which takes a cursor of the user's class, has a thread of its own."""
    with pool_of(4, {**database, "cursorclass": Serial}) as pool:
        await warm(pool, 4)
        for number in range(4):
            await pool.execute(f"CREATE TABLE t{number} (a INT)")
        present, ready = [0], anyio.Event()

        @offload
        async def handler(number: int) -> None:
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.execute(f"LOCK TABLES t{number} WRITE")
                present[0] += 1
                if present[0] == 4:
                    ready.set()
                await ready.wait()

        assert await together(*[lambda number=number: handler(number) for number in range(4)]) == [None] * 4
        await checked(pool, mysql, database["database"])


@pytest.mark.parametrize("where", ["on the connection", "in PyMySQL"])
async def test_converters_that_are_set_later(
    where: str, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converter has a thread of its own also where it is put into a connection, or into PyMySQL's dictionary."""
    if where == "in PyMySQL":
        monkeypatch.setitem(pymysql.converters.conversions, 8, convert)
    with pool_of(3, database) as pool:
        await warm(pool, 3)

        @offload
        async def handler() -> int:
            with pool.connection() as connection:
                if where == "on the connection":
                    connection.decoders[8] = convert
                return int(value(connection, "SELECT COUNT(*)"))

        assert await together(handler, handler, handler) == [1] * 3


async def test_files_that_are_loaded(database: dict[str, Any], tmp_path: Path) -> None:
    """A connection that may load files, which may be slow ones, shares no thread."""
    with pool_of(3, {**database, "local_infile": True}) as pool:
        await warm(pool, 3)
        await pool.execute("CREATE TABLE t (a INT)")
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)

        async def quick() -> None:
            assert await pool.fetch_value("SELECT SLEEP(0.05)") == 0
            await anyio.to_thread.run_sync(pipe.write_text, "1\n2\n")

        load = f"LOAD DATA LOCAL INFILE '{pipe}' INTO TABLE t"
        with anyio.fail_after(20):
            assert await together(lambda: pool.execute(load), quick) == [2, None]


async def test_no_thread_to_be_had(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started each task gets the error, and the pool stays whole."""
    with pool_of(4, database) as pool:
        await warm(pool, 4)

        async def fail(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(anyio.to_thread, "run_sync", fail)
            results = await together(*[lambda: pool.fetch_value("SELECT 1")] * 4)
        assert [type(result) for result in results] == [ThreadUnavailable] * 4
        assert await pool.fetch_value("SELECT 1") == 1
        assert pool.statistics().in_use == 0


def test_a_loop_that_is_closed_right_after(database: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """A loop that is closed as soon as the last answer is there has no task left."""
    with pool_of(4, database) as pool:

        async def main() -> None:
            await together(*[lambda: pool.fetch_value("SELECT 1")] * 4)

        for _ in range(200):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
            assert asyncio.all_tasks(loop) == set()
            loop.close()
    assert caplog.records == []


@pytest.mark.skipif(version("anyio").startswith("3."), reason="anyio 3 keeps each loop that has used a thread")
def test_loops_are_not_kept(database: dict[str, Any]) -> None:
    """A pool that outlives the loops that have used it keeps none of them."""
    loops: list[weakref.ref[Any]] = []
    with pool_of(4, database) as pool:

        async def main() -> None:
            loops.append(weakref.ref(asyncio.get_running_loop()))
            await together(*[lambda: pool.fetch_value("SELECT 1")] * 4)

        for _ in range(3):
            asyncio.run(main())

        def gone() -> bool:
            gc.collect()
            return all(loop() is None for loop in loops)

        until(gone)


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks came with Python 3.12")
def test_eager_tasks(database: dict[str, Any]) -> None:
    """Where tasks begin at once their statements share threads all the same."""
    with pool_of(6, database) as pool:

        async def main() -> None:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
            await warm(pool, 6)
            with watched_wire() as wire:
                results = await asyncio.gather(*(pool.fetch_value("SELECT SLEEP(0.2)") for _ in range(6)))
            assert results == [0] * 6
            assert len({thread for name, thread in wire.events if name == "sendall"}) == 1

        asyncio.run(main())


@pytest.mark.parametrize("cut", ["the task's start", "the thread's end"])
def test_who_is_not_cancelled_comes_back(cut: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of the task that sends the thread, who waits for a trip is not left waiting, nor cancelled."""

    async def main() -> None:
        sender = Dispatcher(4)
        back: list[asyncio.Future[bool]] = []

        def block(shared: dispatcher.SharedThread) -> None:
            if not back:
                # What departs in the same round comes back, and the thread ends, before the loop goes on.
                back.extend(depart(sender, Hop(int)))
                until(lambda: is_back(shared))

        trip = Hop(int)
        task = asyncio.create_task(sender.send(trip, shared=True))
        if cut == "the task's start":
            while shared_thread(sender) is None:  # noqa: ASYNC110  # round by round: in the next one the task starts
                await asyncio.sleep(0)
            for other in asyncio.all_tasks() - {asyncio.current_task(), task}:
                other.cancel()
            await asyncio.wait_for(task, 20)
            assert trip.back
        else:
            on_waking(monkeypatch, block)
            await asyncio.wait_for(task, 20)
            await asyncio.wait_for(back[0], 20)

    asyncio.run(main())


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "alone"])
async def test_a_hop_whose_time_is_over(*, shared: bool) -> None:
    """Who waits is told so, whether the hop has begun or not; one that has not is not made any more."""
    sender, first, made = Dispatcher(1), Gate(), list[int]()
    blocking, waiting = Hop(first), Hop(functools.partial(made.append, 1))
    async with anyio.create_task_group() as group:

        async def block() -> None:
            with pytest.raises(Expired):
                await sender.send(blocking, shared=shared, timeout=0.2)
            assert not blocking.back
            first.open()
            await blocking.wait_until_over()

        group.start_soon(block)
        await first.entered()
        with pytest.raises(Expired):
            await sender.send(waiting, shared=shared, timeout=0.05)
        await waiting.wait_until_over()
    await sender.send(again := Hop(int), shared=shared, timeout=5.0)
    assert again.outcome() == 0
    assert (blocking.back, waiting.back, made) == (True, False, [])


async def test_the_time_also_holds_for_who_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be shared, a hop that goes by itself has what is left of its time."""

    def refuse(*_: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(dispatcher, "SharedThread", refuse)
    gate = Gate()
    hop = Hop(gate)
    started = anyio.current_time()
    with pytest.raises(Expired):
        await Dispatcher(1).send(hop, shared=True, timeout=0.2)
    assert 0.15 < anyio.current_time() - started < 10
    gate.open()
    await hop.wait_until_over()
    assert hop.back
