"""Claims about requests: chosen for by route, once, whichever way an application is offloaded."""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute

from offload_db import blocking, offload, rollout
from offload_db.contrib.asgi import OffloadMiddleware
from offload_db.contrib.fastapi import OffloadRoute
from offload_db.monitor import RequestScope
from tests.conftest import needs
from tests.rollout import inside
from tests.serving import Socket, served

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:The 'alias' attribute with value"),
]

ROUTE = "GET:/v2/truck/{truck_id}/cache"


def way() -> str:
    """Tell whether a driver call would run on the caller's thread or hop to another."""
    return "inline" if blocking(threading.get_ident)() == threading.get_ident() else "offloaded"


def unchanged(function: Any) -> Any:
    return function


def build(kind: str) -> Any:
    """Make an application whose handlers tell which way they run."""
    decorate: Callable[[Any], Any] = offload if "decorated" in kind else unchanged
    app = FastAPI()
    router = APIRouter(prefix="/v2", route_class=OffloadRoute if "route" in kind else APIRoute)

    @router.get("/truck/{truck_id}/cache")
    @decorate
    async def get_cache(truck_id: str) -> str:
        return way()

    @router.get("/truck/{truck_id}")
    @decorate
    async def get_truck(truck_id: str) -> str:
        return way()

    @router.post("/truck/{truck_id}/cache")
    @decorate
    async def post_cache(truck_id: str) -> str:
        return way()

    app.include_router(router)
    inner = FastAPI()
    inner.include_router(router)
    app.mount("/inner", inner)
    return OffloadMiddleware(app) if "middleware" in kind else app


KINDS = ("decorated", "route", "middleware", "middleware, decorated", "route, decorated")


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app, raise_app_exceptions=False), base_url="http://test")


def rows() -> dict[str, rollout.RouteRollout]:
    return {row.target: row for row in rollout.snapshot()}


def calls(row: rollout.RouteRollout) -> dict[str, int]:
    return {mode: arm.calls for mode, arm in row.arms.items()}


@pytest.mark.parametrize("kind", KINDS)
async def test_by_route(kind: str) -> None:
    """A rule for one route holds for its requests alone, and they are counted by the route's template, once each."""
    rollout.watch_routes()
    async with client_of(build(kind)) as client:
        rollout.set(ROUTE, "block")
        for number in range(3):
            assert (await client.get(f"/v2/truck/{number}/cache")).json() == "inline"
        assert (await client.get("/v2/truck/17")).json() == "offloaded"
        assert (await client.post("/v2/truck/17/cache")).json() == "offloaded"
        rollout.set(ROUTE, "offload")
        assert (await client.get("/v2/truck/17/cache")).json() == "offloaded"
        assert (await client.get("/inner/v2/truck/17")).json() == "offloaded"
    assert {target: calls(row) for target, row in rows().items()} == {
        ROUTE: {"block": 3, "offload": 1},
        "GET:/v2/truck/{truck_id}": {"offload": 1},
        "POST:/v2/truck/{truck_id}/cache": {"offload": 1},
        "GET:/inner/v2/truck/{truck_id}": {"offload": 1},
    }


@pytest.mark.parametrize("kind", KINDS)
async def test_wildcards(kind: str) -> None:
    """A rule with a wildcard holds for routes below, mounted ones included, and each has a row of its own."""
    rollout.set("GET:/*/v2/*", "observe")
    async with client_of(build(kind)) as client:
        assert (await client.get("/inner/v2/truck/17/cache")).json() == "inline"
        assert (await client.get("/inner/v2/truck/17")).json() == "inline"
        assert (await client.get("/v2/truck/17")).json() == "offloaded"
    assert {target: (calls(row), row.matched, row.rule) for target, row in rows().items()} == {
        "GET:/*/v2/*": ({"observe": 2}, 2, "GET:/*/v2/*"),
        "GET:/inner/v2/truck/{truck_id}": ({"observe": 1}, 1, "GET:/*/v2/*"),
        "GET:/inner/v2/truck/{truck_id}/cache": ({"observe": 1}, 1, "GET:/*/v2/*"),
    }


@pytest.mark.parametrize("kind", ["decorated", "route", "route, decorated"])
async def test_by_function(kind: str) -> None:
    """Where the route is known when the choice is made, its function may be what a rule is for."""
    rollout.set(f"{__name__}.build.<locals>.get_cache", "block")
    async with client_of(build(kind)) as client:
        assert (await client.get("/v2/truck/17/cache")).json() == "inline"
        assert (await client.get("/v2/truck/17")).json() == "offloaded"
    assert calls(rows()[ROUTE]) == {"block": 1}


