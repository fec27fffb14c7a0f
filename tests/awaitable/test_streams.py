"""Streams: all rows in order, a chunk for each trip, no more read than is wanted, and nothing left behind."""

from __future__ import annotations

import threading
import time
import tracemalloc
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, cast

import anyio
import anyio.lowlevel
import pymysql
import pytest
from pymysql.cursors import Cursor, DictCursor, SSCursor, SSDictCursor

from offload_db import CheckoutTimeout, ConfigurationError, Lane, OffloadPool, StatementTimeout
from tests.awaitable.inside import Chunks, Step, is_called, rows_read, spied
from tests.conftest import MySQL
from tests.inside import core
from tests.support import pool_of, running, settled, together, until, value, watched_wire

# Reading this to its end takes seconds.
ENDLESS = "SELECT seq FROM seq_1_to_3000000"


@dataclass
class Numbered:
    """What a row becomes."""

    seq: int


def accounted(pool: OffloadPool) -> None:
    """Check that every connection is back or gone."""
    statistics = pool.statistics()
    assert (statistics.in_use, statistics.waiting, statistics.blocking_calls) == (0, 0, 0)
    assert statistics.open == statistics.idle
    assert statistics.checkouts == statistics.checkins + sum(statistics.discards.values())


@pytest.mark.anyio
@pytest.mark.parametrize("chunk_size", [1, 7, 100, 101, 5000])
async def test_all_rows_in_order(chunk_size: int, mysql: MySQL) -> None:
    """Every row comes once, in order, whether or not the chunks divide the result evenly."""
    with pool_of(1, mysql.settings("mysql")) as pool:
        for last in (1, 99, 100):
            rows = [row async for row in pool.stream(f"SELECT seq FROM seq_1_to_{last}", chunk_size=chunk_size)]
            assert rows == [(number,) for number in range(1, last + 1)]
        assert [row async for row in pool.stream("SELECT 1 FROM DUAL WHERE 1 = %s", 2, chunk_size=chunk_size)] == []
        statistics = pool.statistics()
        assert (statistics.statements, statistics.checkins, statistics.discards) == (4, 4, {})
        accounted(pool)


