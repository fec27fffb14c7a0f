"""Claims about results that are left unread when a connection comes back: what may still write comes to its end."""

from __future__ import annotations

import _thread
import asyncio
import gc
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anyio
import pymysql
import pytest
from pymysql.cursors import Cursor, SSCursor

import offload_db
from offload_db import BlockingCallError, OffloadPool, StatementTimeout, aio, offload
from offload_db.connection import physical
from offload_db.drivers.only_reads import only_reads
from tests.conftest import MySQL, needs
from tests.procedures import WRITTEN, with_procedures, written
from tests.support import (
    PLACES,
    QUICK,
    in_thread,
    outcome,
    pool_of,
    run_at,
    running,
    settled,
    until,
    value,
    watched_wire,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(mysql: MySQL, database: dict[str, Any]) -> dict[str, Any]:
    return with_procedures(mysql, database)


@pytest.fixture
def pool(settings: dict[str, Any]) -> Iterator[OffloadPool]:
    with pool_of(1, settings) as pool:
        yield pool


@pytest.mark.parametrize(
    ("procedure", "kind", "place"),
    [
        ("quiet", Cursor, "bridge"),
        ("talkative", Cursor, "bridge"),
        ("talkative", SSCursor, "bridge"),
        ("wide", SSCursor, "bridge"),
        ("talkative", Cursor, "thread"),
        ("talkative", SSCursor, "plain"),
        ("quiet", Cursor, "plain"),
    ],
)
async def test_a_procedure_comes_to_its_end(
    procedure: str, kind: Any, place: str, pool: OffloadPool, settings: dict[str, Any]
) -> None:
    """A procedure of which only the beginning of its first result was fetched has done everything after close()."""

    def use() -> None:
        connection = pool.connection()
        cursor = connection.cursor(kind)
        cursor.execute(f"CALL {procedure}()")
        cursor.fetchone()
        connection.close()

    await run_at(place, use)
    assert written(settings) == WRITTEN[procedure]
    statistics = pool.statistics()
    assert (statistics.kills, dict(statistics.discards), statistics.idle) == (0, {}, 1)
    assert await pool.fetch_value("SELECT 'mine'") == "mine"


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        ("cursor closed", SSCursor),
        ("cursor dropped", SSCursor),
        ("cursor dropped", Cursor),
        ("rollback", SSCursor),
        ("rollback", Cursor),
        ("callproc", Cursor),
        ("query", SSCursor),
    ],
)
async def test_whichever_way_it_is_left(way: str, kind: Any, pool: OffloadPool, settings: dict[str, Any]) -> None:
    """It comes to its end whatever was done with its cursor, and after an explicit rollback, which undoes nothing."""

    @offload
    async def handler() -> None:
        with pool.connection() as connection:
            cursor = connection.cursor(kind)
            if way == "query":
                connection.query("CALL talkative()", kind is SSCursor)
                return
            if way == "callproc":
                cursor.callproc("talkative")
            else:
                cursor.execute("CALL talkative()")
            if way == "cursor closed":
                cursor.close()
            elif way == "cursor dropped":
                del cursor
            elif way == "rollback":
                connection.rollback()

    await handler()
    assert written(settings) == WRITTEN["talkative"]
    assert (pool.statistics().kills, dict(pool.statistics().discards)) == (0, {})


WRITING = {
    "several statements": ("SELECT 1; INSERT INTO t VALUES (1); INSERT INTO t VALUES (-1)", (2, 1)),
    "returning": ("INSERT INTO t SELECT IF(seq = 5000, -1, seq) FROM mysql.seq_1_to_5000 RETURNING a", (5000, 1)),
    "a function": ("SELECT noted(IF(seq = 500, -1, seq)), REPEAT('x', 1000) FROM mysql.seq_1_to_500", (500, 1)),
    "a compound": ("BEGIN NOT ATOMIC SELECT 1; INSERT INTO t VALUES (1); INSERT INTO t VALUES (-1); END", (2, 1)),
}


@pytest.mark.parametrize(("what", "autocommit"), [*((what, True) for what in WRITING), ("returning", False)])
async def test_what_else_may_write(what: str, autocommit: bool, settings: dict[str, Any]) -> None:
    """So does everything else that may still write while its rows come; with autocommit off it is rolled back then."""
    text, result = WRITING[what]
    with pool_of(1, settings, autocommit=autocommit) as pool:

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                cursor = connection.cursor(SSCursor)
                cursor.execute(text)
                assert cursor.fetchone() is not None

        await handler()
        assert written(settings) == (result if autocommit else (0, 0))
        assert (pool.statistics().kills, dict(pool.statistics().discards)) == (0, {})


