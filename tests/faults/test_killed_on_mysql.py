"""MySQL sends the rows that are ready, and only then says that their statement was killed.

MariaDB says so at once. A scripted server plays MySQL here: it knows no kill by a query's id either, so that a kill may
come late and a statement is run for it to stop, which must not go into the middle of those rows.
"""

from __future__ import annotations

import importlib
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from pymysql.cursors import SSCursor

from offload_db import OffloadPool, StatementTimeout, offload
from offload_db.connection.sync_connection import physical_of
from tests.fuzz.wire import OK, packets
from tests.support import PATIENCE, run_at, settled, until, value

from .scripted import Scripted, answer, usual

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    # mysql-connector-python says so of the old ciphers of its own list.
    pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning"),
]

LONG = "SELECT LONG"
_ANSWER = answer(*[("row",)] * 8)
_ROW, _END = 8, 9  # bytes of a packet with a row, and of the one that ends a result
_ROWS, _NUMBER = _ANSWER[:-_END], _ANSWER[-_END + 3]


class PlayedMySQL:
    """Answers as MySQL does; each statement that is long runs until it is killed.

    :param early: how many of the eight rows arrive before the kill, so that the call that meets it reads them
    """

    def __init__(self, early: int) -> None:
        self._before = _ROWS[: len(_ROWS) - (8 - early) * _ROW] if early else b""
        self._killed = threading.Event()

    def __call__(self, command: bytes) -> bytes | Iterable[bytes]:
        text = command[1:].decode(errors="replace")
        if text.startswith("KILL"):
            self._killed.set()
            return packets(OK, 1)
        if text.startswith("INSERT"):
            return self._sleep()
        return self._long() if text == LONG else usual(command)

    def _sleep(self) -> Iterator[bytes]:
        """Do what MySQL does where a lone SLEEP() is killed: it returns 1, and the statement goes on to its end."""
        assert self._killed.wait(PATIENCE)
        yield packets(OK, 1)

    def _long(self) -> Iterator[bytes]:
        yield self._before
        assert self._killed.wait(PATIENCE)
        self._killed.clear()
        yield _ROWS[len(self._before) :]
        # Late, so that what the client sends meanwhile goes into the middle.
        threading.Event().wait(0.05)
        yield packets(b"\xff" + struct.pack("<H", 1317) + b"#70100Query execution was interrupted", _NUMBER)


@pytest.fixture(params=["pymysql", "MySQLdb", "mysql.connector"])
def driver(request: pytest.FixtureRequest) -> Any:
    try:
        return importlib.import_module(request.param)
    except ImportError as error:
        pytest.skip(f"{request.param} is not installed: {error}")


def pool_with(driver: Any, server: Scripted, **options: Any) -> OffloadPool:
    settings: dict[str, Any] = {name: server.address[name] for name in ("host", "port", "user", "password")}
    own: dict[str, dict[str, Any]] = {
        "pymysql": {"ssl_disabled": True, "autocommit": None},
        "MySQLdb": {"ssl_mode": "DISABLED"},
        "mysql.connector": {"ssl_disabled": True, "use_pure": True},
    }
    return OffloadPool.create(driver, min_size=0, max_size=1, **settings, **own[driver.__name__], **options)


def unbuffered(connection: Any) -> Any:
    module = connection.dbapi()
    if module.__name__ == "pymysql":
        return connection.cursor(SSCursor)
    if module.__name__ == "MySQLdb":
        return connection.cursor(importlib.import_module("MySQLdb.cursors").SSCursor)
    return connection.cursor(buffered=False)


def close_cursor(connection: Any, cursor: Any) -> None:
    cursor.close()


def fetch(connection: Any, cursor: Any) -> None:
    with pytest.raises(Exception, match="interrupted"):
        cursor.fetchall()


def ask(connection: Any, cursor: Any) -> None:
    assert value(connection, "SELECT next") == "next"


def roll_back(connection: Any, cursor: Any) -> None:
    connection.rollback()


# How a call is stopped, where, in what, and what is done with the connection then.
CASES = [
    ("timeout", "bridge", "execute", close_cursor),
    ("timeout", "bridge", "execute", fetch),
    ("timeout", "bridge", "execute", ask),
    ("timeout", "bridge", "execute", roll_back),
    ("timeout", "bridge", "fetch", ask),
    ("timeout", "thread", "execute", close_cursor),
    ("cancelled", "bridge", "execute", close_cursor),
    ("cancelled", "bridge", "execute", roll_back),
]


