"""The network between pool and server breaks in every way: bounded waits, honest errors, no dirty connection."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import anyio
import pymysql
import pytest
from pymysql.constants import COMMAND
from pymysql.cursors import SSCursor

from offload_db import ConnectionLost, OffloadPool, connect, offload
from offload_db.connection import killer
from offload_db.drivers.pymysql_results import TURN_ROWS
from offload_db.pool import idle
from tests.conftest import MySQL
from tests.inside import core
from tests.support import in_thread, pool_of, run_at, until, value, watched_wire

from .checks import assert_ended, check, checked, serve
from .proxy import Proxy

FAULTS: dict[str, Callable[[Proxy], None]] = {
    "cut before": lambda proxy: proxy.trap(b"INSERT", "before"),
    "cut after": lambda proxy: proxy.trap(b"INSERT", "after"),
    "cut inside the statement": lambda proxy: proxy.cut_after(7, "to server"),
    "cut inside the answer": lambda proxy: proxy.cut_after(3, "to client"),
    "reset": lambda proxy: proxy.cut(reset=True),
    "closed": lambda proxy: proxy.cut(),
    "stopped": lambda proxy: proxy.stop(),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("way", ["bridge", "thread", "plain"])
def test_a_write_over_a_link_that_breaks(
    *,
    fault: str,
    way: Literal["bridge", "thread", "plain"],
    proxy: Proxy,
    through: dict[str, Any],
    table: Any,
    mysql: MySQL,
) -> None:
    """A write is never repeated, and its error says truly whether it may have run."""

    def body() -> ConnectionLost:
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            FAULTS[fault](proxy)
            with pytest.raises(ConnectionLost) as caught:
                cursor.execute("INSERT INTO t VALUES (1, 1)")
            return caught.value

    with pool_of(2, through) as pool:
        if way == "plain":
            error = body()
        else:

            @offload(mode=way)
            async def handler() -> ConnectionLost:
                return body()

            error = anyio.run(handler)
        rows = table("COUNT(*)")
        assert rows == (1 if fault in ("cut after", "cut inside the answer") else 0)
        assert error.may_have_run or rows == 0
        assert ("may or may not" in str(error)) == error.may_have_run
        assert pool.statistics().discards == {"lost": 1}
        if fault == "stopped":
            proxy.start()
            until(lambda: _reachable(pool))
        check(pool, mysql, through["database"])


def _reachable(pool: OffloadPool) -> bool:
    try:
        with pool.connection():
            return True
    except pymysql.err.OperationalError:
        return False


def test_many_statements_in_one_call(proxy: Proxy, through: dict[str, Any], table: Any, mysql: MySQL) -> None:
    """When a link breaks between the statements of one executemany, its error does not say that nothing ran."""
    with pool_of(1, through) as pool, pool.connection() as connection, connection.cursor() as cursor:

        def rows() -> Iterator[tuple[int, int]]:
            yield (1, 1)
            yield (2, 2)
            proxy.cut(reset=True)
            time.sleep(0.3)  # until the reset is here, so that it is the sending that fails
            for number in range(3, 6):
                yield (number, number)

        # Not of the form that PyMySQL sends as one statement.
        with pytest.raises(ConnectionLost) as caught:
            cursor.executemany("REPLACE t SET id = %s, n = %s", rows())
        assert table("COUNT(*)") == 2
        assert caught.value.may_have_run


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("way", ["bridge", "thread", "plain", "stream"])
@pytest.mark.anyio
async def test_a_link_that_breaks_between_rows(
    *, way: str, fast: bool, proxy: Proxy, through: dict[str, Any], mysql: MySQL
) -> None:
    """Every row of an unbuffered result that has arrived is given out before the error, which is ConnectionLost."""
    sql = "SELECT seq FROM mysql.seq_100001_to_190000"  # 11 bytes a row
    rows: list[Any] = []

    def take() -> None:
        with pool.connection() as connection, connection.cursor(SSCursor) as cursor:
            proxy.silence_after(said)
            cursor.execute(sql)
            while (row := cursor.fetchone()) is not None:
                rows.append(row)

    async def stream() -> None:
        proxy.silence_after(said)
        async for row in pool.stream(sql, chunk_size=1):
            rows.append(row)  # noqa: PERF401  # those that are there are counted meanwhile

    def cut_behind(number: int, *, reset: bool) -> None:
        until(lambda: len(rows) >= number)
        proxy.cut(reset=reset)

    before = _size_of_columns(mysql, sql)
    for whole, reset in ((TURN_ROWS, False), (3 * TURN_ROWS + 1, True)):
        rows.clear()
        said = before + whole * 11
        with pool_of(1, through, fast=fast) as pool:
            async with pool.acquire() as connection:
                await connection.ping()
            cut = in_thread(partial(cut_behind, whole, reset=reset))
            with pytest.raises(ConnectionLost) as caught:
                await (stream() if way == "stream" else run_at(way, take))
            cut.result(20)
            proxy.flow()
            assert caught.value.args[0] == 2013
            assert rows == [(100001 + place,) for place in range(len(rows))]
            assert len(rows) == whole
            assert await pool.fetch_value("SELECT 1") == 1


def _size_of_columns(mysql: MySQL, sql: str) -> int:
    """Return how many bytes the server sends before the first row."""
    raw: Any = mysql.connect()
    raw._execute_command(COMMAND.COM_QUERY, sql)
    size, body = 0, b""
    while body[:1] != b"\xfe":
        body = raw._read_packet().get_all_data()
        size += 4 + len(body)
    raw._force_close()
    return size


@pytest.mark.parametrize("leave", ["close", "drop", "cancel", "nothing"])
@pytest.mark.anyio
async def test_an_abandoned_unbuffered_result(leave: str, database: dict[str, Any], mysql: MySQL) -> None:
    """Three million rows that nobody reads are not read: not on the loop's thread, not by a worker, not at the end."""
    with pool_of(2, database) as pool, watched_wire() as wire:

        @offload
        async def handler() -> None:
            connection = pool.connection()
            cursor = connection.cursor(SSCursor)
            cursor.execute("SELECT seq, REPEAT('x', 20) FROM seq_1_to_3000000")
            assert cursor.fetchone() == (1, "x" * 20)
            if leave == "drop":
                return
            if leave == "close":
                cursor.close()
            if leave == "cancel":
                scope.cancel()
                try:
                    cursor.fetchall()
                finally:
                    cursor.close()
                    connection.close()
            connection.close()

        with anyio.CancelScope() as scope:
            await handler()
        gc.collect()
        assert wire.on(threading.get_ident()) == []
        await checked(pool, mysql, database["database"])
        assert [name for name, _ in wire.events].count("recv_into") < 1000  # all of them take some ten thousand
        assert_ended(mysql, "seq_1_to_3000000")


