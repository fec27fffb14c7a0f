"""Closing drains, kills what remains and closes everything; several event loops share one pool; exits are prompt."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import anyio
import pymysql
import pytest

from offload_db import ConnectionLost, PoolClosed, StatementTimeout, connect, offload
from tests.conftest import MySQL
from tests.inside import link_of
from tests.support import in_thread, outcome, pool_of, settled, until, value

from .checks import adds_up, asleep, assert_ended, check, checked, running

LONG = "SELECT SLEEP(50)"
ROOT = Path(__file__).parents[2]


@pytest.mark.anyio
async def test_aclose_drains(database: dict[str, Any], mysql: MySQL) -> None:
    """aclose() lets those finish who hold a connection, refuses those who wait and come, and closes everything."""
    with pool_of(1, database) as pool:
        results: list[Any] = []

        @offload
        async def handler(statement: str) -> None:
            try:
                with pool.connection() as connection:
                    results.append(value(connection, statement))
            except PoolClosed as error:
                results.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(handler, "SELECT SLEEP(0.5)")
            await settled(lambda: asleep(mysql, "SLEEP(0.5)"))
            group.start_soon(handler, "SELECT 2")
            await settled(lambda: pool.statistics().waiting == 1)
            await pool.aclose()
            await handler("SELECT 3")
        kinds = [type(result) for result in results]
        assert sorted(kind.__name__ for kind in kinds) == ["PoolClosed", "PoolClosed", "int"]
        assert 0 in results
        await checked(pool, mysql, database["database"], serves=False)
        assert pool.statistics().open == 0
        await pool.aclose()
        pool.close()


@pytest.mark.anyio
@pytest.mark.parametrize("limit", [None, 40.0])
async def test_aclose_kills_the_rest(limit: float | None, database: dict[str, Any], mysql: MySQL) -> None:
    """What still runs after the drain is killed, in tasks, mode='thread' and threads; callers get an honest error."""
    with pool_of(4, database, statement_timeout=limit) as pool:
        errors: list[BaseException] = []

        def body() -> None:
            try:
                with pool.connection() as connection:
                    value(connection, LONG)
            except pymysql.err.OperationalError as error:
                errors.append(error)

        @offload
        async def bridged() -> None:
            body()

        @offload(mode="thread")
        async def threaded() -> None:
            body()

        async with anyio.create_task_group() as group:
            group.start_soon(bridged)
            group.start_soon(threaded)
            thread = in_thread(body)
            await settled(lambda: len(running(mysql, LONG)) == 3)
            started = time.monotonic()
            await pool.aclose(0.2)
            assert time.monotonic() - started < 8
            assert_ended(mysql, LONG)
        await outcome(thread)
        assert len(errors) == 3
        # Nobody's timeout was over.
        assert not [error for error in errors if isinstance(error, StatementTimeout)]
        await checked(pool, mysql, database["database"], serves=False)


@pytest.mark.anyio
async def test_aclose_takes_what_is_held_and_not_used(database: dict[str, Any], mysql: MySQL) -> None:
    """A connection that somebody holds without a call on it is broken off: using it is an error, closing it fine."""
    with pool_of(2, database) as pool:
        held = await outcome(in_thread(pool.connection))
        await pool.aclose(0.1)
        assert mysql.process_list(database["database"]) == [] or await _soon_gone(mysql, database["database"])

        def use() -> None:
            with pytest.raises((ConnectionLost, pymysql.err.InterfaceError)):
                value(held, "SELECT 1")
            held.close()

        await outcome(in_thread(use))
        assert pool.statistics().discards == {"closed": 1}
        adds_up(pool)


async def _soon_gone(mysql: MySQL, database: str) -> bool:
    await settled(lambda: not mysql.process_list(database))
    return True


@pytest.mark.anyio
async def test_closed_while_somebody_connects(database: dict[str, Any], mysql: MySQL, proxy: Any) -> None:
    """A connection that is opened for a cancelled caller after the pool was closed does not stay open."""
    with pool_of(1, {**database, **proxy.address}, connect_timeout=20) as pool:
        proxy.blackhole()

        @offload
        async def handler() -> None:
            pool.connection()

        with anyio.move_on_after(0.1):
            await handler()
        pool.close()
        proxy.flow()
        await settled(lambda: pool.statistics().in_use == 0)
        assert pool.statistics().open == 0
        await checked(pool, mysql, database["database"], serves=False)


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["bridge", "thread"])
async def test_aclose_lets_nobody_in_who_still_connects(
    way: Literal["bridge", "thread"], database: dict[str, Any], mysql: MySQL, proxy: Any
) -> None:
    """A connection that is opened only after aclose() has come to its end is of no use to anybody."""
    with pool_of(1, {**database, **proxy.address}, connect_timeout=20) as pool:
        proxy.blackhole()
        results: list[Any] = []

        @offload(mode=way)
        async def handler() -> None:
            try:
                with pool.connection() as connection:
                    results.append(value(connection, "SELECT 1"))
            except PoolClosed as error:
                results.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(handler)
            await settled(lambda: proxy.accepted == 1)
            await pool.aclose(0.1)
            assert results == []
            proxy.flow()
        assert [type(result) for result in results] == [PoolClosed]
        await checked(pool, mysql, database["database"], serves=False)
        assert pool.statistics().open == pool.statistics().checkouts == 0


@pytest.mark.anyio
async def test_aclose_ends_a_rollback_without_an_answer(database: dict[str, Any], mysql: MySQL, proxy: Any) -> None:
    """Who gives back a connection to a silent server goes on when aclose() ends, which itself waits for nobody."""
    with pool_of(1, {**database, **proxy.address}) as pool:
        back = anyio.Event()

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                connection.begin()
                value(connection, "SELECT 1")
                proxy.blackhole()
            back.set()

        async with anyio.create_task_group() as group:
            group.start_soon(handler)
            await settled(lambda: not proxy.flows)
            await pool.aclose(0)
            with anyio.move_on_after(5):  # which is less than a rollback may take
                await back.wait()
            in_time = back.is_set()
            proxy.flow()
        assert in_time
        assert dict(pool.statistics().discards) == {"rollback_failed": 1}
        await checked(pool, mysql, database["database"], serves=False)


def test_close_on_a_thread(database: dict[str, Any], mysql: MySQL) -> None:
    """close() closes what is idle at once and what is out when it comes back; closing twice is fine."""
    with pool_of(3, database) as pool:
        held = [pool.connection() for _ in range(3)]
        held[0].close()
        held[1].close()
        pool.close()
        assert pool.statistics().open == 1
        assert value(held[2], "SELECT 1") == 1
        held[2].close()
        pool.close()
        assert pool.statistics().open == 0
        with pytest.raises(PoolClosed):
            pool.connection()
        check(pool, mysql, database["database"], serves=False)


@pytest.mark.parametrize("use_uvloop", [False, True])
def test_two_loops_at_once(use_uvloop: bool, database: dict[str, Any], mysql: MySQL) -> None:
    """Two event loops in two threads share a pool: none waits for ever, and the size holds for both together."""
    if use_uvloop:
        pytest.importorskip("uvloop")
    with pool_of(2, database) as pool:
        most = []

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                assert value(connection, "SELECT SLEEP(0.001)") == 0
                most.append(pool.statistics().open)

        async def main() -> None:
            for _ in range(10):
                async with anyio.create_task_group() as group:
                    for _ in range(5):
                        group.start_soon(handler)

        options = {"use_uvloop": use_uvloop}
        threads = [in_thread(lambda: anyio.run(main, backend_options=options)) for _ in range(2)]
        for thread in threads:
            thread.result(30)
        assert len(most) == 100
        assert max(most) <= 2
        check(pool, mysql, database["database"])


@pytest.mark.parametrize("backends", [("asyncio", "asyncio"), ("asyncio", "trio"), ("trio", "asyncio")])
def test_one_loop_after_the_other(backends: tuple[str, str], database: dict[str, Any], mysql: MySQL) -> None:
    """A pool outlives an event loop, also one that ended with a statement cancelled, and serves the next."""
    if "trio" in backends:
        pytest.importorskip("trio")
    with pool_of(2, database) as pool:

        @offload
        async def handler(statement: str) -> Any:
            with pool.connection() as connection:
                return value(connection, statement)

        async def main() -> None:
            assert await handler("SELECT CONNECTION_ID()") == first[0]
            with anyio.move_on_after(0.1):
                await handler(LONG)

        with pool.connection() as connection:
            first = [value(connection, "SELECT CONNECTION_ID()")]
        for backend in backends:
            anyio.run(main, backend=backend)
            assert_ended(mysql, LONG)
        check(pool, mysql, database["database"])


PROGRAM = """
import asyncio, os, signal, sys, threading, time
import anyio, pymysql, offload_db