async def test_rows_that_only_read_are_cut_off(pool: OffloadPool) -> None:
    """The rest of what only reads is not waited for."""

    @offload
    async def handler() -> None:
        with pool.connection() as connection:
            cursor = connection.cursor(SSCursor)
            cursor.execute("/* a report */ SELECT IF(seq > 0, 'x', 'y'), seq FROM mysql.seq_1_to_3000000")
            cursor.fetchone()

    await handler()
    assert dict(pool.statistics().discards) == {"abandoned_result": 1}


@pytest.mark.parametrize("place", PLACES)
async def test_calls_cost_nothing(place: str, pool: OffloadPool, settings: dict[str, Any]) -> None:
    """Fifty calls whose cursor is never closed need one connection, and no other to kill with."""

    def use() -> set[int]:
        sessions = set()
        for _ in range(50):
            connection = pool.connection()
            cursor = connection.cursor()
            cursor.execute("CALL short()")
            assert cursor.fetchall() == ((1,),)
            sessions.add(connection.thread_id())
            connection.close()
        return sessions

    assert len(await run_at(place, use)) == 1
    statistics = pool.statistics()
    assert (statistics.kills, dict(statistics.discards), statistics.checkins) == (0, {}, 50)


async def test_a_dropped_connection(pool: OffloadPool, settings: dict[str, Any]) -> None:
    """A connection that is dropped is read to the end on a thread of its own, without I/O in the finaliser."""

    @offload
    async def handler() -> None:
        connection = pool.connection()
        cursor = connection.cursor()
        cursor.execute("CALL talkative()")
        ring: list[Any] = [connection, cursor]
        ring.append(ring)
        del ring, cursor, connection
        started = time.monotonic()
        gc.collect()
        assert time.monotonic() - started < 0.1, "the finaliser waited for the server"
        assert pool.statistics().in_use == 1

    gc.collect()
    gc.freeze()  # what other tests have left would take its time to be looked through
    try:
        await handler()
    finally:
        gc.unfreeze()
    await settled(lambda: pool.statistics().in_use == 0)
    assert written(settings) == WRITTEN["talkative"]
    statistics = pool.statistics()
    assert (statistics.kills, dict(statistics.discards), statistics.idle) == (0, {}, 1)


async def test_dropping_a_cursor_does_no_io(pool: OffloadPool, settings: dict[str, Any]) -> None:
    """An unbuffered cursor whose rows are all fetched is dropped without reading the results that follow."""

    @offload
    async def handler() -> None:
        with pool.connection() as connection:
            cursor = connection.cursor(SSCursor)
            cursor.execute("CALL talkative()")
            assert cursor.fetchall() == [("started",)]
            wire.clear()
            del cursor
            gc.collect()
            assert wire.events == []

    with watched_wire() as wire:
        await handler()
        assert not wire.on(threading.get_ident())
    assert written(settings) == WRITTEN["talkative"]
    assert (pool.statistics().kills, dict(pool.statistics().discards)) == (0, {})


@pytest.mark.parametrize("policy", ["allow", "raise"])
async def test_on_the_loops_own_thread(policy: Any, settings: dict[str, Any]) -> None:
    """Closing where it blocks the loop reads on there, or raises before, and then another thread reads on."""
    with pool_of(1, settings, on_loop_call=policy) as pool:
        connection = await run_at("plain", pool.connection)

        def call() -> Any:
            cursor = connection.cursor()
            cursor.execute("CALL quiet()")
            return cursor

        cursor = await run_at("plain", call)
        if policy == "raise":
            with pytest.raises(BlockingCallError):
                connection.close()
        else:
            connection.close()
            assert pool.statistics().blocking_calls == 2  # reading on, and putting the session in order
        await settled(lambda: pool.statistics().in_use == 0)
        assert written(settings) == WRITTEN["quiet"]
        assert (pool.statistics().kills, dict(pool.statistics().discards)) == (0, {})
        assert cursor.fetchall() == (("started",),)


