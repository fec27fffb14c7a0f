"""Claims about a connection that several calls use: whose it is, and that every wait for a turn is bounded."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import anyio
import pymysql
import pytest

from offload_db import BlockingCallError, CheckoutTimeout, Lane, OffloadPool, StatementTimeout, connect, offload
from offload_db.connection import call_lock
from offload_db.contrib.asgi import OffloadMiddleware
from tests.conftest import MySQL, needs
from tests.connection.outside import Outside, asynchronous, by_another_loop, by_executor, by_queue
from tests.faults.checks import checked
from tests.inside import core, link_of, turn_of, waiting_turns
from tests.support import in_thread, outcome, pool_of, running, settled, together, until, value

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


@pytest.fixture
def shared(database: dict[str, Any]) -> Iterator[Any]:
    """Give a connection that was there before any call."""
    with pool_of(1, database, checkout_timeout=SHORT) as pool, pool.connection() as connection:
        yield connection


# --- a connection that several calls use


@pytest.mark.parametrize("way", [by_executor, by_queue, by_another_loop])
async def test_a_shared_connection_is_not_lent(way: Any, shared: Any, outside: Outside) -> None:
    """Work from outside waits for the call that has a shared connection, and is told whose it is and what to do."""
    used, end = anyio.Event(), anyio.Event()

    @offload
    async def owner() -> None:
        value(shared, "SELECT 1")
        used.set()
        await end.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(owner)
        await used.wait()
        with pytest.raises((CheckoutTimeout, BlockingCallError)) as refused:
            await way(partial(value, shared, "SELECT 2"), outside)
        end.set()
    line = inspect.getsourcelines(owner)[1]
    message = str(refused.value)
    assert f"owner() at {__file__}:{line}" in message
    if way is not by_another_loop:  # a loop's own thread waits for nobody
        assert isinstance(refused.value, CheckoutTimeout)
        assert f"{SHORT:.2f} s" in message
        assert "pool" in message
        assert await way(partial(value, shared, "SELECT 3"), outside) == 3


async def test_what_another_call_has_used_is_shared(database: dict[str, Any], outside: Outside) -> None:
    """A connection that one call has opened for all is lent to nobody once another call has used it."""
    with pool_of(1, database, checkout_timeout=SHORT) as pool:
        kept: list[Any] = []

        @offload
        async def first() -> None:
            kept.append(pool.connection())
            assert await by_executor(partial(value, kept[0], "SELECT 1"), outside) == 1

        @offload
        async def second() -> None:
            assert value(kept[0], "SELECT 2") == 2
            with pytest.raises(CheckoutTimeout, match=r"it has belonged to .*second\(\)"):
                await by_executor(partial(value, kept[0], "SELECT 3"), outside)

        await first()
        await second()
        await by_executor(kept[0].close, outside)


async def test_letting_go_of_it_does_not_lend_it(database: dict[str, Any], outside: Outside) -> None:
    """Nor is it lent when it comes back to the call that has opened it."""
    with pool_of(1, database, checkout_timeout=SHORT) as pool:
        from offload_db.bridge.call_scope import pause_call

        kept: list[Any] = []
        opened, used = anyio.Event(), anyio.Event()

        @offload
        async def first() -> None:
            kept.append(pool.connection())
            value(kept[0], "SELECT 1")
            pause_call()
            opened.set()
            await used.wait()
            value(kept[0], "SELECT 2")
            with pytest.raises(CheckoutTimeout):
                await by_executor(partial(value, kept[0], "SELECT 3"), outside)
            kept[0].close()

        @offload
        async def second() -> None:
            await opened.wait()
            value(kept[0], "SELECT 4")

        async with anyio.create_task_group() as group:
            group.start_soon(first)
            await second()
            used.set()


async def test_given_to_one_after_the_other(database: dict[str, Any], outside: Outside) -> None:
    """A connection that is given as an argument to one call after the other is none of them's alone."""
    with pool_of(1, database, checkout_timeout=SHORT) as pool:

        @offload
        async def handler(connection: Any) -> Any:
            value(connection, "SELECT 1")
            return await by_executor(partial(value, connection, "SELECT 2"), outside)

        with closing(in_thread(pool.connection).result(LIMIT)) as connection:
            assert await handler(connection) == 2
            for _ in range(2):
                with pytest.raises(CheckoutTimeout):
                    await handler(connection)


