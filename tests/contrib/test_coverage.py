"""Claims about what each way to free an application covers, measured on a real server, and told in the guide.

Each cell of the table is a request in which nothing but that code uses the database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("wsproto")
pytest.importorskip("httpx")

import httpx
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse

from offload_db import OffloadPool, offload
from offload_db.contrib.asgi import OffloadMiddleware
from offload_db.contrib.fastapi import OffloadRoute
from tests.serving import Socket, served
from tests.support import pool_of, until, value
from tests.test_readme import rows

WAYS = ("decorator", "route class", "middleware")
# Whether it is covered by the decorator on the handler, by OffloadRoute, by OffloadMiddleware.
TABLE = {
    "async dependency": (False, True, True),
    "handler": (True, True, True),
    "yield exit": (False, True, True),
    "background task": (False, True, True),
    "streaming body": (False, True, False),
    "WebSocket": (True, False, True),
}

Query = Callable[[], None]


def build(way: str, query: Query) -> FastAPI:
    """Make a backend with a route for each row of the table, freed in one way."""
    app, router = FastAPI(), APIRouter()
    decorate: Callable[[Any], Any] = offload if way == "decorator" else lambda handler: handler
    if way == "route class":
        router = APIRouter(route_class=OffloadRoute)
    elif way == "middleware":
        app.add_middleware(OffloadMiddleware)

    async def dependency() -> None:
        query()

    async def ending() -> AsyncIterator[None]:
        yield
        query()

    async def task() -> None:
        query()

    async def body() -> AsyncIterator[str]:
        query()
        yield "done"

    @router.get("/async dependency", dependencies=[Depends(dependency)])
    @decorate
    async def with_dependency() -> None: ...

    @router.get("/handler")
    @decorate
    async def handler() -> None:
        query()

    @router.get("/yield exit", dependencies=[Depends(ending)])
    @decorate
    async def with_ending() -> None: ...

    @router.get("/background task")
    @decorate
    async def with_task(tasks: BackgroundTasks) -> None:
        tasks.add_task(task)

    @router.get("/streaming body")
    @decorate
    async def streaming() -> StreamingResponse:
        return StreamingResponse(body())

    @router.websocket("/WebSocket")
    @decorate
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        query()
        await websocket.send_text("done")
        await websocket.close()

    app.include_router(router)
    return app


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return str(request.param)


# FastAPI 0.104 says to the newest pydantic what that finds pointless.
@pytest.mark.filterwarnings("ignore:The 'alias' attribute with value")
@pytest.mark.parametrize("way", WAYS)
def test_each_cell_is_measured(way: str, loop: str, database: dict[str, Any]) -> None:
    """What the table calls covered does not block the loop, and what it does not call so does."""
    with (
        pool_of(1, database, on_loop_call="allow") as pool,
        served(build(way, lambda: one_query(pool)), loop=loop, ws="wsproto") as address,
    ):
        measured = {row: is_covered(row, address, pool) for row in TABLE}
    assert measured == {row: cells[WAYS.index(way)] for row, cells in TABLE.items()}


def is_covered(row: str, address: str, pool: OffloadPool) -> bool:
    """Make the row's request, with its one statement, and tell whether the loop went on meanwhile."""
    before = pool.statistics()
    if row == "WebSocket":
        with Socket(address, f"/{row}") as client:
            client.event()
            assert client.ask("go on") == "done"
    else:
        assert httpx.get(f"{address}/{row}").status_code == 200
    until(lambda: pool.statistics().statements == before.statements + 1 and pool.statistics().in_use == 0)
    return pool.statistics().blocking_calls == before.blocking_calls


def one_query(pool: OffloadPool) -> None:
    with pool.connection() as connection:
        assert value(connection, "SELECT 1") == 1


def test_the_guide_tells_it() -> None:
    """The guide's table is this one."""
    told = {cells[0].strip("`"): tuple(cell == "yes" for cell in cells[1:4]) for cells in rows("What each way covers")}
    assert told == TABLE
