"""Claims about the ASGI middleware and the lifespan helper, on real applications and a real server."""

from __future__ import annotations

import http.client
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import anyio
import httpx
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.testclient import TestClient
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from offload_db import ConfigurationError, LaneFull, OffloadPool, StatementTimeout, connect, offload
from offload_db.bridge.call_scope import current_bridged_call
from offload_db.bridge.place import Place, place
from offload_db.contrib.asgi import OffloadMiddleware, lifespan
from tests.conftest import MySQL, needs
from tests.serving import Socket, served
from tests.support import PATIENCE, QUICK, assert_ended, in_thread, pool_of, running, settled, until, value

# FastAPI 0.104 says to the newest pydantic what that finds pointless.
pytestmark = pytest.mark.filterwarnings("ignore:The 'alias' attribute with value")


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    """Give a pool that refuses to block an event loop."""
    with pool_of(2, database, on_loop_call="raise") as pool:
        yield pool


def one(pool: OffloadPool) -> int:
    with pool.connection() as connection:
        return int(value(connection, "SELECT 1"))


def client_of(app: Any, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app, **options), base_url="http://test")


def wrapped(app: FastAPI, **options: Any) -> Any:
    return OffloadMiddleware(app, **options)


def added(app: FastAPI, **options: Any) -> Any:
    app.add_middleware(OffloadMiddleware, **options)
    return app


ways = pytest.mark.parametrize("cover", [added, wrapped])


# What it covers


@ways
@pytest.mark.anyio
async def test_everything_in_the_requests_task(cover: Callable[..., Any], pool: OffloadPool) -> None:
    """Dependencies, handlers, yield exits, background tasks and `def` handlers use the database, on each loop."""
    trail: list[str] = []
    app = FastAPI()

    async def before() -> None:
        trail.append(f"dependency {one(pool)}")

    async def around() -> AsyncIterator[int]:
        yield one(pool)
        trail.append(f"exit {one(pool)}")

    async def after() -> None:
        trail.append(f"task {one(pool)}")

    @app.get("/", dependencies=[Depends(before)])
    async def handler(tasks: BackgroundTasks, number: int = Depends(around)) -> int:
        tasks.add_task(after)
        return number + one(pool)

    @app.get("/plain")
    def plain() -> int:
        return one(pool)

    async with client_of(cover(app)) as client:
        assert (await client.get("/")).json() == 2
        assert (await client.get("/plain")).json() == 1
    assert sorted(trail) == ["dependency 1", "exit 1", "task 1"]
    assert pool.statistics().in_use == 0


@ways
@pytest.mark.anyio
async def test_many_requests_at_once(cover: Callable[..., Any], pool: OffloadPool) -> None:
    """Requests that outnumber the connections all get theirs."""
    app = FastAPI()

    @app.get("/{number}")
    async def handler(number: int) -> int:
        return number * one(pool)

    answers: list[int] = []

    async def get(client: httpx.AsyncClient, number: int) -> None:
        answers.append((await client.get(f"/{number}")).json())

    async with client_of(cover(app)) as client, anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(get, client, number)
    assert sorted(answers) == list(range(20))


def place_app(*middlewares: Any) -> FastAPI:
    """Make an application that tells where its handler runs; middlewares are added in this order."""
    app, mounted = FastAPI(), FastAPI()

    @app.get("/")
    @mounted.get("/")
    async def handler() -> str:
        return place().name

    app.mount("/mounted", mounted)
    for middleware in middlewares:
        app.add_middleware(middleware)
    return app


class Noting(BaseHTTPMiddleware):
    """A middleware of the kind that runs what is below it in another task."""

    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """Note where it runs itself."""
        response = await call_next(request)
        response.headers["x-place"] = place().name
        return response


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("order", "handler", "middleware"),
    [
        ([OffloadMiddleware, Noting], Place.BRIDGED, Place.LOOP),
        ([Noting, OffloadMiddleware], Place.LOOP, Place.BRIDGED),
        ([OffloadMiddleware, Noting, OffloadMiddleware], Place.BRIDGED, Place.BRIDGED),
    ],
)
async def test_beside_a_base_http_middleware(order: list[Any], handler: Place, middleware: Place) -> None:
    """Innermost it covers the handlers, outermost the other middleware, at both ends both; mounted ones as well."""
    async with client_of(place_app(*order)) as client:
        for path in ("/", "/mounted/"):
            answer = await client.get(path)
            assert (answer.json(), answer.headers["x-place"]) == (handler.name, middleware.name)


