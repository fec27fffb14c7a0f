"""Several tasks' statements go through one thread, and none of them notices the others."""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from contextvars import ContextVar, copy_context
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pymysql
import pytest
from pymysql.cursors import Cursor, SSCursor

from offload_db import ConnectionLost, OffloadPool, StatementTimeout, ThreadUnavailable, offload
from offload_db.bridge import dispatcher, greenlet_pool, reactor
from offload_db.bridge.dispatcher import Dispatcher
from offload_db.bridge.hops import Hop
from offload_db.bridge.reactor import BUSY, Reactor, current_reactor, make_patient
from offload_db.drivers import pymysql_results
from offload_db.drivers.pymysql_connection import FastConnection
from tests.conftest import MySQL
from tests.faults.checks import checked
from tests.faults.proxy import Proxy
from tests.support import pool_of, settled, together, until, value, watched_wire
from tests.tls import tls_server_in

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

SLOW = "SELECT SLEEP(30)"


@pytest.fixture
def shares(anyio_backend_name: str) -> bool:
    """Tell whether this event loop's tasks share threads."""
    return anyio_backend_name == "asyncio"


async def warm(pool: OffloadPool, number: int) -> None:
    """Open *number* connections."""
    leases = [await pool.acquire() for _ in range(number)]
    for lease in leases:
        await pool.release(lease)


# --- who shares a thread


async def test_one_thread_for_all(*, shares: bool, database: dict[str, Any]) -> None:
    """Statements that tasks send in one round go through one thread, and run at the same time."""
    with pool_of(10, database) as pool:
        await warm(pool, 10)
        before = pool.statistics()

        @offload
        async def handler() -> int:
            with pool.connection() as connection:
                return int(value(connection, "SELECT SLEEP(0.2) + CONNECTION_ID()"))

        started = time.monotonic()
        with watched_wire() as wire:
            ids = await together(*[handler] * 10)
        assert len(set(ids)) == 10
        assert time.monotonic() - started < 1.5  # not one after the other
        threads = {thread for name, thread in wire.events if name == "sendall"}
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
            await together(many, lambda: pool.fetch_value("SELECT SLEEP(0.1)"))
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


def refuse() -> None:
    raise OSError(errno.EMFILE, "Too many open files")


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


# --- none notices the others


