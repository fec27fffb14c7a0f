"""How long does the event loop stand still while 100,000 rows are streamed, here and with aiomysql's SSCursor?

Both read the same rows from the same server in the same run, in turns, while a task looks at the clock. Of each round
the worst stall counts, and of the rounds the median. Memory is what Python has allocated at most while streaming.

Run it with ``python -m tests.benchmarks.streaming [--quick]``; aiomysql has to be there: ``pip install aiomysql``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import tracemalloc
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import suppress
from statistics import median
from typing import Any

from examples.support.mariadb import server
from offload_db import OffloadPool

QUERY = "SELECT seq, REPEAT('x', 100) AS text, NOW() AS at FROM seq_1_to_{}"
GOAL = 0.5

Consume = Callable[[str], Awaitable[int]]


class Stalls:
    """Measures how much later than it should a task is woken that sleeps for a millisecond."""

    def __init__(self) -> None:
        self.worst = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Stalls:
        self._task = asyncio.get_running_loop().create_task(self._watch())
        await asyncio.sleep(0.02)
        self.worst = 0.0
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _watch(self) -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.001)
            self.worst = max(self.worst, time.perf_counter() - started - 0.001)


async def counted(rows: AsyncIterable[Any]) -> int:
    """Count the rows, keeping none."""
    number = 0
    async for _ in rows:
        number += 1
    return number


async def stalls(consume: Consume, rows: int) -> tuple[float, float]:
    """Return the worst stall and the time it all took, in seconds."""
    async with Stalls() as watch:
        started = time.perf_counter()
        assert await consume(QUERY.format(rows)) == rows
        return watch.worst, time.perf_counter() - started


async def memory(consume: Consume, rows: int) -> float:
    """Return the most memory that Python held besides what it had before, in MB."""
    tracemalloc.start()
    try:
        assert await consume(QUERY.format(rows)) == rows
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


async def compare(settings: dict[str, Any], rows: int, rounds: int) -> float:
    """Print what was measured and return the ratio of the stalls."""
    import aiomysql

    settings = {**settings, "ssl_disabled": True}
    theirs = {name: value for name, value in settings.items() if name not in ("database", "ssl_disabled")}

    async def ours(query: str) -> int:
        return await counted(pool.stream(query))

    async def other(query: str) -> int:
        async with connections.acquire() as connection, connection.cursor(aiomysql.SSCursor) as cursor:
            await cursor.execute(query)
            return await counted(cursor)

    async with (
        OffloadPool.create(min_size=1, max_size=2, autocommit=True, **settings) as pool,
        aiomysql.create_pool(minsize=1, maxsize=2, autocommit=True, db=settings["database"], **theirs) as connections,
    ):
        both: dict[str, Consume] = {"offload_db": ours, "aiomysql": other}
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in both}
        for consume in both.values():  # warm up
            await consume(QUERY.format(100))
        for number in range(rounds):
            for name in sorted(both, reverse=bool(number % 2)):
                measured[name].append(await stalls(both[name], rows))
        worst = {}
        print(f"{rows} rows, {rounds} rounds each, in turns; Python {sys.version.split()[0]}")
        for name, results in measured.items():
            worst[name] = median(stall for stall, _ in results)
            seconds = median(duration for _, duration in results)
            print(
                f"{name:>10}: worst stall {1000 * worst[name]:6.1f} ms"
                f" (rounds {', '.join(f'{1000 * stall:.1f}' for stall, _ in results)}),"
                f" {rows / seconds:7.0f} rows/s"
            )
        sizes = (rows // 4, rows)
        peaks = [await memory(ours, size) for size in sizes]
        print(f"offload_db: memory {peaks[0]:.2f} MB for {sizes[0]} rows, {peaks[1]:.2f} MB for {sizes[1]}")
    ratio = worst["offload_db"] / worst["aiomysql"]
    print(f"ratio of the worst stalls {ratio:.2f}; the goal is at most {GOAL}")
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20,000 rows and three rounds")
    quick = parser.parse_args().quick
    try:
        import aiomysql  # noqa: F401
    except ImportError:
        print("aiomysql is not installed: pip install aiomysql", file=sys.stderr)
        return 2
    with server() as endpoint:
        ratio = asyncio.run(compare(endpoint.settings("mysql"), 20_000 if quick else 100_000, 3 if quick else 7))
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
