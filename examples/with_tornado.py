"""Tornado: the decorator on the methods of request handlers.

Ten requests of 100 ms each to a real server, before and after.

Run it with ``python -m examples.with_tornado`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

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
    class Before(RequestHandler):
        async def get(self) -> None:
            self.write(query(pool))

    class After(RequestHandler):
        @offload_db.offload
        async def get(self) -> None:
            self.write(query(pool))

    sockets = bind_sockets(0, "127.0.0.1")
    http = HTTPServer(Application([("/before", Before), ("/after", After)]))
    http.add_sockets(sockets)
    host, port = sockets[0].getsockname()
    await measure(pool, f"http://{host}:{port}")
    http.stop()
    await http.close_all_connections()


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
