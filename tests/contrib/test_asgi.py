"""Claims about the ASGI middleware: everything in a request's task may suspend at its driver calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import anyio
import httpx
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from offload_db import ConfigurationError, OffloadPool, offload
from offload_db.bridge.place import Place, place
from offload_db.contrib.asgi import OffloadMiddleware, lifespan
from tests.conftest import MySQL
from tests.contrib.asgi_apps import Noting, added, client_of, one, ways
from tests.support import pool_of, running, settled, value

# FastAPI 0.104 says to the newest pydantic what that finds pointless.
pytestmark = pytest.mark.filterwarnings("ignore:The 'alias' attribute with value")


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    """Give a pool that refuses to block an event loop."""
    with pool_of(2, database, on_loop_call="raise") as pool:
        yield pool


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
        ({"paths": "/v2"}, r"paths=<text, not shown>; accepted are lists"),
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
    with pytest.raises(ConfigurationError, match=r"lifespan: got <text, not shown>"):
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
