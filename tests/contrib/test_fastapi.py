"""Claims about the route class, the exception handlers, the lifespan and the list of gaps for FastAPI."""

from __future__ import annotations

import http.client
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import anyio
import httpx
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.responses import Response

from offload_db import ConfigurationError, Lane, LaneFull, OffloadPool, connect, offload
from offload_db.contrib.fastapi import Gap, OffloadRoute, add_exception_handlers, find_gaps, lifespan
from tests.conftest import MySQL, needs
from tests.contrib.test_frameworks import answers
from tests.samples.backend import build
from tests.serving import served
from tests.support import PATIENCE, QUICK, assert_ended, in_thread, pool_of, running, settled, until, value

# FastAPI 0.104 says to the newest pydantic what that finds pointless, and newer ones what they think of on_event.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'alias' attribute with value"),
    pytest.mark.filterwarnings("ignore:[\\s\\S]*on_event is deprecated:DeprecationWarning"),
]


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    """Give a pool that refuses to block an event loop."""
    with pool_of(2, database, on_loop_call="raise", lanes=[Lane("reports", 1, max_waiting=0)]) as pool:
        yield pool


def one(pool: OffloadPool) -> int:
    with pool.connection() as connection:
        return int(value(connection, "SELECT 1"))


def client_of(app: Any, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app, **options), base_url="http://test")


# The route class


def unchanged(function: Any) -> Any:
    return function


def test_answers_and_schema_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend whose routes are all of the class answers and documents itself as before."""
    plain: list[str] = []
    before = build(unchanged, plain)
    expected = answers(before, plain)
    trail: list[str] = []
    original = APIRouter.__init__

    def with_class(self: APIRouter, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{**kwargs, "route_class": OffloadRoute})

    monkeypatch.setattr(APIRouter, "__init__", with_class)
    after = build(unchanged, trail)
    assert answers(after, trail) == expected
    assert after.openapi() == before.openapi()


def failing(trail: list[str], route_class: Any) -> FastAPI:
    """Make an application whose dependencies look at the errors of its handlers."""
    app = FastAPI()
    router = APIRouter(route_class=route_class)

    async def watching() -> AsyncIterator[None]:
        try:
            yield
        except BaseException as error:
            trail.append(type(error).__name__)
            raise
        finally:
            trail.append("exit")

    async def swallowing() -> AsyncIterator[None]:
        try:
            yield
        except ZeroDivisionError:
            trail.append("swallowed")

    @router.get("/refused", dependencies=[Depends(watching)])
    async def refused() -> None:
        raise HTTPException(status_code=418)

    @router.get("/broken", dependencies=[Depends(watching)])
    async def broken() -> None:
        raise ZeroDivisionError

    @router.get("/swallowed", dependencies=[Depends(swallowing)])
    async def swallowed() -> None:
        raise ZeroDivisionError

    @router.post("/uploaded", dependencies=[Depends(watching)])
    async def uploaded(request: Request) -> int:
        return len(await request.body())

    app.include_router(router, prefix="/v2")
    return app


@pytest.mark.anyio
async def test_dependencies_see_the_same_errors() -> None:
    """Errors reach `yield` dependencies, and clients, as with FastAPI's own routes."""
    found = []
    for route_class in (APIRoute, OffloadRoute):
        trail: list[str] = []
        async with client_of(failing(trail, route_class), raise_app_exceptions=False) as client:
            status = [
                (await client.get("/v2/refused")).status_code,
                (await client.get("/v2/broken")).status_code,
                (await client.get("/v2/swallowed")).status_code,
                (await client.post("/v2/uploaded", content=b"four")).json(),
                (await client.delete("/v2/refused")).status_code,
            ]
        found.append((status, trail))
    assert found[0] == found[1]
    assert found[0][0] == [418, 500, 500, 4, 405]


@pytest.mark.anyio
async def test_lane_and_timeout(pool: OffloadPool) -> None:
    """A subclass chooses the lane and the timeout of its routes."""

    class Reports(OffloadRoute):
        lane = "reports"
        timeout = 30.0

    app, router = FastAPI(), APIRouter(route_class=Reports)

    @router.get("/")
    async def handler() -> int:
        with pool.connection():
            return pool.statistics().lanes["reports"].in_use

    app.include_router(router)
    async with client_of(app) as client:
        assert (await client.get("/")).json() == 1

    class Mistaken(OffloadRoute):
        timeout = -1.0

    with pytest.raises(ConfigurationError, match=r"timeout=-1\.0"):
        APIRouter(route_class=Mistaken).get("/")(handler)


