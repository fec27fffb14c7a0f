"""Measures what a time limit adds to a statement that keeps within it.

    python -m tests.benchmarks.limits [--loop asyncio|uvloop|trio] [--rounds 200]

Blocks of statements with and without ``statement_timeout`` take turns in random order, in one process and over one
connection each; printed are the medians, and those of the differences, also of the process's CPU time, which other
processes disturb less. Uses the server that MYSQL_HOST names, or a private one.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.to_thread

import offload_db
from examples.support.mariadb import server
from tests.support import pool_of

BLOCK = 50
LIMIT = 30.0
PLACES = ("plain thread", "mode=thread", "bridged", "awaited")

Block = Callable[[offload_db.OffloadPool], Awaitable[None]]


def statements(pool: offload_db.OffloadPool) -> None:
    """Run a block of statements on one connection."""
    with pool.connection() as connection, connection.cursor() as cursor:
        for _ in range(BLOCK):
            cursor.execute("SELECT 1")
            cursor.fetchone()


async def in_plain_thread(pool: offload_db.OffloadPool) -> None:
    """Run a block outside of the library's calls."""
    await anyio.to_thread.run_sync(statements, pool)


@offload_db.offload(mode="thread")
async def in_thread_mode(pool: offload_db.OffloadPool) -> None:
    """Run a block in a handler that has a thread of its own."""
    statements(pool)


@offload_db.offload
async def in_bridged_handler(pool: offload_db.OffloadPool) -> None:
    """Run a block in a handler that stays on the loop."""
    statements(pool)


async def awaited(pool: offload_db.OffloadPool) -> None:
    """Run a block of awaitable calls, each with its checkout."""
    for _ in range(BLOCK):
        await pool.fetch_value("SELECT 1")


BLOCKS: dict[str, Block] = dict(
    zip(PLACES, (in_plain_thread, in_thread_mode, in_bridged_handler, awaited), strict=True)
)


async def measure(settings: dict[str, Any], rounds: int) -> None:
    """Run the blocks and print what they took."""
    with ExitStack() as stack:
        pools = [stack.enter_context(pool_of(1, settings, statement_timeout=limit)) for limit in (None, LIMIT)]
        taken: dict[str, list[list[float]]] = {place: [[], [], [], []] for place in PLACES}
        for number in range(rounds + 5):
            for place in random.sample(PLACES, len(PLACES)):
                for limited in random.sample((0, 1), 2):
                    began, cpu = time.perf_counter(), time.process_time()
                    await BLOCKS[place](pools[limited])
                    if number >= 5:  # those before warm up
                        taken[place][limited].append((time.perf_counter() - began) / BLOCK * 1e6)
                        taken[place][limited + 2].append((time.process_time() - cpu) / BLOCK * 1e6)
    print(f"SELECT 1, blocks of {BLOCK}, {rounds} of each; µs per statement")
    print(f"  {'':<14} {'no limit':>9} {'limited':>9} {'the limit adds':>15} {'of it CPU':>10}")
    for place, (without, limit, *cpus) in taken.items():
        pairs = (without, limit), cpus
        added, of_it = (statistics.median(b - a for a, b in zip(*pair, strict=True)) for pair in pairs)
        medians = f"{statistics.median(without):9.0f} {statistics.median(limit):9.0f}"
        print(f"  {place:<14} {medians} {added:15.1f} {of_it:10.1f}")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.limits", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="blocks of each kind")
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "trio"), default="asyncio")
    arguments = parser.parse_args()
    backend = "trio" if arguments.loop == "trio" else "asyncio"
    options: dict[str, Any] = {"use_uvloop": True} if arguments.loop == "uvloop" else {}
    with server() as endpoint:
        anyio.run(measure, endpoint.settings(), arguments.rounds, backend=backend, backend_options=options)


if __name__ == "__main__":
    main()