@pytest.mark.anyio
async def test_a_chunk_is_one_fetch(mysql: MySQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are fetched in as many trips as there are chunks, and one that finds the end."""
    sizes: list[int] = []

    def spy(read: Step, chunks: Chunks) -> Any:
        rows = read(chunks)
        sizes.append(len(rows))
        return rows

    spied(monkeypatch, "read", spy)
    with pool_of(1, mysql.settings("mysql")) as pool:
        assert len([row async for row in pool.stream("SELECT seq FROM seq_1_to_250", chunk_size=100)]) == 250
        assert sizes == [100, 100, 50, 0]
        sizes.clear()
        assert len([row async for row in pool.stream("SELECT seq FROM seq_1_to_200", chunk_size=100)]) == 200
        assert sizes == [100, 100, 0]


@pytest.mark.anyio
@pytest.mark.parametrize("default", [Cursor, DictCursor, SSCursor, SSDictCursor])
async def test_the_shape_of_the_rows(default: Any, mysql: MySQL) -> None:
    """Rows are like the pool's cursor class makes them, or the one asked for, or what a row factory makes."""
    with pool_of(1, mysql.settings("mysql"), cursorclass=default) as pool:
        for cursor in (None, Cursor, DictCursor, SSCursor, SSDictCursor):
            row: Any = {"seq": 1} if (cursor or default) in (DictCursor, SSDictCursor) else (1,)
            assert [found async for found in pool.stream("SELECT seq FROM seq_1_to_1", cursor=cursor)] == [row]
        made = [row async for row in pool.stream("SELECT seq FROM seq_1_to_3", chunk_size=2, cursor=Numbered)]
        assert made == [Numbered(1), Numbered(2), Numbered(3)]
        accounted(pool)


@pytest.mark.anyio
@pytest.mark.parametrize("wanted", [1, 10, 25])
async def test_leaving_early_reads_no_more(wanted: int, mysql: MySQL) -> None:
    """Who leaves the loop has the connection's slot back at once; the other rows are not read."""
    with pool_of(1, mysql.settings("mysql")) as pool:
        assert await pool.fetch_value("SELECT 1") == 1
        seen: list[int] = []
        with watched_wire() as wire:
            async with aclosing(pool.stream(ENDLESS, chunk_size=10)) as rows:
                async for (number,) in rows:
                    seen.append(number)
                    if len(seen) == wanted:
                        break
            assert pool.statistics().in_use == 0
        assert [name for name, _ in wire.events].count("recv_into") < 200  # all of them take some thousands
        assert seen == list(range(1, wanted + 1))
        assert await pool.fetch_value("SELECT 'mine'") == "mine"
        accounted(pool)


@pytest.mark.anyio
async def test_a_body_that_raises_gives_the_connection_back(mysql: MySQL) -> None:
    """An error in the loop's body reaches the caller, and the slot is free."""
    with pool_of(1, mysql.settings("mysql")) as pool:
        with pytest.raises(LookupError, match="enough"):  # noqa: PT012  # the block as a whole is what fails
            async with aclosing(pool.stream(ENDLESS, chunk_size=10)) as rows:
                async for (number,) in rows:
                    if number == 15:
                        raise LookupError("enough")
        assert await pool.fetch_value("SELECT 'mine'") == "mine"
        accounted(pool)


@pytest.mark.anyio
@pytest.mark.parametrize("stage", ["executing", "fetching"])
async def test_a_cancellation_kills(stage: str, mysql: MySQL, database: dict[str, Any]) -> None:
    """A stream that is cancelled while the server works is killed, before its first row or between two."""
    query = {
        "executing": "SELECT SLEEP(30), seq FROM mysql.seq_1_to_3",
        # A row as large as the server's buffer for sending, then one that takes its time.
        "fetching": "SELECT IF(seq = 3, SLEEP(30), REPEAT('x', 100000)), seq FROM mysql.seq_1_to_3",
    }[stage]
    with pool_of(1, database) as pool:
        numbers: list[int] = []

        async def consume() -> None:
            async for row in pool.stream(query, chunk_size=1):
                numbers.append(row[1])  # noqa: PERF401  # what is seen before the end is what is tested
            numbers.append(-1)

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await settled(lambda: running(mysql, database, "SLEEP"))
            if stage == "fetching":
                # The reader of the third row is on the wire.
                await settled(lambda: numbers == [1, 2] and is_called(next(iter(core(pool).links))))
            group.cancel_scope.cancel()
        assert -1 not in numbers
        assert bool(numbers) is (stage == "fetching")
        await settled(lambda: not running(mysql, database, "SLEEP"))
        await settled(lambda: pool.statistics().in_use == 0)
        assert pool.statistics().kills == 1
        assert await pool.fetch_value("SELECT 'mine'") == "mine"
        accounted(pool)


@pytest.mark.anyio
async def test_cancelled_in_its_body(mysql: MySQL) -> None:
    """A stream whose consumer is cancelled in the loop's body gives its slot back."""
    with pool_of(1, mysql.settings("mysql")) as pool:
        inside = anyio.Event()

        async def consume() -> None:
            async with aclosing(pool.stream(ENDLESS, chunk_size=10)) as rows:
                async for _ in rows:
                    inside.set()
                    await anyio.sleep_forever()

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await inside.wait()
            group.cancel_scope.cancel()
        assert pool.statistics().in_use == 0
        assert await pool.fetch_value("SELECT 'mine'") == "mine"
        accounted(pool)


def explode(text: Any) -> int:
    number = int(text)
    if number == 25:
        raise LookupError("a converter that fails")
    return number


@pytest.mark.anyio
@pytest.mark.parametrize("chunk_size", [1, 10, 24, 25, 500])
@pytest.mark.parametrize("kind", ["server", "converter", "factory"])
async def test_an_error_comes_after_the_rows_before_it(kind: str, chunk_size: int, mysql: MySQL) -> None:
    """An error at row 25 is raised when the 24 rows before it were given out, however large the chunks are."""
    query = "SELECT seq FROM seq_1_to_3000"
    options: dict[str, Any] = {}
    cursor: Any = None
    expected: type[Exception] = LookupError
    if kind == "server":
        query = "SELECT IF(seq < 25, seq, (SELECT seq FROM seq_1_to_2)) FROM seq_1_to_3000"
        expected = pymysql.err.OperationalError
    elif kind == "converter":
        options["conv"] = {**pymysql.converters.conversions, pymysql.constants.FIELD_TYPE.LONGLONG: explode}
    else:

        def cursor(seq: int) -> tuple[int]:
            return (explode(seq),)

    with pool_of(1, mysql.settings("mysql"), **options) as pool:
        seen: list[int] = []
        with pytest.raises(expected) as caught:  # noqa: PT012  # the loop is what raises
            async for (number,) in pool.stream(query, chunk_size=chunk_size, cursor=cursor):
                seen.append(number)
        assert seen == list(range(1, 25))
        if kind == "server":
            assert caught.value.args[0] == 1242
            assert pool.statistics().discards == {}
        accounted(pool)
        assert await pool.fetch_value("SELECT 'mine'") == "mine"


@pytest.mark.anyio
async def test_a_lost_link_in_mid_stream(mysql: MySQL) -> None:
    """A link that breaks in mid-stream is an error, never an early end."""
    with pool_of(1, mysql.settings("mysql")) as pool:
        session = await pool.fetch_value("SELECT CONNECTION_ID()")
        seen = 0
        with pytest.raises(pymysql.err.OperationalError) as caught:  # noqa: PT012  # the loop is what raises
            async for _ in pool.stream(ENDLESS, chunk_size=100):
                seen += 1
                if seen == 150:
                    mysql.kill_connection(session)
        assert caught.value.args[0] in (2006, 2013, 1927, 1317)
        assert 150 <= seen < 3_000_000
        accounted(pool)
        assert await pool.fetch_value("SELECT 'mine'") == "mine"


@pytest.mark.anyio
async def test_lane_timeout_and_bad_input(mysql: MySQL) -> None:
    """A stream counts against its lane, keeps the pool's timeout for each trip, and refuses what cannot be meant."""
    lanes = [Lane("reports", 1, checkout_timeout=0.05)]
    with pool_of(2, mysql.settings("mysql"), lanes=lanes, statement_timeout=0.2) as pool:
        async with aclosing(pool.stream(ENDLESS, lane="reports")) as rows:
            assert await rows.__anext__() == (1,)
            assert pool.statistics().lanes["reports"].in_use == 1
            with pytest.raises(CheckoutTimeout):
                await pool.fetch_value("SELECT 1", lane="reports")
        for chunk_size in (0, -1, 1.5, None):
            with pytest.raises(ConfigurationError, match="chunk_size"):
                pool.stream("SELECT 1", chunk_size=cast("Any", chunk_size))
        with pytest.raises(pymysql.err.ProgrammingError):
            [row async for row in pool.stream("SELEC 1")]
        with pytest.raises(StatementTimeout):
            [row async for row in pool.stream("SELECT SLEEP(30)")]
        assert [row async for row in pool.stream("DO 1")] == []
        accounted(pool)


@pytest.mark.anyio
async def test_side_by_side(mysql: MySQL) -> None:
    """Many streams over few connections give each consumer its own rows."""
    with pool_of(3, mysql.settings("mysql")) as pool:

        async def consume(number: int) -> int:
            query = "SELECT seq, %s FROM seq_1_to_300"
            rows = [row async for row in pool.stream(query, (number,), chunk_size=11)]
            assert rows == [(seq, number) for seq in range(1, 301)]
            return number

        numbers = list(range(12))
        assert await together(*[_bound(consume, number) for number in numbers]) == numbers
        assert pool.statistics().checkins == 12
        accounted(pool)


def _bound(function: Any, *args: Any) -> Any:
    async def call() -> Any:
        return await function(*args)

    return call


@pytest.mark.anyio
async def test_memory_stays_flat(mysql: MySQL) -> None:
    """100,000 rows are streamed in the memory of a few chunks."""
    query = "SELECT seq, REPEAT('x', 100) FROM seq_1_to_100000"
    with pool_of(1, mysql.settings("mysql")) as pool:
        assert await pool.fetch_value("SELECT 1") == 1
        read, peak = 0, None
        async for _ in pool.stream(query):
            read += 1
            if read == 10_000:
                tracemalloc.start()
            elif read == 40_000:
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()  # it is slow, and by now anything that is kept would show
        assert read == 100_000
        assert peak is not None
        assert peak < 1_500_000, "30,000 rows take more than 6 MB if they are kept"
        accounted(pool)


@pytest.mark.anyio
async def test_who_iterates_on_in_another_session(mysql: MySQL, database: dict[str, Any]) -> None:
    """A stream holds one connection, and its consumer may use others between two rows."""
    with mysql.connect(**database) as plain, plain.cursor() as cursor:
        cursor.execute("CREATE TABLE t (a INT)")
        with pool_of(2, database) as pool:
            async for (number,) in pool.stream("SELECT seq FROM mysql.seq_1_to_20", chunk_size=3):
                await pool.execute("INSERT INTO t VALUES (%s)", number)
            assert value(plain, "SELECT SUM(a) FROM t") == 210
            accounted(pool)


# After two rows that fill the server's buffer for sending, one that takes its time.
SLOW_THIRD_ROW = "SELECT IF(seq = 3, SLEEP(30), REPEAT('x', 100000)), seq FROM mysql.seq_1_to_3"


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["break", "error", "cancelled between two rows", "cursor"])
async def test_leaving_early_kills_what_still_runs(how: str, mysql: MySQL, database: dict[str, Any]) -> None:
    """A statement that the server still works for when its rows are given up is killed, and nobody waits for it."""
    with pool_of(1, database) as pool:
        scope = anyio.CancelScope()

        async def leave() -> None:
            if how == "cursor":
                async with pool.acquire() as connection, connection.cursor(SSCursor) as cursor:
                    await cursor.execute(SLOW_THIRD_ROW)
                    assert (await cursor.fetchone())[1] == 1
                    return
            async with aclosing(pool.stream(SLOW_THIRD_ROW, chunk_size=1)) as rows:
                async for _, number in rows:
                    await settled(lambda: running(mysql, database, "SLEEP"))
                    if number == 2 and how == "error":
                        raise LookupError
                    if number == 2 and how == "break":
                        break
                    if number == 2:
                        scope.cancel()
                        await anyio.sleep_forever()

        started = time.monotonic()
        with scope:
            try:
                await leave()
            except LookupError:
                assert how == "error"
        assert pool.statistics().in_use == 0
        assert time.monotonic() - started < 20, "the third row was waited for"
        await settled(lambda: not running(mysql, database, "SLEEP"), timeout=5)
        assert pool.statistics().kills == 1
        assert await pool.fetch_value("SELECT 'mine'") == "mine"
        accounted(pool)


