"""Claims about event loops that run inside of themselves, as nest_asyncio lets them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import pytest

from offload_db import BridgeError, blocking, offload
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


def test_other_bridged_calls_wait() -> None:
    """Bridged calls go on, and begin, when another one's nested run of the loop is over, and none is disturbed."""
    steps: list[str] = []

    @offload
    async def other(name: str, gate: threading.Event) -> str:
        blocking(gate.wait)()
        steps.append(name)
        return name

    async def main() -> list[Any]:
        async def nested() -> str:
            gate.set()
            await asyncio.sleep(0.05)
            steps.append("nested")
            return "nested"

        async def outside() -> str:
            await asyncio.sleep(0.01)
            return await other("begins in between", gate)

        gate = threading.Event()
        first = asyncio.ensure_future(other("waits", gate))
        second = asyncio.ensure_future(outside())
        await asyncio.sleep(0)
        third = asyncio.ensure_future(nest(nested()))
        return list(await asyncio.gather(first, second, third))

    assert run(main()) == ["waits", "begins in between", "nested"]
    assert steps[0] == "nested"
    assert sorted(steps[1:]) == ["begins in between", "waits"]


@pytest.mark.parametrize("kind", ["decorated", "awaitable"])
def test_what_a_nested_run_waits_for_is_not_bridged(database: dict[str, Any], kind: str) -> None:
    """A call that would wait for the end of the run that waits for it is refused, and the error says what to do."""

    @offload
    async def inner() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        with pool_of(1, database) as pool:
            with pytest.raises(BridgeError, match=r"nest_asyncio.*await what it gives"):
                await nest(inner() if kind == "decorated" else pool.fetch_value("SELECT 1"))
            assert await pool.fetch_value("SELECT 2") == 2

    run(main())


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


def test_a_call_that_is_cancelled_while_it_waits_for_a_nested_run() -> None:
    """A cancellation that comes during another call's nested run is raised when that is over."""

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