async def test_in_a_cancelled_scope(pool: OffloadPool, settings: dict[str, Any]) -> None:
    """``finally: cursor.close(); conn.close()`` in a cancelled scope does not kill it either."""

    @offload
    async def handler() -> None:
        with anyio.CancelScope() as scope:
            connection = pool.connection()
            cursor = connection.cursor()
            try:
                cursor.execute("CALL talkative()")
                scope.cancel()
                await anyio.sleep_forever()
            finally:
                cursor.close()
                connection.close()

    await handler()
    assert written(settings) == WRITTEN["talkative"]
    assert (pool.statistics().kills, dict(pool.statistics().discards)) == (0, {})


async def test_cancelled_while_it_is_read_to_its_end(pool: OffloadPool, mysql: MySQL, settings: dict[str, Any]) -> None:
    """A task that is cancelled while its connection is being read to the end waits for that, and is cancelled then."""
    executed: list[bool] = []

    @offload
    async def handler() -> None:
        connection = pool.connection()
        connection.cursor().execute("CALL quiet()")
        executed.append(True)
        connection.close()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(handler)
        await settled(lambda: executed and running(mysql, settings, "SLEEP"))
        group.cancel_scope.cancel()
    assert written(settings) == WRITTEN["quiet"]
    assert (pool.statistics().kills, pool.statistics().in_use) == (0, 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancelled_before_it_is_read_to_its_end(pool: OffloadPool, settings: dict[str, Any]) -> None:
    """Where asyncio's own ``task.cancel()`` keeps the task from reading, another thread does."""

    @offload
    async def handler() -> None:
        connection = pool.connection()
        connection.cursor().execute("CALL talkative()")
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        connection.close()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(handler())
    await settled(lambda: pool.statistics().in_use == 0)
    assert written(settings) == WRITTEN["talkative"]
    assert (pool.statistics().kills, dict(pool.statistics().discards)) == (0, {})


@pytest.mark.parametrize("how", ["dropped", "refused"])
async def test_without_another_thread(how: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be had for it the connection is closed without a kill, and counted."""

    def none_left(*_: Any) -> int:
        raise RuntimeError("can't start new thread")

    with pool_of(1, settings, on_loop_call="raise") as pool:
        connection: Any = await run_at("plain", pool.connection)
        await run_at("plain", lambda: connection.cursor().execute("CALL quiet()"))
        monkeypatch.setattr(_thread, "start_new_thread", none_left)
        if how == "refused":
            with pytest.raises(BlockingCallError):
                connection.close()
        connection = None
        gc.collect()
        monkeypatch.undo()
        statistics = pool.statistics()
        assert (statistics.in_use, statistics.kills, dict(statistics.discards)) == (0, 0, {"unread_result": 1})
        await settled(lambda: written(settings) == WRITTEN["quiet"])  # it had nothing more to send


@pytest.mark.parametrize("how", ["leave", "release", "dropped", "ensure_closed", "unpooled"])
async def test_the_awaitable_surface(how: str, pool: OffloadPool, settings: dict[str, Any]) -> None:
    """An awaitable connection that is given back or closed, in whichever way, is read to the end as well."""
    if how == "unpooled":
        known = {"host", "port", "user", "password"}
        database = {name: settings[name] for name in known}
        connection = await aio.connect(**database, db=settings["database"], autocommit=True)
        await (await connection.cursor()).execute("CALL talkative()")
        await connection.ensure_closed()
    elif how == "leave":
        async with pool.acquire() as connection:
            await (await connection.cursor()).execute("CALL talkative()")
    else:
        connection = await pool.acquire()
        await (await connection.cursor()).execute("CALL talkative()")
        if how == "release":
            await pool.release(connection)
        elif how == "ensure_closed":
            await connection.ensure_closed()
        else:
            del connection
            gc.collect()
            await settled(lambda: pool.statistics().in_use == 0)
    assert written(settings) == WRITTEN["talkative"]
    assert pool.statistics().kills == 0
    assert dict(pool.statistics().discards) == ({"closed": 1} if how == "ensure_closed" else {})


async def test_a_failed_transaction_does_not_wait_for_it(pool: OffloadPool, settings: dict[str, Any]) -> None:
    """A transaction block that ends with an error kills what it has called, which is rolled back with the rest."""

    async def use() -> None:
        async with pool.transaction() as connection:
            cursor = await connection.cursor()
            await cursor.execute("INSERT INTO t VALUES (1)")
            await cursor.execute("CALL endless()")
            raise LookupError

    with anyio.fail_after(15), pytest.raises(LookupError):
        await use()
    assert written(settings) == (0, 0)
    assert await pool.fetch_value("SELECT 'mine'") == "mine"


@pytest.mark.parametrize("place", PLACES)
async def test_an_unpooled_connection(place: str, settings: dict[str, Any]) -> None:
    """Closing a connection that belongs to no pool lets it come to its end, too."""

    def use() -> None:
        connection = offload_db.connect(**{**QUICK, **settings})
        connection.cursor().execute("CALL talkative()")
        connection.close()
        assert not connection.open

    await run_at(place, use)
    assert written(settings) == WRITTEN["talkative"]


@needs("sqlalchemy")
@pytest.mark.parametrize("options", [{}, {"isolation_level": "AUTOCOMMIT"}], ids=["transaction", "autocommit"])
async def test_sqlalchemy(options: dict[str, Any], pool: OffloadPool, settings: dict[str, Any]) -> None:
    """A raw connection of SQLAlchemy's comes to its end as well; without a commit it is rolled back then."""
    from offload_db.contrib.sqlalchemy import create_engine

    engine = create_engine(pool, **options)

    @offload
    async def handler() -> None:
        connection = engine.raw_connection()
        connection.cursor().execute("CALL talkative()")
        connection.close()

    await handler()
    await run_at("plain", engine.dispose)
    assert written(settings) == (WRITTEN["talkative"] if options else (0, 0))
    assert pool.statistics().kills == 0


async def test_the_end_of_the_pool_waits_for_it(mysql: MySQL, settings: dict[str, Any]) -> None:
    """``aclose()`` and ``close()`` let it come to its end, and close the connection then."""
    with pool_of(2, settings) as pool:
        connections = [await run_at("plain", pool.connection) for _ in range(2)]
        await run_at("plain", lambda: connections[0].cursor().execute("CALL quiet()"))
        closing = in_thread(connections[0].close)
        await settled(lambda: running(mysql, settings, "SLEEP"))
        await run_at("plain", lambda: connections[1].cursor().execute("CALL talkative()"))
        pool.close()
        await run_at("plain", connections[1].close)
        await pool.aclose()
        await outcome(closing)
        assert written(settings) == (4002, 2)
        assert (pool.statistics().kills, pool.statistics().open) == (0, 0)


async def test_a_reason_to_throw_the_connection_out(settings: dict[str, Any]) -> None:
    """A connection that is to be replaced anyway is read to its end before."""
    with pool_of(1, settings, maxusage=1) as pool:
        connection = await run_at("plain", pool.connection)
        await run_at("plain", lambda: connection.cursor().execute("CALL talkative()"))
        await run_at("plain", connection.close)
        assert written(settings) == WRITTEN["talkative"]
        assert dict(pool.statistics().discards) == {"maxusage": 1}


@pytest.mark.parametrize("bound", ["seconds", "bytes"])
async def test_it_is_bounded(
    bound: str,
    mysql: MySQL,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is read for so long, and so much of it, and then the link is closed; no kill is sent, and the log says so."""
    monkeypatch.setattr(physical, "READ_OUT_SECONDS", 0.2 if bound == "seconds" else 20.0)
    monkeypatch.setattr(physical, "READ_OUT_BYTES", 2**20)
    with pool_of(1, settings) as pool, caplog.at_level(logging.WARNING, "offload_db"):

        @offload
        async def handler() -> None:
            connection = pool.connection()
            connection.cursor().execute(f"CALL {'endless' if bound == 'seconds' else 'large'}()")
            connection.close()

        with anyio.fail_after(10):
            await handler()
        assert "was not read to its end" in caplog.text
        statistics = pool.statistics()
        assert (statistics.kills, dict(statistics.discards), statistics.in_use) == (0, {"unread_result": 1}, 0)
        for session in running(mysql, settings, "SLEEP"):
            mysql.kill_connection(session)
        assert await pool.fetch_value("SELECT 'mine'") == "mine"


@pytest.mark.parametrize("place", PLACES)
async def test_a_limit_of_the_pool_kills(place: str, mysql: MySQL, settings: dict[str, Any]) -> None:
    """The pool's `statement_timeout` holds for the rest as well: it is killed, and ``close()`` says so."""
    with pool_of(1, settings, statement_timeout=0.3) as pool:

        def use() -> None:
            connection = pool.connection()
            connection.cursor().execute("CALL endless()")
            connection.close()

        with pytest.raises(StatementTimeout, match="was killed"):
            await run_at(place, use)
        until(lambda: not running(mysql, settings, "SLEEP"))
        assert (pool.statistics().kills, pool.statistics().in_use) == (1, 0)
        assert await pool.fetch_value("SELECT 'mine'") == "mine"


@pytest.mark.parametrize("mode", ["bridge", "thread"])
async def test_a_limit_of_the_call_kills(mode: Any, pool: OffloadPool, mysql: MySQL, settings: dict[str, Any]) -> None:
    """So does the `timeout` of the decorated function."""

    async def use() -> None:
        connection = pool.connection()
        connection.cursor().execute("CALL endless()")
        connection.close()

    handler: Any = offload(mode=mode, timeout=0.5)(use)
    with pytest.raises(StatementTimeout, match="was killed"):
        await handler()
    until(lambda: not running(mysql, settings, "SLEEP"))
    assert (pool.statistics().kills, pool.statistics().in_use) == (1, 0)
    assert await pool.fetch_value("SELECT 'mine'") == "mine"


async def test_an_error_in_the_rest_is_told(
    pool: OffloadPool, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """What fails after the connection was given back is logged, and the connection can be used again."""

    @offload
    async def handler() -> None:
        with pool.connection() as connection:
            connection.cursor().execute("CALL failing()")

    with caplog.at_level(logging.WARNING, "offload_db"):
        await handler()
    assert "1146" in caplog.text
    assert written(settings)[0] == 1
    assert (pool.statistics().kills, dict(pool.statistics().discards)) == (0, {})


async def test_a_call_that_fails_in_a_transaction_of_its_own(pool: OffloadPool, settings: dict[str, Any]) -> None:
    """A transaction that a procedure began before it failed is rolled back, though the server has not told of it."""

    @offload
    async def handler() -> None:
        with pool.connection() as connection, suppress(pymysql.err.ProgrammingError):
            connection.cursor().execute("CALL half()")
        with pool.connection() as connection:
            assert value(connection, "SELECT @@in_transaction") == 0

    await handler()
    assert dict(pool.statistics().discards) == {}


async def test_a_shared_connection_reads_on(settings: dict[str, Any]) -> None:
    """The next statement of the same connection waits for the rest, as PyMySQL's do."""
    with pool_of(1, settings) as pool:

        @offload
        async def handler() -> Any:
            with pool.connection() as connection:
                connection.cursor().execute("CALL quiet()")
                return value(connection, "SELECT COUNT(*) FROM t")

        assert await handler() == 2001
        assert threading.active_count() < 50


READING = (
    "SELECT 1",
    "select a.n from x a;",
    "/* a, b */ SELECT COUNT(*) FROM t WHERE a IN (1, 2)",
    "-- why\nSELECT 1",
    "WITH RECURSIVE d (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM d WHERE n < 9) SELECT a.n FROM d a",
    "(SELECT 1) UNION (SELECT 2)",
    "SELECT ';', 'f(' , \"it''s (x\" FROM t",
    b"SELECT NOW()",
    "SHOW TABLES",
    "SELECT a FROM t USE INDEX (x) FOR UPDATE",
    "WITH c AS (SELECT REPLACE(a, 'x', 'y') FROM t) SELECT INSERT(a, 1, 2, 'z') FROM c FOR UPDATE",
)
DOUBTFUL = (
    None,
    "",
    "CALL p()",
    "SELECT f(1)",
    "SELECT db.now()",
    "SELECT `f`(1)",
    'SELECT "f"(1)',
    "SELECT '\\', f(1), 'x'",
    "SELECT 1; INSERT INTO t VALUES (1)",
    "INSERT INTO t VALUES (1) RETURNING a",
    "DELETE FROM t RETURNING a",
    "SELECT /*! f(1), */ 1",
    "/*M! SELECT */ f(1)",
    "WITH c AS (SELECT 1) DELETE FROM t",
    "EXECUTE prepared",
    "SELECT NEXTVAL(s)",
    "SELECT " + "1," * 200_000 + "1",
)


def test_what_only_reads() -> None:
    """It is told from the text, and in doubt a statement may write."""
    assert [text for text in READING if not only_reads(text)] == []
    assert [text for text in DOUBTFUL if only_reads(text)] == []


@pytest.mark.parametrize("part", ["/*", "a", "''", "f(", " ", "a ", "(a", "a(b)", "#", "--", '"', "`", ",b"])
def test_long_texts_take_no_time(part: str) -> None:
    """Texts of any shape are looked through in linear time."""
    started = time.monotonic()
    only_reads("SELECT " + part * (190_000 // len(part)))
    assert time.monotonic() - started < 2.0
