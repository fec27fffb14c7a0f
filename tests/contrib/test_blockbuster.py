"""Under blockbuster, with its defaults, nothing of the library's is taken for a call that blocks the loop."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from pymysql.cursors import SSCursor

from offload_db import Lane, OffloadPool, StatementTimeout, aio, connect, offload
from tests.conftest import MySQL, needs
from tests.faults.checks import checked
from tests.inside import core
from tests.support import QUICK, settled, together, value

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(60),
    needs("blockbuster"),
    pytest.mark.skipif(not hasattr(os, "get_blocking"), reason="it can't tell descriptors that do not block"),
]


@pytest.fixture
def detector() -> Iterator[Any]:
    """Give blockbuster as its users have it: from before the first statement to after the last."""
    from blockbuster import blockbuster_ctx

    with blockbuster_ctx() as detector:
        yield detector


def make(database: dict[str, Any], **options: Any) -> OffloadPool:
    return OffloadPool.create(
        min_size=1, max_size=4, lanes=[Lane("few", 1)], leak_warning=9, **{**QUICK, **database, **options}
    )


async def test_it_does_find_something(detector: Any, anyio_backend_name: str) -> None:
    """It is at work: what does block the loop is refused."""
    if anyio_backend_name == "trio":
        pytest.skip("it looks at asyncio's loops alone")
    from blockbuster import BlockingError

    with pytest.raises(BlockingError):
        time.sleep(0)  # noqa: ASYNC251  # this is what it is to find


async def test_the_main_paths(detector: Any, database: dict[str, Any]) -> None:
    """Handlers, awaitable calls, transactions, streams, waits, statements that are stopped, and the shutdown."""
    async with make(database) as pool:

        @offload
        async def handler(number: int) -> Any:
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.execute("SELECT %s, SLEEP(0.01)", (number,))
                return cursor.fetchone()[0]

        @offload
        async def unbuffered() -> int:
            with pool.connection() as connection, connection.cursor(SSCursor) as cursor:
                cursor.execute("SELECT seq FROM seq_1_to_2000")
                return sum(1 for _ in cursor)

        @offload
        def plain() -> Any:
            with pool.connection() as connection:
                return value(connection, "SELECT 5")

        @offload(mode="thread", lane="few")
        async def in_a_thread() -> Any:
            with pool.connection() as connection:
                return value(connection, "SELECT 6")

        # More callers than connections: some wait for theirs.
        assert await together(*[lambda n=n: handler(n) for n in range(12)]) == list(range(12))
        for _ in range(3):  # through a shared thread that is awake, asleep, or gone
            assert await together(*[lambda: pool.fetch_all("SELECT 1")] * 6) == [[(1,)]] * 6
            await anyio.sleep(0.005)
        assert await together(unbuffered, plain, in_a_thread, in_a_thread) == [2000, 5, 6, 6]

        await pool.execute("CREATE TABLE t (a INT)")
        async with pool.transaction() as connection, connection.cursor() as cursor:
            await cursor.execute("INSERT INTO t VALUES (1)")
            async with pool.transaction():
                await cursor.execute("INSERT INTO t VALUES (2)")
        assert await pool.execute_many("INSERT INTO t VALUES (%s)", [(3,), (4,)]) == 2

        async with aclosing(pool.stream("SELECT seq FROM seq_1_to_3000", chunk_size=100)) as rows:
            assert [row[0] async for row in rows] == list(range(1, 3001))
        async with aclosing(pool.stream("SELECT seq FROM seq_1_to_3000", chunk_size=100)) as rows:
            assert (await anext(rows))[0] == 1

        connection = await pool.acquire()
        await connection.begin()
        await pool.release(connection)
        async with pool.acquire() as connection:
            await connection.ping()

        with pytest.raises(StatementTimeout):
            await pool.fetch_all("SELECT SLEEP(20)", timeout=0.2)
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(pool.fetch_all, "SELECT SLEEP(20)")
            await settled(lambda: sum(link.busy for link in core(pool).links) == 4)
            group.cancel_scope.cancel()
        await settled(lambda: pool.statistics().in_use == 0)


async def test_shared_connections(detector: Any, database: dict[str, Any]) -> None:
    """A connection in a module global that handlers take turns on, and connections of no pool."""
    shared: list[Any] = []

    @offload
    async def handler() -> Any:
        if not shared:
            shared.append(connect(**{**QUICK, **database}))
        return value(shared[0], "SELECT SLEEP(0.01)")

    @offload
    async def done() -> None:
        shared[0].close()

    assert await handler() == 0
    assert await together(*[handler] * 5) == [0] * 5
    await done()
    async with aio.connect(**database, ssl_disabled=True) as connection, connection.cursor() as cursor:
        await cursor.execute("SELECT 1")
        assert await cursor.fetchone() == (1,)


async def test_shutting_down_in_the_middle(detector: Any, database: dict[str, Any], mysql: MySQL) -> None:
    """`aclose()` breaks off what runs, `terminate()` as well."""
    pool = make(database)
    other = await aio.create_pool(1, 2, **database, ssl_disabled=True)
    async with anyio.create_task_group() as group:
        group.start_soon(together, lambda: pool.fetch_all("SELECT SLEEP(20)"))
        group.start_soon(together, lambda: other.fetch_all("SELECT SLEEP(20)"))
        await settled(lambda: all(any(link.busy for link in core(p).links) for p in (pool, other)))
        await pool.aclose(0.1)
        other.terminate()
        await other.wait_closed()
    await checked(pool, mysql, database["database"], serves=False)
