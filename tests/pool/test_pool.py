"""Claims about the pool: connections that it takes over, opens, hands out and closes, and numbers that add up."""

from __future__ import annotations

import gc
import threading
from collections import deque
from functools import partial
from typing import Any

import anyio
import pymysql
import pytest
from dbutils.pooled_db import PooledDB

from offload_db import OffloadPool, PoolClosed, offload
from tests.conftest import MySQL
from tests.inside import core
from tests.support import PATIENCE, QUICK, in_thread, outcome, pool_of, settled, together, until, value, watched_wire


def server_connections(mysql: MySQL, database: str) -> int:
    return len(mysql.process_list(database))


@pytest.mark.anyio
async def test_takes_over_the_connections_of_a_pooled_db(mysql: MySQL, database: dict[str, Any]) -> None:
    """A PooledDB with mincached connections is adopted: the server never sees more than `size` of them."""
    name = database["database"]
    original = PooledDB(pymysql, mincached=4, maxconnections=4, blocking=True, **QUICK, **database)
    assert server_connections(mysql, name) == 4
    pool = OffloadPool(original)
    assert (pool.statistics().size, pool.statistics().open, pool.statistics().idle) == (4, 4, 4)
    most: list[int] = []

    @offload
    async def work() -> None:
        with pool.connection() as connection:
            assert value(connection, "SELECT 1") == 1
            most.append(value(connection, "SELECT COUNT(*) FROM information_schema.processlist WHERE db = %s", name))

    await together(*[work] * 24)
    assert len(most) == 24
    assert max(most) <= 4
    assert pool.statistics().open == 4
    await outcome(in_thread(pool.close))
    await settled(lambda: server_connections(mysql, name) == 0)
    original.close()


def test_a_smaller_size_closes_what_is_too_many(mysql: MySQL, database: dict[str, Any]) -> None:
    """Connections beyond `size` that the wrapped pool holds are closed."""
    original = PooledDB(pymysql, mincached=4, **QUICK, **database)
    pool = OffloadPool(original, size=2)
    assert pool.statistics().open == 2
    until(lambda: server_connections(mysql, database["database"]) == 2)
    pool.close()


def test_waits_though_the_wrapped_pool_would_not(mysql: MySQL) -> None:
    """A pool made without blocking=True waits for a free connection all the same."""
    pool = OffloadPool(PooledDB(pymysql, maxconnections=1, blocking=False, **QUICK, **mysql.settings()))
    first = pool.connection()
    waiting = in_thread(lambda: value(pool.connection(), "SELECT 1"))
    until(lambda: pool.statistics().waiting == 1)
    first.close()
    assert waiting.result(PATIENCE) == 1
    pool.close()


def test_maxusage(mysql: MySQL) -> None:
    """A connection is replaced after maxusage statements, when it is given back."""
    original = PooledDB(pymysql, maxusage=3, maxconnections=1, **QUICK, **mysql.settings())
    pool = OffloadPool(original)
    seen: list[int] = []
    for _ in range(4):
        with pool.connection() as connection:
            seen += [value(connection, "SELECT CONNECTION_ID()") for _ in range(2)]
    assert seen[:4] == [seen[0]] * 4
    assert seen[4:] == [seen[4]] * 4
    assert seen[4] != seen[0]
    assert pool.statistics().discards == {"maxusage": 2}
    pool.close()


@pytest.mark.anyio
async def test_finalisers_do_no_io_on_the_loop(mysql: MySQL) -> None:
    """Whatever state a connection is dropped in, also by the collector, no socket is touched on the loop's thread."""
    with pool_of(3, mysql.settings("mysql"), cursorclass=pymysql.cursors.SSCursor) as pool:

        @offload
        async def forgetful(statement: str, cycle: bool) -> None:
            connection = pool.connection()
            cursor = connection.cursor()
            cursor.execute(statement)
            if cycle:
                held: list[Any] = [connection, cursor]
                held.append(held)

        with watched_wire() as wire:
            for statement in ("DO 1", "BEGIN", "SELECT seq FROM seq_1_to_20000", "SELECT 1"):
                for cycle in (True, False):
                    await forgetful(statement, cycle)
                gc.collect()
            assert not wire.on(threading.get_ident())
            assert wire.events
        statistics = pool.statistics()
        assert statistics.in_use == 0
        assert statistics.checkouts == 8 == statistics.checkins + sum(statistics.discards.values())
        assert statistics.open == statistics.idle


@pytest.mark.anyio
async def test_a_closed_cursor_does_not_keep_its_connection(mysql: MySQL) -> None:
    """Cursors that are kept after closing do not keep their connection from coming back."""
    with pool_of(1, mysql.settings()) as pool:
        kept: list[Any] = []

        @offload
        async def work() -> None:
            connection = pool.connection()
            cursor = connection.cursor()
            cursor.execute("SELECT 1")
            cursor.close()
            kept.append(cursor)

        for _ in range(3):
            await work()
        assert pool.statistics().in_use == 0
        assert [cursor.fetchall() for cursor in kept] == [((1,),)] * 3


# Dead links, closing


@pytest.mark.anyio
async def test_a_dead_idle_link_is_replaced(mysql: MySQL) -> None:
    """A link that the server closed while it was idle is replaced at checkout, without an error to the caller."""
    with pool_of(3, mysql.settings()) as pool:

        @offload
        async def work() -> int:
            with pool.connection() as connection:
                return int(value(connection, "SELECT CONNECTION_ID()"))

        @offload
        async def three() -> set[int]:
            with pool.connection() as one, pool.connection() as two, pool.connection() as third:
                return {value(connection, "SELECT CONNECTION_ID()") for connection in (one, two, third)}

        old = await three()
        for number in old:
            await outcome(in_thread(partial(mysql.kill_connection, number)))
        await settled(lambda: not {row["ID"] for row in mysql.process_list()} & old)
        assert await work() not in old
        assert not await three() & old
        assert pool.statistics().discards == {"dead_idle": 3}
        assert pool.statistics().open == 3


