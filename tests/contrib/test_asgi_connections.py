"""Claims about what lasts longer than a request under the ASGI middleware: web sockets, streams, lifespans."""

from __future__ import annotations

import gc
import http.client
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import anyio
import httpx
from fastapi import Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.requests import Request
from starlette.responses import StreamingResponse

from offload_db import LaneFull, OffloadPool, connect, offload
from offload_db.bridge.call_scope import current_bridged_call
from offload_db.contrib import fastapi
from offload_db.contrib.asgi import OffloadMiddleware, lifespan
from tests.conftest import MySQL, needs
from tests.contrib.asgi_apps import Noting, added, client_of, one, ways
from tests.serving import Socket, served
from tests.support import PATIENCE, QUICK, assert_ended, pool_of, running, settled, until, value

# FastAPI 0.104 says to the newest pydantic what that finds pointless.
pytestmark = pytest.mark.filterwarnings("ignore:The 'alias' attribute with value")


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    """Give a pool that refuses to block an event loop."""
    with pool_of(2, database, on_loop_call="raise") as pool:
        yield pool


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


@pytest.mark.parametrize("make", [lifespan, fastapi.lifespan])
@pytest.mark.parametrize("freeze", [True, False])
def test_lifespan_that_freezes(make: Callable[..., Any], freeze: bool) -> None:
    """With `freeze=True` the garbage collector leaves out what is there after the start, until the stop."""
    loaded: list[Any] = []

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[None]:
        loaded.append({"loaded": app})
        yield

    def seen() -> bool:
        return any(each is loaded[0] for each in gc.get_objects())

    with TestClient(FastAPI(lifespan=make(inner=own, freeze=freeze))):
        assert seen() is not freeze
        assert (gc.get_freeze_count() > 0) is freeze
    assert seen()
    assert gc.get_freeze_count() == 0


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