@pytest.mark.anyio
async def test_a_decorated_handler_below_it(pool: OffloadPool) -> None:
    """Decorators may stay: a handler in thread mode runs in its thread, one in a bridge joins the request's."""
    app = FastAPI()

    @app.get("/bridge")
    @offload
    async def bridge() -> str:
        return f"{place().name} {one(pool)}"

    @app.get("/thread")
    @offload(mode="thread")
    async def thread() -> str:
        return f"{place().name} {one(pool)}"

    async with client_of(added(app)) as client:
        assert (await client.get("/bridge")).json() == "BRIDGED 1"
        assert (await client.get("/thread")).json() == "THREAD 1"


@pytest.mark.anyio
async def test_paths() -> None:
    """`paths` and `exclude` choose requests by the beginning of their path, in whole segments."""
    app = FastAPI()

    @app.get("/{path:path}")
    async def handler() -> str:
        return place().name

    async with client_of(OffloadMiddleware(app, paths=["/v2/"], exclude=["/v2/export"])) as client:
        found = {
            path: (await client.get(path)).json() == Place.BRIDGED.name
            for path in ("/v2", "/v2/trucks", "/v20", "/", "/v2/export", "/v2/export/all", "/v2/exports")
        }
    assert {path for path, bridged in found.items() if bridged} == {"/v2", "/v2/trucks", "/v2/exports"}
    everything = OffloadMiddleware(app, paths=["/"])
    assert everything.covers("/")
    assert everything.covers("/v1")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"paths": "/v2"}, r"paths=<builtins.str object>; accepted are lists"),
        ({"exclude": ["v2"]}, r"exclude=<builtins.list object>; accepted are lists of paths that begin with '/'"),
        ({"retry_after": 1.5}, r"retry_after=1\.5; accepted are whole seconds"),
        ({"retry_after": -1}, "retry_after=-1"),
        ({"timeout": 0}, "timeout=0"),
        ({"lane": ""}, "lane=''"),
    ],
)
def test_bad_settings(options: dict[str, Any], named: str) -> None:
    """A bad setting is named when the middleware is made."""
    with pytest.raises(ConfigurationError, match=named):
        OffloadMiddleware(FastAPI(), **options)


def test_no_application() -> None:
    """What is no application is named."""
    with pytest.raises(ConfigurationError, match="app=None"):
        OffloadMiddleware(None)  # type: ignore[arg-type]  # the mistake that is tested
    with pytest.raises(ConfigurationError, match=r"lifespan: got <builtins.str object>"):
        lifespan("pool")  # type: ignore[arg-type]  # as above


# Errors


def failing_app() -> FastAPI:
    app = FastAPI()

    @app.exception_handler(LookupError)
    async def not_there(request: Request, error: LookupError) -> JSONResponse:
        return JSONResponse({"missing": str(error)}, status_code=404)

    @app.get("/refused")
    async def refused() -> None:
        raise HTTPException(status_code=418, detail="no")

    @app.get("/missing")
    async def missing() -> None:
        raise KeyError("truck")

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    return app


@ways
@pytest.mark.anyio
async def test_errors_are_the_same(cover: Callable[..., Any]) -> None:
    """Errors become the answers that they are without the middleware, and reach the server as they are."""
    async with (
        client_of(failing_app(), raise_app_exceptions=False) as plain,
        client_of(cover(failing_app()), raise_app_exceptions=False) as covered,
    ):
        for path in ("/refused", "/missing", "/broken", "/nowhere"):
            before, after = await plain.get(path), await covered.get(path)
            assert (after.status_code, after.text) == (before.status_code, before.text)
    async with client_of(cover(failing_app())) as client:
        with pytest.raises(ZeroDivisionError):
            await client.get("/broken")


