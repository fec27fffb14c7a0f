"""aiohttp: the decorator on a handler, and a middleware for a whole application.

Ten requests of 100 ms each to a real server, before and after. Where every handler is to be freed, a middleware that is
decorated does so: it runs in the request's own task.

Run it with ``python -m examples.with_aiohttp`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Handler

import offload_db
from examples.support.mariadb import server
from examples.support.requests import ten_requests


def query(pool: offload_db.OffloadPool) -> str:
    """The legacy helper: it knows no asyncio."""
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT CONCAT('slept ', SLEEP(0.1))")
        (text,) = cursor.fetchone()
        return str(text)


@asynccontextmanager
async def running(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    yield f"http://{host}:{port}"
    await runner.cleanup()


async def serve(pool: offload_db.OffloadPool) -> None:
    async def before(request: web.Request) -> web.Response:
        return web.Response(text=query(pool))

    @offload_db.offload
    async def after(request: web.Request) -> web.Response:
        return web.Response(text=query(pool))

    app = web.Application()
    app.router.add_get("/before", before)
    app.router.add_get("/after", after)
    async with running(app) as address:
        await measure(pool, address)

    # All handlers at once.
    @web.middleware
    @offload_db.offload
    async def free_the_loop(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await handler(request)

    app = web.Application(middlewares=[free_the_loop])
    app.router.add_get("/before", before)
    counted = pool.statistics().blocking_calls
    async with running(app) as address:
        await asyncio.to_thread(ten_requests, f"{address}/before")
    print(f"below the middleware: {pool.statistics().blocking_calls - counted} calls blocked the event loop")


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
