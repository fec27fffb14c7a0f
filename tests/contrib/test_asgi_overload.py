"""Claims about the ASGI middleware's 503: which errors become one, and which do not."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import FastAPI, HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse

from offload_db import LaneFull, OffloadPool, StatementTimeout, offload
from offload_db.contrib.asgi import OffloadMiddleware
from tests.contrib.asgi_apps import Noting, added, client_of, one, ways
from tests.support import PATIENCE, in_thread, pool_of, value

# FastAPI 0.104 says to the newest pydantic what that finds pointless.
pytestmark = pytest.mark.filterwarnings("ignore:The 'alias' attribute with value")


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    """Give a pool that refuses to block an event loop."""
    with pool_of(2, database, on_loop_call="raise") as pool:
        yield pool


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