def overloaded_app(pool: OffloadPool, **settings: Any) -> FastAPI:
    app, mounted = FastAPI(**settings), FastAPI(**settings)

    @app.get("/")
    @mounted.get("/")
    async def handler() -> int:
        return one(pool)

    @app.get("/begun")
    async def begun() -> StreamingResponse:
        @offload
        async def body() -> AsyncIterator[str]:
            yield "begun"
            one(pool)

        return StreamingResponse(body())

    @app.get("/decided")
    async def decided() -> int:
        try:
            return one(pool)
        except Exception as error:
            raise HTTPException(status_code=500, detail="own words") from error

    app.mount("/mounted", mounted)
    return app


@ways
@pytest.mark.anyio
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("options", [{"max_waiting": 0}, {"checkout_timeout": 0.01}], ids=["full", "timeout"])
async def test_no_free_connection_becomes_503(
    cover: Callable[..., Any],
    debug: bool,
    options: dict[str, Any],
    database: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """LaneFull and CheckoutTimeout become 503 with Retry-After, below FastAPI's own answer to errors and above it."""
    with pool_of(1, database, **options) as pool, in_thread(pool.connection).result(PATIENCE):
        async with client_of(cover(overloaded_app(pool, debug=debug), retry_after=7)) as client:
            for path in ("/", "/mounted/"):
                caplog.clear()
                answer = await client.get(path)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
                assert answer.json() == {"detail": "the database is overloaded, try again later"}
                assert [(r.levelno, r.name) for r in caplog.records if r.name == "offload_db"] == [
                    (logging.WARNING, "offload_db")
                ]
            # What the application decides stays.
            answer = await client.get("/decided")
            assert (answer.status_code, answer.json()) == (500, {"detail": "own words"})


@ways
@pytest.mark.anyio
async def test_an_applications_own_handler_wins(cover: Callable[..., Any], database: dict[str, Any]) -> None:
    """A handler that the application has for the error answers, not the middleware."""
    with pool_of(1, database, max_waiting=0) as pool, in_thread(pool.connection).result(PATIENCE):
        app = overloaded_app(pool)

        @app.exception_handler(LaneFull)
        async def busy(request: Request, error: LaneFull) -> PlainTextResponse:
            return PlainTextResponse("own", status_code=429)

        async with client_of(cover(app)) as client:
            answer = await client.get("/")
            assert (answer.status_code, answer.text) == (429, "own")


@ways
@pytest.mark.anyio
async def test_no_503_after_the_beginning(cover: Callable[..., Any], database: dict[str, Any]) -> None:
    """When the response has begun the error is raised again."""
    with pool_of(1, database, max_waiting=0) as pool, in_thread(pool.connection).result(PATIENCE):
        async with client_of(cover(overloaded_app(pool))) as client:
            with pytest.raises(LaneFull):
                await client.get("/begun")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "order", [[OffloadMiddleware, Noting], [Noting, OffloadMiddleware], [OffloadMiddleware, Noting, OffloadMiddleware]]
)
async def test_503_beside_a_base_http_middleware(order: list[Any], database: dict[str, Any]) -> None:
    """The answer passes other middlewares like any other, in every order."""
    with pool_of(1, database, max_waiting=0, on_loop_call="allow") as pool, in_thread(pool.connection).result(PATIENCE):
        app = overloaded_app(pool)
        for middleware in order:
            app.add_middleware(middleware)
        async with client_of(app) as client:
            answer = await client.get("/")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


@pytest.mark.anyio
async def test_other_timeouts_are_no_overload(database: dict[str, Any]) -> None:
    """A statement that ran out of time is an error of the application, not a reason to come again."""
    app = FastAPI()
    with pool_of(1, database) as pool:

        @app.get("/")
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, "SELECT SLEEP(30)")

        async with client_of(added(app, timeout=0.2)) as client:
            with pytest.raises(StatementTimeout):
                await client.get("/")


# A real server


