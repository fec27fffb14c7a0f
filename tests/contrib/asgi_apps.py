"""Owns what the tests of the ASGI middleware share: the ways to put it around an application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

from offload_db import OffloadPool
from offload_db.bridge.place import place
from offload_db.contrib.asgi import OffloadMiddleware
from tests.support import pool_of, value


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


class Noting(BaseHTTPMiddleware):
    """A middleware of the kind that runs what is below it in another task."""

    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """Note where it runs itself."""
        response = await call_next(request)
        response.headers["x-place"] = place().name
        return response
