"""What the pool counts, and how it shows it."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pymysql
import pytest

from offload_db import CheckoutTimeout, Histogram, Lane, PoolStatistics, offload
from offload_db.statistics import BOUNDS, CallPath, Counters, SourceLine
from tests.inside import note_of_finalisers

from .conftest import MySQL
from .support import PATIENCE, in_thread, outcome, pool_of, settled, value

HERE = CallPath((SourceLine("file", 1, "function"),), None)

FIELDS = [
    "size",
    "open",
    "idle",
    "in_use",
    "waiting",
    "checkouts",
    "checkins",
    "discards",
    "statements",
    "hops",
    "kills",
    "kills_failed",
    "timeouts",
    "cancelled",
    "blocking_calls",
    "queue_wait",
    "statement_time",
    "lanes",
]


def test_the_snapshot_has_the_documented_fields_and_is_frozen(mysql: MySQL) -> None:
    """A snapshot has exactly the documented fields, cannot be changed and does not change."""
    assert [field.name for field in dataclasses.fields(PoolStatistics)] == FIELDS
    with pool_of(2, mysql.settings(), lanes=[Lane("a", 1)]) as pool:
        before = pool.statistics()
        assert value(pool.connection(lane="a"), "SELECT 1") == 1
        assert before == dataclasses.replace(before, checkouts=0, open=0)
        changes: list[Callable[[], Any]] = [
            lambda: setattr(before, "open", 3),
            lambda: before.discards.update(lost=1),  # type: ignore[attr-defined]
            lambda: before.lanes.pop("a"),  # type: ignore[attr-defined]
            lambda: setattr(before.lanes["a"], "in_use", 1),
        ]
        for change in changes:
            with pytest.raises((AttributeError, dataclasses.FrozenInstanceError)):
                change()
        with pytest.raises(TypeError):
            before.discards["lost"] = 1  # type: ignore[index]


def test_a_snapshot_can_be_handed_on(mysql: MySQL) -> None:
    """It can be copied, pickled, taken apart into what JSON knows, and keys can be asked for as in any mapping."""
    with pool_of(2, mysql.settings(), lanes=[Lane("a", 1)]) as pool:
        pool.connection(lane="a").discard()
        now = pool.statistics()
    assert (dict(now.discards), now.lanes["a"].limit) == ({"discarded": 1}, 1)
    for again in (copy.copy(now), copy.deepcopy(now), pickle.loads(pickle.dumps(now))):
        assert again == now
        with pytest.raises(TypeError):
            again.lanes["b"] = now.lanes["a"]  # type: ignore[index]
    told = json.loads(json.dumps(dataclasses.asdict(now)))
    assert (told["discards"], told["lanes"]["a"]["limit"], told["open"]) == ({"discarded": 1}, 1, 0)


def test_histogram() -> None:
    """Buckets are cumulative and each takes durations up to its bound, the last all; the mean is sum by count."""
    counters = Counters()
    for seconds in (0.0005, 0.001, 0.0011, 0.3, 60.0):
        counters.add_timed("statements", seconds)
    shown = counters.snapshot(size=1, links=0, idle=0, in_use=0, waiting=0, lanes={}).statement_time
    buckets = dict(shown.buckets)
    assert tuple(buckets) == (*BOUNDS, float("inf"))
    assert (buckets[0.001], buckets[0.0025], buckets[0.25], buckets[0.5], buckets[30.0]) == (2, 3, 3, 4, 4)
    assert buckets[float("inf")] == shown.count == 5
    assert (shown.max, round(shown.sum, 4)) == (60.0, 60.3026)
    assert shown.mean == pytest.approx(60.3026 / 5)
    assert Histogram().mean == 0.0


def test_counters_of_many_threads() -> None:
    """Twenty threads that count at once, with snapshots and finalisers among them, lose nothing."""
    counters = Counters()
    start = threading.Barrier(20)

    def work() -> None:
        start.wait(PATIENCE)
        for number in range(500):
            counters.add("hops")
            counters.discarded("lost")
            counters.finalised(None if number % 2 else "dropped_in_transaction")
            counters.add_timed("checkouts", 0.0)
            counters.blocked.add(HERE, "execute", None, 0.001)
            if number % 50 == 0:
                counters.snapshot(size=1, links=0, idle=0, in_use=0, waiting=0, lanes={})

    for future in [in_thread(work) for _ in range(20)]:
        future.result(PATIENCE)
    shown = counters.snapshot(size=1, links=0, idle=0, in_use=0, waiting=0, lanes={})
    assert (shown.hops, shown.checkouts, shown.checkins, shown.blocking_calls) == (10_000, 10_000, 5_000, 10_000)
    assert shown.discards == {"lost": 10_000, "dropped_in_transaction": 5_000}
    assert counters.blocked.places()[0].count == 10_000


@pytest.mark.anyio
async def test_momentary_measures(mysql: MySQL) -> None:
    """Connections in use, callers waiting and the lanes' shares are those of this moment."""
    with pool_of(2, mysql.settings(), lanes=[Lane("reports", 1)]) as pool:

        @offload
        async def work() -> None:
            with pool.connection(lane="reports"), pool.connection():
                future = in_thread(partial(pool.connection, lane="reports"))
                await settled(lambda: pool.statistics().waiting == 1)
                now = pool.statistics()
                assert (now.open, now.idle, now.in_use) == (2, 0, 2)
                lane = now.lanes["reports"]
                assert (lane.limit, lane.in_use, lane.waiting) == (1, 1, 1)
            connection = await outcome(future)
            assert pool.statistics().lanes["reports"].in_use == 1
            connection.close()

        await work()
        end = pool.statistics()
        assert (end.open, end.idle, end.in_use, end.waiting, end.lanes["reports"].in_use) == (2, 2, 0, 0, 0)
        assert (end.checkouts, end.checkins) == (3, 3)
        assert end.queue_wait.count == 3
        assert end.queue_wait.max > 0