@pytest.fixture(params=["asyncio", pytest.param("uvloop", marks=needs("uvloop"))])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@needs("uvicorn")
@needs("wsproto")
@ways
def test_web_sockets(cover: Callable[..., Any], loop: str, pool: OffloadPool) -> None:
    """A WebSocket queries per message; one that finds no connection before it accepts is answered 503.

    Where the server knows no such answer, it gives its own to errors.
    """
    app = FastAPI()
    can_answer: list[bool] = []

    @app.websocket("/talk")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            text = await websocket.receive_text()
            if text == "end":
                break
            await websocket.send_text(f"{text} {one(pool)}")
        await websocket.close()

    @app.websocket("/full")
    async def full(websocket: WebSocket) -> None:
        can_answer.append("websocket.http.response" in websocket.scope.get("extensions", {}))
        raise LaneFull.because("nobody waits any more")

    with served(cover(app), loop=loop, ws="wsproto") as address:
        with Socket(address, "/talk") as client:
            assert type(client.event()).__name__ == "AcceptConnection"
            assert [client.ask("a"), client.ask("b")] == ["a 1", "b 1"]
        with Socket(address, "/full") as client:
            refusal = client.event()
            answer = (refusal.status_code, dict(refusal.headers).get(b"retry-after"))
            assert answer == ((503, b"1") if can_answer[0] else (500, None))