def test_closing(mysql: MySQL, database: dict[str, Any]) -> None:
    """Closing twice is fine; checkouts are refused then, and a connection that is out is closed when it comes back."""
    with pool_of(2, database) as pool:
        one, two = pool.connection(), pool.connection()
        one.close()
        one.close()
        pool.close()
        pool.close()
        with pytest.raises(PoolClosed):
            pool.connection()
        assert value(two, "SELECT 1") == 1
        two.close()
        assert (pool.statistics().open, pool.statistics().in_use) == (0, 0)
        assert pool.statistics().discards == {"closed": 2}
        until(lambda: server_connections(mysql, database["database"]) == 0)


@pytest.mark.anyio
async def test_a_connection_that_was_opened_for_nobody_is_closed_with_its_pool(mysql: MySQL) -> None:
    """If the task that opens a connection is cancelled and the pool closed meanwhile, the connection is closed."""
    opening, go_on = threading.Event(), threading.Event()

    def slow(**settings: Any) -> Any:
        opening.set()
        go_on.wait(PATIENCE)
        return pymysql.connect(**settings)

    with pool_of(1, mysql.settings(), creator=slow) as pool:

        @offload
        async def doomed() -> None:
            pool.connection()

        async with anyio.create_task_group() as group:
            group.start_soon(doomed)
            await settled(opening.is_set)
            pool.close()
            group.cancel_scope.cancel()
            go_on.set()
        await settled(lambda: pool.statistics().in_use == 0)
        assert pool.statistics().open == 0


def test_closing_while_another_thread_takes_the_last_idle_link(mysql: MySQL) -> None:
    """Closing is fine where another thread takes the last idle link between the look and the taking."""
    with pool_of(1, mysql.settings()) as pool:
        taken: list[Any] = []

        class Raced(deque):  # type: ignore[type-arg]
            def pop(self) -> Any:  # type: ignore[override]
                taken.append(super().pop())
                return super().pop()

        pool.connection().close()
        core(pool).idle.resting = Raced(core(pool).idle.resting)
        pool.close()
        assert len(taken) == 1


# Trips


@pytest.mark.anyio
async def test_a_checkout_of_an_idle_link_costs_no_trip(mysql: MySQL) -> None:
    """Checkout and checkin of a clean idle connection need neither a worker nor a round trip."""
    with pool_of(1, mysql.settings()) as pool:

        @offload
        async def work() -> None:
            connection = pool.connection()
            connection.cursor().close()
            connection.close()

        await work()
        before = pool.statistics().hops
        with watched_wire() as wire:
            for _ in range(5):
                await work()
            assert not wire.events
        assert pool.statistics().hops == before
        assert pool.statistics().checkouts == 6


def test_a_connection_that_comes_back_just_now_is_kept(mysql: MySQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opens a connection throws none out that comes back in between, before its slot is free."""
    with pool_of(2, mysql.settings()) as pool:
        held = pool.connection()
        rest, look = core(pool).idle.rest, core(pool).idle.take
        rested, opened = threading.Event(), threading.Event()

        def rest_and_wait(link: Any) -> None:
            rest(link)
            rested.set()
            assert opened.wait(PATIENCE)

        def look_too_early(connector: Any, seconds: float | None) -> Any:
            found = look(connector, seconds)
            closing.append(in_thread(held.close))
            assert rested.wait(PATIENCE)
            return found

        closing: list[Any] = []
        monkeypatch.setattr(core(pool).idle, "rest", rest_and_wait)
        monkeypatch.setattr(core(pool).idle, "take", look_too_early)
        with pool.connection():
            opened.set()
            closing[0].result(PATIENCE)
            assert pool.statistics().discards == {}
            assert pool.statistics().open == 2


@pytest.mark.anyio
async def test_statistics_add_up_after_everything(mysql: MySQL) -> None:
    """After checkouts that ended in every way, open is idle, and checkouts are checkins and discards."""
    with pool_of(3, mysql.settings()) as pool:

        @offload
        async def work(number: int) -> None:
            connection = pool.connection()
            cursor = connection.cursor()
            if number % 5 == 0:
                cursor.execute("BEGIN")
            elif number % 5 == 1:
                with pytest.raises(pymysql.err.ProgrammingError):
                    cursor.execute("SELEC 1")
            elif number % 5 == 2:
                return  # dropped
            elif number % 5 == 3:
                cursor.execute("BEGIN")
                return  # dropped in a transaction
            connection.close()

        await together(*[partial(work, number) for number in range(50)])
        statistics = pool.statistics()
        assert (statistics.in_use, statistics.waiting) == (0, 0)
        assert statistics.open == statistics.idle <= 3
        assert statistics.discards == {"dropped_in_transaction": 10}
        assert statistics.checkouts == 50 == statistics.checkins + 10
        assert statistics.statements == 30


def test_counters_under_threads(mysql: MySQL) -> None:
    """The counters of 20 threads lose nothing."""
    with pool_of(4, mysql.settings()) as pool:

        def work() -> None:
            for _ in range(25):
                with pool.connection() as connection:
                    assert value(connection, "SELECT 1") == 1

        for future in [in_thread(work) for _ in range(20)]:
            future.result(PATIENCE)
        statistics = pool.statistics()
        assert statistics.checkouts == statistics.checkins == statistics.statements == 500
        assert statistics.queue_wait.count == statistics.statement_time.count == 500
        assert (statistics.in_use, statistics.hops) == (0, 0)
        assert statistics.open == statistics.idle <= 4