async def test_each_in_the_context_of_its_task(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever it departs with, a statement is sent in its own task's context."""
    who: ContextVar[str] = ContextVar("who")
    seen: dict[str, str] = {}
    write = FastConnection._write_bytes

    def watched(self: Any, data: bytes) -> None:
        if b"I am " in data:
            seen[data.rpartition(b" ")[2].decode()] = who.get("nobody")
        write(self, data)

    monkeypatch.setattr(FastConnection, "_write_bytes", watched)
    with pool_of(4, database) as pool:
        await warm(pool, 4)

        async def ask(name: str) -> None:
            who.set(name)
            await pool.fetch_value(f"SELECT 1 -- I am {name}")

        for number in (2, 4):
            names = [f"{number}.{n}" for n in range(number)]
            async with anyio.create_task_group() as group:
                for name in names:
                    group.start_soon(ask, name)
            assert [seen[name] for name in names] == names


async def test_nothing_is_sent_from_a_cancelled_scope(database: dict[str, Any]) -> None:
    """A call in a scope that is cancelled already makes no trip, however busy the loop is."""
    with pool_of(4, database) as pool:
        await warm(pool, 4)
        await pool.execute("CREATE TABLE t (a INT)")

        @offload
        async def cancelled() -> None:
            with pool.connection() as connection, connection.cursor() as cursor:
                # ruff sees no await, but in bridged code execute() is one.
                with anyio.CancelScope() as scope:  # noqa: ASYNC100
                    scope.cancel()
                    cursor.execute("INSERT INTO t VALUES (1)")

        async def busy() -> None:
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
                until_then = time.monotonic() + 0.01
                while time.monotonic() < until_then:
                    pass

        for _ in range(10):
            await together(lambda: pool.fetch_value("SELECT 1"), busy, cancelled, cancelled)
        assert await pool.fetch_value("SELECT COUNT(*) FROM t") == 0


async def test_a_slow_one_holds_up_nobody(database: dict[str, Any], mysql: MySQL) -> None:
    """A task gets its answer when it is there, though another one's statement in the same thread still runs."""
    with pool_of(4, database) as pool:
        await warm(pool, 4)
        over = []
        async with anyio.create_task_group() as group:
            for statement in (SLOW, SLOW, "SELECT 1", "SELECT SLEEP(0.1)"):

                async def run(statement: str = statement) -> None:
                    await pool.fetch_value(statement)
                    over.append(statement)

                group.start_soon(run)
            with anyio.fail_after(10):
                await settled(lambda: len(over) == 2)
                assert over == ["SELECT 1", "SELECT SLEEP(0.1)"]
                # The thread that waits for the slow one keeps nobody from another.
                assert await pool.fetch_value("SELECT 2") == 2
            group.cancel_scope.cancel()
        assert pool.statistics().kills == 2
        assert pool.statistics().discards == {}
        await checked(pool, mysql, database["database"])


async def test_one_is_cancelled(database: dict[str, Any], mysql: MySQL) -> None:
    """A cancelled statement is killed, and the others in its thread go on."""
    with pool_of(4, database) as pool:
        await warm(pool, 4)
        results: list[Any] = []

        async def short() -> None:
            results.append(await pool.fetch_value("SELECT SLEEP(0.3)"))

        async def cancelled() -> None:
            with anyio.move_on_after(0.1) as scope:
                await pool.fetch_value(SLOW)
            assert scope.cancel_called
            results.append("cancelled")

        with anyio.fail_after(10):
            await together(short, cancelled, short, cancelled)
        assert results == ["cancelled", "cancelled", 0, 0]
        assert (pool.statistics().kills, pool.statistics().discards) == (2, {})
        await checked(pool, mysql, database["database"])


async def test_one_is_late(database: dict[str, Any], mysql: MySQL) -> None:
    """Each has its own time."""
    with pool_of(4, database) as pool:
        await warm(pool, 4)
        results = await together(
            lambda: pool.fetch_value("SELECT SLEEP(0.3)"),
            lambda: pool.fetch_value(SLOW, timeout=0.2),
            lambda: pool.fetch_value("SELECT SLEEP(0.3)"),
        )
        assert [results[0], results[2]] == [0, 0]
        assert isinstance(results[1], StatementTimeout)
        await checked(pool, mysql, database["database"])


@pytest.mark.parametrize("how", ["killed", "error", "read_timeout"])
async def test_one_fails(how: str, database: dict[str, Any], mysql: MySQL) -> None:
    """A lost link, a server's error and PyMySQL's own read_timeout are raised to one task, and to no other."""
    limit = {"read_timeout": 1} if how == "read_timeout" else {}
    with pool_of(4, database, **limit) as pool:
        await warm(pool, 4)

        async def strike() -> None:
            if how == "killed":
                await settled(lambda: any(p["INFO"] == SLOW for p in mysql.process_list(database["database"])))
                (victim,) = [p["ID"] for p in mysql.process_list(database["database"]) if p["INFO"] == SLOW]
                mysql.kill_connection(victim)

        bad = "SELECT * FROM missing" if how == "error" else SLOW
        results = await together(
            lambda: pool.fetch_value("SELECT SLEEP(0.5)"),
            lambda: pool.fetch_value(bad),
            lambda: pool.fetch_value("SELECT SLEEP(0.5)"),
            strike,
        )
        assert [results[0], results[2]] == [0, 0]
        assert isinstance(results[1], pymysql.err.ProgrammingError if how == "error" else ConnectionLost)
        if how == "read_timeout":  # nobody is there any more to tell the server
            for process in mysql.process_list(database["database"]):
                if process["INFO"] == SLOW:
                    mysql.kill_connection(process["ID"])
        await checked(pool, mysql, database["database"])


async def test_large_ones_in_both_directions(database: dict[str, Any], mysql: MySQL) -> None:
    """Long statements and long results, buffered and not, of tasks that share a thread arrive whole."""
    with pool_of(6, database) as pool:
        await warm(pool, 6)
        texts = [str(number) * 3_000_000 for number in range(6)]

        @offload
        async def handler(number: int) -> None:
            with pool.connection() as connection, connection.cursor(SSCursor if number % 2 else Cursor) as cursor:
                cursor.execute("SELECT %s", (texts[number],))
                assert cursor.fetchall()[0][0] == texts[number]
                cursor.execute(f"SELECT seq + {number} FROM seq_1_to_20000")
                assert sum(row[0] for row in cursor.fetchall()) == 200010000 + number * 20000

        results = await together(*[lambda number=number: handler(number) for number in range(6)])
        assert results == [None] * 6
        await checked(pool, mysql, database["database"])


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


def test_all_tasks_are_cancelled(database: dict[str, Any], mysql: MySQL, caplog: pytest.LogCaptureFixture) -> None:
    """When a program ends in the middle of shared trips, every statement is killed, and nothing is complained of."""
    with pool_of(4, database) as pool:

        async def main() -> None:
            await warm(pool, 4)
            tasks = [asyncio.create_task(pool.fetch_value(SLOW)) for _ in range(4)]
            await settled(lambda: len([p for p in mysql.process_list(database["database"]) if p["INFO"] == SLOW]) == 4)
            assert not any(task.done() for task in tasks)

        asyncio.run(main())
        assert pool.statistics().kills == 4
        asyncio.run(checked(pool, mysql, database["database"]))
    assert caplog.records == []


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


async def test_what_came_back_is_not_kept(database: dict[str, Any]) -> None:
    """The rows of one statement are freed though another one of the same thread still runs."""
    with pool_of(4, database) as pool:
        await warm(pool, 4)
        over: list[int] = []

        async def large() -> None:
            over.append(len(await pool.fetch_value("SELECT REPEAT('x', 10000000)")))

        async with anyio.create_task_group() as group:
            group.start_soon(pool.fetch_value, SLOW)
            group.start_soon(pool.fetch_value, SLOW)
            tracemalloc.start()
            try:
                group.start_soon(large)
                await settled(lambda: over == [10_000_000])
                # Where a thread makes one hop alone, it may be a moment late to forget it.
                await settled(lambda: tracemalloc.get_traced_memory()[0] < 5_000_000, timeout=2)
            finally:
                tracemalloc.stop()
            group.cancel_scope.cancel()


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
        back: list[dispatcher._SharedHop] = []

        def block(shared: Any) -> None:
            wake(shared)
            if not back:
                # What departs in the same round comes back, and the thread ends, before the loop goes on.
                back.append(dispatcher._SharedHop(Hop(int), asyncio.get_running_loop().create_future()))
                sender._depart(back[:], asyncio.get_running_loop())
                until(lambda: shared._thread.back)

        wake = dispatcher.SharedThread._wake
        trip = Hop(int)
        task = asyncio.create_task(sender.send(trip, shared=True))
        if cut == "the task's start":
            while sender._shared is None:  # noqa: ASYNC110  # round by round: in the next one the task starts
                await asyncio.sleep(0)
            for other in asyncio.all_tasks() - {asyncio.current_task(), task}:
                other.cancel()
            await asyncio.wait_for(task, 20)
            assert trip.back
        else:
            monkeypatch.setattr(dispatcher.SharedThread, "_wake", block)
            await asyncio.wait_for(task, 20)
            await asyncio.wait_for(back[0].back, 20)

    asyncio.run(main())


# --- the hub itself

Calls = list[Callable[[], None]]


class Piece:
    """A function for a shared thread."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.context = copy_context()
        self._function = function

    def __call__(self) -> None:
        self._function()


def share(*calls: Callable[[], None]) -> None:
    """Run calls in this thread."""
    hub = Reactor()
    assert hub.add([Piece(call) for call in calls])
    hub.run(lambda: None)
    assert not hub.add([])
    assert current_reactor() is None


def test_calls_can_be_added_at_any_moment() -> None:
    """A call that is added while the thread falls asleep, wakes up or works is made at once; after the end, never."""
    near, far = socket.socketpair()
    hub, made = Reactor(), threading.Event()

    def hold() -> None:
        hub.wait(near, select.POLLIN, None)

    assert hub.add([Piece(hold)])
    thread = threading.Thread(target=hub.run, args=(lambda: None,))
    thread.start()
    pauses = random.Random(1)
    for _ in range(5000):
        assert hub.add([Piece(made.set)])
        assert made.wait(20)
        made.clear()
        for _ in range(pauses.randrange(200)):
            pass
    far.send(b"x")
    thread.join()
    assert not hub.add([Piece(made.set)])
    assert not made.is_set()
    near.close()
    far.close()


def test_a_call_added_just_as_the_thread_wakes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the thread ends it tells of every call, also where a wake-up came when it was awake already."""
    near, far = socket.socketpair()
    hub = Reactor()
    over: list[str] = []
    told: list[int] = []

    class Poll:
        def __init__(self) -> None:
            self.own = poll()
            self.register, self.unregister = self.own.register, self.own.unregister

        def poll(self, patience: float | None) -> list[tuple[int, int]]:
            ready = self.own.poll(patience)
            if near.fileno() in [descriptor for descriptor, _ in ready]:
                assert hub.add([Piece(functools.partial(over.append, "second"))])
            return ready

    def first() -> None:
        threading.Timer(0.1, far.send, (b"x",)).start()
        hub.wait(near, select.POLLIN, None)
        over.append("first")

    poll = select.poll
    monkeypatch.setattr(select, "poll", Poll)
    monkeypatch.setattr(reactor, "TOLD_AFTER", 100)
    hub.add([Piece(first)])
    hub.run(lambda: told.append(len(over)))
    assert over == ["first", "second"]
    assert told[-1] == 2
    near.close()
    far.close()


def test_a_thread_that_breaks_down() -> None:
    """Where a thread cannot go on, the calls that wait in it end as if they were late."""
    near, far = socket.socketpair()
    hub = Reactor()
    late: list[bool] = []

    def wait() -> None:
        try:
            hub.wait(near, select.POLLIN, None)
        except TimeoutError:
            late.append(True)

    def fail() -> None:
        raise MemoryError

    hub.add([Piece(wait), Piece(fail)])
    with pytest.raises(MemoryError):
        hub.run(lambda: None)
    assert late == [True]
    assert not hub.add([])
    near.close()
    far.close()


def test_a_busy_thread_takes_none() -> None:
    """A thread that has not looked at its calls for a while takes no further ones, until it has."""
    near, far = socket.socketpair()
    far.send(b"x")
    hub, entered, leave, looked = Reactor(), threading.Event(), threading.Event(), threading.Event()

    def keep() -> None:
        entered.set()
        leave.wait(30)
        hub.wait(near, select.POLLIN, None)
        looked.set()
        near.recv(1)
        hub.wait(near, select.POLLIN, None)

    assert hub.add([Piece(keep)])
    thread = threading.Thread(target=hub.run, args=(lambda: None,))
    thread.start()
    assert entered.wait(30)
    until(lambda: not hub.add([]))
    leave.set()
    assert looked.wait(30)
    until(lambda: hub.add([]))
    far.send(b"x")
    thread.join()
    near.close()
    far.close()


def test_a_thread_that_has_waited_is_not_busy() -> None:
    """A thread that wakes up from a long wait takes further calls at once."""
    near, far = socket.socketpair()
    hub, took = Reactor(), []

    def wait() -> None:
        threading.Timer(BUSY * 3, far.send, (b"x",)).start()
        hub.wait(near, select.POLLIN, None)
        took.append(hub.add([]))

    hub.add([Piece(wait)])
    hub.run(lambda: None)
    assert took == [True]
    near.close()
    far.close()


def test_patience_for_more_than_poll_takes() -> None:
    """A call that may wait for years, more milliseconds than the system takes, waits until it has something."""
    near, far = socket.socketpair()
    over = []

    def wait() -> None:
        threading.Timer(0.1, far.send, (b"x",)).start()
        current: Any = current_reactor()
        current.wait(near, select.POLLIN, 31536000.0)
        over.append(near.recv(1))

    share(wait)
    assert over == [b"x"]
    near.close()
    far.close()


def test_who_is_over_is_told_while_others_are_busy() -> None:
    """What has come to its end is told soon, also where another call never has to wait."""
    near, far = socket.socketpair()
    far.send(b"x")
    hub, told = Reactor(), threading.Event()
    started = time.monotonic()

    def read() -> None:
        while not told.is_set() and time.monotonic() - started < 10:
            hub.wait(near, select.POLLIN, None)

    hub.add([Piece(read)])
    hub.run(told.set)
    assert told.is_set()
    near.close()
    far.close()


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MySQL]:
    """Give a server that speaks TLS."""
    with tls_server_in(tmp_path_factory.mktemp("tls")) as server:
        yield server


