"""A task can be cancelled at every single point where it suspends, and nothing is lost at any of them."""

# ruff: noqa: ASYNC100  # in bridged code a driver call is an await

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

import anyio
import pytest
from pymysql.cursors import SSCursor

from offload_db import OffloadPool, offload
from tests.conftest import MySQL
from tests.support import in_thread, outcome, pool_of, settled, value

from .checks import adds_up, checked, serve

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


class Steps:
    """Counts the suspensions of a coroutine, and cancels at the one that is chosen."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.taken = 0
        self.cancelled = False
        self._cancel_at = cancel_at

    @types.coroutine
    def drive(self, coroutine: Coroutine[Any, Any, Any], cancel: Callable[[], Any]) -> Generator[Any, Any, Any]:
        """Run *coroutine*; *cancel* is called just before its chosen suspension reaches the event loop."""
        send: Callable[[Any], Any] = coroutine.send
        argument: Any = None
        while True:
            try:
                suspension = send(argument)
            except StopIteration as done:
                return done.value
            self.taken += 1
            if self.taken == self._cancel_at:
                self.cancelled = True
                cancel()
            try:
                argument = yield suspension
                send = coroutine.send
            except BaseException as error:
                argument, send = error, coroutine.throw


async def by_scope(steps: Steps, make: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    with anyio.CancelScope() as scope:
        await steps.drive(make(), scope.cancel)


async def by_task(steps: Steps, make: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    started: list[asyncio.Task[None]] = []

    async def run() -> None:
        await steps.drive(make(), lambda: started[0].cancel())  # noqa: PLW0108  # not there yet

    started.append(asyncio.get_running_loop().create_task(run()))
    try:
        await started[0]
    except asyncio.CancelledError:
        assert steps.cancelled


@pytest.fixture(params=["scope", "task"])
def drive(request: pytest.FixtureRequest, anyio_backend_name: str) -> Any:
    """Give a way to run a coroutine whose steps are counted."""
    if request.param == "task" and anyio_backend_name != "asyncio":
        pytest.skip(f"{anyio_backend_name} has no task.cancel()")
    return by_task if request.param == "task" else by_scope


@pytest.fixture
def table(mysql: MySQL, database: dict[str, Any]) -> Iterator[Any]:
    """Give a plain cursor, and a table for the transactions."""
    with mysql.connect() as plain, plain.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {database['database']}.t (id INT, half INT, PRIMARY KEY (id, half))")
        yield cursor


@pytest.mark.parametrize("fresh", [True, False], ids=["connecting", "connected"])
@pytest.mark.parametrize("cursor_class", [None, SSCursor], ids=["buffered", "unbuffered"])
async def test_each_suspension_of_a_transaction(
    *, drive: Any, fresh: bool, cursor_class: Any, table: Any, database: dict[str, Any], mysql: MySQL
) -> None:
    """Cancelled at any suspension of checkout, execute, fetch, commit or checkin: all or nothing, and no slot lost."""
    name = database["database"]
    with pool_of(1, database, autocommit=False, maxusage=1 if fresh else None) as pool:
        progress: list[str] = []

        @offload
        async def transaction(me: int) -> None:
            connection = pool.connection()
            try:
                cursor = connection.cursor(cursor_class)
                progress.append("execute")
                cursor.execute("INSERT INTO t VALUES (%s, 1), (%s, 2)", (me, me))
                # More than the sockets hold, so that fetching has to wait for the server.
                cursor.execute("SELECT seq, REPEAT('x', 4000) FROM seq_1_to_2000")
                progress.append("fetch")
                assert len(cursor.fetchall()) == 2000
                cursor.close()
                progress.append("commit")
                connection.commit()
                progress.append("committed")
            finally:
                connection.close()
            progress.append("done")

        stages: set[str] = set()
        # Twice at least, because a run can suspend once more or less than the one before.
        for sweep in range(0, 8000, 1000):
            if sweep > 1000 and {"execute", "commit"} <= stages:
                break
            for step in range(1, 200):
                if not fresh:  # the step before may have cost the connection
                    await outcome(in_thread(lambda: serve(pool)))
                progress[:] = ["checkout"]
                steps = Steps(step)
                await drive(steps, lambda me=sweep + step: transaction(me))
                await settled(lambda: pool.statistics().in_use == 0)
                adds_up(pool)
                table.execute(f"SELECT COUNT(*) FROM {name}.t WHERE id = %s", (sweep + step,))
                rows = table.fetchone()[0]
                reached = progress[-1]
                stages.add(reached)
                if reached in ("committed", "done"):
                    assert rows == 2
                elif reached == "commit":
                    assert rows in (0, 2)
                else:
                    assert rows == 0
                if not steps.cancelled:
                    assert reached == "done"
                    break
            else:
                pytest.fail("the transaction has no end")
        assert {"execute", "commit", "done"} <= stages
        assert ("checkout" in stages) == fresh  # to take an idle connection suspends nowhere
        assert ("fetch" in stages) == (cursor_class is SSCursor)
        await checked(pool, mysql, name)


async def test_each_suspension_of_a_checkout_that_waits(drive: Any, database: dict[str, Any], mysql: MySQL) -> None:
    """Cancelled at any suspension while it waits for a connection, also as it gets it: the slot is free afterwards."""
    with pool_of(1, database) as pool:

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, "SELECT 1")

        for step in range(1, 100):
            holder = await outcome(in_thread(pool.connection))
            steps = Steps(step)
            async with anyio.create_task_group() as group:
                group.start_soon(drive, steps, handler)
                await settled(lambda: pool.statistics().waiting == 1 or steps.cancelled)  # noqa: B023
                await outcome(in_thread(holder.close))
            adds_up(pool)
            if not steps.cancelled:
                break
        else:
            pytest.fail("the checkout has no end")
        assert step > 2
        await checked(pool, mysql, database["database"])


async def test_each_suspension_of_a_killing(drive: Any, database: dict[str, Any], mysql: MySQL) -> None:
    """Cancelled again at any suspension while an earlier cancellation winds down: the kill is still waited for."""
    name = database["database"]
    with pool_of(1, database) as pool:

        @offload
        async def handler() -> None:
            with pool.connection() as connection, connection.cursor() as cursor:
                with anyio.move_on_after(0.05):
                    cursor.execute("SELECT SLEEP(50)")
                cursor.execute("DO 0")

        for step in range(1, 100):
            steps = Steps(step)
            await drive(steps, handler)
            await settled(lambda: pool.statistics().in_use == 0)  # a connect that is cancelled runs on by itself
            adds_up(pool)
            # The server answers a moment before it takes the statement off its list.
            await settled(lambda: not any("SLEEP" in (p["INFO"] or "") for p in mysql.process_list(name)), timeout=1)
            if not steps.cancelled:
                break
        else:
            pytest.fail("the handler has no end")
        assert step > 3
        await checked(pool, mysql, database["database"])


async def test_each_suspension_of_aclose(drive: Any, database: dict[str, Any], mysql: MySQL) -> None:
    """Closing the pool, cancelled at any suspension, closes everything all the same."""
    for step in range(1, 100):
        pool = OffloadPool.create(min_size=3, max_size=3, ssl_disabled=True, **database)
        await pool.__aenter__()
        assert pool.statistics().open == 3
        steps = Steps(step)
        await drive(steps, pool.aclose)
        now = pool.statistics()
        assert (now.open, now.idle, now.in_use) == (0, 0, 0), (step, now)
        if not steps.cancelled:
            break
    else:
        pytest.fail("aclose has no end")
    await settled(lambda: mysql.process_list(database["database"]) == [])
