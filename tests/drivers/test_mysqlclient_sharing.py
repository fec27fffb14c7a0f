"""Claims about statements of mysqlclient that share a thread, on the real driver."""

from __future__ import annotations

import importlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from offload_db import OffloadPool, StatementTimeout, offload
from offload_db.bridge import reactor
from offload_db.connection.sync_connection import physical_of
from offload_db.drivers.mysqlclient_connection import LOOKED_AT, is_whole, make_patient
from offload_db.errors import ThreadUnavailable
from tests import support
from tests.conftest import MySQL
from tests.drivers.inside import arrived
from tests.fuzz.wire import packets
from tests.support import settings_for, settled, value, warm
from tests.tls import tls_server_in

MySQLdb = pytest.importorskip("MySQLdb")
# It imports these itself when it connects first.
connections = importlib.import_module("MySQLdb.connections")
converters = importlib.import_module("MySQLdb.converters")
pool_of = partial(support.pool_of, creator=MySQLdb)

pytestmark = pytest.mark.anyio

TELLS_OF_MORE = hasattr(connections.Connection, "more_results")

# Twenty kilobytes at once, more than the server keeps back, and the rest of the answer so many seconds later.
HALTING = "SELECT seq, REPEAT('x', 20000), IF(seq = 2, SLEEP({}), 0) FROM seq_1_to_2"


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Give the one kind of event loop on which statements share a thread."""
    return request.param


@pytest.fixture
def settings(database: dict[str, Any]) -> dict[str, Any]:
    """Give settings of mysqlclient's."""
    return {**settings_for("MySQLdb", database), "autocommit": True}


@pytest.fixture
def pool(settings: dict[str, Any]) -> Iterator[OffloadPool]:
    with pool_of(10, settings) as pool:
        yield pool


@offload
async def ask(pool: OffloadPool, statement: str, *args: Any) -> Any:
    """Do what a legacy handler does."""
    connection = pool.connection()
    cursor = connection.cursor()
    cursor.execute(statement, args or None)
    rows = cursor.fetchall()
    cursor.close()
    connection.close()
    return rows


def threads(name: str) -> int:
    """Count the threads that are there by a part of their names."""
    return sum(name in thread.name for thread in threading.enumerate())


async def threads_of_ten(pool: OffloadPool, settings: dict[str, Any]) -> int:
    """Ask ten times at once, and return how many threads of anyio's were there meanwhile."""
    there: list[int] = []
    await warm(pool, 10)
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(ask, pool, "SELECT SLEEP(1)")
        # Counted by the server: a connection is in use before its statement is on the way.
        asked = "SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User sleep' AND db = DATABASE()"
        with closing(MySQLdb.connect(**settings)) as outside:
            await settled(lambda: value(outside, asked) == 10)
        there.append(threads("AnyIO"))
    return there[0]


async def test_ten_statements_take_one_thread(pool: OffloadPool, settings: dict[str, Any]) -> None:
    """Statements wait for their answers in one thread, at the same time; other threads are of connecting."""
    await warm(pool, 10)
    there = threads("AnyIO")
    assert await threads_of_ten(pool, settings) <= there + 1
    done = pool.statistics()
    # Versions before 2.3 cannot tell whether another result follows, so closing a cursor asks the server.
    assert (done.open, done.statements, done.hops) == (10, 10, 20 if TELLS_OF_MORE else 30)


@pytest.mark.parametrize("rest", ["arrives", "is killed"])
async def test_an_answer_that_halts_keeps_nobody(rest: str, pool: OffloadPool) -> None:
    """Who has sent a statement through the same thread gets the answer while the rest of another one is waited for."""
    answers: dict[str, Any] = {}

    async def note(name: str, statement: str) -> None:
        try:
            answers[name] = await ask(pool, statement)
        except StatementTimeout as error:
            answers[name] = error

    scope = anyio.CancelScope()

    async def halting() -> None:
        with scope:
            await note("halting", HALTING.format(30 if rest == "is killed" else 2))

    await note("warm", "SELECT 1")
    async with anyio.create_task_group() as group:
        group.start_soon(note, "sent before", "SELECT SLEEP(0.5)")
        await settled(lambda: pool.statistics().in_use == 1)
        group.start_soon(halting)
        await settled(lambda: threads("offload_db aside") == 1)
        for number in range(20):
            await note(f"later {number}", f"SELECT {number}")
        await settled(lambda: "sent before" in answers)
        assert "halting" not in answers
        if rest == "is killed":
            scope.cancel()
    assert answers["sent before"] == ((0,),)
    assert [answers[f"later {number}"] for number in range(20)] == [((number,),) for number in range(20)]
    if rest == "is killed":
        assert "halting" not in answers
        assert pool.statistics().kills == 1
    else:
        assert answers["halting"] == ((1, "x" * 20000, 0), (2, "x" * 20000, 0))
    assert threads("offload_db aside") == 0


