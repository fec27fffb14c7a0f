"""Claims about rows that a cursor has not fetched yet: what is read ahead, and who holds the connection meanwhile."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import pymysql
import pytest
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions
from pymysql.cursors import Cursor, DictCursor, SSCursor

import offload_db
from offload_db import ConnectionClosed, OffloadPool, offload
from tests.conftest import MySQL
from tests.connection.inside import drivers_cursor
from tests.connection.statements import MILLION, count_to
from tests.support import (
    PATIENCE,
    PLACES,
    QUICK,
    attempt,
    in_thread,
    pool_of,
    run_at,
    settled,
    value,
    watched_wire,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def pool(settings: dict[str, Any]) -> Iterator[OffloadPool]:
    with pool_of(1, settings) as pool:
        yield pool


async def test_rows_that_have_arrived_cost_no_trip(pool: OffloadPool) -> None:
    """Reading an unbuffered result row by row takes far fewer trips than rows, also in the bridge."""

    @offload
    async def handler() -> int:
        with pool.connection() as connection, connection.cursor(SSCursor) as cursor:
            cursor.execute(count_to(900, 20))
            return sum(1 for _ in cursor)

    assert await handler() == 900
    assert pool.statistics().hops < 90


async def test_reading_ahead_waits_for_no_row(pool: OffloadPool, mysql: MySQL) -> None:
    """A row is given out when it has arrived, though the next one takes the server for ever."""
    started = threading.Event()

    @offload
    async def handler() -> Any:
        with pool.connection() as connection:
            cursor = connection.cursor(SSCursor)
            # The server sends what fills its buffer of 16 kB before it comes to the row that takes long.
            cursor.execute(f"SELECT n, IF(n < 4, REPEAT('x', 17000), SLEEP(60)) FROM ({count_to(4)}) slow")
            first = cursor.fetchone()
            started.set()
            mysql.kill_connection(connection.thread_id())
            return first[0]

    with anyio.fail_after(30):
        assert await handler() == 1


async def test_few_rows_left_keep_the_connection(pool: OffloadPool) -> None:
    """Closing an unbuffered cursor early reads few rows to the end; the connection goes back to the pool."""

    @offload
    async def handler() -> None:
        with pool.connection() as connection:
            with connection.cursor(SSCursor) as cursor:
                cursor.execute(count_to(100))
                assert cursor.fetchone() == (1, "x")
            assert value(connection, "SELECT 42") == 42

    await handler()
    assert pool.statistics().idle == 1
    assert dict(pool.statistics().discards) == {}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", ["close", "drop", "leave"])
async def test_many_rows_left_are_not_read(pool: OffloadPool, how: str, place: str) -> None:
    """Giving back a connection in the middle of a million rows throws it out, without reading them."""

    def use() -> int:
        connection = pool.connection()
        cursor = connection.cursor(SSCursor)
        cursor.execute(MILLION)
        cursor.fetchmany(3)
        wire.clear()
        if how == "close":
            cursor.close()
        elif how == "drop":
            del cursor
        connection.close()
        return len(wire.events)

    with watched_wire() as wire:
        assert await run_at(place, use) < 200  # the whole takes thousands of reads
        assert not wire.on(threading.get_ident())
    assert dict(pool.statistics().discards) == {"abandoned_result": 1}
    assert await run_at(place, lambda: value(pool.connection(), "SELECT 1")) == 1


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", ["close", "drop"])
async def test_a_statement_after_an_early_close_goes_through(pool: OffloadPool, how: str, place: str) -> None:
    """After an unbuffered cursor was closed or dropped early, the next statement gets its own answer, unwarned."""

    def use() -> Any:
        with pool.connection() as connection:
            cursor = connection.cursor(SSCursor)
            cursor.execute(count_to(900, 50))
            cursor.fetchmany(3)
            if how == "close":
                cursor.close()
            else:
                del cursor
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                connection.commit()
                return value(connection, "SELECT 42"), connection.thread_id() == value(
                    connection, "SELECT CONNECTION_ID()"
                )

    assert await run_at(place, use) == (42, True)
    assert dict(pool.statistics().discards) == {}


async def test_dropping_does_no_io(pool: OffloadPool) -> None:
    """A finaliser of an unfinished cursor or its connection neither sends nor reads, also in a reference cycle."""

    @offload
    async def handler(cycle: bool) -> int:
        connection = pool.connection()
        cursor = connection.cursor(SSCursor)
        cursor.execute(MILLION)
        cursor.fetchmany(3)
        wire.clear()
        if cycle:
            ring: list[Any] = [connection, cursor]
            ring.append(ring)
            del ring
        del cursor, connection
        gc.collect()
        return len(wire.events)

    with watched_wire() as wire:
        assert await handler(False) == 0
        assert await handler(True) == 0
        gc.collect()
        assert not wire.on(threading.get_ident())
    assert dict(pool.statistics().discards) == {"abandoned_result": 2}
    assert pool.statistics().in_use == 0


async def test_dropping_an_unpooled_connection_does_no_io(settings: dict[str, Any], mysql: MySQL) -> None:
    """The same holds for a connection that belongs to no pool, and the server sees it go."""

    @offload
    async def handler() -> int:
        connection = offload_db.connect(**{**QUICK, **settings})
        session: int = connection.thread_id()
        cursor = connection.cursor(SSCursor)
        cursor.execute(MILLION)
        wire.clear()
        ring: list[Any] = [connection, cursor]
        ring.append(ring)
        del ring, cursor, connection
        gc.collect()
        assert wire.events == []
        return session

    with watched_wire() as wire:
        session = await handler()
    await settled(lambda: session not in [row["ID"] for row in mysql.process_list()])


async def test_a_converter_error_comes_at_its_row(settings: dict[str, Any]) -> None:
    """Rows before one that a converter refuses are given out; then the error is raised, and the connection is done."""

    def refuse(text: str) -> int:
        if text == "50":
            raise ZeroDivisionError(text)
        return int(text)

    for place in PLACES:
        for kind in (SSCursor, Cursor):
            with pool_of(1, settings, conv={**conversions, FIELD_TYPE.LONGLONG: refuse}) as pool:
                shown = await run_at(place, partial(_read_until_refused, pool, kind))
                assert shown == (49 if kind is SSCursor else 0)
                assert dict(pool.statistics().discards) == {"driver_error": 1}


def _read_until_refused(pool: OffloadPool, kind: Any) -> int:
    read = 0
    with pool.connection() as connection, connection.cursor(kind) as cursor:
        shown = attempt(cursor.execute, f"SELECT CAST(n AS SIGNED) FROM ({count_to(100)}) c")
        while kind is SSCursor and isinstance((shown := attempt(cursor.fetchone))[0], int):
            read += 1
        assert shown == ("ZeroDivisionError", ("50",))
        with pytest.raises(ConnectionClosed):
            cursor.execute("SELECT 1")
    return read


async def test_closing_in_a_cancelled_scope_works(pool: OffloadPool) -> None:
    """``finally: cursor.close(); conn.close()`` in a cancelled scope gives a connection back in the middle of rows."""

    @offload
    async def handler() -> None:
        connection = pool.connection()
        cursor = connection.cursor(SSCursor)
        try:
            cursor.execute(count_to(900, 50))
            cursor.fetchone()
            scope.cancel()
            await anyio.sleep(60)
        finally:
            cursor.close()
            connection.close()
            after.append(connection.open)

    after: list[bool] = []
    with anyio.CancelScope() as scope:
        await handler()
    assert after == [False]
    assert pool.statistics().in_use == 0
    assert await run_at("bridge", lambda: value(pool.connection(), "SELECT 1")) == 1


async def test_closed_cursors_do_not_hold_the_connection(pool: OffloadPool) -> None:
    """A dropped connection comes back though closed cursors of it are kept, and their rows stay."""

    @offload
    async def handler() -> Any:
        connection = pool.connection()
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        cursor.close()
        del connection
        return cursor

    cursor = await handler()
    gc.collect()
    assert pool.statistics().in_use == 0
    assert cursor.fetchall() == ((1,),)


@pytest.mark.parametrize("fetch", ["fetchone", "fetchall"])
async def test_a_closed_unbuffered_cursor_is_no_cycle(pool: OffloadPool, fetch: str) -> None:
    """What an unbuffered cursor took up is free as soon as it is closed and dropped, without the garbage collector."""

    def work() -> weakref.ref[Any]:
        with pool.connection() as connection, connection.cursor(SSCursor) as cursor:
            cursor.execute("SELECT 1 UNION SELECT 2")
            getattr(cursor, fetch)()
            return weakref.ref(drivers_cursor(cursor))

    gc.disable()
    try:  # not in a worker: those of anyio 3 hold their last job until the next one
        assert in_thread(work).result(PATIENCE)() is None
    finally:
        gc.enable()


async def test_open_cursors_hold_the_connection(pool: OffloadPool) -> None:
    """``pool.connection().cursor()`` works on, as in PyMySQL; closing or dropping the cursor gives it back."""

    @offload
    async def handler(close: bool) -> Any:
        cursor = pool.connection().cursor()
        gc.collect()
        cursor.execute("SELECT 1")
        assert pool.statistics().in_use == 1
        if close:
            cursor.close()
            return cursor.fetchall()
        return cursor.fetchone()

    assert await handler(True) == ((1,),)
    assert await handler(False) == (1,)
    gc.collect()
    assert pool.statistics().in_use == 0


@pytest.mark.parametrize("kind", [Cursor, SSCursor])
async def test_errors_after_the_connection_was_closed(pool: OffloadPool, kind: Any) -> None:
    """A cursor whose connection is closed raises what except clauses for PyMySQL and for DBUtils both catch."""

    @offload
    async def handler() -> None:
        connection = pool.connection()
        cursor = connection.cursor(kind)
        cursor.execute(count_to(3))
        connection.close()
        for call in (
            partial(cursor.execute, "SELECT 1"),
            partial(cursor.callproc, "p"),
            partial(cursor.executemany, "x", [1]),
        ):
            with pytest.raises(ConnectionClosed) as caught:
                call()
            assert caught.value.args[0] == 0
        if kind is SSCursor:  # rows that can't be had any more are not the end of the result
            with pytest.raises(ConnectionClosed):
                cursor.fetchone()
        cursor.close()
        with pytest.raises(pymysql.err.ProgrammingError, match="Cursor closed"):
            cursor.execute("SELECT 1")

    await handler()


async def test_buffered_rows_need_no_trip(pool: OffloadPool) -> None:
    """Fetching from a buffered cursor, scrolling and closing it stay on the loop's thread."""

    @offload
    async def handler() -> None:
        with pool.connection() as connection:
            cursor = connection.cursor(DictCursor)
            cursor.execute(count_to(10))
            before = pool.statistics().hops
            cursor.fetchone()
            cursor.fetchmany(3)
            cursor.scroll(-2)
            cursor.fetchall()
            cursor.nextset()
            cursor.mogrify("%s", (1,))
            cursor.close()
            assert pool.statistics().hops == before

    await handler()