def _open(stack: ExitStack, server: MySQL, *, tls: bool, **overrides: Any) -> Any:
    how = {"ssl": {"check_hostname": False}} if tls else {"ssl_disabled": True}
    connection = stack.enter_context(FastConnection(**{**server.settings(), **how, **overrides}))
    assert bool(value(connection, "SHOW STATUS LIKE 'Ssl_cipher'") and connection._sock.__class__.__name__) is True
    assert ("SSL" in type(connection._sock).__name__) is tls
    return connection


either_link = pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])


@either_link
def test_a_link_that_falls_silent_in_mid_answer(*, tls: bool, tls_server: MySQL) -> None:
    """While one call waits for the rest of a packet, or of a TLS record, the others are answered."""
    address = (tls_server.host, tls_server.port)
    with Proxy(address) as proxy, ExitStack() as stack:
        held = _open(stack, tls_server, tls=tls, **proxy.address)
        free = _open(stack, tls_server, tls=tls)
        over: list[str] = []

        def slow() -> None:
            assert value(held, "SELECT REPEAT('x', 10000)") == "x" * 10000
            over.append("slow")

        def quick() -> None:
            until(lambda: not proxy.flows)
            assert value(free, "SELECT SLEEP(0.1)") == 0
            over.append("quick")
            proxy.flow()

        proxy.silence_after(5000)
        share(slow, quick)
        assert over == ["quick", "slow"]


