"""The live page in an aiohttp application, which speaks no ASGI: a handler that brings the two together.

Run it with ``python -m examples.monitoring.aiohttp_page`` in the directory of the clone, and open the address that it
prints; Ctrl-C ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from aiohttp import web

import offload_db
from examples.support.mariadb import server
from offload_db import monitor
from offload_db.contrib.status import StatusPage

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def asgi(app: Any, prefix: str) -> Handler:
    """Make an aiohttp handler of an ASGI application."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        body: bytes | None = await request.read()

        async def receive() -> dict[str, Any]:
            nonlocal body
            if body is None:  # where the client has left, aiohttp's write() raises an OSError
                await asyncio.Event().wait()
            asked, body = body, None
            return {"type": "http.request", "body": asked}

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                response.set_status(message["status"])
                for name, value in message["headers"]:
                    response.headers.add(name.decode(), value.decode())
                await response.prepare(request)
            elif message["body"]:
                await response.write(message["body"])

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "method": request.method,
            "scheme": request.scheme,
            "path": request.path,
            "root_path": prefix,
            "query_string": request.query_string.encode(),
            "headers": [(name.lower(), value) for name, value in request.raw_headers],
        }
        await app(scope, receive, send)
        return response

    return handler


def mount(app: web.Application, prefix: str, page: StatusPage) -> None:
    """Serve the page below a prefix."""
    handler = asgi(page, prefix)
    app.router.add_route("*", prefix, handler)
    app.router.add_route("*", f"{prefix}/{{path:.*}}", handler)


def make_app(pool: offload_db.OffloadPool) -> web.Application:
    @offload_db.offload
    async def version(request: web.Request) -> web.Response:
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("SELECT VERSION()")
            (text,) = cursor.fetchone()
            return web.Response(text=str(text))

    async def watching(app: web.Application) -> Any:
        async with monitor.watch():
            yield

    app = web.Application()
    app.cleanup_ctx.append(watching)
    app.router.add_get("/version", version)
    mount(app, "/offload", StatusPage(pool))
    return app


def main() -> None:
    with server() as endpoint:
        pool = offload_db.OffloadPool.create(
            min_size=0, max_size=5, autocommit=True, ssl_disabled=True, **endpoint.settings()
        )
        print("http://127.0.0.1:8080/offload/")
        web.run_app(make_app(pool), host="127.0.0.1", port=8080, print=None)
        pool.close()


if __name__ == "__main__":
    main()
