"""Claims about what the routes of FastAPI do not cover, and how it is told."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import Response

from offload_db import offload
from offload_db.bridge.place import place
from offload_db.contrib.asgi import OffloadMiddleware
from offload_db.contrib.fastapi import OffloadRoute, find_gaps
from tests.contrib.test_fastapi import client_of, kinds, unchanged

# FastAPI 0.104 says to the newest pydantic what that finds pointless, and newer ones what they think of on_event.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'alias' attribute with value"),
    pytest.mark.filterwarnings("ignore:[\\s\\S]*on_event is deprecated:DeprecationWarning"),
]


async def plain_dependency() -> None: ...


@offload
async def decorated_dependency(inner: None = Depends(plain_dependency)) -> None: ...


def sync_dependency() -> None: ...


class Checker:
    """A dependency that is an object."""

    async def __call__(self) -> None: ...


async def some_lines() -> AsyncIterator[str]:
    yield ""


@offload
async def decorated_lines() -> AsyncIterator[str]:
    yield ""


async def child() -> None: ...


def backend(router: APIRouter, decorate: Callable[[Any], Any] = unchanged) -> FastAPI:
    """Make an application with one route for each kind of gap, and some without any."""

    @router.get("/async")
    @decorate
    async def asynchronous() -> None: ...

    @router.get("/sync")
    def synchronous() -> None: ...

    @router.get("/dependency", dependencies=[Depends(decorated_dependency), Depends(sync_dependency)])
    @decorate
    async def with_dependency() -> None: ...

    @router.get("/object", dependencies=[Depends(Checker())])
    def with_object() -> None: ...

    @router.get("/background")
    @decorate
    async def with_background(tasks: BackgroundTasks) -> None: ...

    @router.get("/stream")
    @decorate
    async def stream() -> StreamingResponse:
        return StreamingResponse(some_lines())

    @router.get("/stream/decorated")
    @decorate
    async def stream_decorated() -> StreamingResponse:
        return StreamingResponse(decorated_lines())

    @router.get("/task")
    @decorate
    async def start_task() -> None:
        await asyncio.gather(child())

    @router.websocket("/socket")
    @decorate
    async def socket(websocket: WebSocket) -> None: ...

    app = FastAPI()
    app.include_router(router, prefix="/v2")
    return app


ALWAYS = [("streaming", "/v2/stream"), ("task", "/v2/task")]


def test_gaps_without_anything() -> None:
    """Each coroutine function is listed: handlers, dependencies, tasks, sockets."""
    expected = [
        *(
            ("route", f"/v2/{path}")
            for path in ("async", "background", "dependency", "stream", "stream/decorated", "task")
        ),
        ("background", "/v2/background"),
        ("dependency", "/v2/dependency"),
        ("dependency", "/v2/object"),
        ("websocket", "/v2/socket"),
        *ALWAYS,
    ]
    assert kinds(find_gaps(backend(APIRouter()))) == sorted(expected)


def test_gaps_of_decorators() -> None:
    """A decorated handler leaves its dependencies, background tasks, streams and tasks."""
    expected = [
        ("background", "/v2/background"),
        ("dependency", "/v2/dependency"),
        ("dependency", "/v2/object"),
        *ALWAYS,
    ]
    assert kinds(find_gaps(backend(APIRouter(), offload))) == sorted(expected)


def test_gaps_of_the_route_class() -> None:
    """The route class leaves WebSockets and tasks."""
    found = find_gaps(backend(APIRouter(route_class=OffloadRoute)))
    assert kinds(found) == [("task", "/v2/task"), ("websocket", "/v2/socket")]


@pytest.mark.parametrize("wrap", [True, False])
def test_gaps_of_the_middleware(wrap: bool) -> None:
    """The middleware leaves streams and tasks."""
    app: Any = backend(APIRouter())
    if wrap:
        app = OffloadMiddleware(app)
    else:
        app.add_middleware(OffloadMiddleware)
    assert kinds(find_gaps(app)) == ALWAYS


@pytest.mark.parametrize(
    ("start", "listed"),
    [
        (lambda: asyncio.shield(child()), True),
        (lambda: asyncio.wait_for(child(), 1), sys.version_info < (3, 12)),
        (lambda: next(asyncio.create_task(each()) for each in [child]), True),
        (lambda: asyncio.timeout(1), False),  # type: ignore[attr-defined,unused-ignore]  # nothing calls it
    ],
    ids=["shield", "wait_for", "inside of a function", "timeout"],
)
def test_gaps_of_tasks(start: Callable[[], Any], listed: bool) -> None:
    """A handler that starts a task is listed, whatever starts it; not one that only seems to."""
    app = FastAPI()
    app.add_middleware(OffloadMiddleware)
    app.get("/task")(start)
    assert kinds(find_gaps(app)) == [("task", "/task")] * listed


def test_gaps_of_paths() -> None:
    """Routes that the middleware leaves out are listed as if it were not there."""
    app = backend(APIRouter(), offload)

    @app.get("/v1/old")
    async def old() -> None: ...

    app.add_middleware(OffloadMiddleware, paths=["/v2"])
    assert kinds(find_gaps(app)) == sorted([("route", "/v1/old"), *ALWAYS])


class Noting(BaseHTTPMiddleware):
    """A middleware of the kind that runs what is below it in another task."""

    async def dispatch(self, request: Any, call_next: Callable[[Any], Awaitable[Response]]) -> Response:
        """Do nothing."""
        return await call_next(request)


def test_gaps_of_the_order_of_middlewares() -> None:
    """A BaseHTTPMiddleware inside of ours takes the bridge away, one outside is not bridged itself."""
    inside, outside, both = FastAPI(), FastAPI(), FastAPI()
    inside.add_middleware(Noting)
    inside.add_middleware(OffloadMiddleware)
    outside.add_middleware(OffloadMiddleware)
    outside.add_middleware(Noting)
    for middleware in (OffloadMiddleware, Noting, OffloadMiddleware):
        both.add_middleware(middleware)
    (gap,) = find_gaps(inside)
    assert (gap.kind, gap.where) == ("middleware", "Noting.dispatch")
    assert "innermost" in str(gap)
    (gap,) = find_gaps(outside)
    assert (gap.kind, gap.where) == ("middleware", "Noting.dispatch")
    assert "innermost" not in str(gap)
    assert find_gaps(both) == []
    decorated = FastAPI()
    decorated.add_middleware(OffloadMiddleware)
    decorated.middleware("http")(offload(Noting.dispatch))
    assert find_gaps(decorated) == []


def test_gaps_of_mounted_applications() -> None:
    """A mounted application is looked at with its own middlewares, and what covers it from above."""

    async def handler() -> None: ...

    app, mounted = FastAPI(), FastAPI()
    mounted.get("/inner")(handler)
    app.mount("/sub", mounted)
    assert kinds(find_gaps(app)) == [("route", "/sub/inner")]
    app.add_middleware(OffloadMiddleware)
    assert find_gaps(app) == []
    mounted.add_middleware(Noting)
    assert kinds(find_gaps(app)) == [("middleware", "Noting.dispatch")]


@pytest.mark.anyio
async def test_a_gap_is_one() -> None:
    """What the list says of the order of middlewares is what happens."""
    app = FastAPI()
    app.get("/")(lambda: None)

    @app.get("/where")
    async def where() -> str:
        return place().name

    app.add_middleware(Noting)
    app.add_middleware(OffloadMiddleware)
    async with client_of(app) as client:
        assert (await client.get("/where")).json() == "LOOP"
    assert [gap.kind for gap in find_gaps(app)] == ["middleware"]