@either_link
def test_a_server_that_takes_nothing(*, tls: bool, tls_server: MySQL) -> None:
    """While one call cannot send its statement, the others are answered."""
    address = (tls_server.host, tls_server.port)
    with Proxy(address) as proxy, ExitStack() as stack:
        held = _open(stack, tls_server, tls=tls, **proxy.address)
        free = _open(stack, tls_server, tls=tls)
        over: list[str] = []
        text = "x" * 15_000_000

        def large() -> None:
            assert value(held, "SELECT LENGTH(%s)", text) == len(text)
            over.append("large")

        def quick() -> None:
            assert value(free, "SELECT 1") == 1
            over.append("quick")
            proxy.flow()

        proxy.blackhole()
        share(large, quick)
        assert over == ["quick", "large"]


@either_link
@pytest.mark.parametrize("way", ["reading", "writing"])
def test_the_links_own_timeouts(way: str, *, tls: bool, tls_server: MySQL) -> None:
    """read_timeout and write_timeout hold, with PyMySQL's own errors."""
    address = (tls_server.host, tls_server.port)
    with Proxy(address) as proxy, ExitStack() as stack:
        limits = {"read_timeout": 1} if way == "reading" else {"write_timeout": 1}
        held = _open(stack, tls_server, tls=tls, **limits, **proxy.address)
        free = _open(stack, tls_server, tls=tls)
        errors: list[Any] = []

        def late() -> None:
            with pytest.raises(pymysql.err.OperationalError) as caught:
                value(held, "SELECT LENGTH(%s)", "x" * (15_000_000 if way == "writing" else 1))
            errors.append(caught.value.args)

        def quick() -> None:
            assert value(free, "SELECT SLEEP(0.2)") == 0

        proxy.blackhole()
        started = time.monotonic()
        share(late, quick)
        assert 0.9 < time.monotonic() - started < 5
        proxy.flow()
        ((code, text),) = errors
        assert code == (2013 if way == "reading" else 2006)
        assert "timed out" in text
        assert not held.open