async def test_given_to_a_helper(shared: Any, outside: Outside) -> None:
    """A shared connection does not become a call's own when the call gives it to a decorated helper."""

    @offload
    async def helper(connection: Any) -> Any:
        value(connection, "SELECT 1")
        with pytest.raises(CheckoutTimeout):
            await by_executor(partial(value, connection, "SELECT 2"), outside)

    @offload
    async def handler() -> None:
        await helper(shared)

    await handler()


# --- every wait for a turn is bounded


@pytest.mark.parametrize("mode", ["bridge", "thread"])
async def test_waiting_for_another_call(mode: Any, shared: Any) -> None:
    """A call waits for a shared connection as long as for one of its pool, and then gets an error that says why."""
    used, end = anyio.Event(), anyio.Event()

    @offload
    async def poller() -> None:
        value(shared, "SELECT 1")
        used.set()
        await end.wait()

    @offload(mode=mode)
    async def handler() -> Any:
        return value(shared, "SELECT 2")

    async with anyio.create_task_group() as group:
        group.start_soon(poller)
        await used.wait()
        started = time.monotonic()
        with pytest.raises(CheckoutTimeout, match=r"belonged to .*poller\(\) at .*decorate what it does in each round"):
            await handler()
        assert time.monotonic() - started > SHORT / 2
        assert waiting_turns(turn_of(shared)) == 0
        end.set()
    assert await handler() == 2


@pytest.mark.parametrize("limit", ["pool", "lane", "unpooled"])
def test_how_long(limit: str, database: dict[str, Any]) -> None:
    """The time is the lane's, the pool's, or for a connection of no pool that of pools by default."""
    with pool_of(1, database, checkout_timeout=7.0, lanes=[Lane("l", 1, checkout_timeout=3.0)]) as pool:
        lane = "l" if limit == "lane" else None
        opened: Any = connect(**database) if limit == "unpooled" else pool.connection(lane=lane)
        with closing(opened):
            link = link_of(opened)
            assert link is not None
            assert link.patience == {"pool": 7.0, "lane": 3.0, "unpooled": 30.0}[limit]


async def test_the_calls_own_time_is_over_first(shared: Any) -> None:
    """A call whose own time is over before gets a StatementTimeout that says who had the connection."""
    used, end = anyio.Event(), anyio.Event()

    @offload
    async def poller() -> None:
        value(shared, "SELECT 1")
        used.set()
        await end.wait()

    @offload(timeout=SHORT / 2)
    async def handler() -> Any:
        return value(shared, "SELECT 2")

    async with anyio.create_task_group() as group:
        group.start_soon(poller)
        await used.wait()
        with pytest.raises(StatementTimeout, match=r"belonged to .*poller\(\)") as refused:
            await handler()
        assert not refused.value.may_have_run
        end.set()


async def test_closing_what_belongs_to_another_call(shared: Any, outside: Outside) -> None:
    """To close it is refused in the same way, and it stays open."""
    used, end = anyio.Event(), anyio.Event()

    @offload
    async def owner() -> None:
        value(shared, "SELECT 1")
        used.set()
        await end.wait()
        assert value(shared, "SELECT 2") == 2
        shared.close()

    async with anyio.create_task_group() as group:
        group.start_soon(owner)
        await used.wait()
        with pytest.raises(CheckoutTimeout, match=r"owner\(\)"):
            await by_executor(shared.close, outside)
        end.set()
    assert not shared.open


@pytest.mark.parametrize("closer", ["bridge", "thread"])
@pytest.mark.parametrize("other", ["child", "outsider"])
async def test_closing_while_a_statement_runs(
    closer: Any, other: str, outside: Outside, mysql: MySQL, database: dict[str, Any]
) -> None:
    """Closing waits for a statement of the call's own no longer than for a turn: then it is killed."""
    with pool_of(1, database, checkout_timeout=SHORT) as pool:
        failed: list[Any] = []

        @offload
        async def handler() -> None:
            connection = pool.connection()

            async def run() -> None:
                ask = partial(value, connection, "SELECT SLEEP(30)")
                child: Any = offload(asynchronous(ask))
                try:
                    await (child() if other == "child" else by_executor(ask, outside))
                except pymysql.MySQLError as error:
                    failed.append(error)

            close: Any = offload(mode=closer)(asynchronous(connection.close))
            async with anyio.create_task_group() as group:
                group.start_soon(run)
                await settled(lambda: running(mysql, database, "SLEEP(30)"))
                await close()

        with anyio.fail_after(LIMIT):
            await handler()
        assert [error.args[0] for error in failed] == [1317]
        assert (pool.statistics().kills, pool.statistics().discards) == (1, {})
        await checked(pool, mysql, database["database"])


