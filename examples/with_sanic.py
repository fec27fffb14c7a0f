"""Sanic: the decorator on handlers, below the route decorator.

Ten requests of 100 ms each to a real server, before and after. The server is Sanic's own.

Run it with ``python -m examples.with_sanic`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from sanic import Request, Sanic, text
from sanic.response import HTTPResponse

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
    app = Sanic("with_sanic", configure_logging=False)

    @app.get("/before")
    async def before(request: Request) -> HTTPResponse:
        return text(query(pool))

    @app.get("/after")
    @offload_db.offload
    async def after(request: Request) -> HTTPResponse:
        return text(query(pool))

    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    http: Any = await app.create_server(sock=listener, return_asyncio_server=True)
    await http.startup()
    await http.start_serving()
    await measure(pool, f"http://{host}:{port}")
    await http.close()


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
