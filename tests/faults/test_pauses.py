"""Whatever takes its time at whatever step, a garbage collection or another process, nothing is lost or given twice.

Every function of the library may pause when it is entered or left, on every thread, while tasks do everything at once.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import anyio.to_thread
import pytest

import offload_db
from offload_db import CheckoutTimeout, OffloadPool, StatementTimeout, connect, offload
from tests.conftest import MySQL
from tests.support import QUICK, pool_of

from .checks import checked

PACKAGE = str(Path(offload_db.__file__).parent)
PAUSES = (0.0, 0.0001, 0.001, 0.005, 0.03)
EVERY = 500
TASKS = 12
CALLS = 400

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(120)]


@contextmanager
def pauses() -> Iterator[None]:
    """Let some steps of the library pause for up to 30 ms, in this thread and in those that are begun meanwhile."""
    over = False
    chance = random.Random()

    def step(frame: FrameType, event: str, _: object) -> None:
        if not over and frame.f_code.co_filename.startswith(PACKAGE) and chance.randrange(EVERY) == 0:
            time.sleep(chance.choice(PAUSES))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    threading.setprofile(step)
    sys.setprofile(step)
    try:
        yield
    finally:
        over = True  # anyio keeps its threads
        sys.setprofile(None)
        threading.setprofile(None)
        sys.setswitchinterval(interval)


Ways = list[Callable[[int], Awaitable[Any]]]


def legacy_ways(pool: OffloadPool, shared: Any, settings: dict[str, Any]) -> Ways:
    """List ways in which handlers that were written to block get a number from the server."""

    def legacy(number: int) -> Any:
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT %s", (number,))
            return cursor.fetchone()[0]

    @offload
    async def bridged(number: int) -> Any:
        return legacy(number)

    @offload(mode="thread")
    async def threaded(number: int) -> Any:
        return legacy(number)

    @offload(timeout=0.02)
    async def hurried(number: int) -> Any:
        return legacy(number)

    async def plain(number: int) -> Any:
        return await anyio.to_thread.run_sync(legacy, number, limiter=anyio.CapacityLimiter(1))

    @offload
    async def written(number: int) -> Any:
        with pool.connection() as connection:
            connection.begin()
            with connection.cursor() as cursor:
                cursor.execute("INSERT INTO pauses VALUES (%s)", (number,))
                cursor.execute("SELECT %s", (number,))
                found = cursor.fetchone()[0]
            (connection.commit if number % 2 else connection.rollback)()
        return found

    @offload
    async def process_wide(number: int) -> Any:
        with shared.cursor() as cursor:
            cursor.execute("SELECT %s", (number,))
            return cursor.fetchone()[0]

    @offload
    async def unpooled(number: int) -> Any:
        with connect(**settings) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT %s", (number,))
            return cursor.fetchone()[0]

    @offload
    async def by_children(number: int) -> Any:
        found = []
        with pool.connection() as connection:

            @offload
            async def child(given: int) -> None:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT %s", (given,))
                    found.append(cursor.fetchone()[0])

            async with anyio.create_task_group() as group:
                group.start_soon(child, number)
                group.start_soon(child, -number)
        assert sorted(found) == sorted((number, -number))
        return number

    return [bridged, threaded, hurried, plain, written, process_wide, unpooled, by_children]


def awaitable_ways(pool: OffloadPool) -> Ways:
    """List ways in which code that has moved on gets a number from the server."""

    async def hurried(number: int) -> Any:
        return await pool.fetch_value("SELECT %s", (number,), timeout=0.01)

    async def killed(number: int) -> Any:
        return await pool.fetch_value("SELECT SLEEP(0.2) + %s", (number,), timeout=0.1)

    async def fetched(number: int) -> Any:
        return await pool.fetch_value("SELECT %s", (number,))

    async def transaction(number: int) -> Any:
        async with pool.transaction() as connection, connection.cursor() as cursor:
            await cursor.execute("SELECT %s", (number,))
            return (await cursor.fetchone())[0]

    async def streamed(number: int) -> Any:
        rows = [row[0] async for row in pool.stream("SELECT seq FROM seq_1_to_500", chunk_size=100)]
        assert rows == list(range(1, 501))
        return number

    async def left_early(number: int) -> Any:
        stream = pool.stream("SELECT seq FROM seq_1_to_50000")
        try:
            async for _ in stream:
                break
        finally:
            await stream.aclose()
        return number

    async def many(number: int) -> Any:
        await pool.execute_many("INSERT INTO pauses VALUES (%s)", [(number,), (number,)])
        return number

    return [hurried, killed, fetched, transaction, streamed, left_early, many]


async def test_everything_at_once(database: dict[str, Any], mysql: MySQL) -> None:
    """Each caller gets its own answer or is told that its time is over, and in the end all connections are at rest."""
    settings = {**QUICK, **database}
    with mysql.connect(**database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE pauses (number BIGINT)")
    with pool_of(4, database, max_age=2) as pool:
        shared = await anyio.to_thread.run_sync(partial(connect, **settings))
        ways = legacy_ways(pool, shared, settings) + awaitable_ways(pool)
        numbers = iter(range(1, CALLS + 1))
        answered = itertools.count()

        async def call() -> None:
            for number in numbers:
                way = random.choice(ways)
                patience = random.choice((None, None, 0.05 * random.random()))
                with anyio.move_on_after(patience):
                    try:
                        assert await way(number) == number, way.__name__
                    except (StatementTimeout, CheckoutTimeout):
                        continue
                    next(answered)

        with pauses():
            async with anyio.create_task_group() as group:
                for _ in range(TASKS):
                    group.start_soon(call)
        await anyio.to_thread.run_sync(shared.close)
        assert next(answered) > CALLS / 4
        await checked(pool, mysql, database["database"])