@pytest.mark.parametrize("kind", ["decorated", "route", "middleware", "middleware, decorated"])
async def test_one_choice_for_each_request(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dependencies and their exits, handler, background tasks and streamed body of one request go one way."""
    decorate: Callable[[Any], Any] = offload if "decorated" in kind else unchanged
    trail: list[str] = []

    @decorate
    async def outer() -> AsyncIterator[None]:
        trail.append(way())
        yield
        trail.append(way())

    @decorate
    async def inner(outer: None = Depends(outer)) -> None:
        trail.append(way())

    @decorate
    async def later() -> None:
        trail.append(way())

    @decorate
    async def body() -> AsyncIterator[str]:
        trail.append(way())
        yield "body"

    app = FastAPI()
    router = APIRouter(route_class=OffloadRoute if "route" in kind else APIRoute)

    @router.get("/")
    @decorate
    async def handler(background: BackgroundTasks, inner: None = Depends(inner)) -> Any:
        trail.append(way())
        background.add_task(later)
        # What streams is out of the reach of a middleware.
        return JSONResponse("body") if kind == "middleware" else StreamingResponse(body())

    app.include_router(router)
    numbers = itertools.cycle([0.4, 0.6])
    inside.seeded(monkeypatch, lambda: next(numbers))
    rollout.set("GET:/", "block", share=0.5)
    # A streamed body runs in a task of its own, which is told by this whose it is.
    async with client_of(OffloadMiddleware(app) if "middleware" in kind else RequestScope(app)) as client:
        for expected in ("inline", "offloaded", "inline"):
            trail.clear()
            assert (await client.get("/")).text.strip('"') == "body"
            assert trail == [expected] * len(trail)
            assert len(trail) >= 5
    row = rows()["GET:/"]
    assert row.matched == 3
    if kind != "decorated":
        assert calls(row) == {"block": 2, "offload": 1}


async def test_a_def_handler_runs_where_the_framework_ran_it() -> None:
    """FastAPI has run a plain function in a thread of its own: dependency, handler and background task do so again."""
    trail: list[int] = []
    app = FastAPI()

    @offload
    def dependency() -> None:
        trail.append(threading.get_ident())

    @offload
    def later() -> None:
        trail.append(threading.get_ident())

    @app.get("/")
    @offload
    def handler(background: BackgroundTasks, given: None = Depends(dependency)) -> str:
        trail.append(threading.get_ident())
        background.add_task(later)
        return "answer"

    rollout.set("*", "block")
    async with client_of(app) as client:
        assert (await client.get("/")).json() == "answer"
    assert len(trail) == 3
    assert threading.get_ident() not in trail


async def test_a_def_that_is_called_elsewhere_runs_on_the_callers_thread() -> None:
    """Before it was decorated, a plain function ran where its caller did."""

    @offload
    def plain() -> int:
        return threading.get_ident()

    rollout.set("*", "block")
    assert await plain() == threading.get_ident()
    rollout.set("*", "offload")
    assert await plain() != threading.get_ident()


@pytest.mark.parametrize("kind", ["decorated", "route", "middleware"])
async def test_errors_of_requests(kind: str) -> None:
    """An answer from 500 up is an error, whoever makes it; one below is none; what is unhandled is by its class."""
    decorate: Callable[[Any], Any] = offload if kind == "decorated" else unchanged
    app = FastAPI()
    router = APIRouter(route_class=OffloadRoute if kind == "route" else APIRoute)

    @router.get("/{status}")
    @decorate
    async def handler(status: int) -> Any:
        if status == 0:
            raise KeyError
        if status == 1:
            return JSONResponse("bad", status_code=502)
        raise HTTPException(status)

    app.include_router(router)
    rollout.set("GET:/{status}", "observe")
    async with client_of(OffloadMiddleware(app) if kind == "middleware" else app) as client:
        for status in (0, 1, 404, 500, 503):
            await client.get(f"/{status}")
    arm = rows()["GET:/{status}"].arms["observe"]
    assert arm.calls == 5
    assert arm.errors == {"KeyError": 1, "HTTP 502": 1, "HTTP 500": 1, "HTTP 503": 1}


async def test_what_no_route_takes() -> None:
    """Requests of no route are counted together: their paths come from outside."""
    rollout.watch_routes()
    async with client_of(build("middleware")) as client:
        assert [(await client.get(path)).status_code for path in ("/nowhere", "/secret/17")] == [404, 404]
    assert {target: calls(row) for target, row in rows().items()} == {"(no route)": {"offload": 2}}


@needs("wsproto")
def test_a_websocket_is_chosen_for_when_it_opens() -> None:
    """It goes one way for as long as it lasts, and the next one goes the other."""
    app = FastAPI()

    @app.websocket("/ws/{name}")
    async def answer(websocket: WebSocket, name: str) -> None:
        await websocket.accept()
        for _ in range(2):
            await websocket.receive_text()
            await websocket.send_text(way())

    with served(OffloadMiddleware(app), ws="wsproto") as address:
        rollout.set("WEBSOCKET:/ws/{name}", "block")
        with Socket(address, "/ws/first") as first:
            first.event()
            assert first.ask("?") == "inline"
            rollout.set("WEBSOCKET:/ws/{name}", "offload")
            assert first.ask("?") == "inline"
        with Socket(address, "/ws/second") as second:
            second.event()
            assert second.ask("?") == "offloaded"