@pytest.mark.anyio
async def test_who_leaves_streams_by_break_can_go_on_at_once(mysql: MySQL, anyio_backend_name: str) -> None:
    """The connections of streams that were left are on their way back: who waits for one of them gets it."""
    if anyio_backend_name == "trio":
        pytest.skip("trio complains of a generator that is dropped")
    with pool_of(2, mysql.settings("mysql")) as pool:
        for _ in range(5):
            async for (number,) in pool.stream("SELECT seq FROM seq_1_to_100000", chunk_size=10):
                assert number == 1
                break
            async for _ in pool.stream("SELECT seq FROM seq_1_to_100000", chunk_size=10):
                break
            assert await pool.fetch_value("SELECT 5") == 5
        async with aclosing(pool.stream("SELECT 1 UNION SELECT 2")) as rows, aclosing(pool.stream("SELECT 3")) as more:
            assert [await anext(rows), await anext(more)] == [(1,), (3,)]
            with pytest.raises(CheckoutTimeout):  # of streams that go on there is no hope
                await pool.fetch_value("SELECT 6")
        await settled(lambda: pool.statistics().in_use == 0)
        accounted(pool)


@pytest.mark.anyio
async def test_a_kill_that_comes_when_the_last_rows_are_read(mysql: MySQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a server keeps such a kill for the next statement, it meets one that is sent for that alone."""
    reading, killing = threading.Event(), threading.Event()
    absorbed: list[Any] = []

    def last_rows(some: Step, chunks: Chunks) -> Any:
        if reading.is_set() or rows_read(chunks):
            reading.set()
            assert killing.wait(20)
        return some(chunks)

    with pool_of(1, mysql.settings("mysql")) as pool:
        await pool.fetch_value("SELECT 1")
        (link,) = core(pool).links
        assert link.identity is not None
        link.identity = replace(link.identity, by_query=False)

        def kill(*_: Any) -> bool:
            killing.set()
            until(lambda: not link.busy)
            return True

        spied(monkeypatch, "some", last_rows)
        monkeypatch.setattr(type(link.driver), "kill", kill)
        monkeypatch.setattr(type(link.driver), "absorb", lambda _, raw: absorbed.append(raw))
        async with aclosing(pool.stream("SELECT seq FROM seq_1_to_150", chunk_size=100)) as rows:
            async for _ in rows:
                await settled(reading.is_set)
                break
        await settled(lambda: pool.statistics().in_use == 0)
        assert pool.statistics().discards == {}
        assert absorbed == [link.raw]
        accounted(pool)


@pytest.mark.anyio
async def test_others_have_a_turn_for_each_chunk(mysql: MySQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tasks run between any two chunks, also where the next one is always there when it is asked for."""
    turns = 0

    def at_once(start: Step, chunks: Chunks) -> Any:
        trip = start(chunks)
        until(lambda: trip.back)
        return trip

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    with pool_of(1, mysql.settings("mysql")) as pool:
        seen: list[int] = []
        async with anyio.create_task_group() as group:
            group.start_soon(other)
            await settled(lambda: turns)
            spied(monkeypatch, "start", at_once)
            async for (number,) in pool.stream("SELECT seq FROM seq_1_to_1000", chunk_size=50):
                if number % 50 == 1:
                    seen.append(turns)
            group.cancel_scope.cancel()
        assert len(seen) == 20
        # In each of its rounds trio runs the tasks in another order.
        assert all(before < after for before, after in zip(seen, seen[2:], strict=False)), "no turn between chunks"
        accounted(pool)


@pytest.mark.anyio
async def test_a_cancellation_comes_through_between_chunks(mysql: MySQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who never waits between two rows is cancelled before the next chunk all the same, and the connection is back."""

    def at_once(start: Step, chunks: Chunks) -> Any:
        trip = start(chunks)
        until(lambda: trip.back)
        return trip

    spied(monkeypatch, "start", at_once)
    with pool_of(1, mysql.settings("mysql")) as pool:
        read = 0
        with anyio.CancelScope() as scope:
            async with aclosing(pool.stream("SELECT seq FROM seq_1_to_1000", chunk_size=50)) as rows:
                async for _ in rows:
                    read += 1
                    if read == 60:
                        scope.cancel()
        assert getattr(scope, "cancelled_caught", True)  # which anyio 3 does not tell
        assert read == 100
        await settled(lambda: pool.statistics().in_use == 0)
        accounted(pool)


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["iterating", "fetchone", "fetchmany"])
async def test_others_have_their_turn_while_buffered_rows_are_fetched(how: str, mysql: MySQL) -> None:
    """Rows that need no waiting for are not given out for long without a turn for others."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    seen: list[int] = []
    with pool_of(1, mysql.settings("mysql")) as pool:
        async with pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute("SELECT seq FROM seq_1_to_1000")
            async with anyio.create_task_group() as group:
                group.start_soon(other)
                await settled(lambda: turns)
                if how == "iterating":
                    async for (number,) in cursor:
                        if number % 200 == 0:
                            seen.append(turns)
                elif how == "fetchone":
                    while (row := await cursor.fetchone()) is not None:
                        if row[0] % 200 == 0:
                            seen.append(turns)
                else:
                    while rows := await cursor.fetchmany(200):
                        assert len(rows) == 200
                        seen.append(turns)
                group.cancel_scope.cancel()
    assert len(seen) == 5
    assert all(before < after for before, after in zip(seen, seen[2:], strict=False))
