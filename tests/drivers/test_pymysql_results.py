"""Claims about the faster connection: what it reads is what PyMySQL reads, whatever the server sends."""

from __future__ import annotations

import asyncio
import logging
import random
import select
import signal
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pymysql
import pytest
from dbutils.pooled_db import PooledDB
from pymysql.connections import Connection, MySQLResult
from pymysql.cursors import Cursor, DictCursor, SSCursor

from offload_db import ConfigurationError, OffloadConnection, OffloadPool, connect, offload
from offload_db.drivers import (
    pymysql_columns,
    pymysql_connection,
    pymysql_results,
)
from offload_db.drivers.pymysql_connection import BUFFER, FastConnection
from tests.conftest import MySQL
from tests.drivers.inside import look_again, rely_on
from tests.fuzz.cases import Unhashable
from tests.inside import link_of
from tests.support import PLACES, QUICK, pool_of, run_at, value


@pytest.fixture
def twins(database: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Give a connection of PyMySQL's and a faster one."""
    with Connection(**QUICK, **database) as plain, FastConnection(**QUICK, **database) as quick:
        yield plain, quick


def outcome(connection: Any, statement: str, cursor_class: Any = Cursor) -> list[Any]:
    """Return all that a statement leaves to see, or the error."""
    seen: list[Any] = []
    try:
        with connection.cursor(cursor_class) as cursor:
            seen.append(cursor.execute(statement))
            more: bool | None = True
            while more:
                seen += [cursor.description, cursor.fetchall(), cursor.rowcount, cursor.lastrowid, cursor.warning_count]
                more = cursor.nextset()
    except Exception as error:
        seen += [type(error), error.args]
    # Two NaNs, two NULLs of different kinds: what prints the same is the same.
    return [repr(item) for item in [*seen, connection.open, connection.server_status]]


def assert_same(twins: tuple[Any, Any], statement: str, cursor_class: Any = Cursor) -> list[Any]:
    plain, quick = twins
    expected = outcome(plain, statement, cursor_class)
    for _ in range(2):  # the second time its columns are known
        assert outcome(quick, statement, cursor_class) == expected
    return expected


STATEMENTS = {
    "numbers": "SELECT 1, -1, 18446744073709551615, 1.5, 1e300, -1e-300, CAST(1.50 AS DECIMAL(10, 4)), TRUE, b'101'",
    "texts": "SELECT 'a', '', 'ä€😀', _latin1 'x', CAST('b' AS CHAR(3)), CONCAT('a', 1), _binary 'c', x'00ff'",
    "null": "SELECT NULL, 1, NULL, 'x', NULL",
    "dates": "SELECT NOW(), CURDATE(), DATE'2024-02-29', TIMESTAMP'2024-12-31 23:59:59', YEAR(NOW())",
    "fractions": "SELECT " + ", ".join(f"CAST('2024-01-02 03:04:05.123456' AS DATETIME({n}))" for n in range(7)),
    "times": "SELECT TIME'01:02:03', TIME'-838:59:59', TIME'00:00:00.5', CAST('-1:2:3.25' AS TIME(2))",
    "zero dates": "SELECT CAST('0000-00-00' AS DATE), CAST('0000-00-00 00:00:00' AS DATETIME)",
    "json": """SELECT JSON_OBJECT('a', 1), CAST('{"b": [1, "ä"]}' AS CHAR)""",
    "lengths": "SELECT "
    + ", ".join(f"REPEAT('x', {n})" for n in (249, 250, 251, 252, 253, 254, 255, 256, 65535, 65536)),
    "blob": "SELECT REPEAT(x'00', 70000), REPEAT(x'fe', 9), REPEAT(x'ff', 9)",
    "first byte like an end": "SELECT REPEAT('x', 70000), 1 UNION ALL SELECT REPEAT('y', 20000000), 2",
    "first byte like an error": "SELECT x'ff' UNION ALL SELECT NULL UNION ALL SELECT ''",
    "more than a packet": "SELECT REPEAT('x', 16777300), 7",
    "many columns": "SELECT " + ", ".join(f"{n} AS c{n}" for n in range(600)),
    "same names": "SELECT 1 AS a, 2 AS a, t.seq AS a FROM mysql.seq_1_to_3 AS t",
    "no rows": "SELECT 1 FROM DUAL WHERE 1 = 0",
    "many rows": "SELECT seq, seq / 7, IF(seq % 3, NULL, CONCAT('n', seq)) FROM mysql.seq_1_to_5000",
    "no result": "DO 1",
    "bad syntax": "SELEC 1",
    "an error in mid-result": "SELECT IF(seq = 3000, (SELECT seq FROM mysql.seq_1_to_2), 1) FROM mysql.seq_1_to_5000",
    "warnings": "SELECT CAST('abc' AS SIGNED)",
}


@pytest.mark.parametrize("cursor_class", [Cursor, DictCursor, SSCursor])
@pytest.mark.parametrize("what", STATEMENTS)
def test_reads_what_pymysql_reads(what: str, cursor_class: type, twins: tuple[Any, Any], mysql: MySQL) -> None:
    """Values, descriptions, counts, status and errors are the same."""
    for connection in twins:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION sql_mode = '', timestamp = 1700000000")
    expected = assert_same(twins, STATEMENTS[what], cursor_class)
    assert len(expected) > 3


def test_rows_of_every_length(twins: tuple[Any, Any]) -> None:
    """Rows that end before, at and behind the end of what one read brings are whole."""
    dice = random.Random(1)
    for _ in range(60):
        lengths = [
            dice.choice([dice.randrange(300), dice.randrange(BUFFER + 20)]) for _ in range(dice.randrange(1, 40))
        ]
        rows = " UNION ALL ".join(f"SELECT {n} AS n, REPEAT('r', {length}) AS r" for n, length in enumerate(lengths))
        assert_same(twins, rows)
    for length in range(BUFFER - 120, BUFFER + 10):
        assert_same(twins, f"SELECT REPEAT('x', {length}) UNION ALL SELECT 'last'")


@pytest.mark.parametrize("charset", ["utf8mb4", "latin1", "gbk", "ascii"])
@pytest.mark.parametrize("use_unicode", [True, False])
def test_character_sets(charset: str, use_unicode: bool, database: dict[str, Any]) -> None:
    """Texts are decoded as the connection says, and not at all where it says so."""
    how = {**QUICK, **database, "charset": charset, "use_unicode": use_unicode}
    with Connection(**how) as plain, FastConnection(**how) as quick:
        assert_same((plain, quick), "SELECT 'abc', 1, 1.5e0, x'e4', NOW() > 0, CAST('é' AS CHAR CHARACTER SET latin1)")


def test_converters(twins: tuple[Any, Any]) -> None:
    """The connection's own converters are used, also those that are changed between two queries."""
    statement = "SELECT 1, 1.5, 'x', CAST(2.50 AS DECIMAL(4, 2)), NULL"
    changes: list[Callable[[dict[Any, Any]], Any]] = [
        lambda decoders: decoders.update({pymysql.constants.FIELD_TYPE.LONG: lambda text: f"<{text}>"}),
        lambda decoders: decoders.update({pymysql.constants.FIELD_TYPE.NEWDECIMAL: float}),
        lambda decoders: decoders.clear(),
        lambda decoders: decoders.update({pymysql.constants.FIELD_TYPE.VAR_STRING: str.upper}),
    ]
    assert_same(twins, statement)
    for change in changes:
        for connection in twins:
            change(connection.decoders)
        assert_same(twins, statement)


@pytest.mark.anyio
@pytest.mark.parametrize("place", PLACES)
async def test_converters_that_cannot_be_compared(place: str, database: dict[str, Any]) -> None:
    """A converter that is no key and equal to nothing converts, wherever the statement is made."""

    def use() -> Any:
        with pool.connection() as connection:
            return value(connection, "SELECT seq FROM mysql.seq_7_to_7")

    conv = {**pymysql.converters.conversions, pymysql.constants.FIELD_TYPE.LONGLONG: Unhashable()}
    with pool_of(1, database, conv=conv) as pool:
        for _ in range(2):  # the second time its columns are known
            assert await run_at(place, use) == ("unhashable", "7")


def test_columns_that_change(twins: tuple[Any, Any], mysql: MySQL) -> None:
    """The same statement over a table that was altered is read by the new definitions."""
    _, quick = twins
    with quick.cursor() as cursor:
        cursor.execute("CREATE TABLE changing (a INT)")
        cursor.execute("INSERT INTO changing VALUES (7)")
    for kind in ("VARCHAR(9)", "DOUBLE", "VARBINARY(9)", "DECIMAL(5, 2)"):
        assert_same(twins, "SELECT * FROM changing")
        with quick.cursor() as cursor:
            cursor.execute(f"ALTER TABLE changing MODIFY a {kind}")
        assert_same(twins, "SELECT * FROM changing")


def test_what_is_kept_is_bounded(twins: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many different results there are, the definitions of a few are kept, and all are read right."""
    kept = pymysql_columns.KnownColumns(20000)
    monkeypatch.setattr(pymysql_results, "known", kept)
    for number in range(40):
        assert_same(twins, f"SELECT {number} AS c{number}")
        assert_same(twins, f"SELECT 1 AS same, {number} AS c{number}")
        assert 0 < kept.size <= 20000
        assert all(len(alike) <= pymysql_columns.ALIKE for alike in kept.kept.values())


def test_wide_results_are_kept(twins: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Definitions that the server sends at once are kept, as many as they are."""
    kept = pymysql_columns.KnownColumns(pymysql_columns.KEPT_BYTES)
    monkeypatch.setattr(pymysql_results, "known", kept)
    statement = "SELECT " + ", ".join(f"{number} AS c{number}" for number in range(450))
    assert_same(twins, statement)
    assert [len(alike) for alike in kept.kept.values()] == [1]
    assert_same(twins, statement)
    assert [len(alike) for alike in kept.kept.values()] == [1]


def test_a_converter_that_raises(database: dict[str, Any]) -> None:
    """Its error reaches the caller, the connection is thrown out, and the next statement reads its own answer."""

    def refuse(text: str) -> str:
        if text == "50":
            raise ValueError("no fifty")
        return text

    conv = {**pymysql.converters.conversions, pymysql.constants.FIELD_TYPE.LONGLONG: refuse}
    with pool_of(1, database, conv=conv) as pool:
        with pytest.raises(ValueError, match="no fifty"), pool.connection() as connection:
            connection.cursor().execute("SELECT seq FROM mysql.seq_1_to_100")
        with pool.connection() as connection:
            assert type(raw_of(connection)) is FastConnection
            assert value(connection, "SELECT seq FROM mysql.seq_7_to_7") == "7"
        assert dict(pool.statistics().discards) == {"driver_error": 1}


@pytest.mark.parametrize("after", [0, 3, 4, 5, 9, 100, 20000])
@pytest.mark.parametrize("how", ["cut", "silence"])
def test_a_link_that_fails_in_mid_result(how: str, after: int, database: dict[str, Any]) -> None:
    """Wherever the server stops sending, the error is the one that PyMySQL raises."""
    errors = []
    kinds: tuple[Any, ...] = (Connection, FastConnection)
    for kind in kinds:
        connection = kind(**{**QUICK, **database, "read_timeout": 0.2})
        answer = _answer(connection, "SELECT seq, 'text' FROM mysql.seq_1_to_5000")
        here, there = socket.socketpair()
        there.sendall(answer[: len(answer) * 2 // 3 + after])
        if how == "cut":
            there.close()
        connection._sock.close()
        connection._sock, connection._rfile = here, here.makefile("rb")
        connection._current_timeout = None
        here.settimeout(0.2)
        connection._next_seq_id = 1
        with pytest.raises(pymysql.err.OperationalError) as caught:
            connection._read_query_result()
        errors.append((caught.value.args[0], str(caught.value.args[1]).split(" (")[0]))
        assert not connection.open
        there.close()
    assert errors[0] == errors[1]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no alarm")
def test_an_interrupted_statement(database: dict[str, Any]) -> None:
    """A connection whose statement a signal's handler broke off is closed: the next would read that one's result."""

    def interrupt(*args: object) -> None:
        raise LookupError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with FastConnection(**QUICK, **database) as connection, connection.cursor() as cursor:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(LookupError):
                cursor.execute("SELECT SLEEP(1), 'of another'")
            assert not connection.open
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("rows", [248, 249, 250, 251, 252, 253])
def test_packets_are_numbered_in_a_circle(rows: int, database: dict[str, Any]) -> None:
    """Wherever the numbers of packets begin anew, what follows is read as PyMySQL reads it."""
    settings = {**QUICK, **database, "client_flag": pymysql.constants.CLIENT.MULTI_STATEMENTS}
    with Connection(**settings) as plain, FastConnection(**settings) as quick:
        assert_same((plain, quick), f"SELECT seq FROM mysql.seq_1_to_{rows}; SELECT 1; SELECT 2, 3")


def _answer(connection: Any, statement: str) -> bytes:
    """Return what the server answers, byte for byte."""
    connection._execute_command(pymysql.constants.COMMAND.COM_QUERY, statement)
    raw = b""
    ends = 0
    while ends < 2:
        header = connection._rfile.read(4)
        packet = connection._rfile.read(int.from_bytes(header[:3], "little"))
        raw += header + packet
        ends += packet[0] == 0xFE and len(packet) < 9
    return raw


def raw_of(connection: OffloadConnection) -> Any:
    link = link_of(connection)
    assert link is not None
    return link.raw


def kind_of(pool: OffloadPool) -> type:
    with pool.connection() as connection:
        return type(raw_of(connection))


class Own(Connection):  # type: ignore[type-arg,unused-ignore]  # the cursor's class does not matter here
    """What a user makes of PyMySQL's connection."""


def own(**settings: Any) -> Own:
    """Connect as a user's own function does."""
    return Own(**settings)


def test_pymysqls_own_connections_are_faster(database: dict[str, Any]) -> None:
    """Unless they are not to be."""
    with pool_of(1, database) as pool:
        assert kind_of(pool) is FastConnection
    with pool_of(1, database, fast=False) as pool:
        assert kind_of(pool) is Connection


def test_others_are_left_alone(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A subclass of the user's, a function of the user's, and PyMySQL with something put in its place."""
    with pool_of(1, database, creator=own) as pool:
        assert kind_of(pool) is Own
    monkeypatch.setattr(pymysql, "connect", own)
    with pool_of(1, database) as pool:
        assert kind_of(pool) is Own


def test_connections_that_are_taken_over(database: dict[str, Any]) -> None:
    """Those that the wrapped pool held idle are faster from then on, too."""
    for quick, kind in ((True, FastConnection), (False, Connection)):
        pool = OffloadPool(PooledDB(pymysql, mincached=1, maxconnections=1, **QUICK, **database), fast=quick)
        assert kind_of(pool) is kind
        assert pool.statistics().open == 1
        pool.close()


def test_what_an_idle_connection_was_told_is_not_lost(database: dict[str, Any], mysql: MySQL) -> None:
    """What the server said of its own accord, a goodbye, is read by a connection that is made faster after it."""
    told = []
    for quick in (False, True):
        raw: Any = Connection(**QUICK, **database)
        mysql.kill_connection(raw.thread_id())
        assert select.select([raw._sock], [], [], 20)[0]
        if quick:
            pymysql_connection.upgrade(raw)
            assert type(raw) is FastConnection
        with pytest.raises(pymysql.err.OperationalError) as lost:
            raw.query("SELECT 1")
        told.append(lost.value.args)
    assert told[0] == told[1]


class Tunnel:
    """What a user connects through: it knows what PyMySQL asks a socket for, and no more."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        for name in ("close", "fileno", "gettimeout", "sendall", "setsockopt", "settimeout", "shutdown"):
            setattr(self, name, getattr(sock, name))

    def makefile(self, mode: str) -> Any:
        """Give a reader that reads, and nothing else."""
        file = self._sock.makefile(mode)  # type: ignore[call-overload]  # PyMySQL's mode is "rb"
        return SimpleNamespace(read=file.read, close=file.close)


def tunnel(database: dict[str, Any]) -> Any:
    """Connect to the server as an SSH client's forwarding does."""
    return Tunnel(socket.create_connection((database["host"], database["port"])))


def test_a_socket_of_the_users(database: dict[str, Any]) -> None:
    """A connection over something that is no socket of Python's reads the same, also for tasks."""
    with Connection(**QUICK, **database) as plain, FastConnection(**QUICK, **database, defer_connect=True) as quick:
        quick.connect(tunnel(database))
        for statement in ("SELECT 1, 'x'", "SELECT seq FROM mysql.seq_1_to_5000"):
            for kind in (Cursor, SSCursor):
                assert_same((plain, quick), statement, kind)

    @offload
    async def handler() -> Any:
        with connect(**QUICK, **database, defer_connect=True) as connection:
            connection.connect(tunnel(database))
            found = [value(connection, "SELECT 'ok'")]
            with connection.cursor(SSCursor) as cursor:
                cursor.execute("SELECT seq FROM mysql.seq_1_to_3")
                return found + [row[0] for row in cursor]

    assert asyncio.run(handler()) == ["ok", 1, 2, 3]


def test_a_compressed_link_is_left_alone(database: dict[str, Any]) -> None:
    """Where the protocol is compressed, what has arrived is no packet yet: PyMySQL reads it."""
    with FastConnection(**QUICK, **database) as raw, raw.cursor() as cursor:
        raw._compression = "zlib"  # PyMySQL to come
        cursor.execute("SELECT 'ok'")
        assert cursor.fetchone() == ("ok",)
        assert type(raw._result) is MySQLResult


def test_connections_without_a_pool(database: dict[str, Any]) -> None:
    """offload_db.connect makes faster ones, too."""
    with connect(**QUICK, **database) as connection:
        assert type(raw_of(connection)) is FastConnection
        assert value(connection, "SELECT 'ok'") == "ok"


@pytest.mark.parametrize("what", ["a version", "a method"])
def test_an_unknown_pymysql(
    what: str, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """PyMySQL's own connection is used where its inside is another; the log says so once."""
    if what == "a version":
        monkeypatch.setattr(pymysql, "VERSION", (2, 0, 0, "final", 1))
    else:
        rely_on(monkeypatch, Connection, "_renamed")
    look_again()
    try:
        with caplog.at_level(logging.INFO, "offload_db"):
            for _ in range(2):
                with pool_of(1, database) as pool:
                    assert kind_of(pool) is Connection
    finally:
        monkeypatch.undo()
        look_again()
    (line,) = [record.getMessage() for record in caplog.records if "PyMySQL" in record.getMessage()]
    assert "own speed" in line


def test_one_tls_context(mysql: MySQL, database: dict[str, Any]) -> None:
    """Connections without TLS settings share a context; those with settings have their own."""
    settings = {**database, "autocommit": True}
    with FastConnection(**settings) as first, FastConnection(**settings) as second:
        if pymysql.VERSION[:2] >= (1, 2):  # before, TLS was used on demand alone
            assert first.ctx is second.ctx
        assert value(first, "SELECT 1") == value(second, "SELECT 1") == 1


@pytest.mark.parametrize("given", [None, 1, "yes"])
def test_bad_setting(given: Any) -> None:
    """What is neither True nor False is refused."""
    with pytest.raises(ConfigurationError, match=r"fast=.*; accepted are True and False"):
        OffloadPool.create(min_size=0, fast=given)
