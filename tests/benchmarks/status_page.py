"""Measures what the live page costs the process that serves it: CPU, and the loop's lag, with and without viewers.

    python -m tests.benchmarks.status_page [--viewers 2] [--seconds 10] [--rounds 3] [--loop asyncio|uvloop]

An application under uvicorn that has plenty to show: places that block, targets of the rollout, other processes.
Viewers are processes of their own that read the events. Blocks with and without them take turns; prints medians. Uses
the server that MYSQL_HOST names, or a private one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from fastapi import FastAPI

from examples.support.mariadb import server
from offload_db import Lane, OffloadPool, monitor, offload, rollout
from offload_db.contrib.status import StatusPage
from offload_db.monitor.lag import Samples
from tests.serving import served

PLACES, TARGETS, PROCESSES = 40, 20, 3

VIEWER = """
import http.client, sys
while True:
    connection = http.client.HTTPConnection(sys.argv[1])
    connection.request("GET", "/offload/events")
    response = connection.getresponse()
    while response.read1(65536):
        pass
    connection.close()
"""


def plenty(pool: OffloadPool, directory: Path) -> None:
    """Have something to show of everything."""

    async def fill() -> None:
        handlers: list[Any] = []
        for number in range(PLACES):
            space: dict[str, Any] = {"pool": pool, "offload": offload}
            source = f"""
async def handler_{number}():
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT {"column, " * 10} {number} FROM DUAL WHERE 1 = %s", (1,))
""".replace("column", "1")
            exec(compile(source, f"/app/handlers_{number % 5}.py", "exec"), space)  # noqa: S102  # of this file
            handlers.append(space[f"handler_{number}"])
        for number, handler in enumerate(handlers):
            await handler()
            if number < TARGETS:
                decorated: Any = offload(handler)
                rollout.set(f"{handler.__module__}.{handler.__qualname__}", "offload", share=0.5)
                for _ in range(10):
                    await decorated()

    anyio.run(fill)
    for number in range(PROCESSES):
        snapshot = {**monitor.snapshot(pool), "pid": number + 1, "again_in": 3600.0}
        (directory / f"{number}.json").write_text(json.dumps(snapshot), encoding="utf-8")


def application(pool: OffloadPool, directory: Path, watches: list[monitor.Watch]) -> FastAPI:
    """Make an application with the page."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        async with monitor.watch(interval=0.005) as watch:
            watches.append(watch)
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/offload", StatusPage(pool, dumps=directory))
    return app


def block(address: str, viewers: int, seconds: float, watch: monitor.Watch) -> tuple[float, float]:
    """Return the share of a core that the process took, and the 99th percentile of the loop's lag, in seconds."""
    host = address.removeprefix("http://")
    processes = [subprocess.Popen([sys.executable, "-c", VIEWER, host]) for _ in range(viewers)]
    try:
        time.sleep(1)
        before, cpu, began = watch.so_far(), time.process_time(), time.perf_counter()
        time.sleep(seconds)
        cpu, took = time.process_time() - cpu, time.perf_counter() - began
        counts = [now - then for now, then in zip(watch.so_far().counts, before.counts, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    within = Samples()
    within.counts, within.longest = counts, watch.so_far().longest
    return cpu / took, within.percentile(0.99)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.status_page", description=__doc__)
    parser.add_argument("--viewers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    arguments = parser.parse_args()
    found: dict[int, list[tuple[float, float]]] = {}
    watches: list[monitor.Watch] = []
    with server() as endpoint, tempfile.TemporaryDirectory(prefix="offload-db-status-") as directory:
        pool = OffloadPool.create(
            min_size=0,
            max_size=5,
            lanes=[Lane("reports", 2)],
            on_loop_call="allow",
            autocommit=True,
            ssl_disabled=True,
            **endpoint.settings(),
        )
        plenty(pool, Path(directory))
        app = application(pool, Path(directory), watches)
        with served(app, lifespan="on", loop=arguments.loop) as address:
            for _ in range(arguments.rounds):
                for viewers in (0, arguments.viewers):
                    found.setdefault(viewers, []).append(block(address, viewers, arguments.seconds, watches[0]))
        rollout.clear()
        pool.close()
    print(f"{PLACES} places that block, {TARGETS} targets, {PROCESSES} further processes; {arguments.loop}")
    for viewers, blocks in found.items():
        cpu, lag = (statistics.median(each) for each in zip(*blocks, strict=True))
        print(f"{viewers} viewers: {cpu:.2%} of a core, loop lag p99 {lag * 1000:.2f} ms")
    extra = statistics.median(cpu for cpu, _ in found[arguments.viewers]) - statistics.median(c for c, _ in found[0])
    print(f"the page itself: {extra:.2%} of a core")


if __name__ == "__main__":
    main()
