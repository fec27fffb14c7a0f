"""Measures, in one process, what taking calls off the event loop gains and what it costs.

    python -m tests.benchmarks.in_process [--quick]

Prints medians of rounds in which all contestants take turns, so that a machine that gets slower or faster meanwhile
does the same to each. Uses the server that MYSQL_HOST names, or a private one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine
from importlib.metadata import version
from typing import Any

import anyio
import anyio.to_thread
import pymysql
from dbutils.pooled_db import PooledDB

import offload_db
from examples.support.mariadb import Endpoint, server

CALLS, SIZE, SECONDS = 100, 20, 0.08
IDEAL = CALLS / SIZE * SECONDS

Contestant = Callable[[], Awaitable[None]]


def query(connection: Any, statement: str, *args: Any) -> Any:
    """Do what a legacy handler does with a connection."""
    cursor = connection.cursor()
    cursor.execute(statement, args or None)
    row = cursor.fetchone()
    cursor.close()
    connection.close()
    return row


async def crowd(handler: Callable[[], Coroutine[Any, Any, Any]], calls: int) -> None:
    """Run *calls* handlers at once."""
    async with anyio.create_task_group() as group:
        for _ in range(calls):
            group.start_soon(handler)


async def timed(contestant: Contestant) -> float:
    """Return the seconds that the contestant takes."""
    began = time.perf_counter()
    await contestant()
    return time.perf_counter() - began


async def interleaved(contestants: dict[str, Contestant], rounds: int) -> dict[str, float]:
    """Let the contestants take turns; return the median of each."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            taken[name].append(await timed(contestant))
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


async def per_driver_call(pool: PooledDB, threads: anyio.CapacityLimiter) -> None:
    """Take one thread for each driver call, as a rewrite by hand does that is not afraid of hangs."""

    async def away(function: Callable[..., Any], *args: Any) -> Any:
        return await anyio.to_thread.run_sync(function, *args, limiter=threads)

    connection = await away(pool.connection)
    cursor = await away(connection.cursor)
    await away(cursor.execute, "SELECT SLEEP(%s)", (SECONDS,))
    await away(cursor.fetchone)
    await away(cursor.close)
    await away(connection.close)


async def concurrency(original: PooledDB, pool: offload_db.OffloadPool, *, quick: bool) -> None:
    """Compare how long many handlers with one slow query each take together."""
    # (callers - connections) threads are needed just for those that wait: with fewer this contestant hangs.
    threads = anyio.CapacityLimiter(CALLS + SIZE)
    blocking_calls = 5 if quick else CALLS

    @offload_db.offload
    async def offloaded() -> None:
        query(pool.connection(), "SELECT SLEEP(%s)", SECONDS)

    async def blocked() -> None:
        query(original.connection(), "SELECT SLEEP(%s)", SECONDS)

    async def threaded() -> None:
        await per_driver_call(original, threads)

    contestants: dict[str, Contestant] = {
        "offload_db": lambda: crowd(offloaded, CALLS),
        "one thread per driver call": lambda: crowd(threaded, CALLS),
    }
    await interleaved(contestants, 1)  # connections are opened, threads started
    before = pool.statistics()
    medians = await interleaved(contestants, 3 if quick else 7)
    after = pool.statistics()
    medians["blocking original"] = await timed(lambda: crowd(blocked, blocking_calls)) * CALLS / blocking_calls

    print(f"{CALLS} handlers at once, one query of {SECONDS * 1000:.0f} ms each, {SIZE} connections")
    print(f"  {'ideal':<28} {IDEAL:7.3f} s")
    for name, seconds in medians.items():
        print(f"  {name:<28} {seconds:7.3f} s   {seconds / IDEAL:6.2f} x the ideal")
    print(f"  blocking original / offload_db: {medians['blocking original'] / medians['offload_db']:.1f}")
    if quick:
        print(f"  (the blocking original was measured with {blocking_calls} handlers, and multiplied)")
    hops = (after.hops - before.hops) / (after.checkouts - before.checkouts)
    print(f"  trips to a worker per handler: {hops:.2f}\n")


async def cost(pool: offload_db.OffloadPool, endpoint: Endpoint, *, quick: bool) -> None:
    """Compare what one SELECT 1 costs."""
    times = 200 if quick else 1000
    plain = pymysql.connect(**endpoint.settings(), autocommit=True, ssl_disabled=True)
    plain_cursor = plain.cursor()
    limiter = anyio.CapacityLimiter(1)

    async def blocking() -> None:
        for _ in range(times):
            plain_cursor.execute("SELECT 1")
            plain_cursor.fetchone()

    @offload_db.offload
    async def offloaded() -> None:
        connection = pool.connection()
        cursor = connection.cursor()
        for _ in range(times):
            cursor.execute("SELECT 1")
            cursor.fetchone()
        connection.close()

    @offload_db.offload
    async def handler() -> None:
        query(pool.connection(), "SELECT 1")

    async def handlers() -> None:
        for _ in range(times):
            await handler()

    async def one_hop() -> None:
        for _ in range(times):
            await anyio.to_thread.run_sync(_nothing, limiter=limiter)

    medians = await interleaved(
        {
            "blocking, the statement": blocking,
            "offload_db, the statement": offloaded,
            "offload_db, a whole handler": handlers,
            "anyio, an empty trip": one_hop,
        },
        5 if quick else 15,
    )
    plain.close()
    print(f"SELECT 1, one after the other, median of rounds of {times}")
    base = medians["blocking, the statement"]
    for name, seconds in medians.items():
        print(f"  {name:<28} {seconds / times * 1e6:7.0f} µs   {seconds / base:6.2f} x blocking")
    extra = medians["offload_db, the statement"] - base - medians["anyio, an empty trip"]
    print(f"  what offload_db adds to both: {extra / times * 1e6:.0f} µs per statement")


def _nothing() -> None:
    """Do what an empty trip is for."""


async def measure(endpoint: Endpoint, *, quick: bool) -> None:
    """Run all measurements on the running loop."""
    settings = {**endpoint.settings(), "autocommit": True, "ssl_disabled": True}
    original = PooledDB(pymysql, maxconnections=SIZE, blocking=True, **settings)
    pool = offload_db.OffloadPool(PooledDB(pymysql, maxconnections=SIZE, blocking=True, **settings))
    async with pool:
        await concurrency(original, pool, quick=quick)
        await cost(pool, endpoint, quick=quick)
    original.close()


def main() -> None:
    """Read the arguments and measure on each loop that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.in_process", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, less certain")
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "trio"), default="asyncio")
    arguments = parser.parse_args()
    backend = "trio" if arguments.loop == "trio" else "asyncio"
    options: dict[str, Any] = {"use_uvloop": True} if arguments.loop == "uvloop" else {}

    async def run(endpoint: Endpoint) -> None:
        await measure(endpoint, quick=arguments.quick)

    with server() as endpoint:
        print(f"{arguments.loop}, PyMySQL {version('pymysql')}, anyio {version('anyio')}\n")
        anyio.run(run, endpoint, backend=backend, backend_options=options)


if __name__ == "__main__":
    main()
