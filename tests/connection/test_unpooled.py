"""Claims about connections of no pool: pymysql.connect's place is taken without a difference."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pymysql
import pytest
from pymysql.cursors import DictCursor, SSCursor

import offload_db
from offload_db import offload
from offload_db.drivers.pymysql import PyMySQLDriver
from tests.conftest import MySQL
from tests.inside import link_of
from tests.support import (
    PLACES,
    QUICK,
    Connect,
    attempt,
    in_thread,
    outcome,
    run_at,
    settled,
    together,
    until,
    value,
    watched_wire,
)

pytestmark = [
    pytest.mark.anyio,
    # PyMySQL 1.2 calls ping(reconnect=True) deprecated; legacy code uses it all the same.
    pytest.mark.filterwarnings("ignore:The 'reconnect' argument:DeprecationWarning"),
]

ROWS = (
    "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 900) SELECT n, REPEAT('x', 500) FROM c"
)


@pytest.fixture
def connect(database: dict[str, Any]) -> Connect:
    """Give `offload_db.connect` with the test database's settings, which can be overridden."""
    return partial(_connect, {**QUICK, **database})


def _connect(settings: dict[str, Any], **overrides: Any) -> Any:
    return offload_db.connect(**{**settings, **overrides})


def test_signature_is_pymysqls() -> None:
    """`help(offload_db.connect)` shows the arguments of the installed PyMySQL."""
    assert inspect.signature(offload_db.connect) == inspect.signature(pymysql.connections.Connection)


def test_bad_arguments_raise_what_pymysql_raises(connect: Connect) -> None:
    """Arguments that PyMySQL refuses, and servers that refuse us, give its own errors."""
    for overrides in (
        {"no_such_argument": 1},
        {"port": 1},
        {"user": "nobody", "password": "x"},
        {"charset": "klingon"},
    ):
        shown = attempt(connect, **overrides)
        expected = attempt(pymysql.connect, **{**connect.args[0], **overrides})  # type: ignore[attr-defined]
        assert shown == expected


@pytest.mark.parametrize("place", PLACES)
async def test_deferred_connections(place: str, connect: Connect) -> None:
    """With ``defer_connect=True`` nothing is sent before connect(); errors until then are PyMySQL's."""

    def use() -> Any:
        connection = connect(defer_connect=True)
        seen = [connection.open, attempt(connection.cursor().execute, "SELECT 1")[0], connection.connect()]
        return [*seen, connection.open, value(connection, "SELECT 1"), connection.close(), connection.open]

    assert await run_at(place, use) == [False, "InterfaceError", None, True, 1, None, False]


@pytest.mark.parametrize("place", PLACES)
async def test_ping_revives_a_killed_connection(place: str, connect: Connect, mysql: MySQL) -> None:
    """``ping(reconnect=True)`` after the link was killed makes the connection usable, noticed before or not."""

    def use(noticed: bool) -> Any:
        connection = connect(cursorclass=DictCursor)
        first = connection.thread_id()
        mysql.kill_connection(first)
        if noticed:
            assert attempt(value, connection, "SELECT 1")[0] == "ConnectionLost"
            assert not connection.open
        connection.ping(reconnect=True)
        with connection.cursor() as cursor:
            cursor.execute("SELECT CONNECTION_ID() AS id")
            [row] = cursor.fetchall()
        assert row["id"] == connection.thread_id() != first
        connection.close()

    await run_at(place, partial(use, True))
    await run_at(place, partial(use, False))


async def test_what_runs_after_a_reconnect_can_be_killed(connect: Connect, mysql: MySQL) -> None:
    """A cancelled statement is killed in the session that the connection has now, and the connection can go on."""

    @offload
    async def handler() -> None:
        try:
            connection.cursor().execute("SELECT SLEEP(60)")
        finally:
            ended.append(True)

    def reconnected() -> Any:
        connection = connect()
        mysql.kill_connection(connection.thread_id())
        connection.ping(reconnect=True)
        return connection

    ended: list[bool] = []
    connection = await run_at("bridge", reconnected)
    async with anyio.create_task_group() as group:
        group.start_soon(handler)
        session = connection.thread_id()
        await settled(lambda: any(row["ID"] == session and row["COMMAND"] == "Query" for row in mysql.process_list()))
        group.cancel_scope.cancel()
    assert ended == [True]
    assert await run_at("bridge", lambda: value(connection, "SELECT CONNECTION_ID()")) == session
    await run_at("bridge", connection.close)


@pytest.mark.parametrize("place", PLACES)
async def test_a_closed_connection_can_be_connected_again(place: str, connect: Connect) -> None:
    """``ping(reconnect=True)`` and connect() open a closed connection anew, which legacy code does in every request."""

    def use() -> None:
        connection = connect()
        for reopen in (partial(_ping, connection), connection.connect):
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                assert cursor.fetchall() == ((1,),)
            assert not connection.open
            reopen()
            assert connection.open
        assert value(connection, "SELECT 2") == 2
        connection.close()
        with pytest.raises(pymysql.err.InterfaceError):
            connection.cursor()

    await run_at(place, use)


def _ping(connection: Any) -> None:
    connection.ping(reconnect=True)


async def test_a_module_global_is_shared(connect: Connect) -> None:
    """Handlers that share one connection, and one cursor, each read the answers to their own statements."""
    connection = await run_at("bridge", connect)
    cursor = connection.cursor()

    @offload
    async def handler(number: int) -> Any:
        cursor.execute("SELECT %s, SLEEP(0.01)", (number,))
        await anyio.lowlevel.checkpoint()
        return cursor.fetchone()[0]

    assert await together(*(partial(handler, number) for number in range(20))) == list(range(20))
    await run_at("bridge", connection.close)