async def test_answers_of_every_size(pool: OffloadPool) -> None:
    """What fits into one piece and what does not is the same as without sharing."""
    for rows in (0, 1, 10, 300, 5000, 100_000):
        expected = tuple((number, f"v{number}") for number in range(1, rows + 1))
        statement = f"SELECT seq, CONCAT('v', seq) FROM seq_1_to_100000 WHERE seq <= {rows}"
        assert await ask(pool, statement) == expected
        assert await pool.fetch_all(statement) == list(expected)
    for size in (100, 4000, 5000, 200_000):
        assert await ask(pool, "SELECT %s", "x" * size) == (("x" * size,),)


async def test_several_results(pool: OffloadPool) -> None:
    """Results that follow each other are read one by one."""

    @offload
    async def handler() -> list[Any]:
        connection = pool.connection()
        cursor = connection.cursor()
        cursor.execute("SELECT 1; SELECT 2; DO 3")
        found = [cursor.fetchall()]
        while cursor.nextset():
            found.append(cursor.fetchall())
        cursor.close()
        connection.close()
        return found

    for _ in range(2):
        assert await handler() == [((1,),), ((2,),), ()]


async def test_transactions(settings: dict[str, Any], mysql: MySQL) -> None:
    """What is committed stays, what is rolled back does not, nor what was open when its connection was given back."""
    with pool_of(2, {**settings, "autocommit": False}) as pool:
        await pool.execute("CREATE TABLE t (n INT)")

        @offload
        async def handler(number: int, end: str) -> None:
            connection = pool.connection()
            connection.cursor().execute("INSERT INTO t VALUES (%s)", (number,))
            if end:
                getattr(connection, end)()
            connection.close()

        for number, end in enumerate(("commit", "rollback", "")):
            await handler(number, end)
        assert await pool.fetch_all("SELECT n FROM t") == [(0,)]
        assert pool.statistics().open == 1


async def test_a_limit_kills(settings: dict[str, Any]) -> None:
    """A statement that waits in the shared thread is killed when its time is over, and its connection goes on."""
    with pool_of(2, settings, statement_timeout=0.2) as pool:
        with pytest.raises(StatementTimeout):
            await ask(pool, "SELECT SLEEP(30)")
        assert await ask(pool, "SELECT 1") == ((1,),)
        done = pool.statistics()
        assert (done.kills, done.open) == (1, 1)
        assert dict(done.discards) == ({} if TELLS_OF_MORE else {"abandoned_result": 1})


def test_where_new_sockets_have_a_limit() -> None:
    """A limit for new sockets of Python's own leaves a connection's as it is: mysqlclient waits for it."""
    near, far = socket.socketpair()
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(5)
    try:
        far.send(b"answer")
        assert not is_whole(arrived(near.fileno()))
        assert os.get_blocking(near.fileno())
        assert near.recv(9) == b"answer"
    finally:
        socket.setdefaulttimeout(before)
        near.close()
        far.close()


