"""Connections that are forgotten are reported and come back; what must not happen in a finaliser does not."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from pymysql.cursors import SSCursor

from offload_db import OffloadPool, offload
from tests.conftest import MySQL
from tests.faults.inside import while_it_comes_back
from tests.inside import core
from tests.support import in_thread, outcome, pool_of, settled, until, value, watched_wire

from .checks import check, checked

Lines = Callable[[], list[str]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """Give the warnings that the library logged."""
    caplog.set_level(logging.WARNING, logger="offload_db")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "offload_db"]


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["bridge", "thread", "plain"])
async def test_reported_once_and_again_when_it_comes_back(
    way: str, lines: Lines, database: dict[str, Any], mysql: MySQL
) -> None:
    """A connection held too long is reported once, with the line that checked it out, and when it is back."""
    with pool_of(2, database, leak_warning=0.1) as pool:
        kept: list[Any] = []

        def body() -> None:
            kept.append(pool.connection())  # checked out here

        if way == "plain":
            await outcome(in_thread(body))
        else:

            @offload(mode="thread" if way == "thread" else "bridge")
            async def handler() -> None:
                body()

            await handler()
        await settled(lines)
        await anyio.sleep(0.25)
        assert len(lines()) == 1
        assert "longer than leak_warning (0.1 s)" in lines()[0]
        assert "# checked out here" in lines()[0]
        assert "offload_db/pool.py" not in lines()[0]
        await outcome(in_thread(kept[0].close))
        assert len(lines()) == 2
        assert "came back after" in lines()[1]
        await checked(pool, mysql, database["database"])


def test_what_comes_back_in_time_is_not_reported(lines: Lines, database: dict[str, Any]) -> None:
    """Short checkouts are not reported, however many there are."""
    with pool_of(2, database, leak_warning=0.5) as pool:
        for _ in range(50):
            pool.connection().close()
        time.sleep(0.6)
        assert lines() == []


def test_the_watch_ends_with_the_pool(database: dict[str, Any]) -> None:
    """The thread that watches does not outlive its pool by leak_warning seconds."""
    before = set(threading.enumerate())
    with pool_of(1, database, leak_warning=300.0) as pool:
        pool.connection().close()
    until(lambda: set(threading.enumerate()) <= before, timeout=3)


def test_the_watch_keeps_nothing_alive(lines: Lines, database: dict[str, Any], mysql: MySQL) -> None:
    """A watched connection that is dropped comes back all the same; a report names lines, and holds no variables."""
    with pool_of(1, database, leak_warning=0.05) as pool:

        def forget() -> None:
            connection = pool.connection()
            until(lines)
            assert connection.open

        forget()
        gc.collect()
        assert pool.statistics().in_use == 0
        assert len(lines()) == 2
        check(pool, mysql, database["database"])


def _begin_unbuffered(connection: Any) -> Any:
    cursor = connection.cursor(SSCursor)
    cursor.execute("SELECT * FROM seq_1_to_3000000")
    return cursor.fetchone()


DROPS: dict[str, Callable[[Any], Any]] = {
    "untouched": lambda connection: None,
    "after a query": lambda connection: value(connection, "SELECT 1"),
    "in a transaction": lambda connection: (connection.begin(), value(connection, "SELECT 1")),
    "in an unbuffered result": _begin_unbuffered,
}


@pytest.mark.anyio
@pytest.mark.parametrize("state", DROPS)
async def test_a_finaliser_does_no_io(state: str, database: dict[str, Any], mysql: MySQL) -> None:
    """A connection dropped in any state returns its slot without a word on the wire from the loop's thread."""
    with pool_of(1, database) as pool:

        @offload
        async def handler() -> None:
            DROPS[state](pool.connection())

        with watched_wire() as wire:
            await handler()
            started = time.perf_counter()
            gc.collect()
            assert time.perf_counter() - started < 2
            assert wire.on(threading.get_ident()) == []
        assert pool.statistics().in_use == 0
        kept = state in ("untouched", "after a query")
        assert (pool.statistics().checkins == 1) == kept
        await checked(pool, mysql, database["database"])


def test_max_age_is_spread(database: dict[str, Any], mysql: MySQL) -> None:
    """Connections of the same age are not all replaced at once: their lives differ by up to a tenth."""
    with pool_of(10, database, max_age=100.0) as pool:
        held = [pool.connection() for _ in range(10)]
        lives = [link.expires - link.born for link in core(pool).links]
        assert all(90.0 <= life <= 100.0 for life in lives)
        assert len(set(lives)) == 10
        for connection in held:
            connection.close()


def test_too_old_connections_are_replaced(database: dict[str, Any], mysql: MySQL) -> None:
    """A connection past max_age is discarded at the next checkout or checkin, never while it is used."""
    with pool_of(1, database, max_age=0.2) as pool:
        with pool.connection() as connection:
            first = value(connection, "SELECT CONNECTION_ID()")
            time.sleep(0.25)
            assert value(connection, "SELECT CONNECTION_ID()") == first
        assert pool.statistics().discards == {"max_age": 1}
        with pool.connection() as connection:
            second = value(connection, "SELECT CONNECTION_ID()")
        time.sleep(0.25)
        with pool.connection() as connection:
            assert value(connection, "SELECT CONNECTION_ID()") not in (first, second)
        assert pool.statistics().discards == {"max_age": 2}
        check(pool, mysql, database["database"])


def test_dropped_while_another_thread_waits(database: dict[str, Any], mysql: MySQL) -> None:
    """A connection that is dropped goes to the one who waits for it."""
    with pool_of(1, database) as pool:
        held = [pool.connection()]
        thread = in_thread(lambda: _use(pool))
        until(lambda: pool.statistics().waiting == 1)
        held.clear()
        gc.collect()
        assert thread.result(20) == 1
        check(pool, mysql, database["database"])


def _use(pool: OffloadPool) -> Any:
    with pool.connection() as connection:
        return value(connection, "SELECT 1")


def test_dropped_while_the_pool_is_closed(
    database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that a finaliser brings back just as the pool is closed does not stay open in it."""
    with pool_of(1, database) as pool:
        connection = pool.connection()
        value(connection, "SELECT 1")

        while_it_comes_back(monkeypatch, pool, pool.close)
        del connection
        gc.collect()
        assert pool.statistics().discards == {"closed": 1}
        check(pool, mysql, database["database"], serves=False)


def test_no_thread_to_watch_with(
    lines: Lines, database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout does without the watch where no thread can be had, and a later one is watched."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pool_of(1, database, leak_warning=0.05) as pool:
        with monkeypatch.context() as exhausted:
            exhausted.setattr(threading.Thread, "start", refuse)
            for _ in range(2):
                pool.connection().close()
        kept = pool.connection()
        until(lines)
        kept.close()
        assert (pool.statistics().in_use, pool.statistics().idle) == (0, 1)