async def test_opened_used_and_closed_on_three_threads(connect: Connect) -> None:
    """A connection may be opened, used and closed on different threads."""
    connection = await outcome(in_thread(connect))
    assert await outcome(in_thread(partial(value, connection, "SELECT 1"))) == 1
    assert await run_at("bridge", partial(value, connection, "SELECT 2")) == 2
    await outcome(in_thread(connection.close))
    assert not connection.open


def test_scripts_use_it_inline(connect: Connect) -> None:
    """Where no loop runs, everything happens on the calling thread."""
    with watched_wire() as wire:
        with connect() as connection:
            assert value(connection, "SELECT 1") == 1
        assert {thread for _, thread in wire.events} == {threading.get_ident()}


def test_it_may_take_the_name_of_pymysqls(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that puts it in the place of `pymysql.connect` gets connections, not an endless recursion."""
    monkeypatch.setattr(pymysql, "connect", offload_db.connect)
    with connect() as connection:
        assert value(connection, "SELECT 1") == 1


def test_a_wrapped_pymysql_is_gone_through(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracing library that wraps `pymysql.connect` sees the connection being made."""
    calls: list[str] = []
    original = pymysql.connect

    def traced(**kwargs: Any) -> Any:
        calls.append(kwargs["user"])
        return original(**kwargs)

    monkeypatch.setattr(pymysql, "connect", traced)
    with connect() as connection:
        assert value(connection, "SELECT 1") == 1
    assert len(calls) == 1


@pytest.mark.parametrize("place", PLACES)
async def test_closing_with_rows_unread(place: str, connect: Connect) -> None:
    """Closing in the middle of an unbuffered result reads no rows, and no finaliser stumbles over them."""

    def use() -> int:
        connection = connect()
        cursor = connection.cursor(SSCursor)
        cursor.execute(ROWS)
        cursor.fetchone()
        wire.clear()
        connection.close()
        del cursor, connection
        gc.collect()
        return len(wire.events)

    with watched_wire() as wire:
        assert await run_at(place, use) == 0


async def test_dropping_does_no_io(connect: Connect, mysql: MySQL) -> None:
    """A dropped connection is closed without a word, whatever is unread on it."""

    @offload
    async def handler() -> int:
        connection = connect()
        session: int = connection.thread_id()
        cursor = connection.cursor(SSCursor)
        cursor.execute(ROWS)
        ring: list[Any] = [connection, cursor]
        ring.append(ring)
        wire.clear()
        del cursor, connection, ring
        gc.collect()
        assert wire.events == []
        return session

    with watched_wire() as wire:
        session = await handler()
    await settled(lambda: session not in [row["ID"] for row in mysql.process_list()])


def test_a_server_that_does_not_know_the_question(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot say which one it is can be talked to all the same."""

    def refused(self: PyMySQLDriver, raw: Any) -> Any:
        return value(raw, "SELECT @@no_such_variable")

    monkeypatch.setattr(PyMySQLDriver, "identity", refused)
    with connect() as connection:
        link = link_of(connection)
        assert link is not None
        assert link.identity is None
        assert value(connection, "SELECT 1") == 1


async def test_read_timeouts_stay_the_users(connect: Connect) -> None:
    """The bound on the time of connecting does not become a limit for statements, and a limit of the user's stays."""

    def use() -> None:
        with connect(connect_timeout=1) as connection:
            assert connection._read_timeout is None
            connection.ping(reconnect=True)
            assert connection._read_timeout is None
            assert value(connection, "SELECT SLEEP(1.2)") == 0
        with connect(read_timeout=7) as connection:
            assert connection._read_timeout == 7

    await run_at("bridge", use)


async def test_converters_of_any_kind(connect: Connect) -> None:
    """Converters that break everything do not keep a connection from being made and statements from being killed."""

    def refuse(text: Any) -> Any:
        raise ZeroDivisionError(text)

    @offload
    async def handler() -> None:
        connection = connect(conv=dict.fromkeys(range(256), refuse))
        assert connection.thread_id() > 0
        assert attempt(value, connection, "SELECT 1")[0] == "ZeroDivisionError"
        connection.close()
        plain = connect(conv={})
        with anyio.move_on_after(0.2):  # noqa: ASYNC100  # the call below suspends the task
            value(plain, "SELECT SLEEP(60)")
        assert value(plain, "SELECT 'alive'") == "alive"
        plain.close()

    await handler()


def test_a_task_that_is_cancelled_when_it_closes(connect: Connect, mysql: MySQL) -> None:
    """The connection is closed all the same, though somebody still has hold of it."""

    @offload
    async def handler() -> None:
        kept.append(connection := connect())
        sessions.append(connection.thread_id())
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        connection.close()

    kept: list[Any] = []
    sessions: list[int] = []
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(handler())
    assert not kept[0].open
    until(lambda: not set(sessions) & {row["ID"] for row in mysql.process_list()})


@pytest.mark.parametrize("setting", ["connect_timeout", "read_timeout"])
async def test_limits_that_pymysql_refuses(connect: Connect, setting: str) -> None:
    """A limit of 0 is refused as by PyMySQL, where the call has a time of its own as well."""

    async def handler() -> None:
        connect(**{setting: 0})

    for bridged in (offload(handler), offload(timeout=20)(handler)):
        with pytest.raises(ValueError, match=setting):
            await bridged()