@needs("uvicorn")
@needs("wsproto")
def test_web_sockets_share_a_connection(database: dict[str, Any]) -> None:
    """Two WebSockets and a request use one shared connection by turns, though none of the sockets ends."""
    shared = connect(**QUICK, **database)
    over: list[bool] = []
    app = FastAPI()

    @app.websocket("/talk")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            await websocket.send_text(str(value(shared, "SELECT %s", await websocket.receive_text())))

    @app.websocket("/push")
    async def push(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(str(value(shared, "SELECT 3")))
        await settled(lambda: over)

    @app.get("/")
    async def handler() -> int:
        return int(value(shared, "SELECT 4"))

    with served(added(app), ws="wsproto") as address, Socket(address, "/talk") as one, Socket(address, "/talk") as two:
        for client in (one, two):
            client.event()
        assert [one.ask("1"), two.ask("2"), one.ask("1")] == ["1", "2", "1"]
        with Socket(address, "/push") as pushed:
            pushed.event()
            assert pushed.event().data == "3"
            assert httpx.get(address).json() == 4
            assert two.ask("2") == "2"
            over.append(True)
    shared.close()


@needs("uvicorn")
@needs("wsproto")
def test_the_timeout_of_a_web_socket_is_that_of_a_message(database: dict[str, Any]) -> None:
    """A WebSocket may live longer than `timeout`, which holds from one message to the next."""
    app = FastAPI()
    with pool_of(1, database) as pool:

        @app.websocket("/talk")
        async def talk(websocket: WebSocket) -> None:
            await websocket.accept()
            while True:
                text = await websocket.receive_text()
                with pool.connection() as connection:
                    await websocket.send_text(str(value(connection, "SELECT SLEEP(%s) + 1", float(text))))

        with (
            served(added(app, timeout=1.0), ws="wsproto") as address,
            Socket(address, "/talk") as client,
        ):
            client.event()
            assert [client.ask("0.5") for _ in range(3)] == ["1"] * 3
            client.say("5")
            assert type(client.event()).__name__ == "CloseConnection"
        assert pool.statistics().timeouts == 1


@needs("uvicorn")
@ways
def test_a_client_that_disconnects(
    cover: Callable[..., Any], loop: str, mysql: MySQL, database: dict[str, Any]
) -> None:
    """A request that is cancelled because its client is gone kills its statement, and the pool serves on."""
    app = FastAPI()
    statement = "SELECT SLEEP(30), 'gone client'"
    with pool_of(1, database) as pool:

        @app.get("/")
        async def handler(request: Request) -> None:
            async with anyio.create_task_group() as group:

                async def watch() -> None:
                    while (await request.receive())["type"] != "http.disconnect":
                        pass
                    group.cancel_scope.cancel()

                group.start_soon(watch)
                with pool.connection() as connection:
                    value(connection, statement)

        with served(cover(app), loop=loop) as address:
            client = http.client.HTTPConnection(address.removeprefix("http://"), timeout=PATIENCE)
            client.request("GET", "/")
            until(lambda: running(mysql, database, "gone client"))
            client.close()
            until(lambda: pool.statistics().kills == 1)
            assert_ended(mysql, database, statement)
        until(lambda: pool.statistics().in_use == 0)
        assert pool.blocking_calls() == []


# Shared connections


@pytest.mark.anyio
@pytest.mark.parametrize("order", [[OffloadMiddleware], [OffloadMiddleware, Noting, OffloadMiddleware]])
async def test_a_shared_connection_belongs_to_one_request(order: list[Any], database: dict[str, Any]) -> None:
    """From its first statement to its end a request has a shared connection for itself, exits included."""
    connection: Any = await anyio.to_thread.run_sync(lambda: connect(**QUICK, **database))
    trail: list[str] = []
    inside, go_on = anyio.Event(), anyio.Event()
    app = FastAPI()

    async def ending(name: str) -> AsyncIterator[None]:
        yield
        if name == "first":
            inside.set()
            await go_on.wait()  # in most versions of FastAPI after the response was sent
        trail.append(f"{name} {value(connection, 'SELECT %s', 'ends')}")

    @app.get("/{name}", dependencies=[Depends(ending)])
    async def handler(name: str) -> None:
        trail.append(f"{name} {value(connection, 'SELECT %s', 'begins')}")

    for middleware in order:
        app.add_middleware(middleware)
    with anyio.fail_after(PATIENCE):
        async with client_of(app) as client, anyio.create_task_group() as group:
            group.start_soon(client.get, "/first")
            await inside.wait()
            group.start_soon(client.get, "/second")
            await anyio.wait_all_tasks_blocked()
            await anyio.sleep(0.05)  # a statement in a worker thread is not seen to be under way
            go_on.set()
    assert trail == ["first begins", "first ends", "second begins", "second ends"]
    await anyio.to_thread.run_sync(connection.close)


@pytest.mark.anyio
async def test_a_stream_lets_go_of_a_shared_connection(database: dict[str, Any]) -> None:
    """A streamed body that does not end keeps a shared connection from nobody."""
    connection: Any = await anyio.to_thread.run_sync(lambda: connect(**QUICK, **database))
    sent, go_on = anyio.Event(), anyio.Event()
    app = FastAPI()

    @app.get("/events")
    async def events() -> StreamingResponse:
        @offload
        async def body() -> AsyncIterator[str]:
            yield str(value(connection, "SELECT 1"))
            sent.set()
            await go_on.wait()
            yield str(value(connection, "SELECT 2"))

        return StreamingResponse(body())

    @app.get("/")
    async def handler() -> int:
        return int(value(connection, "SELECT 3"))

    answers: list[str] = []

    async def stream(client: httpx.AsyncClient) -> None:
        answers.append((await client.get("/events")).text)

    with anyio.fail_after(PATIENCE):
        async with client_of(added(app)) as client, anyio.create_task_group() as group:
            group.start_soon(stream, client)
            await sent.wait()
            assert (await client.get("/")).json() == 3
            go_on.set()
    assert answers == ["12"]
    await anyio.to_thread.run_sync(connection.close)


@pytest.mark.anyio
async def test_what_a_web_socket_holds(pool: OffloadPool) -> None:
    """A WebSocket that lets go of its connections still counts as their holder: it needs no thread of the others."""
    trail: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        call = current_bridged_call()
        assert call is not None
        held = pool.connection()
        for _ in range(2):
            await receive()
            trail.append(len(call.owned))
            with pool.connection() as other:
                trail.append(len(call.owned))
                await receive()
                assert value(other, "SELECT 1") == 1
                await receive()
            trail.append(len(call.owned))
        held.close()
        trail.append(len(call.owned))

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.receive", "text": ""}

    await OffloadMiddleware(app)({"type": "websocket", "path": "/"}, receive, None)  # type: ignore[arg-type]  # unused
    assert trail == [1, 2, 1] * 2 + [0]


# Start and stop


def test_lifespan_opens_warms_and_closes(mysql: MySQL, database: dict[str, Any]) -> None:
    """The pools have their connections at the start and none at the stop, around the application's own lifespan."""
    trail: list[Any] = []
    settings = {**QUICK, **database}
    first = OffloadPool.create(min_size=2, max_size=3, on_loop_call="raise", **settings)
    second = OffloadPool.create(min_size=1, max_size=3, on_loop_call="raise", **settings)

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, int]]:
        trail.append((first.statistics().open, second.statistics().open))
        yield {"number": one(first)}
        trail.append(one(second))

    app = FastAPI(lifespan=lifespan(first, second, inner=own))

    @app.get("/")
    async def handler(request: Request) -> int:
        return int(request.state.number)

    with TestClient(app) as client:
        assert client.get("/").json() == 1
        assert len(mysql.process_list(database["database"])) == 3
    assert trail == [(2, 1), 1]
    until(lambda: mysql.process_list(database["database"]) == [])
    for pool in (first, second):
        with pytest.raises(Exception, match="the pool is closed"):
            pool.connection()