@pytest.mark.anyio
async def test_what_failed_and_what_was_cancelled(mysql: MySQL) -> None:
    """A checkout that fails counts as none, a failing statement counts, and a cancelled wait is counted as such."""
    with pool_of(1, mysql.settings()) as pool:
        held = await outcome(in_thread(pool.connection))

        @offload
        async def checkout(timeout: float) -> None:
            with anyio.move_on_after(timeout):  # noqa: ASYNC100  # the checkout suspends
                pool.connection()

        await checkout(0.01)
        assert pool.statistics().cancelled == 1
        assert (pool.statistics().checkouts, pool.statistics().waiting) == (1, 0)
        await outcome(in_thread(held.close))

        @offload
        async def failing() -> None:
            with pool.connection() as connection, pytest.raises(pymysql.err.ProgrammingError):
                connection.cursor().execute("SELEC")

        await failing()
        assert (pool.statistics().statements, pool.statistics().checkouts) == (1, 2)
    with pool_of(1, mysql.settings(), checkout_timeout=0.01) as pool:
        held = await outcome(in_thread(pool.connection))
        with pytest.raises(CheckoutTimeout):
            await outcome(in_thread(pool.connection))
        assert (pool.statistics().checkouts, pool.statistics().in_use) == (1, 1)
        await outcome(in_thread(held.close))


@pytest.mark.anyio
async def test_blocking_calls_are_listed_by_place(mysql: MySQL) -> None:
    """Calls that block the loop are counted and listed by file, line, function and call, the costliest first."""
    with pool_of(1, mysql.settings(), on_loop_call="allow") as pool:
        connection = pool.connection()

        def ask(seconds: float) -> Any:
            return value(connection, "SELECT SLEEP(%s)", seconds)

        for _ in range(3):
            ask(0.001)
        connection.begin()
        connection.close()
        calls = pool.blocking_calls()
        assert pool.statistics().blocking_calls == sum(call.count for call in calls)
        found = {(call.call, call.count) for call in calls}
        assert {("connect", 1), ("execute", 3), ("begin", 1), ("rollback", 1)} <= found
        assert [call.seconds for call in calls] == sorted((call.seconds for call in calls), reverse=True)
        begin = next(call for call in calls if call.call == "begin")
        assert begin.file == __file__
        assert begin.function == "test_blocking_calls_are_listed_by_place"
        assert pool.statistics().hops == 0


def test_two_threads_take_a_snapshot_at_once() -> None:
    """Finalisers' notes that another thread has taken meanwhile are no error."""

    class Taken(deque[str | None]):
        def __bool__(self) -> bool:
            return True

    counters = Counters()
    note_of_finalisers(counters, Taken([None, "lost"]))
    now = counters.snapshot(size=1, links=0, idle=0, in_use=0, waiting=0, lanes={})
    assert (now.checkins, now.discards) == (1, {"lost": 1})