@pytest.mark.parametrize("way", ["bridge", "plain"])
def test_a_deaf_server(way: str, proxy: Proxy, through: dict[str, Any], mysql: MySQL) -> None:
    """A server that accepts and never says a word costs connect_timeout, and twenty callers not much more."""
    proxy.deaf = True
    with pool_of(20, through, connect_timeout=1) as pool:
        waits: list[float] = []

        def call() -> None:
            started = time.monotonic()
            with pytest.raises(pymysql.err.OperationalError):
                pool.connection()
            waits.append(time.monotonic() - started)

        if way == "plain":
            for thread in [in_thread(call) for _ in range(20)]:
                thread.result(15)
        else:

            async def main() -> None:
                async with anyio.create_task_group() as group:
                    for _ in range(20):
                        group.start_soon(_offloaded(call))

            anyio.run(main)
        assert 0.9 < max(waits) < 8
        assert proxy.accepted <= 8
        proxy.deaf = False
        until(lambda: _reachable(pool))
        check(pool, mysql, through["database"])


def _offloaded(function: Callable[[], None]) -> Callable[[], Any]:
    @offload
    async def handler() -> None:
        function()

    return handler


@pytest.mark.parametrize("number", [0, 30, 95, 110, 200])
def test_silence_at_any_point_of_the_handshake(
    number: int, proxy: Proxy, through: dict[str, Any], mysql: MySQL
) -> None:
    """A server that goes silent at any point of connecting costs a bounded wait."""
    with pool_of(1, through, connect_timeout=1) as pool:
        proxy.silence_after(number)
        started = time.monotonic()
        with pytest.raises(pymysql.err.OperationalError):
            pool.connection()
        assert time.monotonic() - started < 8
        proxy.flow()
        until(lambda: _reachable(pool))
        check(pool, mysql, through["database"])