async def test_a_statement_that_takes_long(database: dict[str, Any], outside: Outside) -> None:
    """Who waits for a thread's statement on the same connection is told which thread it is, and what to do."""
    with pool_of(1, database, checkout_timeout=SHORT) as pool:

        @offload
        async def handler() -> None:
            with closing(pool.connection()) as connection:
                long = outside.executor.submit(value, connection, f"SELECT SLEEP({4 * SHORT})")
                until(lambda: next(iter(core(pool).links)).busy)
                with pytest.raises(CheckoutTimeout, match=r"thread 'ThreadPoolExecutor.* a connection for each"):
                    value(connection, "SELECT 1")
                await outcome(long)
                assert value(connection, "SELECT 2") == 2

        await handler()


@needs("MySQLdb")
async def test_another_drivers_error(database: dict[str, Any]) -> None:
    """The error is one of the connection's own driver as well."""
    import MySQLdb

    settings: Any = {name: database[name] for name in ("host", "port", "user", "password", "database")}
    pool = OffloadPool.create(MySQLdb, min_size=0, max_size=1, checkout_timeout=SHORT, autocommit=True, **settings)
    shared = in_thread(pool.connection).result(LIMIT)
    other: Any = offload(partial(value, shared, "SELECT 2"))
    used, end = anyio.Event(), anyio.Event()

    @offload
    async def owner() -> None:
        value(shared, "SELECT 1")
        used.set()
        await end.wait()
        shared.close()

    async with anyio.create_task_group() as group:
        group.start_soon(owner)
        await used.wait()
        with pytest.raises(MySQLdb.OperationalError) as refused:
            await other()
        assert isinstance(refused.value, CheckoutTimeout)
        end.set()
    in_thread(pool.close).result(LIMIT)


async def test_the_log_says_who_keeps_it(
    shared: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log names, once for each call, who has kept others waiting for a while, and since when."""
    monkeypatch.setattr(call_lock, "LONG", SHORT / 10)
    used, end = anyio.Event(), anyio.Event()

    @offload
    async def poller() -> None:
        while not end.is_set():
            value(shared, "SELECT 'secret'")
            used.set()
            await anyio.sleep(0.01)

    @offload
    async def handler() -> Any:
        return value(shared, "SELECT 2")

    for _ in range(2):
        used, end = anyio.Event(), anyio.Event()
        with caplog.at_level(logging.WARNING, logger="offload_db"):
            async with anyio.create_task_group() as group:
                group.start_soon(poller)
                await used.wait()
                refused = await together(handler, handler, handler)
                end.set()
        assert [type(error) for error in refused] == [CheckoutTimeout] * 3
        # Where it has used the connection last is known as well, as others waited.
        file, first = inspect.getsourcefile(value), inspect.getsourcelines(value)[1]
        assert f"used it last at {file}:{first + 4}" in str(refused[0])
    messages = [record.getMessage() for record in caplog.records if record.name == "offload_db"]
    assert len(messages) == 2
    assert all("poller() at" in message and "wait for a shared connection" in message for message in messages)
    assert not any("secret" in message for message in messages)


async def test_a_short_wait_is_not_logged(shared: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Calls that take turns in time are nothing to write about."""

    @offload
    async def handler(number: int) -> Any:
        return value(shared, "SELECT %s", number)

    assert await together(*[partial(handler, number) for number in range(10)]) == list(range(10))
    assert caplog.records == []


async def test_the_route_is_named(shared: Any, outside: Outside) -> None:
    """Under the middleware it is the route that has the connection, without what its path holds."""
    starlette = pytest.importorskip("starlette.applications")
    httpx = pytest.importorskip("httpx")
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    used, end = anyio.Event(), anyio.Event()

    async def endpoint(request: Any) -> Any:
        value(shared, "SELECT 1")
        used.set()
        await end.wait()
        return PlainTextResponse("")

    app = OffloadMiddleware(starlette.Starlette(routes=[Route("/trucks/{truck_id}", endpoint)]))
    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client,
        anyio.create_task_group() as group,
    ):
        group.start_soon(client.get, "/trucks/FL-0208")
        await used.wait()
        with pytest.raises(CheckoutTimeout, match=r"a request of GET /trucks/\{truck_id\}"):
            await by_executor(partial(value, shared, "SELECT 2"), outside)
        end.set()
