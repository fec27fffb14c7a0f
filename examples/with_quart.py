"""Quart: the decorator on view functions, below the route decorator.

Ten requests of 100 ms each to a real server, before and after. Quart runs each request in a task of its own, so
that an ASGI middleware above it does not cover its views. Where all of them are to be freed, decorate what serves them,
``Quart.handle_request``, in a subclass.

Run it with ``python -m examples.with_quart`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio
import socket

from hypercorn.asyncio import serve as run_hypercorn
from hypercorn.config import Config
from quart import Quart

import offload_db
from examples.support.mariadb import server
from examples.support.requests import ten_requests


def query(pool: offload_db.OffloadPool) -> str:
    """The legacy helper: it knows no asyncio."""
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT CONCAT('slept ', SLEEP(0.1))")
        (text,) = cursor.fetchone()
        return str(text)


async def serve(pool: offload_db.OffloadPool) -> None:
    app = Quart(__name__)

    @app.get("/before")
    async def before() -> str:
        return query(pool)

    @app.get("/after")
    @offload_db.offload
    async def after() -> str:
        return query(pool)

    stop, config = asyncio.Event(), Config()
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    config.bind, config.errorlog = [f"fd://{listener.detach()}"], None
    running = asyncio.create_task(run_hypercorn(app, config, shutdown_trigger=stop.wait))
    await measure(pool, f"http://{host}:{port}")
    stop.set()
    await running


async def measure(pool: offload_db.OffloadPool, address: str) -> None:
    await asyncio.to_thread(ten_requests, f"{address}/after")  # opens the connections
    for name in ("before", "after"):
        counted = pool.statistics().blocking_calls
        seconds = await asyncio.to_thread(ten_requests, f"{address}/{name}")
        blocked = pool.statistics().blocking_calls - counted
        print(f"{name:6}: ten requests in {1000 * seconds:.0f} ms, {blocked} calls blocked the event loop")


def main() -> None:
    with server() as endpoint:
        pool = offload_db.OffloadPool.create(
            min_size=0, max_size=10, autocommit=True, ssl_disabled=True, on_loop_call="allow", **endpoint.settings()
        )
        asyncio.run(serve(pool))
        pool.close()


if __name__ == "__main__":
    main()
