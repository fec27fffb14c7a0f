"""Claims about work on a call's own connection by threads and tasks that do not belong to the call."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import anyio
import pytest

from offload_db import OffloadPool, connect, offload
from offload_db.contrib.asgi import OffloadMiddleware
from tests.conftest import MySQL, needs
from tests.connection.inside import synchronous_cursor
from tests.connection.outside import WAYS, Outside, asynchronous, by_executor, by_thread
from tests.faults.checks import checked
from tests.support import outcome, pool_of, running, settled, together, value

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

LIMIT = 10.0
"""Seconds that nothing here takes, and less than anybody waits for a connection."""
SHORT = 0.2
"""Seconds that somebody waits in vain."""


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    """Give a pool of two connections, for which callers wait for longer than a test may take."""
    with pool_of(2, database, on_loop_call="allow") as pool:
        yield pool


@pytest.mark.filterwarnings("ignore::offload_db.BlockingCallWarning")
@pytest.mark.parametrize("opened", ["pool", "unpooled", "outside"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_cursor_that_is_handed_on(
    way: Any, opened: str, pool: OffloadPool, outside: Outside, database: dict[str, Any]
) -> None:
    """A handler lets others execute with its own cursor, before and after statements of its own."""

    @offload
    async def handler() -> list[Any]:
        if opened == "outside":
            connection = await way(pool.connection, outside)
        else:
            connection = pool.connection() if opened == "pool" else connect(**database)
        try:
            with connection.cursor() as cursor:
                await way(partial(cursor.execute, "SELECT 1"), outside)
                rows = list(cursor.fetchall())
                cursor.execute("SELECT 2")
                rows += cursor.fetchall()
                await way(partial(cursor.execute, "SELECT 3"), outside)
                return [row[0] for row in [*rows, *cursor.fetchall()]]
        finally:
            connection.close()

    with anyio.fail_after(LIMIT):
        assert await handler() == [1, 2, 3]
    assert pool.statistics().in_use == 0


@pytest.mark.filterwarnings("ignore::offload_db.BlockingCallWarning")
@pytest.mark.parametrize("way", WAYS)
async def test_all_of_it_handed_on(
    way: Any, pool: OffloadPool, outside: Outside, mysql: MySQL, database: dict[str, Any]
) -> None:
    """Others may do all of the rest: execute, fetch, commit and close, in the transaction that the handler began."""
    await pool.execute("CREATE TABLE t (a INT)")

    @offload
    async def handler() -> Any:
        connection = pool.connection()
        connection.begin()
        value(connection, "INSERT INTO t VALUES (1)")

        def rest() -> Any:
            with closing(connection):
                value(connection, "INSERT INTO t VALUES (2)")
                rows = value(connection, "SELECT COUNT(*) FROM t")
                connection.commit()
                return rows

        return await way(rest, outside)

    with anyio.fail_after(LIMIT):
        assert await handler() == 2
    assert await pool.fetch_value("SELECT COUNT(*) FROM t") == 2
    await checked(pool, mysql, database["database"])


@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_a_thread_that_waits_for_its_helpers(kind: str, pool: OffloadPool, outside: Outside) -> None:
    """In thread mode the function's own thread may stand still until an executor's has done its work."""

    def work() -> list[Any]:
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            rows = list(cursor.fetchall())
            outside.executor.submit(cursor.execute, "SELECT 2").result(LIMIT)
            rows += cursor.fetchall()
            outside.queued(partial(cursor.execute, "SELECT 3")).result(LIMIT)
            return [row[0] for row in [*rows, *cursor.fetchall()]]

    async def handler() -> list[Any]:
        return work()

    call: Any = offload(work) if kind == "def" else offload(mode="thread")(handler)
    assert await call() == [1, 2, 3]
    assert pool.statistics().in_use == 0


async def test_awaitable_connections(pool: OffloadPool, outside: Outside) -> None:
    """A connection of the awaitable surface is lent in the same way."""

    @offload
    async def handler() -> Any:
        async with pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute("SELECT 1")
            await by_executor(partial(synchronous_cursor(cursor).execute, "SELECT 2"), outside)
            return await cursor.fetchone()

    with anyio.fail_after(LIMIT):
        assert await handler() == (2,)


async def test_one_call_at_a_time(pool: OffloadPool, outside: Outside) -> None:
    """What several do with one connection comes one after the other, and each reads its own answers."""

    @offload
    async def handler() -> list[Any]:
        with pool.connection() as connection:

            def ask(number: int) -> int:
                for _ in range(20):
                    assert value(connection, "SELECT %s", number) == number
                return number

            helpers = [partial(way, partial(ask, n), outside) for n, way in enumerate([by_executor, by_thread] * 4)]
            return await together(*helpers, offload(partial(ask, 100)), offload(asynchronous(partial(ask, 101))))

    with anyio.fail_after(LIMIT):
        assert await handler() == [*range(8), 100, 101]


@needs("pandas")
@pytest.mark.filterwarnings("ignore:pandas only supports SQLAlchemy:UserWarning")
async def test_pandas(pool: OffloadPool, outside: Outside) -> None:
    """A handler lets pandas read over its connection in an executor's thread."""
    pandas = importlib.import_module("pandas")  # it brings no types

    @offload
    async def handler() -> Any:
        with pool.connection() as connection:
            value(connection, "SELECT 1")
            return await by_executor(partial(pandas.read_sql, "SELECT 7 AS n", connection), outside)

    with anyio.fail_after(LIMIT):
        assert list((await handler())["n"]) == [7]