# A shell starts what it puts into the background with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

pool = offload_db.OffloadPool.create(pymysql, min_size=0, max_size=4, autocommit=True, ssl_disabled=True, **{settings})

def statement():
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(50)")

@offload_db.offload
async def handler():
    statement()

def running():
    with pymysql.connect(ssl_disabled=True, **{settings}) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT COUNT(*) FROM information_schema.processlist"
            " WHERE db = DATABASE() AND info LIKE 'SELECT SLEEP%'"
        )
        return cursor.fetchone()[0]

async def main():
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(handler)
        while await anyio.to_thread.run_sync(running) < 3:
            await anyio.sleep(0.01)
        print("running", flush=True)
        {end}

{run}
"""

ENDS = {
    "an error": ("raise SystemExit(3)", "anyio.run(main)", (1, 3)),
    "an error on trio": ("raise SystemExit(3)", "anyio.run(main, backend='trio')", (1, 3)),
    "a signal": ("await anyio.sleep(50)", "anyio.run(main)", (-signal.SIGINT, 130, 1)),
    "a daemon thread": (
        "",
        """
threading.Thread(target=statement, daemon=True).start()
while running() < 1: time.sleep(0.01)
print('running', flush=True)
""",
        (0,),
    ),
    "a pool that is closed at exit": (
        "",
        """