@pytest.mark.parametrize(("stopped", "place", "called", "then"), CASES)
async def test_what_stops_a_call_arrives(
    stopped: str, place: str, called: str, then: Callable[[Any, Any], None], driver: Any
) -> None:
    """What stops a call is what is raised, and what is unread is ended before anything else is sent."""
    with Scripted(PlayedMySQL(4 if called == "fetch" else 0)) as server:
        pool = pool_with(driver, server, statement_timeout=0.1 if stopped == "timeout" else None)

        def use() -> None:
            with pool.connection() as connection:
                cursor = unbuffered(connection)
                try:
                    cursor.execute(LONG)
                    cursor.fetchall()
                except BaseException:
                    then(connection, cursor)
                    raise

        try:
            if stopped == "timeout":
                with pytest.raises(StatementTimeout, match="was killed"):
                    await run_at(place, use)
            else:
                with anyio.move_on_after(0.1) as scope:
                    await run_at(place, use)
                assert scope.cancel_called
            with anyio.fail_after(PATIENCE):
                assert await pool.fetch_value("SELECT after") == "after"
            assert pool.statistics().kills_failed == 0
        finally:
            pool.close()


@pytest.mark.parametrize("leave", ["early", "cancelled"])
async def test_a_stream_that_is_left(leave: str, driver: Any) -> None:
    """Leaving a stream while its next rows are being read ends them, without an error or a warning."""
    with Scripted(PlayedMySQL(3)) as server:
        pool = pool_with(driver, server)
        try:
            seen = 0
            with anyio.move_on_after(0.1 if leave == "cancelled" else PATIENCE) as scope:
                async with aclosing(pool.stream(LONG, chunk_size=2)) as rows:
                    async for _ in rows:
                        seen += 1
                        if leave == "early" and seen == 2:
                            break
            assert scope.cancel_called == (leave == "cancelled")
            assert seen == 2
            assert await pool.fetch_value("SELECT after") == "after"
        finally:
            pool.close()


async def test_a_kill_that_ends_a_sleep_alone(driver: Any) -> None:
    """A write that goes on after its SLEEP() was killed is told of as one that may have run."""
    with Scripted(PlayedMySQL(0)) as server:
        pool = pool_with(driver, server, statement_timeout=0.1)
        try:
            with pytest.raises(StatementTimeout, match="may or may not have taken effect") as caught:
                await pool.execute("INSERT INTO t SELECT SLEEP(50)")
            assert caught.value.may_have_run
            assert pool.statistics().discards == {}
        finally:
            pool.close()


@pytest.mark.parametrize("driver", ["pymysql", "MySQLdb"], indirect=True)
async def test_a_call_that_is_thrown_away(driver: Any) -> None:
    """The kill of a call whose task is thrown away may come late, so its connection is not used again.

    MySQL knows no kill by a query's id: what comes late would stop the next statement of the same session.
    """
    reached, go, over = threading.Event(), threading.Event(), threading.Event()

    def script(command: bytes) -> bytes | Iterable[bytes]:
        if command[1:].startswith(b"KILL"):
            reached.set()
            assert go.wait(PATIENCE)
            return packets(OK, 1)
        return answered() if command[1:] == LONG.encode() else usual(command)

    def answered() -> Iterator[bytes]:
        assert over.wait(PATIENCE)
        yield _ANSWER

    with Scripted(script) as server:
        pool = pool_with(driver, server)
        links: list[Any] = []

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                links.append(physical_of(connection))
                cursor = connection.cursor()
                try:
                    cursor.execute(LONG)
                finally:
                    # The statement comes to its own end just now, while its kill is on the way.
                    assert reached.wait(PATIENCE)
                    over.set()
                    until(lambda: not links[0].busy)

        try:
            assert await pool.fetch_value("SELECT before") == "before"
            thrown = handler()
            thrown.send(None)
            await settled(lambda: bool(links) and links[0].busy)
            thrown.close()
            assert pool.statistics().open == 0
            go.set()
            assert await pool.fetch_value("SELECT after") == "after"
            assert pool.statistics().in_use == 0
        finally:
            go.set()
            pool.close()
