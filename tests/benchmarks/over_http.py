"""Measures the example backend over HTTP before and after: ``python -m tests.benchmarks.over_http [--rounds 20]``.

Real uvicorn, a process for each, and users in this one. For what is fast, queries without delay, the two take turns in
blocks of a second, in an order that is random in each round, so that a machine that gets slower or faster meanwhile
does the same to each; what is said of a round is the ratio of its two blocks. For what is slow, a hundred users share
twenty connections, and what counts is the share of what these allow at best. Prints medians of the rounds, and the
goals. Uses the database server that MYSQL_HOST names, or a private one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from examples.fuel_copilot.demo.__main__ import QUERY_DELAY, Demo, filled_database
from examples.fuel_copilot.demo.backend import HOST, Backend
from examples.fuel_copilot.demo.load import Crowd, Load, requests
from examples.fuel_copilot.demo.results import AFTER, BEFORE, POOL_SIZE, percentile
from examples.support.mariadb import server

SETTLE, SECONDS = 0.2, 1.0
# Longer, because requests come back some twenty at a time.
SLOW_SECONDS = 3.0
MANY_USERS = 100
IDEAL = POOL_SIZE / QUERY_DELAY

# Users without delay, what is said of a block's latencies, and the goal for its ratio: after to before.
FAST: tuple[tuple[int, str, Callable[[list[float]], float], float], ...] = (
    (1, "median", median, 1.15),
    (10, "p99", lambda latencies: percentile(latencies, 0.99), 1.2),
)
GOAL_SLOW = 0.96


def block(backend: Backend, paths: dict[str, str], users: int, seconds: float = SECONDS) -> Load:
    """Let the users ask for a while."""
    load = asyncio.run(Crowd(HOST, backend.port, users, requests(HOST, backend.port, paths)).run(SETTLE, seconds))
    if load.errors:
        raise RuntimeError(f"{backend.directory.name}: {load.error_samples}")
    return load


def fast(backends: list[Backend], paths: dict[str, str], rounds: int) -> None:
    """Compare the two where queries have no delay."""
    for users, what, figure, goal in FAST:
        figures: dict[Backend, list[float]] = {backend: [] for backend in backends}
        for _ in range(rounds):
            for backend in random.sample(backends, len(backends)):
                figures[backend].append(figure(block(backend, paths, users).latencies))
        before, after = figures.values()
        ratio = median(late / early for early, late in zip(before, after, strict=True))
        print(
            f"{users:>3} users, {what:<6} {median(before) * 1000:6.2f} ms before, {median(after) * 1000:6.2f} after: "
            f"{ratio:.2f} of it; the goal is at most {goal}",
            flush=True,
        )


def slow(backend: Backend, paths: dict[str, str], rounds: int) -> None:
    """Compare what a hundred users get with what twenty connections allow."""
    shares = []
    for _ in range(rounds):
        load = block(backend, paths, MANY_USERS, SLOW_SECONDS)
        shares.append(len(load.latencies) / (load.ended - load.started) / IDEAL)
    print(
        f"{MANY_USERS:>3} users, {QUERY_DELAY * 1000:.0f} ms   {median(shares) * IDEAL:6.0f} a second of {IDEAL:.0f}: "
        f"{median(shares):.2f} of it (at best {max(shares):.2f}); the goal is at least {GOAL_SLOW}"
    )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="blocks of each backend without delay")
    arguments = parser.parse_args()
    with (
        server() as endpoint,
        tempfile.TemporaryDirectory(prefix="offload-db-over-http-") as workspace,
        filled_database(endpoint) as database,
    ):
        demo = Demo(endpoint, database, Path(workspace))
        paths: dict[str, str] = json.loads(demo.paths.read_text(encoding="utf-8"))
        copies = [demo.copy(BEFORE, 0), demo.copy(AFTER, None)]
        with contextlib.ExitStack() as running:
            fast([running.enter_context(demo.backend(copy, 0.0)) for copy in copies], paths, arguments.rounds)
        with demo.backend(copies[1], QUERY_DELAY) as backend:
            slow(backend, paths, max(1, arguments.rounds // 4))


if __name__ == "__main__":
    main()