@pytest.mark.anyio
async def test_streamed_bodies(pool: OffloadPool) -> None:
    """Each step of a streamed body may use the database; it ends with its clean-up, and errors are its own."""
    trail: list[str] = []
    app = FastAPI()
    app.router.route_class = OffloadRoute

    @app.get("/{number}")
    async def handler(number: int) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            try:
                for _ in range(number):
                    yield str(one(pool))
                if not number:
                    raise ZeroDivisionError
            finally:
                trail.append(f"end {one(pool)}")

        return StreamingResponse(body())

    @app.get("/plain/{number}")
    async def plain(number: int) -> StreamingResponse:
        return StreamingResponse(str(one(pool)) for _ in range(number))

    async with client_of(app) as client:
        assert (await client.get("/3")).text == "111"
        assert (await client.get("/plain/2")).text == "11"
        with pytest.raises(ZeroDivisionError):
            await client.get("/0")
    assert trail == ["end 1", "end 1"]


@pytest.mark.anyio
async def test_a_stream_lets_go_of_a_shared_connection(database: dict[str, Any]) -> None:
    """A streamed body that does not end keeps a shared connection from nobody."""
    connection: Any = await anyio.to_thread.run_sync(lambda: connect(**QUICK, **database))
    sent, go_on = anyio.Event(), anyio.Event()
    app = FastAPI()
    app.router.route_class = OffloadRoute

    @app.get("/events")
    async def events() -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            yield str(value(connection, "SELECT 1"))
            sent.set()
            await go_on.wait()
            yield str(value(connection, "SELECT 2"))

        return StreamingResponse(body())

    @app.get("/")
    async def handler() -> int:
        return int(value(connection, "SELECT 3"))

    found: list[str] = []

    async def stream(client: httpx.AsyncClient) -> None:
        found.append((await client.get("/events")).text)

    with anyio.fail_after(PATIENCE):
        async with client_of(app) as client, anyio.create_task_group() as group:
            group.start_soon(stream, client)
            await sent.wait()
            assert (await client.get("/")).json() == 3
            go_on.set()
    assert found == ["12"]
    await anyio.to_thread.run_sync(connection.close)


@needs("uvicorn")
@pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=needs("uvloop"))])
def test_a_client_that_leaves_a_stream(loop: str, mysql: MySQL, database: dict[str, Any]) -> None:
    """When the client of a streamed body is gone its statement is killed, and it gives its connection back."""
    trail: list[str] = []
    app = FastAPI()
    app.router.route_class = OffloadRoute
    with pool_of(2, database, on_loop_call="raise") as pool:

        @app.get("/")
        async def handler() -> StreamingResponse:
            async def body() -> AsyncIterator[str]:
                yield "begun"
                try:
                    with pool.connection() as connection:
                        value(connection, "SELECT SLEEP(30), 'gone client'")
                finally:
                    trail.append("end")

            return StreamingResponse(body())

        with served(app, loop=loop) as address:
            client = http.client.HTTPConnection(address.removeprefix("http://"), timeout=PATIENCE)
            client.request("GET", "/")
            answer = client.getresponse()
            until(lambda: running(mysql, database, "gone client"))
            answer.close()
            client.close()
            until(lambda: trail == ["end"])
        assert_ended(mysql, database, "gone client")
        assert pool.statistics().kills == 1
        assert pool.statistics().in_use == 0
        assert pool.blocking_calls() == []


@pytest.mark.anyio
async def test_generator_routes(pool: OffloadPool) -> None:
    """Where FastAPI streams what a handler yields, the route class covers lines, and a decorator events as well."""
    sse = pytest.importorskip("fastapi.sse")
    app = FastAPI()
    app.router.route_class = OffloadRoute

    @app.get("/lines")
    async def lines() -> AsyncIterator[int]:
        yield one(pool)

    @app.get("/events", response_class=sse.EventSourceResponse)
    @offload
    async def events() -> AsyncIterator[int]:
        yield one(pool)

    @app.get("/forgotten", response_class=sse.EventSourceResponse)
    async def forgotten() -> AsyncIterator[int]:
        yield 1

    async with client_of(app) as client:
        assert (await client.get("/lines")).text == "1\n"
        assert "data: 1\n" in (await client.get("/events")).text
    assert kinds(find_gaps(app)) == [("streaming", "/forgotten")]


# 503


