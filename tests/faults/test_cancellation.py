"""A cancelled task leaves nothing behind: no statement, no slot, no half transaction, no lock."""

# ruff: noqa: ASYNC100  # in bridged code a driver call is an await

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from pymysql.cursors import SSCursor

from offload_db import OffloadPool, offload
from tests.conftest import MySQL
from tests.inside import core, turn_of, waiting_turns
from tests.support import pool_of, settled, value

from .checks import asleep, assert_ended, checked, running
from .storms import WAYS, cancel_at_random_points, run_and_cancel

pytestmark = pytest.mark.anyio

# So long that only a kill can end it in time.
LONG = "SELECT SLEEP(50)"


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    with pool_of(3, database) as pool:
        yield pool


@pytest.fixture
def name(database: dict[str, Any]) -> str:
    return str(database["database"])


def skip_unless_on(backend: str, way: str) -> None:
    if backend not in WAYS[way]:
        pytest.skip(f"{backend} has no {way}")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("way", WAYS)
async def test_cancelled_at_random_points(
    way: str, anyio_backend_name: str, database: dict[str, Any], name: str, mysql: MySQL
) -> None:
    """Cancellations at random points of every stage lose no slot, leave no statement and no half transaction."""
    skip_unless_on(anyio_backend_name, way)
    with mysql.connect() as plain, plain.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {name}.t (id INT, half INT, PRIMARY KEY (id, half))")
        with pool_of(4, database, autocommit=False, max_age=0.1) as pool:
            storm = await cancel_at_random_points(pool, 150, way)
            assert storm.errors == []
            await settled(lambda: all(process["COMMAND"] == "Sleep" for process in mysql.process_list(name)))
            assert {"checkout", "execute", "fetch"} <= set(storm.cancelled)
            cursor.execute(f"SELECT id, COUNT(*) FROM {name}.t GROUP BY id")
            halves = dict(cursor.fetchall())
            assert set(halves.values()) <= {2}
            assert storm.committed <= set(halves)
            assert not storm.rolled_back & set(halves)
            await checked(pool, mysql, name)


@pytest.mark.parametrize("way", WAYS)
async def test_a_cancelled_statement_is_killed(
    way: str, anyio_backend_name: str, pool: OffloadPool, name: str, mysql: MySQL
) -> None:
    """However a task is cancelled, its statement ends on the server, and the handler's own cleanup works."""
    skip_unless_on(anyio_backend_name, way)
    cleaned = []

    @offload
    async def handler() -> None:
        connection = pool.connection()
        cursor = connection.cursor()
        try:
            cursor.execute(LONG)
        finally:
            cursor.close()
            connection.close()
            cleaned.append(True)

    started = time.monotonic()
    assert await run_and_cancel(way, handler, 0.2)
    assert time.monotonic() - started < 10
    assert cleaned == [True]
    assert_ended(mysql, LONG)
    now = pool.statistics()
    assert (now.kills, now.kills_failed, now.cancelled, now.open) == (1, 0, 1, 1)
    assert now.discards == {}  # the link is as good as before
    await checked(pool, mysql, name)


@pytest.mark.parametrize("way", WAYS)
async def test_cancelled_in_an_unbuffered_result(
    way: str, anyio_backend_name: str, pool: OffloadPool, name: str, mysql: MySQL
) -> None:
    """Closing an unbuffered cursor whose statement was killed raises nothing that would hide the cancellation."""
    skip_unless_on(anyio_backend_name, way)

    @offload
    async def handler() -> None:
        with pool.connection() as connection, connection.cursor(SSCursor) as cursor:
            cursor.execute("SELECT seq, IF(seq = 100000, SLEEP(50), REPEAT('x', 1000)) FROM seq_1_to_200000")
            cursor.fetchall()

    assert await run_and_cancel(way, handler, 0.5)
    assert_ended(mysql, "seq_1_to_200000")
    await checked(pool, mysql, name)


async def test_a_statement_in_the_finally_block_of_a_cancelled_scope(
    pool: OffloadPool, name: str, mysql: MySQL
) -> None:
    """In a cancelled scope another statement is not run to its end, and closing works all the same."""
    seen = []

    @offload
    async def handler() -> None:
        connection = pool.connection()
        try:
            connection.cursor().execute(LONG)
        finally:
            try:
                connection.cursor().execute(LONG)
            except BaseException as error:
                seen.append(type(error))
                raise
            finally:
                connection.close()

    with anyio.move_on_after(0.2):
        await handler()
    assert seen == [anyio.get_cancelled_exc_class()]
    assert_ended(mysql, LONG)
    await checked(pool, mysql, name)