@pytest.mark.parametrize("lack", ["threads", "descriptors"])
async def test_without_another_thread(lack: str, pool: OffloadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no other thread can be had, the shared one reads the answer to its end."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ThreadUnavailable if lack == "threads" else OSError

    if lack == "threads":
        monkeypatch.setattr(reactor, "start_thread", refuse)
    else:
        monkeypatch.setattr(socket, "socketpair", refuse)
    assert len(await ask(pool, "SELECT seq FROM seq_1_to_100000")) == 100_000
    assert len(await ask(pool, HALTING.format(0.1))) == 2


@pytest.mark.parametrize("change", ["converter", "compress", "subclass", "read_timeout", "fast"])
async def test_what_does_not_share(change: str, settings: dict[str, Any]) -> None:
    """What may keep a thread has one to itself: the user's own code, and reading that mysqlclient itself limits."""

    class Own(connections.Connection):  # type: ignore[misc, name-defined]  # mysqlclient has no types
        pass

    conversions = {**converters.conversions, 3: lambda text: int(text) + 1}
    options: dict[str, dict[str, Any]] = {
        "converter": {"conv": conversions},
        "compress": {"compress": True},
        "subclass": {"creator": Own},
        "read_timeout": {"read_timeout": 20},
        "fast": {"fast": False},
    }
    with pool_of(10, settings, **options[change]) as pool:
        assert await threads_of_ten(pool, settings) >= 10
        assert await ask(pool, "SELECT CAST(1 AS INT)") == ((2,) if change == "converter" else (1,),)


def test_connections_below_mysqlclients_own(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of its module in C are left as they are, also where nothing else of mysqlclient is imported."""
    where = {name: settings[name] for name in ("host", "port", "user", "password", "database")}
    bare = importlib.import_module("MySQLdb._mysql").connect(**where)
    kind = type(bare)
    make_patient(bare, where)
    monkeypatch.delitem(sys.modules, "MySQLdb.connections")
    make_patient(bare, where)
    assert type(bare) is kind
    bare.close()


async def test_converters_that_are_changed(pool: OffloadPool) -> None:
    """A connection whose converters its user changes has its statements to themselves."""

    @offload
    async def handler() -> bool:
        connection = pool.connection()
        connection.converter[3] = lambda text: int(text) + 1
        cursor = connection.cursor()
        cursor.execute("SELECT CAST(1 AS INT)")
        row = cursor.fetchone()
        shares = physical_of(connection).shares_now
        connection.converter[3] = int
        connection.close()
        assert row == (2,)
        return bool(shares)

    assert await handler() is False
    assert await ask(pool, "SELECT CAST(1 AS INT)") == ((1,),)


async def test_encrypted_answers(settings: dict[str, Any], tmp_path: Path) -> None:
    """Nothing can be told of encrypted answers, so they are read in threads of their own from the second one on."""
    with tls_server_in(tmp_path) as server:
        own = {**settings, "host": server.host, "port": server.port, "database": "mysql", "ssl_mode": "REQUIRED"}
        own.update(user=server.user, password=server.password)
        with pool_of(10, own) as pool:
            assert (await ask(pool, "SHOW STATUS LIKE 'Ssl_cipher'"))[0][1]
            await warm(pool, 10)
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(ask, pool, "SELECT SLEEP(0.1)")
            assert await threads_of_ten(pool, own) >= 10
            assert len(await ask(pool, "SELECT seq FROM seq_1_to_100000")) == 100_000


@pytest.mark.parametrize(
    ("statement", "whole"),
    [
        ("SELECT 1", True),
        ("SELECT NULL, '', REPEAT('x', 300), 1.5, NOW() FROM seq_1_to_40", True),
        ("SELECT seq FROM seq_1_to_3 WHERE seq = 4", True),
        ("SELECT REPEAT('\xfe', 250), NULL", True),
        ("DO 1", True),
        ("SELECT", False),
        (f"SELECT {','.join(map(str, range(250)))}", True),
        (f"SELECT {','.join(map(str, range(251)))}", False),
        ("SELECT 1; SELECT 2", False),
        ("DO 1; DO 2", False),
    ],
)
async def test_answers_by_their_bytes(statement: str, whole: bool, settings: dict[str, Any]) -> None:
    """An answer is whole with its last byte, and not before; one with another one after it never is.

    An error of the statement is one answer, too.
    """
    connection = MySQLdb.connect(**settings)
    connection.send_query(statement.encode("utf8"))
    answer = b""
    with anyio.fail_after(10):
        while not (is_whole(answer) if whole or statement == "SELECT" else len(answer) > 9):
            await anyio.sleep(0.01)
            answer = arrived(connection.fileno())
    assert len(answer) < LOOKED_AT
    assert is_whole(answer) is (whole or statement == "SELECT")
    assert not any(is_whole(answer[:end]) for end in range(len(answer)))
    connection.close()


def told(*bodies: bytes) -> bytes:
    """Return an answer of several packets."""
    return b"".join(packets(body, number) for number, body in enumerate(bodies, 1))


def test_answers_without_an_end_of_the_definitions() -> None:
    """Newer clients and servers leave out what stands between definitions and rows, and end the rows by a success."""
    definition, row = b"\3def" + b"x" * 20, b"\3abc"
    ends, more = b"\xfe\0\0\2\0\0\0", b"\xfe\0\0\x0a\0\0\0"
    for rows in ((), (row,), (row, row)):
        answer = told(b"\1", definition, *rows, ends)
        assert is_whole(answer)
        assert not any(is_whole(answer[:end]) for end in range(len(answer)))
        assert not is_whole(told(b"\1", definition, *rows, more))
    assert is_whole(told(b"\1", definition, row, b"\xff\x28\x04#42000no"))


def test_what_is_no_answer_to_a_statement() -> None:
    """A file that is asked for, a report of progress, and what cannot be understood are left to mysqlclient."""
    assert not is_whole(told(b"\xfb/etc/hosts"))
    assert not is_whole(told(b"\xff\xff\xff\1\1\1\0\0\0\0"))
    assert not is_whole(b"\x17\x03\x03\x01\x00" + b"x" * 256)
    assert is_whole(told(b"\0\xfc\xff\xff\xfd\1\2\3\2\0\0\0"))
    assert not is_whole(told(b"\0\xfc\xff\xff\xfd\1\2\3\x0a\0\0\0"))
    assert not is_whole(told(b"\0\xfe"))