def test_a_socket_that_is_closed() -> None:
    """Who reads from a socket that was closed gets the error, instead of waiting for ever."""
    near, far = socket.socketpair()
    reader = near.makefile("rb")
    make_patient(reader)
    near.detach()
    errors: list[OSError] = []

    def read() -> None:
        with pytest.raises(OSError, match="descriptor") as caught:
            reader.read(1)
        errors.append(caught.value)

    share(read)
    assert [error.errno for error in errors] == [errno.EBADF]
    far.close()


def test_a_late_one_beside_one_that_always_gets_something(mysql: MySQL) -> None:
    """A timeout comes when it is due, though another call of the thread is never kept waiting."""
    with ExitStack() as stack:
        late = _open(stack, mysql, tls=False, read_timeout=1)
        near, far = socket.socketpair()
        far.send(b"there is always something to read")
        over: list[float] = []
        started = time.monotonic()

        def wait() -> None:
            with pytest.raises(pymysql.err.OperationalError, match="timed out"):
                value(late, SLOW)
            over.append(time.monotonic() - started)

        def read() -> None:
            hub = current_reactor()
            assert hub is not None
            while not over and time.monotonic() - started < 10:
                hub.wait(near, select.POLLIN, None)

        session = late.thread_id()
        share(wait, read)
        mysql.kill_connection(session)
        near.close()
        far.close()
        assert 0.9 < over[0] < 5