async def test_the_same_connection_goes_on_after_a_cancelled_statement(
    pool: OffloadPool, name: str, mysql: MySQL
) -> None:
    """A handler that limits one statement by a scope of its own keeps its connection, session and transaction."""

    @offload
    async def handler() -> tuple[Any, Any, Any]:
        with pool.connection() as connection:
            before = value(connection, "SELECT CONNECTION_ID()")
            value(connection, "SELECT @mine := 5")
            with anyio.move_on_after(0.1):
                value(connection, LONG)
            return before, value(connection, "SELECT CONNECTION_ID()"), value(connection, "SELECT @mine")

    before, after, mine = await handler()
    assert before == after
    assert mine == 5
    await checked(pool, mysql, name)


async def test_cancelled_while_twenty_wait(database: dict[str, Any], name: str, mysql: MySQL) -> None:
    """Of a crowd cancelled together, running and waiting, no statement runs on and no slot is lost."""
    with pool_of(5, database) as pool:

        @offload
        async def handler() -> None:
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.execute(LONG)

        async with anyio.create_task_group() as group:
            for _ in range(25):
                group.start_soon(handler)
            await settled(lambda: len(running(mysql, LONG)) == 5 and pool.statistics().waiting == 20)
            started = time.monotonic()
            group.cancel_scope.cancel()
        assert time.monotonic() - started < 10
        assert_ended(mysql, LONG)
        assert pool.statistics().kills == 5
        await checked(pool, mysql, name)


@pytest.mark.parametrize("use_uvloop", [False, True])
def test_cancelled_over_and_over(use_uvloop: bool, database: dict[str, Any], mysql: MySQL) -> None:
    """A task that is cancelled many times while its statement winds down is not let go before it has."""
    if use_uvloop:
        pytest.importorskip("uvloop")

    async def main() -> None:
        with pool_of(1, database) as pool:

            @offload
            async def handler() -> None:
                with pool.connection() as connection, connection.cursor() as cursor:
                    cursor.execute(LONG)

            task = asyncio.get_running_loop().create_task(handler())
            await settled(lambda: running(mysql, LONG))
            for _ in range(50):
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert_ended(mysql, LONG)
            await checked(pool, mysql, database["database"])

    anyio.run(main, backend="asyncio", backend_options={"use_uvloop": use_uvloop})


async def test_siblings_of_a_failed_task(pool: OffloadPool, name: str, mysql: MySQL) -> None:
    """When one task of a group fails, the statements of the others end on the server."""

    @offload
    async def handler() -> None:
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute(LONG)

    async def fail() -> None:
        await settled(lambda: len(running(mysql, LONG)) == 2)
        raise LookupError

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(handler)
            group.start_soon(handler)
            group.start_soon(fail)
    except BaseException as error:
        errors = getattr(error, "exceptions", (error,))
        assert [type(one) for one in errors] == [LookupError]
    assert_ended(mysql, LONG)
    await checked(pool, mysql, name)


async def test_cancelled_while_the_server_is_full(database: dict[str, Any], name: str, mysql: MySQL) -> None:
    """Cancelling while opening a connection leaves none open that nobody knows of."""
    with pool_of(2, database) as pool:

        @offload
        async def handler() -> None:
            pool.connection().close()

        for step in range(20):
            with anyio.move_on_after(step * 0.0005):
                await handler()
            await settled(lambda: pool.statistics().in_use == 0)
            for link in list(core(pool).links):  # so that the next has to connect again
                link.driver.cut(link.raw)
        await checked(pool, mysql, name)


async def test_closing_what_a_child_still_uses(
    anyio_backend_name: str, database: dict[str, Any], name: str, mysql: MySQL
) -> None:
    """Cancelled while its close() waits for a child's statement, a handler gives the connection back all the same."""
    skip_unless_on(anyio_backend_name, "task.cancel()")
    with pool_of(1, database) as pool:
        kept: list[Any] = []

        @offload
        async def handler() -> None:
            connection = pool.connection()
            kept.append(connection)

            @offload
            async def child() -> None:
                value(connection, "SELECT SLEEP(0.5)")

            started = asyncio.get_running_loop().create_task(child())
            kept.append(started)
            await settled(lambda: asleep(mysql, "SLEEP(0.5)"))
            connection.close()

        task = asyncio.get_running_loop().create_task(handler())
        await settled(lambda: kept and waiting_turns(turn_of(kept[0])) == 1)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not kept[0].open
        await kept[1]
        assert pool.statistics().discards == {}
        await checked(pool, mysql, name)
