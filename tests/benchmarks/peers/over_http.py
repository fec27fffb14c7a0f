"""The workload over HTTP: ten users, each contestant behind a route of its own, in one process under real uvicorn.

``python -m tests.benchmarks.peers.over_http`` serves the application, on the server that ``MYSQL_HOST`` and its
siblings name; the benchmark starts it so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio

from examples.fuel_copilot.demo.load import Crowd, requests
from examples.support.ports import LOOPBACK, free_port
from examples.support.processes import end, start

from .contestants import ALL, Contestant, DefHandler, Missing
from .workloads import SLOW

ROOT = Path(__file__).resolve().parents[3]
USERS = 10
START_TIMEOUT = 30.0
# Seconds of warm-up, and seconds that are measured, of one turn; a quick one measures for less.
SETTLE, SECONDS, QUICK_SECONDS = 0.2, 2.0, 0.8


def application(settings: dict[str, Any]) -> Any:
    """Make the application: a route for each contestant that is installed, and the list of them under ``/``."""
    from fastapi import FastAPI

    contestants: list[Contestant] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for kind in ALL:
            contestant = kind()
            with contextlib.suppress(Missing):
                await contestant.open(settings, USERS)
                app.get(f"/{len(contestants)}")(_endpoint(contestant))
                contestants.append(contestant)
        yield
        for contestant in contestants:
            await contestant.close()

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def names() -> list[str]:
        return [contestant.name for contestant in contestants]

    return app


def _endpoint(contestant: Contestant) -> Callable[[], Any]:
    if isinstance(contestant, DefHandler):

        def in_a_thread_of_the_framework() -> Any:
            return list(contestant.query(SLOW, None, every=False))

        return in_a_thread_of_the_framework

    async def awaiting() -> Any:
        return list(await contestant.one(SLOW))

    return awaiting


async def measure(settings: dict[str, Any], *, quick: bool) -> dict[str, float]:
    """Let ten users ask each contestant in turn; return the median of each in requests per second."""
    port = free_port()
    variables = {f"MYSQL_{name.upper()}": str(value) for name, value in settings.items()}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-W", "ignore", "-m", __spec__.name, "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        server = start(command, env=environment, cwd=ROOT, output=log)
        try:
            names = await _names(port, server)
            taken: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(1 if quick else 3):
                for number, name in enumerate(names):
                    crowd = Crowd(LOOPBACK, port, USERS, requests(LOOPBACK, port, {f"/{number}": "0"}))
                    load = await crowd.run(SETTLE, QUICK_SECONDS if quick else SECONDS)
                    if load.errors:
                        raise RuntimeError(f"{name} over HTTP: {load.error_samples}")
                    taken[name].append(len(load.latencies) / (load.ended - load.started))
        except BaseException:
            log.seek(0)
            sys.stderr.buffer.write(log.read()[-3000:])
            raise
        finally:
            end(server, timeout=4.0)
    return {name: statistics.median(figures) for name, figures in taken.items()}


async def _names(port: int, server: subprocess.Popen[bytes]) -> list[str]:
    import httpx

    deadline = time.monotonic() + START_TIMEOUT
    async with httpx.AsyncClient() as client:
        while time.monotonic() < deadline and server.poll() is None:
            try:
                names: list[str] = (await client.get(f"http://{LOOPBACK}:{port}/")).json()
                return names
            except httpx.TransportError:
                await anyio.sleep(0.05)  # it does not listen yet
    raise RuntimeError("the application with all contestants did not start")


def main() -> None:
    """Serve the application until it is told to end."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    settings: dict[str, Any] = {
        name: os.environ[f"MYSQL_{name.upper()}"] for name in ("host", "user", "password", "database")
    }
    settings |= {"port": int(os.environ["MYSQL_PORT"]), "autocommit": True, "ssl_disabled": True}
    uvicorn.run(application(settings), host=LOOPBACK, port=arguments.port, loop="asyncio", log_level="warning")


if __name__ == "__main__":
    main()