import atexit
from contextlib import suppress
atexit.register(lambda: asyncio.run(pool.aclose(0.1)))
def quietly():
    with suppress(pymysql.MySQLError): statement()
threading.Thread(target=quietly, daemon=True).start()
while running() < 1: time.sleep(0.01)
print('running', flush=True)
""",
        (0,),
    ),
    "a pool that is never closed": ("", "pool.connection().close(); print('running', flush=True)", (0,)),
    "a connection that is never closed": (
        "",
        "kept = pool.connection(); kept.begin(); print('running', flush=True)",
        (0,),
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_interpreter_exits(how: str, database: dict[str, Any], mysql: MySQL) -> None:
    """An interpreter that exits with statements in flight ends promptly, without noise of the library's."""
    end, run, codes = ENDS[how]  # anyio 4 puts what a task group raised into a group, which makes the code 1
    if "trio" in how:
        pytest.importorskip("trio")
    program = textwrap.dedent(PROGRAM).format(settings=repr(database), end=end or "pass", run=run)
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "ignore", "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "running\n", child.communicate()
            started = time.monotonic()
            if how == "a signal":
                child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=20)
            assert time.monotonic() - started < 10
        finally:
            child.kill()
    assert child.returncode in codes, errors
    for noise in ("Exception ignored", "Fatal", "never awaited", "Task was destroyed", "OperationalError"):
        assert noise not in errors, errors
    if how != "a daemon thread":  # nothing of Python's runs any more that could kill it
        until(lambda: not mysql.process_list(database["database"]))


def test_tasks_of_a_loop_that_was_closed(database: dict[str, Any], mysql: MySQL) -> None:
    """Tasks that waited when their loop was closed under them keep nobody waiting: for a connection or for the turn."""
    with pool_of(1, database) as pool:
        holder, shared = pool.connection(), connect(**database)

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, "SELECT 1")

        @offload
        async def user(statement: str) -> Any:
            return value(shared, statement)

        async def main() -> list[Any]:
            return [*await asyncio.gather(handler(), handler(), user("SELECT 2"))]

        busy = in_thread(lambda: value(shared, "SELECT SLEEP(0.7)"))
        until(lambda: (link := link_of(shared)) is not None and link.busy)
        loop = asyncio.new_event_loop()
        lost = [loop.create_task(made) for made in (handler(), handler(), user("SELECT 1"))]
        loop.run_until_complete(asyncio.sleep(0.1))
        assert pool.statistics().waiting == 2
        loop.close()
        assert busy.result(10) == 0
        holder.close()
        assert pool.statistics().in_use == pool.statistics().waiting == 0
        assert asyncio.run(asyncio.wait_for(main(), 10)) == [None, None, 2]
        shared.close()
        for task in lost:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # the noise is asyncio's
            with suppress(RuntimeError):
                task.get_coro().close()
        check(pool, mysql, database["database"])