def test_a_slow_network(proxy: Proxy, through: dict[str, Any], mysql: MySQL) -> None:
    """Delay alone breaks nothing."""
    proxy.delay = 0.02
    with pool_of(3, through, statement_timeout=10.0) as pool:
        serve(pool)
        assert pool.statistics().discards == {}
        proxy.delay = 0.0
        check(pool, mysql, through["database"])


def test_cut_while_idle(proxy: Proxy, through: dict[str, Any], mysql: MySQL) -> None:
    """Links that were cut at rest are found out without a round trip: nobody meets an error."""
    with pool_of(3, through) as pool:
        for reset in (False, True):
            serve(pool)
            links = list(core(pool).links)
            proxy.cut(reset=reset)
            until(lambda: not any(link.driver.alive_at_rest(link.raw) for link in links))  # noqa: B023
            serve(pool)
        assert pool.statistics().discards == {"dead_idle": 6}
        check(pool, mysql, through["database"])


def test_disconnected_for_idleness(database: dict[str, Any], mysql: MySQL) -> None:
    """After the server's wait_timeout the next checkout gets a live connection, and its session settings."""
    with pool_of(1, database, setsession=["SET SESSION wait_timeout = 1"]) as pool:
        with pool.connection() as connection:
            first = value(connection, "SELECT CONNECTION_ID()")
        until(lambda: not mysql.process_list(database["database"]))
        with pool.connection() as connection:
            assert value(connection, "SELECT CONNECTION_ID()") != first
            assert value(connection, "SELECT @@wait_timeout") == 1
        assert pool.statistics().discards == {"dead_idle": 1}


@pytest.mark.anyio
async def test_cancelled_on_a_blackholed_link(
    proxy: Proxy, through: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelling what waits on a dead link costs a bounded wait; the slot comes back."""
    monkeypatch.setattr(killer, "PATIENCE", 0.7)
    with pool_of(1, through, connect_timeout=1) as pool:

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, "SELECT 1")
                proxy.blackhole()
                value(connection, "SELECT 2")

        started = time.monotonic()
        with anyio.move_on_after(0.2):
            await handler()
        assert time.monotonic() - started < 10
        assert pool.statistics().kills_failed == 1
        proxy.flow()
        await checked(pool, mysql, through["database"])


def test_many_links_that_something_forgot(
    proxy: Proxy, through: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of idle links that are dead without a word one is asked and waited for; those at rest for longer are not."""
    monkeypatch.setattr(idle, "PING_AFTER", 0.0)
    monkeypatch.setattr(idle, "PING_TIMEOUT", 1.0)
    with pool_of(8, through, connect_timeout=1) as pool:
        serve(pool)
        proxy.blackhole()
        started = time.monotonic()
        with pytest.raises(pymysql.err.OperationalError):
            pool.connection()
        assert time.monotonic() - started < 5
        assert pool.statistics().discards == {"dead_idle": 8}
        proxy.flow()
        until(lambda: _reachable(pool))
        check(pool, mysql, through["database"])


@pytest.mark.parametrize("kind", ["pool", "unpooled"])
def test_a_deaf_server_where_queries_may_take_long(kind: str, proxy: Proxy, through: dict[str, Any]) -> None:
    """A long read_timeout is for queries: a server that says nothing costs connect_timeout all the same."""
    proxy.deaf = True
    settings = {**through, "ssl_disabled": True, "connect_timeout": 1, "read_timeout": 60}
    started = time.monotonic()
    with pool_of(1, settings) as pool, pytest.raises(pymysql.err.OperationalError):
        pool.connection() if kind == "pool" else connect(**settings)
    assert time.monotonic() - started < 8
    proxy.deaf = False
    with pool_of(1, settings) as pool, pool.connection() if kind == "pool" else connect(**settings) as connection:
        raw: Any = connection.driver_connection
        assert (raw._read_timeout, raw.connect_timeout) == (60, 1)
