"""Claims about event loops that run inside of themselves, as nest_asyncio lets them: bridged calls work there, too."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import pymysql.err
import pytest

from offload_db import blocking, offload
from offload_db.bridge.place import Place, place
from tests.support import PATIENCE, pool_of


class NestingLoop(asyncio.SelectorEventLoop):
    """A loop that can be run inside of a task, by the same means as nest_asyncio's."""

    _nest_patched = True

    def nest(self, awaitable: Awaitable[Any]) -> Any:
        """Run the loop, in the middle of a task, until something is done."""
        task: Any = asyncio.current_task(self)
        future = asyncio.ensure_future(awaitable, loop=self)
        asyncio.tasks._leave_task(self, task)
        try:
            while not future.done():
                self._run_once()  # type: ignore[attr-defined]
        finally:
            asyncio.tasks._enter_task(self, task)
        return future.result()


@offload
async def nest(awaitable: Awaitable[Any]) -> Any:
    """Run the loop in a bridged call."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, NestingLoop)
    return loop.nest(awaitable)


def run(main: Awaitable[Any]) -> Any:
    """Run a coroutine in a loop of its own that can be nested."""
    loop = NestingLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(main, PATIENCE))
    finally:
        loop.close()


def test_other_bridged_calls_go_on() -> None:
    """Bridged calls go on, begin and end while another one runs the loop inside of itself, and after that."""
    steps: list[str] = []

    @offload
    async def other(name: str, *gates: threading.Event) -> str:
        for gate in gates:
            blocking(gate.wait)()
        steps.append(name)
        return name

    async def main() -> list[Any]:
        async def nested() -> str:
            begun.append(asyncio.ensure_future(other("begins in it, ends after it", during, after)))
            inside = asyncio.ensure_future(other("begins and ends in it", during))
            await asyncio.sleep(0)
            during.set()
            await asyncio.wait([first, inside])
            steps.append("nested")
            return "nested"

        during, after = threading.Event(), threading.Event()
        begun: list[asyncio.Future[str]] = []
        first = asyncio.ensure_future(other("begins before it, ends in it", during))
        second = asyncio.ensure_future(other("begins before it, ends after it", during, after))
        await asyncio.sleep(0)
        result = await nest(nested())
        after.set()
        return [result, *await asyncio.gather(first, second, *begun)]

    names = run(main())
    assert names == [
        "nested",
        "begins before it, ends in it",
        "begins before it, ends after it",
        "begins in it, ends after it",
    ]
    assert set(steps[:2]) == {"begins before it, ends in it", "begins and ends in it"}
    assert steps[2] == "nested"
    assert set(steps[3:]) == {"begins before it, ends after it", "begins in it, ends after it"}


@pytest.mark.parametrize("kind", ["decorated", "awaitable", "nesting again"])
def test_what_a_nested_run_waits_for_is_bridged(database: dict[str, Any], kind: str) -> None:
    """A bridged call that a bridged call waits for by nesting the loop is served, and errors come out of it."""

    @offload
    async def inner(statement: str) -> Any:
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()[0]

    def call(statement: str) -> Any:
        if kind == "awaitable":
            return pool.fetch_value(statement)
        return inner(statement) if kind == "decorated" else nest(inner(statement))

    async def main() -> None:
        assert await nest(call("SELECT 1")) == 1
        with pytest.raises(pymysql.err.ProgrammingError):
            await nest(call("NO STATEMENT"))
        assert await pool.fetch_value("SELECT 2") == 2

    with pool_of(1, database) as pool:
        run(main())
        assert pool.statistics().blocking_calls == 0
        assert pool.statistics().in_use == 0


def test_tasks_of_a_nested_run_are_not_bridged() -> None:
    """What else runs in the loop that a bridged call nests, tasks and callbacks, is on the loop's thread."""
    places: list[Place] = []

    async def main() -> None:
        async def nested() -> None:
            places.append(place())
            asyncio.get_running_loop().call_soon(lambda: places.append(place()))
            await asyncio.sleep(0)

        await nest(nested())

    run(main())
    assert places == [Place.LOOP] * 2


def test_nesting_outside_of_bridged_calls(database: dict[str, Any]) -> None:
    """A task that is not bridged may run the loop inside of itself, as notebooks do: everything is bridged there."""

    @offload
    async def query() -> Any:
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return cursor.fetchone()

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, NestingLoop)
        meanwhile = asyncio.ensure_future(query())
        await asyncio.sleep(0)
        return loop.nest(query()), await meanwhile, await query()

    with pool_of(2, database) as pool:
        assert run(main()) == ((1,), (1,), (1,))
        assert pool.statistics().blocking_calls == 0


def test_a_call_that_is_cancelled_during_a_nested_run() -> None:
    """A cancellation that comes during another call's nested run reaches the call."""

    @offload
    async def other() -> None:
        blocking(gate.wait)()

    async def main() -> None:
        async def nested() -> None:
            victim.cancel()
            gate.set()
            await asyncio.sleep(0.02)

        victim = asyncio.ensure_future(other())
        await asyncio.sleep(0)
        await nest(nested())
        with suppress(asyncio.CancelledError):
            await victim
        assert victim.cancelled()

    gate = threading.Event()
    run(main())