@needs("uvicorn")
def test_lifespan_on_a_server(mysql: MySQL, database: dict[str, Any]) -> None:
    """The same on a real server, with the drain that the stop grants."""
    pool = OffloadPool.create(min_size=2, max_size=3, **QUICK, **database)
    with served(FastAPI(lifespan=lifespan(pool, drain_timeout=0)), lifespan="on"):
        assert pool.statistics().idle == 2
        held = pool.connection()
        until(lambda: len(mysql.process_list(database["database"])) == 2)
    assert pool.statistics().open <= 1
    held.close()
    until(lambda: mysql.process_list(database["database"]) == [])


def test_lifespan_with_a_server_that_is_down() -> None:
    """An application whose first connections fail does not start, and says why."""
    pool = OffloadPool.create(min_size=1, max_size=2, host="127.0.0.1", port=1, connect_timeout=2)
    with pytest.raises(Exception, match="Can't connect to MySQL server"), TestClient(FastAPI(lifespan=lifespan(pool))):
        pass
    assert pool.statistics().in_use == 0


@ways
def test_start_and_stop_are_bridged(cover: Callable[..., Any], database: dict[str, Any]) -> None:
    """The start may use the database, and what it keeps does not belong to it: requests can use it."""
    kept: list[Any] = []
    with pool_of(2, database, on_loop_call="raise") as pool:

        @asynccontextmanager
        async def own(app: Any) -> AsyncIterator[None]:
            kept.append(pool.connection())
            assert value(kept[0], "SELECT 1") == 1
            yield
            kept.pop().close()
            assert one(pool) == 1

        app = FastAPI(lifespan=own)

        @app.get("/")
        async def handler() -> int:
            return int(value(kept[0], "SELECT 2"))

        with TestClient(cover(app)) as client:
            assert client.get("/").json() == 2
        assert pool.statistics().in_use == 0


@pytest.mark.anyio
async def test_any_asgi_application(pool: OffloadPool) -> None:
    """It needs no framework: a bare ASGI application works the same."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(one(pool)).encode()})

    async with client_of(OffloadMiddleware(app)) as client:
        assert (await client.get("/")).text == "1"


@pytest.mark.anyio
async def test_a_cancelled_request(mysql: MySQL, database: dict[str, Any]) -> None:
    """Cancelling a request's task kills its statement, and nothing is held afterwards."""
    app = FastAPI()
    with pool_of(1, database) as pool:

        @app.get("/")
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, "SELECT SLEEP(30), 'cancelled request'")

        async with client_of(added(app)) as client, anyio.create_task_group() as group:
            group.start_soon(client.get, "/")
            await settled(lambda: running(mysql, database, "cancelled request"))
            group.cancel_scope.cancel()
        assert pool.statistics().kills == 1
        assert pool.statistics().in_use == 0
