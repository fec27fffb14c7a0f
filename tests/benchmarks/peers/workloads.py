"""The workloads: what each contestant is put to, and what is read off it."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import offload_db

from .contestants import Contestant, Handler

SECONDS = 0.08
SLOW = f"SELECT SLEEP({SECONDS})"
POINT = "SELECT * FROM peers_point WHERE id = %s"
KEYS = 1000
LONG = "SELECT * FROM peers_long"
ROWS = 100_000

TABLES = (
    "CREATE TABLE peers_point (id INT PRIMARY KEY, "
    + ", ".join(
        f"c{n} {kind}"
        for n, kind in enumerate(("INT", "VARCHAR(40)", "DOUBLE", "DATETIME", "DECIMAL(10, 2)") * 4 + ("INT", "INT"))
    )
    + ")",
    "INSERT INTO peers_point SELECT seq, "
    + ", ".join(("seq", "CONCAT('FL-', seq)", "seq / 7", "'2024-01-02 03:04:05'", "seq / 3") * 4 + ("1", "NULL"))
    + f" FROM mysql.seq_1_to_{KEYS}",
    "CREATE TABLE peers_long (id INT PRIMARY KEY, truck VARCHAR(10), speed DOUBLE, at DATETIME, fuel DECIMAL(6, 2))",
    (
        "INSERT INTO peers_long SELECT seq, IF(seq % 3, NULL, CONCAT('FL-', seq)), seq / 7, NOW(), seq % 100"
        f" FROM mysql.seq_1_to_{ROWS}"
    ),
)


@dataclass(frozen=True)
class Workload:
    """One thing to measure: a name, a unit, whether more is better, the pool's size, and how."""

    name: str
    unit: str
    more_is_better: bool
    size: int
    run: Callable[[Contestant, bool], Awaitable[float | None]]
    """Measures one round; None where it makes no sense for the contestant. The flag asks for a quick one."""
    rounds: int = 3


async def together(number: int, make: Callable[[int], Coroutine[Any, Any, Any]]) -> float:
    """Run coroutines at once; return the seconds that they take."""
    began = time.perf_counter()
    await asyncio.gather(*(make(n) for n in range(number)))
    return time.perf_counter() - began


async def ten_users(contestant: Contestant, quick: bool) -> float:
    """Let ten users ask again and again; requests per second."""
    each = 2 if contestant.blocks else 10 if quick else 25

    async def user(_: int) -> None:
        for _ in range(each):
            await contestant.one(SLOW)

    return 10 * each / await together(10, user)


async def hundred(contestant: Contestant, quick: bool) -> float:
    """Run a hundred queries at once; seconds."""
    number = 10 if contestant.blocks else 100
    return await together(number, lambda _: contestant.one(SLOW)) * 100 / number


async def point_selects(contestant: Contestant, quick: bool) -> float:
    """Fetch rows by key, ten tasks; rows per second."""
    number = 500 if quick else 2000
    keys = iter(range(number))

    async def reader(_: int) -> None:
        for key in keys:
            await contestant.one(POINT, (key % KEYS + 1,))

    return number / await together(10, reader)


async def long_result(contestant: Contestant, quick: bool) -> float:
    """Fetch 100,000 rows; seconds."""
    began = time.perf_counter()
    assert len(await contestant.all(LONG)) == ROWS
    return time.perf_counter() - began


async def lags_during(work: Callable[[], Awaitable[Any]]) -> list[float]:
    """Return how late the loop ran what was due each millisecond, in ms, sorted."""
    lags: list[float] = []
    over = False

    async def tick() -> None:
        while not over:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append((time.perf_counter() - began - 0.001) * 1000)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.02)
    await work()
    over = True
    await ticker
    return sorted(lags)


async def stall_p99(contestant: Contestant, quick: bool) -> float:
    """Fetch four times 100,000 rows at once; the loop's p99 lag in ms."""
    lags = await lags_during(lambda: together(4, lambda _: contestant.all(LONG)))
    return lags[int(len(lags) * 0.99)]


async def stall_worst(contestant: Contestant, quick: bool) -> float:
    """Fetch four times 100,000 rows at once; the loop's worst lag in ms."""
    return (await lags_during(lambda: together(4, lambda _: contestant.all(LONG))))[-1]


async def slow_lag(contestant: Contestant, quick: bool) -> float:
    """Run 20 slow queries at once; the loop's worst lag in ms."""
    if contestant.blocks:
        return (await lags_during(lambda: contestant.one(SLOW)))[-1]
    return (await lags_during(lambda: together(20, lambda _: contestant.one(SLOW))))[-1]


def waiting(number: int) -> Callable[[Contestant, bool], Awaitable[float | None]]:
    """Make a measurement: with *number* callers at once on ten connections, µs for each."""

    async def run(contestant: Contestant, quick: bool) -> float | None:
        if contestant.blocks or contestant.name.startswith("a thread"):
            return None  # one does not wait, the other needs as many threads as callers
        return await together(number, lambda _: contestant.one("SELECT 1")) / number * 1e6

    return run


async def memory(contestant: Contestant, quick: bool) -> float | None:
    """Let 1,000 callers wait for ten connections; bytes for each, the tasks included."""
    if contestant.blocks or contestant.name.startswith("a thread"):
        return None
    gc.collect()
    tracemalloc.start()
    try:
        tasks = [asyncio.create_task(contestant.one(f"SELECT SLEEP({SECONDS / 10})")) for _ in range(1000)]
        await asyncio.sleep(SECONDS / 10)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    await asyncio.gather(*tasks)
    return used / 1000


WORKLOADS = (
    Workload("10 users x 80 ms", "requests/s", True, 10, ten_users),
    Workload("100 at once, 20 connections", "s", False, 20, hundred),
    Workload("point selects, 23 columns", "rows/s", True, 10, point_selects, rounds=7),
    Workload("100,000 rows", "s", False, 4, long_result),
    Workload("4 x 100,000 rows: p99 lag", "ms", False, 4, stall_p99),
    Workload("4 x 100,000 rows: worst lag", "ms", False, 4, stall_worst),
    Workload("20 x 80 ms: worst lag", "ms", False, 20, slow_lag),
    Workload("100 callers", "µs each", False, 10, waiting(100), rounds=5),
    Workload("1,000 callers", "µs each", False, 10, waiting(1000)),
    Workload("10,000 callers", "µs each", False, 10, waiting(10_000)),
    Workload("memory of a waiting caller", "bytes", False, 10, memory, rounds=1),
)


async def bridge(contestant: Handler, quick: bool) -> tuple[float, float, float]:
    """Return µs that the bridge adds to a handler, µs that it adds to each await in it, and trips per query."""

    async def plain(awaits: int) -> None:
        for _ in range(awaits):
            await asyncio.sleep(0)

    bridged = offload_db.offload(plain)
    times = 1000 if quick else 4000

    async def cost(handler: Callable[[int], Awaitable[None]], awaits: int) -> float:
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(times // (1 + awaits // 4)):
                await handler(awaits)
            best = min(best, (time.perf_counter() - began) / (times // (1 + awaits // 4)) * 1e6)
        return best

    empty = await cost(bridged, 0) - await cost(plain, 0)
    full = await cost(bridged, 40) - await cost(plain, 40)
    before = contestant.pool.statistics()
    for _ in range(20):
        await contestant.one("SELECT 1")
    after = contestant.pool.statistics()
    return empty, (full - empty) / 40, (after.hops - before.hops) / 20
