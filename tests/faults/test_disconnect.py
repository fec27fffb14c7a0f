"""A client that goes away: where the server tells the handler by cancelling it, its statement is killed."""

from __future__ import annotations

import http.client
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from offload_db import OffloadPool, offload
from tests.conftest import MySQL
from tests.support import PATIENCE, in_thread, pool_of, until

from .checks import asleep, assert_ended, check, running

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")

from starlette.applications import Starlette  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import PlainTextResponse, Response, StreamingResponse  # noqa: E402
from starlette.routing import Route  # noqa: E402

Handler = Callable[[Request], Awaitable[Response]]


@contextmanager
def serving(*routes: Route, middleware: list[Middleware] | None = None) -> Iterator[int]:
    """Run an application under uvicorn in a thread, on a port of its own."""
    app = Starlette(routes=list(routes), middleware=middleware or [])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off"))
    thread = in_thread(server.run)
    try:
        until(lambda: server.started or thread.done())
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.result(PATIENCE)


def leave_while_it_runs(port: int, mysql: MySQL, statement: str) -> None:
    """Send a request, and close its connection when the statement runs on the server."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    client.request("GET", "/")
    until(lambda: running(mysql, statement))
    client.close()


def slow(pool: OffloadPool, statement: str, outcomes: list[str]) -> Callable[[], Awaitable[None]]:
    """Make a decorated function that runs the statement and notes how it ended."""

    @offload
    async def query() -> None:
        try:
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.execute(statement)
            outcomes.append("ran to its end")
        except BaseException as error:
            outcomes.append(type(error).__name__)
            raise

    return query


async def until_gone(request: Request, work: Callable[[], Awaitable[None]]) -> None:
    """Do the work, and cancel it when the client goes away."""
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        await work()
        group.cancel_scope.cancel()


class PassingOn(BaseHTTPMiddleware):
    """The kind of middleware that most applications have: a function around each request."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        return await call_next(request)  # type: ignore[no-any-return]


@pytest.mark.parametrize("middleware", [False, True], ids=["bare", "under BaseHTTPMiddleware"])
def test_a_handler_that_watches_its_client(middleware: bool, database: dict[str, Any], mysql: MySQL) -> None:
    """Where a watcher cancels the handler when its client goes away, the statement is killed within moments."""
    outcomes: list[str] = []
    with pool_of(2, database) as pool:
        query = slow(pool, "SELECT SLEEP(50)", outcomes)

        async def handler(request: Request) -> Response:
            await until_gone(request, query)
            return PlainTextResponse("done")

        with serving(Route("/", handler), middleware=[Middleware(PassingOn)] if middleware else None) as port:
            leave_while_it_runs(port, mysql, "SELECT SLEEP(50)")
            until(lambda: outcomes)
            assert_ended(mysql, "SELECT SLEEP(50)")
        assert outcomes == ["CancelledError"]
        assert pool.statistics().kills == 1
        check(pool, mysql, database["database"])


@pytest.mark.parametrize("middleware", [False, True], ids=["bare", "under BaseHTTPMiddleware"])
def test_a_handler_that_nobody_cancels(middleware: bool, database: dict[str, Any], mysql: MySQL) -> None:
    """By themselves uvicorn and Starlette cancel no plain handler: its statement ends naturally, nothing is lost."""
    outcomes: list[str] = []
    with pool_of(2, database) as pool:
        query = slow(pool, "SELECT SLEEP(0.7)", outcomes)

        async def handler(request: Request) -> Response:
            await query()
            return PlainTextResponse("done")

        with serving(Route("/", handler), middleware=[Middleware(PassingOn)] if middleware else None) as port:
            leave_while_it_runs(port, mysql, "SELECT SLEEP(0.7)")
            until(lambda: outcomes)
        assert outcomes == ["ran to its end"]
        assert pool.statistics().kills == 0
        check(pool, mysql, database["database"])


def test_a_streaming_body(database: dict[str, Any], mysql: MySQL) -> None:
    """Starlette cancels a streaming body whose client goes away: the statement that it waits for is killed."""
    outcomes: list[str] = []
    with pool_of(2, database) as pool:
        query = slow(pool, "SELECT SLEEP(50)", outcomes)

        async def body() -> AsyncIterator[bytes]:
            yield b"first"
            await query()
            yield b"last"

        async def handler(request: Request) -> Response:
            return StreamingResponse(body())

        with serving(Route("/", handler)) as port:
            leave_while_it_runs(port, mysql, "SELECT SLEEP(50)")
            until(lambda: outcomes)
        assert outcomes == ["CancelledError"]
        check(pool, mysql, database["database"])


def test_a_server_that_shuts_down(database: dict[str, Any], mysql: MySQL) -> None:
    """When uvicorn is told to end at once, the handlers that it cancels leave no statement behind."""
    outcomes: list[str] = []
    with pool_of(2, database) as pool:
        query = slow(pool, "SELECT SLEEP(50)", outcomes)

        async def handler(request: Request) -> Response:
            await query()
            return PlainTextResponse("done")

        app = Starlette(routes=[Route("/", handler)])
        config = uvicorn.Config(
            app, host="127.0.0.1", port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = in_thread(server.run)
        until(lambda: server.started or thread.done())
        client = http.client.HTTPConnection("127.0.0.1", server.servers[0].sockets[0].getsockname()[1], timeout=20)
        client.request("GET", "/")
        until(lambda: asleep(mysql, "SELECT SLEEP(50)"))
        server.should_exit = True
        thread.result(PATIENCE)
        client.close()
        assert outcomes == ["CancelledError"]
        assert_ended(mysql, "SELECT SLEEP(50)")
        check(pool, mysql, database["database"])
