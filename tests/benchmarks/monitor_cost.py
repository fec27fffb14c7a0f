"""Measures what the run-time audit costs: the lag sampler, the account of a blocking call, and the observation.

    python -m tests.benchmarks.monitor_cost [--loop asyncio|uvloop|trio]

Prints CPU per sample and per call, as medians of rounds in which the contestants take turns. Uses the server that
MYSQL_HOST names, or a private one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pymysql

from examples.support.mariadb import Endpoint, server
from offload_db import OffloadPool, blocking, monitor, offload

ROUNDS, CALLS = 15, 500
# Shorter than it ever should be, so that the cost can be seen.
BUSY_INTERVAL, TURNS = 0.001, 20_000
IDLE_INTERVAL, SECONDS = 0.05, 5.0


def query(connection: Any) -> None:
    """Do the smallest thing that waits for the server."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM DUAL WHERE 1 = %s", (1,))
        cursor.fetchone()


async def turns() -> float:
    """Return the seconds of CPU that many turns of a busy loop take."""
    began = time.process_time()
    for _ in range(TURNS):
        await anyio.lowlevel.checkpoint()
    return time.process_time() - began


async def sampler() -> None:
    """Compare the CPU of a busy loop, and of an idle one, with and without a sampler."""
    busy, idle = [], []
    for _ in range(ROUNDS):
        without = await turns()
        async with monitor.watch(interval=BUSY_INTERVAL) as watch:
            busy.append((await turns() - without) / watch.lag().samples)
    for _ in range(2):
        async with monitor.watch(interval=IDLE_INTERVAL) as watch:
            began = time.process_time()
            await anyio.sleep(SECONDS)
            idle.append((time.process_time() - began) / watch.lag().samples)
    for state, each in (("a busy", busy), ("an idle", idle)):
        cost = statistics.median(each)
        share = cost / IDLE_INTERVAL
        print(f"the lag sampler on {state} loop: {cost * 1e6:.0f} µs of CPU per sample, {share:.2%} of a core at 50 ms")


def timed(function: Callable[[Any], None], connection: Any) -> float:
    """Return the seconds that one call takes."""
    began = time.perf_counter()
    for _ in range(CALLS):
        function(connection)
    return (time.perf_counter() - began) / CALLS


async def accounts(endpoint: Endpoint) -> None:
    """Compare a query that blocks with and without somebody who takes note of it."""
    settings: dict[str, Any] = {**endpoint.settings(), "autocommit": True, "ssl_disabled": True}
    raw = pymysql.connect(**settings)
    taken: dict[str, list[float]] = {}
    pool = OffloadPool.create(min_size=0, max_size=1, on_loop_call="allow", **settings)
    pooled = pool.connection()

    def note(name: str, seconds: float) -> None:
        taken.setdefault(name, []).append(seconds)

    @offload
    async def in_thread(name: str, function: Callable[[], float]) -> None:
        note(name, blocking(function)())

    for _ in range(ROUNDS):
        note("PyMySQL on the loop", timed(query, raw))
        note("a wrapped pool's on the loop, counted", timed(query, pooled))
        await in_thread("PyMySQL in a thread", lambda: timed(query, raw))
        await in_thread("a wrapped pool's in a thread", lambda: timed(query, pooled))
        with monitor.observe_pymysql():
            note("PyMySQL on the loop, observed", timed(query, raw))
            await in_thread("PyMySQL in a thread, observed", lambda: timed(query, raw))
    pooled.close()
    pool.close()
    raw.close()
    print(f"one small query, median of {ROUNDS} rounds of {CALLS}")
    for name, seconds in taken.items():
        print(f"  {name:<40} {statistics.median(seconds) * 1e6:7.1f} µs")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.monitor_cost", description=__doc__)
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "trio"), default="asyncio")
    loop = parser.parse_args().loop
    options: dict[str, Any] = {"use_uvloop": True} if loop == "uvloop" else {}

    async def run(endpoint: Endpoint) -> None:
        await sampler()
        await accounts(endpoint)

    with server() as endpoint:
        print(loop)
        anyio.run(run, endpoint, backend="trio" if loop == "trio" else "asyncio", backend_options=options)


if __name__ == "__main__":
    main()
