"""Claims about decorated handlers in aiohttp, Quart, Sanic and Tornado, each on its own server, and about Celery."""

from __future__ import annotations

import asyncio
import http.client
import importlib
import itertools
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pymysql
import pytest

from examples.support.requests import ten_requests
from offload_db import OffloadPool, offload
from tests.conftest import MySQL, needs
from tests.serving import served
from tests.support import PATIENCE, assert_ended, pool_of, running, settled, until, value

# What these frameworks, and what they stand on, do with what newer Pythons and packages advise against.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

Work = Callable[[], str]
Server = Callable[[Mapping[str, Work]], AbstractAsyncContextManager[str]]
"""Serves what each path does in a decorated handler, on a real server; gives its address."""

_names = itertools.count()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Put the root logger's level back, which Celery sets for the whole process."""
    root = logging.getLogger()
    before = root.level
    yield
    root.setLevel(before)


@asynccontextmanager
async def aiohttp_server(paths: Mapping[str, Work]) -> AsyncIterator[str]:
    from aiohttp import web

    app = web.Application()
    for path, work in paths.items():

        @offload
        async def handler(request: web.Request, work: Work = work) -> web.Response:
            return web.Response(text=work())

        app.router.add_get(path, handler)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    yield f"http://{host}:{port}"
    await runner.cleanup()


@asynccontextmanager
async def quart_server(paths: Mapping[str, Work]) -> AsyncIterator[str]:
    from quart import Quart

    app = Quart(__name__)
    for path, work in paths.items():

        @offload
        async def view(work: Work = work) -> str:
            return work()

        app.add_url_rule(path, path, view)
    async with hypercorn(app) as address:
        yield address


@asynccontextmanager
async def hypercorn(app: Any) -> AsyncIterator[str]:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    listener, config, stop = socket.create_server(("127.0.0.1", 0)), Config(), asyncio.Event()
    host, port = listener.getsockname()
    config.bind, config.errorlog, config.graceful_timeout = [f"fd://{listener.detach()}"], None, 1.0
    serving = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
    yield f"http://{host}:{port}"
    stop.set()
    await serving


def sanic_app(paths: Mapping[str, Work], decorate: Callable[[Any], Any]) -> Any:
    from sanic import Request, Sanic, text
    from sanic.response import HTTPResponse

    app = Sanic(f"test_{next(_names)}", configure_logging=False)
    app.config.TOUCHUP = False  # it rewrites Sanic's own classes, and can do so for one application only
    for path, work in paths.items():

        @decorate
        async def handler(request: Request, work: Work = work) -> HTTPResponse:
            return text(work())

        app.add_route(handler, path, name=path.strip("/") or "root")
    return app


@asynccontextmanager
async def sanic_server(paths: Mapping[str, Work]) -> AsyncIterator[str]:
    app = sanic_app(paths, offload)
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    server: Any = await app.create_server(sock=listener, return_asyncio_server=True)
    await server.startup()
    await server.start_serving()
    yield f"http://{host}:{port}"
    await server.close()


@asynccontextmanager
async def tornado_server(paths: Mapping[str, Work]) -> AsyncIterator[str]:
    from tornado.httpserver import HTTPServer
    from tornado.netutil import bind_sockets
    from tornado.web import Application, RequestHandler

    class Handler(RequestHandler):
        @offload
        async def get(self) -> None:
            self.write(paths[self.request.path]())

        def log_exception(self, *args: Any) -> None: ...

    sockets = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(Application([(path, Handler) for path in paths], log_function=lambda handler: None))
    server.add_sockets(sockets)
    host, port = sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.stop()
    await server.close_all_connections()


SERVERS: dict[str, Server] = {
    "aiohttp": aiohttp_server,
    "quart": quart_server,
    "sanic": sanic_server,
    "tornado": tornado_server,
}


@pytest.fixture(params=[pytest.param(name, marks=needs(name)) for name in SERVERS])
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with anyio.fail_after(2 * PATIENCE):
            await scenario()

    asyncio.run(limited())


def test_requests_and_errors(framework: str, database: dict[str, Any]) -> None:
    """Ten requests at once query off the loop, an error of the database is an answer 500, and nothing is held."""

    def query(pool: OffloadPool, sql: str) -> str:
        with pool.connection() as connection:
            return str(value(connection, sql))

    with pool_of(3, database, on_loop_call="raise") as pool:
        paths = {"/": partial(query, pool, "SELECT 'here'"), "/wrong": partial(query, pool, "SELECT nothing")}

        async def scenario() -> None:
            async with SERVERS[framework](paths) as address:
                await anyio.to_thread.run_sync(ten_requests, f"{address}/")
                assert await anyio.to_thread.run_sync(status_of, f"{address}/wrong") == 500
                await settled(lambda: pool.statistics().in_use == 0)

        run(scenario)
        assert pool.statistics().statements == 11


