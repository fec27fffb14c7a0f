"""How many objects a call that waits has, of those that the garbage collector looks at: counted, not timed.

Where calls overlap they survive the collections of what is young, and a full one, which looks at all that the
application has loaded, comes the sooner the more there are of them.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from offload_db import OffloadPool, offload

from ..conftest import MySQL
from ..support import pool_of, settled

CALLERS = 20
# Before Python 3.11 each frame is an object of its own.
FRAMES = 1 if sys.version_info >= (3, 11) else 1.3

Ask = Callable[[str], Coroutine[Any, Any, Any]]
Make = Callable[[OffloadPool], Ask]


def decorated(pool: OffloadPool) -> Ask:
    """Make a handler that takes a connection and a cursor, executes, fetches and closes both."""

    @offload
    async def handler(sql: str) -> Any:
        connection = pool.connection()
        cursor = connection.cursor()
        cursor.execute(sql)
        row = cursor.fetchone()
        cursor.close()
        connection.close()
        return row

    return handler


def awaited(pool: OffloadPool) -> Ask:
    """Ask for one row by `fetch_one`."""
    return pool.fetch_one


def tracked() -> int:
    """Count what the garbage collector looks at, when it has looked."""
    gc.collect()
    return len(gc.get_objects())


async def objects_of(ask: Ask, sql: str, waiting: Callable[[], bool], end: Callable[[], Awaitable[Any]]) -> float:
    """Return how many objects each of the callers has when all of them wait."""
    await asyncio.sleep(0)  # the loop lets go of what callers before had
    before = tracked()
    tasks = [asyncio.create_task(ask(sql)) for _ in range(CALLERS)]
    await settled(waiting)
    found = tracked() - before
    await end()
    await asyncio.gather(*tasks)
    return found / CALLERS


def least(measure: Callable[[], Coroutine[Any, Any, float]]) -> float:
    """Return the least of two measurements: what other threads make meanwhile counts as well."""
    return min(asyncio.run(measure()) for _ in range(2))


# Of these the event loop has ten: a task and its context, a future and a timer, and what wakes them.
@pytest.mark.parametrize(("make", "most"), [(decorated, 27), (awaited, 24)])
def test_of_a_call_that_waits_for_a_connection(make: Make, most: int, database: dict[str, Any]) -> None:
    """A call that waits for its turn has few objects, besides the greenlet, which is kept."""

    async def measure() -> float:
        with pool_of(1, database) as pool:
            ask = make(pool)
            await asyncio.gather(*(ask("SELECT 1") for _ in range(CALLERS)))
            held = await pool.acquire()
            return await objects_of(
                ask, "SELECT 1", lambda: pool.statistics().waiting == CALLERS, lambda: pool.release(held)
            )

    assert least(measure) <= most * FRAMES


# Besides, the driver has a cursor and a result, and the socket what it reads into.
@pytest.mark.parametrize(("make", "most"), [(decorated, 51), (awaited, 39)])
def test_of_a_call_in_a_statement(make: Make, most: int, mysql: MySQL, database: dict[str, Any]) -> None:
    """A call whose statement the server executes has few objects, besides the greenlet."""

    async def measure() -> float:
        with pool_of(CALLERS, database) as pool:
            ask = make(pool)
            await asyncio.gather(*(ask("SELECT SLEEP(0.05)") for _ in range(CALLERS)))

            def all_sleep() -> bool:
                return sum("SLEEP" in str(row) for row in mysql.process_list(database["database"])) == CALLERS

            return await objects_of(ask, "SELECT SLEEP(1)", all_sleep, partial(asyncio.sleep, 0))

    assert least(measure) <= most * FRAMES
