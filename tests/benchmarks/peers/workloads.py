"""The workloads: what each contestant is put to, and what is read off it."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple

import offload_db

from .contestants import Blocking, Contestant, Handler, SqlalchemyAsyncio

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


class Title(NamedTuple):
    """What a figure is: its name, its unit, and whether more of it is better."""

    name: str
    unit: str
    more_is_better: bool


Figures = tuple[float, ...]


@dataclass(frozen=True)
class Workload:
    """One thing to measure: the figures that it gives, the pool's size, and how."""

    titles: tuple[Title, ...]
    size: int
    run: Callable[[Contestant, bool], Awaitable[Figures | None]]
    """Measures one round; None where it makes no sense for the contestant. The flag asks for a quick one."""
    rounds: int = 3


async def together(number: int, make: Callable[[int], Coroutine[Any, Any, Any]]) -> float:
    """Run coroutines at once; return the seconds that they take."""
    began = time.perf_counter()
    await asyncio.gather(*(make(n) for n in range(number)))
    return time.perf_counter() - began


async def ten_users(contestant: Contestant, quick: bool) -> Figures:
    """Let ten users ask again and again; requests per second."""
    each = 2 if contestant.blocks else 5 if quick else 25

    async def user(_: int) -> None:
        for _ in range(each):
            await contestant.one(SLOW)

    return (10 * each / await together(10, user),)


async def hundred(contestant: Contestant, quick: bool) -> Figures:
    """Run a hundred queries at once; seconds."""
    number = 10 if contestant.blocks else 100
    return (await together(number, lambda _: contestant.one(SLOW)) * 100 / number,)


async def point_selects(contestant: Contestant, quick: bool) -> Figures:
    """Fetch rows by key, ten tasks; rows per second."""
    number = 500 if quick else 2000
    keys = iter(range(number))

    async def reader(_: int) -> None:
        for key in keys:
            await contestant.one(POINT, (key % KEYS + 1,))

    return (number / await together(10, reader),)


async def long_result(contestant: Contestant, quick: bool) -> Figures:
    """Fetch 100,000 rows; seconds."""
    began = time.perf_counter()
    assert len(await contestant.all(LONG)) == ROWS
    return (time.perf_counter() - began,)


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


async def stall(contestant: Contestant, quick: bool) -> Figures | None:
    """Fetch four times 100,000 rows at once; the loop's p99 and worst lag in ms."""
    if quick and isinstance(contestant, (Blocking, SqlalchemyAsyncio)):
        return None
    lags = await lags_during(lambda: together(4, lambda _: contestant.all(LONG)))
    return lags[int(len(lags) * 0.99)], lags[-1]


async def slow_lag(contestant: Contestant, quick: bool) -> Figures:
    """Run 20 slow queries at once; the loop's worst lag in ms."""
    if contestant.blocks:
        return ((await lags_during(lambda: contestant.one(SLOW)))[-1],)
    return ((await lags_during(lambda: together(20, lambda _: contestant.one(SLOW))))[-1],)


def waiting(number: int) -> Callable[[Contestant, bool], Awaitable[Figures | None]]:
    """Make a measurement: with *number* callers at once on ten connections, µs for each."""

    async def run(contestant: Contestant, quick: bool) -> Figures | None:
        if contestant.blocks or contestant.name.startswith("a thread"):
            return None  # one does not wait, the other needs as many threads as callers
        if quick and number > 1000 and type(contestant) is not Handler:
            return None
        return (await together(number, lambda _: contestant.one("SELECT 1")) / number * 1e6,)

    return run


async def memory(contestant: Contestant, quick: bool) -> Figures | None:
    """Let 1,000 callers wait for ten connections, 200 where it has to be quick; bytes for each, the tasks included."""
    number = 200 if quick else 1000
    if contestant.blocks or contestant.name.startswith("a thread"):
        return None
    gc.collect()
    tracemalloc.start()
    try:
        tasks = [asyncio.create_task(contestant.one(f"SELECT SLEEP({SECONDS / 10})")) for _ in range(number)]
        await asyncio.sleep(SECONDS / 10)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    await asyncio.gather(*tasks)
    return (used / number,)


def _one(name: str, unit: str, *, more: bool = False) -> tuple[Title]:
    return (Title(name, unit, more),)


WORKLOADS = (
    Workload(_one("10 users x 80 ms", "requests/s", more=True), 10, ten_users),
    Workload(_one("100 at once, 20 connections", "s"), 20, hundred),
    Workload(_one("point selects, 23 columns", "rows/s", more=True), 10, point_selects, rounds=7),
    Workload(_one("100,000 rows", "s"), 4, long_result),
    Workload(
        (*_one("4 x 100,000 rows: p99 lag", "ms"), *_one("4 x 100,000 rows: worst lag", "ms")),
        4,
        stall,
    ),
    Workload(_one("20 x 80 ms: worst lag", "ms"), 20, slow_lag),
    Workload(_one("100 callers", "µs each"), 10, waiting(100), rounds=5),
    Workload(_one("1,000 callers", "µs each"), 10, waiting(1000)),
    Workload(_one("10,000 callers", "µs each"), 10, waiting(10_000)),
    Workload(_one("memory of a waiting caller", "bytes"), 10, memory, rounds=1),
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