def test_strands_are_used_again_and_end_with_their_thread(mysql: MySQL) -> None:
    """A thread keeps what it has shared itself out with, and nothing of it is left when it has ended."""
    kept: set[weakref.ref[Any]] = set()
    with ExitStack() as stack:
        connections = [_open(stack, mysql, tls=False) for _ in range(5)]

        def run() -> None:
            for _ in range(5):
                share(*(functools.partial(value, connection, "SELECT 1") for connection in connections))
                kept.update(map(weakref.ref, greenlet_pool._here.idle))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert len(kept) == 5

    def gone() -> bool:
        gc.collect()
        return all(strand() is None for strand in kept)

    until(gone)


# When a thread has ended, greenlet asks gc.get_referrers() who keeps the thread's own greenlet, and takes the reference
# away if that finds nobody. It does not see what is being collected.
COLLECTED_WHEN_THE_THREAD_ENDS = """
import gc, threading, weakref
from contextvars import copy_context
from offload_db.bridge.reactor import Reactor

gc.disable()
shared_out = threading.Event()
ends = threading.Event()
watched = []


class Piece:
    context = copy_context()

    def __call__(self):
        pass


def run():
    hub = Reactor()
    hub.hub = hub  # for the collector to find
    watched.append(weakref.ref(hub, collected))
    hub.add([Piece()])
    hub.run(lambda: None)
    del hub
    shared_out.set()
    ends.wait()


def collected(_):
    ends.set()
    thread.join()
    for _ in range(1000):  # for greenlet to notice
        pass
    watched.clear()


thread = threading.Thread(target=run)
thread.start()
shared_out.wait()
gc.collect()
assert not watched
gc.collect()
"""


def test_the_collector_meets_a_thread_that_has_just_ended() -> None:
    """Nothing keeps a thread's own greenlet when the thread no longer shares itself out, or Python may crash."""
    subprocess.run([sys.executable, "-X", "faulthandler", "-c", COLLECTED_WHEN_THE_THREAD_ENDS], check=True, timeout=50)


def test_each_call_has_its_own_context(mysql: MySQL) -> None:
    """Context variables of one call are not seen by the others."""
    variable: ContextVar[int] = ContextVar("variable")
    seen: list[int] = []
    with ExitStack() as stack:
        connections = [_open(stack, mysql, tls=False) for _ in range(3)]

        def call(number: int) -> Callable[[], None]:
            def run() -> None:
                variable.set(number)
                value(connections[number], "SELECT SLEEP(%s)", 0.1 * (3 - number))
                seen.append(variable.get())

            return run

        share(*(call(number) for number in range(3)))
        assert seen == [2, 1, 0]
        assert variable.get(None) is None