def test_exception_handlers(database: dict[str, Any]) -> None:
    """Where no connection is free a request is answered 503 and a WebSocket closed with 1013."""
    from starlette.websockets import WebSocketDisconnect

    app = FastAPI()
    add_exception_handlers(app, retry_after=5)
    with pool_of(1, database, max_waiting=0) as pool, pool.connection():

        @app.get("/")
        def handler() -> int:
            return one(pool)

        @app.websocket("/talk")
        async def talk(websocket: WebSocket) -> None:
            await websocket.accept()
            raise LaneFull.because("nobody waits any more")

        with TestClient(app) as client:
            answer = in_thread(lambda: client.get("/")).result(PATIENCE)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert answer.json() == {"detail": "the database is overloaded, try again later"}
            with client.websocket_connect("/talk") as connection, pytest.raises(WebSocketDisconnect) as caught:
                connection.receive_text()
            assert caught.value.code == 1013
    with pytest.raises(ConfigurationError, match=r"add_exception_handlers: retry_after=<text, not shown>"):
        add_exception_handlers(app, retry_after="soon")  # type: ignore[arg-type]  # the mistake that is tested


# The lifespan


def test_lifespan_runs_event_handlers(database: dict[str, Any]) -> None:
    """Handlers of on_event, which FastAPI drops where there is a lifespan, run while the pools are open."""
    trail: list[Any] = []
    pool = OffloadPool.create(min_size=1, max_size=2, on_loop_call="raise", **QUICK, **database)
    app = FastAPI(lifespan=lifespan(pool))

    @app.on_event("startup")
    async def begin() -> None:
        trail.append(("begin", one(pool)))

    @app.on_event("startup")
    def begin_too() -> None:
        trail.append(pool.statistics().open)

    @app.on_event("shutdown")
    async def end() -> None:
        trail.append(("end", one(pool)))

    with TestClient(app):
        assert trail == [("begin", 1), 1]
    assert trail[2:] == [("end", 1)]


@pytest.mark.parametrize("log_gaps", [True, False])
def test_lifespan_logs_gaps(log_gaps: bool, caplog: pytest.LogCaptureFixture) -> None:
    """What is not covered stands in the log once, at the start."""
    pool = OffloadPool.create(min_size=0, max_size=1, host="127.0.0.1")
    app = FastAPI(lifespan=lifespan(pool, log_gaps=log_gaps))

    @app.get("/forgotten")
    async def forgotten() -> None: ...

    with TestClient(app), TestClient(FastAPI(lifespan=lifespan())):
        pass
    found = [record.getMessage() for record in caplog.records if record.name == "offload_db"]
    assert len(found) == log_gaps
    assert all("/forgotten" in text and "without @offload_db.offload" in text for text in found)
    assert all(record.levelno == logging.WARNING for record in caplog.records if record.name == "offload_db")


def kinds(gaps: list[Gap]) -> list[tuple[str, str]]:
    return sorted((gap.kind, gap.where.split(" ")[0]) for gap in gaps)


@pytest.mark.anyio
@pytest.mark.parametrize("lane", [None, "requests"])
async def test_requests_that_hold_two_connections(database: dict[str, Any], lane: str | None) -> None:
    """Two for each request run a pool dry, which ends in an error; with the first in a lane every request gets both."""
    with pool_of(
        2, database, on_loop_call="raise", checkout_timeout=PATIENCE if lane else 0.3, lanes=[Lane("requests", 1)]
    ) as pool:
        app = FastAPI()

        @app.middleware("http")
        @offload
        async def hold_one(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
            with pool.connection(lane=lane):
                if lane is None:
                    await settled(lambda: pool.statistics().in_use == 2)
                return await call_next(request)

        @offload
        async def get_db() -> AsyncIterator[Any]:
            with pool.connection() as connection:
                yield connection

        @app.get("/")
        @offload
        async def handler(connection: Any = Depends(get_db)) -> int:  # noqa: B008
            return int(value(connection, "SELECT 1"))

        codes: list[int] = []

        async def ask(client: httpx.AsyncClient) -> None:
            codes.append((await client.get("/")).status_code)

        async with client_of(app, raise_app_exceptions=False) as client, anyio.create_task_group() as group:
            group.start_soon(ask, client)
            group.start_soon(ask, client)
        if lane:
            assert codes == [200, 200]
        else:  # the one that gives up first leaves a connection to the other
            assert max(codes) == 500
        assert pool.statistics().in_use == 0


def test_without_fastapi() -> None:
    """Where FastAPI is missing the error names the extra."""
    code = "import sys; sys.modules['fastapi'] = None; import offload_db.contrib.asgi, offload_db.contrib.fastapi"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert "pip install 'offload-db[fastapi]'" in done.stderr.splitlines()[-1]
