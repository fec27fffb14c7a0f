"""Claims about work that a call hands to threads and tasks which do not belong to it, over the call's own connection."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette

from offload_db import CheckoutTimeout, OffloadPool, connect, offload
from tests.conftest import MySQL
from tests.support import in_thread, outcome, pool_of, settled, together, value

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

LIMIT = 10.0
"""Seconds that nothing here takes, and less than anybody waits for a connection."""


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """Give threads that know nothing of the calls whose work they do."""
    with ThreadPoolExecutor(2) as threads:
        threads.submit(int).result()  # a thread that is there already has no context of anybody's
        yield threads


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    """Give a pool of two connections."""
    with pool_of(2, database, checkout_timeout=30.0) as pool:
        yield pool


async def by_executor(work: Callable[[], Any], executor: ThreadPoolExecutor) -> Any:
    return await outcome(executor.submit(work))


async def by_thread(work: Callable[[], Any], executor: ThreadPoolExecutor) -> Any:
    return await outcome(in_thread(work))


async def by_context(work: Callable[[], Any], executor: ThreadPoolExecutor) -> Any:
    """Have it done by a task that has a context of its own, on the loop's own thread."""
    task = asyncio.get_running_loop().create_task(_coroutine(work))
    return await task


async def _coroutine(work: Callable[[], Any]) -> Any:
    return work()


WAYS = {"executor": by_executor, "thread": by_thread}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("opened", ["pool", "unpooled"])
async def test_a_cursor_handed_to_a_thread(
    way: Any, opened: str, pool: OffloadPool, executor: ThreadPoolExecutor, database: dict[str, Any]
) -> None:
    """A handler that lets a thread execute with its own cursor gets the rows, before and after statements of its own."""

    @offload
    async def handler() -> list[Any]:
        connection = pool.connection() if opened == "pool" else connect(**database)
        try:
            with connection.cursor() as cursor:
                await way(partial(cursor.execute, "SELECT 1"), executor)
                rows = list(cursor.fetchall())
                cursor.execute("SELECT 2")
                rows += cursor.fetchall()
                await way(partial(cursor.execute, "SELECT 3"), executor)
                return [row[0] for row in [*rows, *cursor.fetchall()]]
        finally:
            connection.close()

    with anyio.fail_after(LIMIT):
        assert await handler() == [1, 2, 3]
    assert pool.statistics().in_use == 0
