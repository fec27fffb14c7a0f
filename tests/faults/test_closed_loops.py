"""An event loop that is closed in the middle of things: what its tasks held comes back, though none ever goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from offload_db import OffloadPool, offload
from offload_db.bridge.hops import Hop
from offload_db.bridge.signals import TaskEvent
from tests.conftest import MySQL
from tests.inside import core
from tests.support import pool_of, sleeping, until, value

from .checks import check

pytestmark = pytest.mark.timeout(60)

SLOW = "SELECT SLEEP(0.3)"


def _ways(pool: OffloadPool) -> dict[str, Callable[[], Any]]:
    @offload
    async def handler() -> Any:
        with pool.connection() as connection:
            return value(connection, SLOW)

    @offload(mode="thread")
    async def in_a_thread() -> Any:
        with pool.connection() as connection:
            return value(connection, SLOW)

    async def transaction() -> None:
        async with pool.transaction() as connection, connection.cursor() as cursor:
            await cursor.execute(SLOW)

    async def stream() -> None:
        async for _ in pool.stream(f"{SLOW} UNION ALL {SLOW}"):
            pass

    async def connecting() -> Any:
        return await pool.fetch_value("SELECT 1")

    return {
        "handler": handler,
        "thread": in_a_thread,
        "transaction": transaction,
        "stream": stream,
        "fetch": lambda: pool.fetch_value(SLOW),
        "connecting": connecting,
    }


def _executing(pool: OffloadPool, mysql: MySQL, database: str) -> int:
    """Count the slow statements that are under way: what comes before them is over too soon."""
    if sum(link.busy for link in core(pool).links) < 2:
        return 0
    return sum("SLEEP" in str(process["INFO"]) for process in mysql.process_list(database))


@pytest.mark.parametrize("loop_of", ["asyncio", "uvloop"])
@pytest.mark.parametrize("way", ["handler", "thread", "transaction", "stream", "fetch"])
def test_statements_under_way(loop_of: str, way: str, database: dict[str, Any], mysql: MySQL) -> None:
    """Their slots come back when their threads do, and nothing has to be collected for it."""
    with pool_of(2, database) as pool:
        loop = _new_loop(loop_of)
        tasks = [loop.create_task(_ways(pool)[way]()) for _ in range(2)]
        busy = partial(_executing, pool, mysql, database["database"])
        loop.run_until_complete(_until(lambda: busy() == 2))
        loop.close()
        until(lambda: pool.statistics().in_use == 0, timeout=5)
        check(pool, mysql, database["database"])
        _forget(tasks)


def test_a_connect_under_way(database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was being opened goes to rest for the next one."""
    begun, go_on = threading.Event(), threading.Event()
    with pool_of(1, database) as pool:
        connect = core(pool).connector.connect

        def slow(*args: Any, **kwargs: Any) -> Any:
            begun.set()
            assert go_on.wait(20)
            return connect(*args, **kwargs)

        monkeypatch.setattr(core(pool).connector, "connect", slow)
        loop = _new_loop("asyncio")
        task = loop.create_task(_ways(pool)["connecting"]())
        loop.run_until_complete(_until(begun.is_set))
        loop.close()
        assert pool.statistics().in_use == 1
        go_on.set()
        until(lambda: pool.statistics().in_use == 0, timeout=5)
        assert (pool.statistics().open, pool.statistics().idle) == (1, 1)
        check(pool, mysql, database["database"])
        _forget([task])


def test_a_call_that_is_over_before_the_loop_closes(database: dict[str, Any]) -> None:
    """Where the thread was back before, and the task was not told any more, the next one who needs it gets the slot."""
    with pool_of(1, database) as pool:
        loop = _new_loop("asyncio")
        task = loop.create_task(_ways(pool)["handler"]())

        async def stop() -> None:
            await _until(lambda: any(link.busy for link in core(pool).links))
            until(lambda: not any(link.busy for link in core(pool).links))  # the loop stands still meanwhile

        loop.run_until_complete(stop())
        loop.close()
        with pool.connection() as connection:
            assert value(connection, "SELECT 1") == 1
        assert pool.statistics().in_use == 0
        _forget([task])


def test_a_loop_that_ends_before_the_thread_goes_on(
    database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the thread of a cancelled call does after it has told its task concerns no later checkout."""
    go_on, over = threading.Event(), threading.Event()
    tell, run = TaskEvent.set, Hop.run

    def tell_and_pause(event: TaskEvent) -> bool:
        there = tell(event)
        if threading.current_thread() is not threading.main_thread():
            assert go_on.wait(20)
        return there

    def run_and_say(hop: Hop[Any]) -> None:
        run(hop)
        if go_on.is_set():
            over.set()

    async def cancelled(pool: OffloadPool) -> None:
        with anyio.move_on_after(0.1):
            await _ways(pool)["handler"]()

    with pool_of(1, database) as pool:
        loop = _new_loop("asyncio")
        with monkeypatch.context() as slowed:
            slowed.setattr(TaskEvent, "set", tell_and_pause)
            slowed.setattr(Hop, "run", run_and_say)
            loop.run_until_complete(cancelled(pool))
            loop.close()
            with pool.connection() as connection:
                assert value(connection, "SELECT 1") == 1
                go_on.set()
                assert over.wait(20)
                assert value(connection, "SELECT 2") == 2
        check(pool, mysql, database["database"])


def _new_loop(kind: str) -> Any:
    if kind == "uvloop":
        return pytest.importorskip("uvloop").new_event_loop()
    return asyncio.new_event_loop()


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # the state is the library's own, which signals nobody
        await asyncio.sleep(0.001)


def _forget(tasks: list[Any]) -> None:
    """Let tasks go that never will: asyncio complains of those, and it is right."""
    for task in tasks:
        task._log_destroy_pending = False


@pytest.mark.parametrize("way", ["handler", "fetch"])
@pytest.mark.parametrize("loop_is", ["open", "closed"])
def test_a_statement_whose_coroutine_is_thrown_away(
    loop_is: str, way: str, database: dict[str, Any], mysql: MySQL
) -> None:
    """Nobody waits for the statement any more, closing the coroutine least of all, and the slot comes back."""
    with pool_of(2, database) as pool:
        pool.connection().close()  # or the first step would be connecting
        loop = _new_loop("asyncio")
        coroutine = _ways(pool)[way]()
        task = loop.create_task(_first_step_of(coroutine, lambda: sleeping(mysql, database)))
        loop.run_until_complete(task)
        if loop_is == "closed":
            loop.close()
        coroutine.close()
        until(lambda: pool.statistics().in_use == 0, timeout=5)
        check(pool, mysql, database["database"])
        assert pool.statistics().discards == {"closed": 1}
        loop.close()


@pytest.mark.parametrize("loop_is", ["open", "closed"])
def test_a_waiting_operation_whose_coroutine_is_thrown_away(
    loop_is: str, database: dict[str, Any], mysql: MySQL
) -> None:
    """It leaves the queue, and closing it raises nothing."""
    with pool_of(1, database) as pool:
        held = pool.connection()
        loop = _new_loop("asyncio")
        coroutine = pool.fetch_value("SELECT 1")
        loop.run_until_complete(_first_step_of(coroutine, lambda: pool.statistics().waiting == 1))
        if loop_is == "closed":
            loop.close()
        coroutine.close()
        assert pool.statistics().waiting == 0
        held.close()
        check(pool, mysql, database["database"])
        loop.close()


async def _first_step_of(coroutine: Any, condition: Callable[[], Any]) -> None:
    """Let a coroutine get as far as to its first suspension, and wait for what follows from that."""
    coroutine.send(None)
    await _until(condition)