@pytest.mark.parametrize("framework", [pytest.param(n, marks=needs(n)) for n in SERVERS if n != "tornado"])
def test_a_client_that_disconnects(framework: str, mysql: MySQL, database: dict[str, Any]) -> None:
    """These frameworks cancel the handler of a client that is gone, and that kills its statement."""

    def slow(pool: OffloadPool) -> str:
        with pool.connection() as connection:
            return str(value(connection, "SELECT SLEEP(30), 'gone client'"))

    def leave(address: str) -> None:
        client = http.client.HTTPConnection(address.removeprefix("http://"), timeout=PATIENCE)
        client.request("GET", "/")
        until(lambda: running(mysql, database, "gone client"))
        client.close()

    with pool_of(1, database) as pool:

        async def scenario() -> None:
            async with SERVERS[framework]({"/": partial(slow, pool)}) as address:
                await anyio.to_thread.run_sync(leave, address)
                await settled(lambda: pool.statistics().in_use == 0)

        run(scenario)
        assert pool.statistics().kills == 1
        assert pool.blocking_calls() == []
    assert_ended(mysql, database, "gone client")


@needs("aiohttp")
def test_all_of_aiohttp(database: dict[str, Any]) -> None:
    """A decorated middleware frees all handlers of an aiohttp application."""
    from aiohttp import web
    from aiohttp.test_utils import TestClient, TestServer

    with pool_of(1, database, on_loop_call="raise") as pool:

        @web.middleware
        @offload
        async def free_the_loop(request: web.Request, handler: Any) -> web.StreamResponse:
            response: web.StreamResponse = await handler(request)
            return response

        async def undecorated(request: web.Request) -> web.Response:
            with pool.connection() as connection:
                return web.Response(text=str(value(connection, "SELECT 1")))

        app = web.Application(middlewares=[free_the_loop])
        app.router.add_get("/", undecorated)

        async def scenario() -> None:
            async with TestClient(TestServer(app)) as client, client.get("/") as answer:
                assert (answer.status, await answer.text()) == (200, "1")

        run(scenario)


@needs("quart")
def test_all_of_quart(database: dict[str, Any]) -> None:
    """Decorating what serves the requests of a Quart application frees all of its views."""
    from quart import Quart

    with pool_of(1, database, on_loop_call="raise") as pool:

        class FreeQuart(Quart):
            @offload
            async def handle_request(self, request: Any) -> Any:
                return await super().handle_request(request)

        app = FreeQuart(__name__)

        @app.get("/")
        async def undecorated() -> str:
            with pool.connection() as connection:
                return str(value(connection, "SELECT 1"))

        async def scenario() -> None:
            async with hypercorn(app) as address:
                assert await anyio.to_thread.run_sync(status_of, address) == 200

        run(scenario)


@needs("sanic")
@needs("uvicorn")
def test_all_of_sanic(database: dict[str, Any]) -> None:
    """Where Sanic runs on an ASGI server, the middleware frees all of its handlers."""
    from offload_db.contrib.asgi import OffloadMiddleware

    def query(pool: OffloadPool) -> str:
        with pool.connection() as connection:
            return str(value(connection, "SELECT 1"))

    with pool_of(1, database, on_loop_call="raise") as pool:
        app = sanic_app({"/": partial(query, pool)}, lambda handler: handler)
        with served(OffloadMiddleware(app), lifespan="on") as address:
            assert status_of(address) == 200


@pytest.mark.slow
@needs("celery")
def test_celery(database: dict[str, Any]) -> None:
    """A Celery worker uses the same pool and the same helpers, inline on its own threads."""
    celery = importlib.import_module("celery")
    testing = importlib.import_module("celery.contrib.testing.worker")
    app = celery.Celery("tests", broker="memory://", backend="cache+memory://")
    with pool_of(1, database, on_loop_call="raise") as pool:

        @app.task(name="query")  # type: ignore[untyped-decorator]  # Celery has no types
        def query(number: int) -> int:
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.execute("CREATE TABLE IF NOT EXISTS results (number INT)")
                cursor.execute("INSERT INTO results VALUES (%s)", (number,))
                return int(value(connection, "SELECT SUM(number) FROM results"))

        @app.task(name="fail")  # type: ignore[untyped-decorator]  # as above
        def fail() -> None:
            with pool.connection() as connection:
                value(connection, "SELECT nothing")

        with testing.start_worker(app, perform_ping_check=False, pool="solo", shutdown_timeout=PATIENCE):
            assert [query.delay(number).get(timeout=PATIENCE) for number in (1, 2)] == [1, 3]
            with pytest.raises(pymysql.err.OperationalError, match="nothing"):
                fail.delay().get(timeout=PATIENCE)
        now = pool.statistics()
    assert (now.hops, now.blocking_calls, now.in_use) == (0, 0, 0)
