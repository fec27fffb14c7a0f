"""One pool serves decorated handlers, plain threads and awaitable code at once: one accounting, one queue."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.to_thread
import pytest

from offload_db import OffloadPool, aio, offload
from tests.conftest import MySQL
from tests.support import pool_of, settled, value

SURFACES = ("decorated", "thread", "operation", "acquire", "transaction", "stream")
ROUNDS = 20

pytestmark = pytest.mark.anyio


async def call(pool: OffloadPool, surface: str, query: str) -> Any:
    """Run a query over one of the surfaces and return the one value of its answer."""

    def legacy() -> Any:
        with pool.connection() as connection:
            return value(connection, query)

    if surface == "decorated":

        @offload
        async def handler() -> Any:
            return legacy()

        return await handler()
    if surface == "thread":
        return await anyio.to_thread.run_sync(legacy, limiter=anyio.CapacityLimiter(1))
    if surface == "operation":
        return await pool.fetch_value(query)
    if surface == "stream":
        rows = [row async for row in pool.stream(query)]
        return rows[0][0]
    way = pool.acquire() if surface == "acquire" else pool.transaction()
    async with way as connection, connection.cursor() as cursor:
        await cursor.execute(query)
        return (await cursor.fetchone())[0]


class Peak:
    """The most that a pool has had at the same time."""

    def __init__(self, pool: OffloadPool) -> None:
        self.in_use = self.open = 0
        self._pool = pool

    async def watch(self) -> None:
        while True:
            now = self._pool.statistics()
            self.in_use, self.open = max(self.in_use, now.in_use), max(self.open, now.open)
            await anyio.sleep(0.001)


@pytest.mark.parametrize("kind", ["OffloadPool", "aiomysql"])
async def test_exact_accounting(kind: str, mysql: MySQL, database: dict[str, Any]) -> None:
    """Of a mixed load on a pool of 5 every call is counted once, whoever makes it, and no limit is passed."""
    with pool_of(5, database) as made:
        pool: OffloadPool = made
        if kind == "aiomysql":
            settings = {("db" if name == "database" else name): given for name, given in database.items()}
            pool = await aio.create_pool(minsize=0, maxsize=5, autocommit=True, **settings)
        peak, answers = Peak(pool), []

        async def user(surface: str, number: int) -> None:
            answers.append((await call(pool, surface, f"SELECT SLEEP(0.002) + {number}"), number))

        async with anyio.create_task_group() as watching:
            watching.start_soon(peak.watch)
            async with anyio.create_task_group() as group:
                for number in range(ROUNDS):
                    for surface in SURFACES:
                        group.start_soon(user, surface, number)
            watching.cancel_scope.cancel()
        calls = ROUNDS * len(SURFACES)
        assert len(answers) == calls
        assert all(answer == number for answer, number in answers)
        assert peak.in_use <= 5
        assert peak.open <= 5
        now = pool.statistics()
        begins = ROUNDS  # START TRANSACTION is a statement
        assert (now.checkouts, now.checkins, now.statements) == (calls, calls, calls + begins)
        assert (now.in_use, now.waiting, now.discards, now.blocking_calls) == (0, 0, {}, 0)
        assert now.queue_wait.count == calls
        assert now.open == now.idle == len(mysql.process_list(database["database"])) <= 5
        if kind == "aiomysql":
            await pool.aclose()


async def test_first_come_first_served(mysql: MySQL) -> None:
    """Callers of all surfaces wait in one queue and are served in the order in which they came."""
    with pool_of(1, mysql.settings()) as pool:
        positions: list[tuple[int, int]] = []

        async def user(surface: str, place: int) -> None:
            # The one session counts who comes.
            served = await call(pool, surface, "SELECT CAST(@served := COALESCE(@served, 0) + 1 AS SIGNED)")
            positions.append((place, served))

        surfaces = SURFACES * 3
        async with anyio.create_task_group() as group:
            held = await pool.acquire()
            for place, surface in enumerate(surfaces, start=1):
                group.start_soon(user, surface, place)
                await settled(lambda place=place: pool.statistics().waiting == place)  # type: ignore[misc]  # bound now
            await pool.release(held)
        assert sorted(positions) == [(place, place) for place in range(1, len(surfaces) + 1)]
        assert pool.statistics().checkouts == len(surfaces) + 1
