"""Claims about statements that go through one thread: none of them notices the others."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pymysql
import pytest
from pymysql.cursors import Cursor, SSCursor

from offload_db import ConnectionLost, StatementTimeout, offload
from offload_db.drivers.pymysql_connection import FastConnection
from tests.conftest import MySQL
from tests.faults.checks import checked
from tests.support import pool_of, settled, together, warm

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

SLOW = "SELECT SLEEP(30)"


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