@needs("fastapi")
@needs("httpx")
@pytest.mark.parametrize("opener", ["def", "async def"])
@pytest.mark.parametrize("what", ["connection", "cursor"])
async def test_dependencies(opener: str, what: str, pool: OffloadPool, outside: Outside) -> None:
    """A decorated handler hands on what a dependency has opened for it as well, decorated or in a thread."""
    import httpx
    from fastapi import Depends, FastAPI

    def borrow() -> Iterator[Any]:
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 0")
            yield connection if what == "connection" else cursor

    @offload
    async def decorated() -> AsyncIterator[Any]:
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 0")
            yield connection if what == "connection" else cursor

    app, borrowed = FastAPI(), Depends(borrow if opener == "def" else decorated)

    @app.get("/")
    @offload
    async def handler(db: Any = borrowed) -> Any:
        cursor = db.cursor() if what == "connection" else db
        cursor.execute("SELECT 1")
        rows = list(cursor.fetchall())
        await by_executor(partial(cursor.execute, "SELECT 2"), outside)
        return [row[0] for row in [*rows, *cursor.fetchall()]]

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        with anyio.fail_after(LIMIT):
            for _ in range(2):
                assert (await client.get("/")).json() == [1, 2]
    assert pool.statistics().in_use == 0


@needs("fastapi")
@needs("httpx")
@pytest.mark.parametrize("cover", ["middleware", "route"])
@pytest.mark.parametrize("kind", ["async def", "def", "def dependency"])
async def test_frameworks(cover: str, kind: str, pool: OffloadPool, outside: Outside, anyio_backend_name: str) -> None:
    """Under the middleware and in the route class, handlers hand their connections on as well."""
    import httpx
    from fastapi import APIRouter, Depends, FastAPI

    from offload_db.contrib.fastapi import OffloadRoute

    router = APIRouter(route_class=OffloadRoute) if cover == "route" else APIRouter()

    def opened() -> Iterator[Any]:
        with pool.connection() as connection:
            yield connection

    def ask(connection: Any) -> list[int]:
        return [value(connection, "SELECT 1"), outside.executor.submit(value, connection, "SELECT 2").result(LIMIT)]

    if kind == "async def":

        @router.get("/")
        async def asynchronous() -> Any:
            with pool.connection() as connection:
                rows = [value(connection, "SELECT 1")]
                return [*rows, await by_executor(partial(value, connection, "SELECT 2"), outside)]

    elif kind == "def":

        @router.get("/")
        def plain() -> Any:
            with pool.connection() as connection:
                return ask(connection)

    else:
        borrowed = Depends(opened)

        @router.get("/")
        def dependent(connection: Any = borrowed) -> Any:
            return ask(connection)

    app = FastAPI()
    app.include_router(router)
    served: Any = OffloadMiddleware(app) if cover == "middleware" else app
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=served), base_url="http://test") as client:
        with anyio.fail_after(LIMIT):
            assert (await client.get("/")).json() == [1, 2]
    assert pool.statistics().in_use == 0


@pytest.mark.parametrize("way", ["scope", "task.cancel()"])
async def test_a_cancelled_handler(
    *, way: str, pool: OffloadPool, outside: Outside, anyio_backend_name: str, mysql: MySQL, database: dict[str, Any]
) -> None:
    """A cancelled handler that closes its connection kills what a thread does with it, and is not held up."""
    if way != "scope" and (anyio_backend_name != "asyncio" or sys.version_info < (3, 11)):
        pytest.skip("only asyncio has this, and tells it from Python 3.11 on")
    scope, jobs = anyio.CancelScope(), []

    @offload
    async def handler() -> None:
        connection = pool.connection()
        cursor = connection.cursor()
        try:
            jobs.append(outside.executor.submit(cursor.execute, "SELECT SLEEP(30)"))
            await outcome(jobs[0])
        finally:
            cursor.close()
            connection.close()

    async def bridged_call() -> None:
        with scope:
            await handler()

    def is_running() -> bool:
        return bool(running(mysql, database, "SLEEP(30)"))

    with anyio.fail_after(LIMIT):
        if way == "scope":
            async with anyio.create_task_group() as group:
                group.start_soon(bridged_call)
                await settled(is_running)
                scope.cancel()
        else:
            task = asyncio.create_task(handler())
            await settled(is_running)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert getattr(jobs[0].exception(LIMIT), "args", ())[:1] == (1317,)
    assert pool.statistics().kills == 1
    await checked(pool, mysql, database["database"])
