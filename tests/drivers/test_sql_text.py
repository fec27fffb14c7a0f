"""Claims about what is told from a statement's text: what it may leave on its session."""

from __future__ import annotations

import time
from typing import Any

import pytest

from offload_db.drivers.sql_text import BEGUN, LONGEST, NOTHING, UNSEEN, Trace, traces

LOCKS, DATABASE, UNSHOWN, SESSION = ({trace} for trace in (Trace.LOCKS, Trace.DATABASE, Trace.UNSHOWN, Trace.SESSION))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "\n  (select 1) UNION (select 2)",
        b"UPDATE trucks SET n = %s",
        bytearray(b"INSERT INTO trucks VALUES (1)"),
        "SELECT n FROM trucks FOR UPDATE",
        "REPLACE INTO trucks VALUES (%s)",
        "SHOW TABLES",
        "SELECT 1;",
        b"SELECT 1 ; \n",
        "/* traceparent=00-4bf9 */ SELECT 1",
        "/**/ /***/ /* a * / */ ( # USE fleet\n -- USE fleet\n --\n\tDELETE FROM trucks",
        "SELECT /*! SQL_NO_CACHE */ n FROM trucks USE INDEX (a) /* USE fleet */",
    ],
)
def test_what_leaves_nothing(statement: object) -> None:
    """A single everyday statement leaves nothing for certain, where autocommit is on."""
    assert traces(statement) is NOTHING


@pytest.mark.parametrize(
    "statement",
    [
        "BEGIN",
        "START TRANSACTION",
        "SET autocommit = 0",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "/*! BEGIN */",
        "SAVEPOINT a",
        "SELECTED",
        "",
        "SELECT 1; BEGIN",
        b"insert INTO trucks VALUES (%s, ';')",
        "FLUSH PRIVILEGES",
        "USER",
        "SET NAMES utf8mb4",
        "UNLOCK TABLES",
        "/*/ SELECT */ BEGIN",
        "--SELECT\nBEGIN",
        "# SELECT",
    ],
)
def test_what_the_server_tells_of(statement: object) -> None:
    """Anything else may begin a transaction, which the server tells of."""
    assert traces(statement) == BEGUN


@pytest.mark.parametrize(
    ("statement", "left"),
    [
        ("USE fleet", DATABASE),
        (b"\n  use `fleet`", DATABASE),
        ("/* t7 */ USE fleet", DATABASE),
        ("/*!50000USE fleet*/", DATABASE),
        ("/*M!USE*/`fleet`", DATABASE),
        ("SELECT 1; USE fleet", DATABASE),
        ("LOCK TABLES trucks WRITE", LOCKS),
        ("lock\ntable trucks read", LOCKS),
        ("FLUSH LOCAL TABLES trucks WITH READ LOCK", LOCKS),
        ("FLUSH TABLES trucks FOR EXPORT", LOCKS),
        ("SET TRANSACTION READ ONLY", UNSHOWN),
        (b"set @@tx_isolation = %s", UNSHOWN),
        ("SET @a = 1, @@`transaction_read_only` = 1", UNSHOWN),
        ("LOCK INSTANCE FOR BACKUP", LOCKS | SESSION),
        ("BACKUP STAGE START", SESSION),
        ("HANDLER trucks OPEN", SESSION),
        ("SELECT 'a;b'; USE fleet; LOCK TABLES trucks READ", DATABASE | LOCKS),
    ],
)
def test_what_no_server_tells_of(statement: object, left: set[Trace]) -> None:
    """A database, locks and the like are told wherever in a text the words for them stand, and in whatever comment."""
    assert traces(statement) == BEGUN | left


@pytest.mark.parametrize(
    "statement",
    [
        "CALL fleet()",
        "/* t7 */ call fleet()",
        "PREPARE a FROM @a; EXECUTE a",
        "EXECUTE IMMEDIATE @a",
        "BEGIN fleet; END",
        "BEGIN " + " " * LONGEST,
        "/*" + " " * LONGEST + "*/ SELECT 1",
        None,
        object(),
    ],
)
def test_what_cannot_be_read(statement: object) -> None:
    """Where the text does not show what is done, anything may be left."""
    assert traces(statement) >= UNSEEN


@pytest.mark.parametrize("piece", ["(", " ", "/* */", "/*", "* /", "*", "# \n", "#", "-- \n", "--\n", "-", ";", "USE "])
@pytest.mark.parametrize("kind", [str, bytes])
def test_reading_takes_no_time(piece: str, kind: type) -> None:
    """However a text is made, it is read in a few milliseconds: the event loop waits for it."""
    for text in (piece * 3_000_000, "SELECT 1;" + piece * 3_000_000, "/*" + piece * 3_000_000):
        statement: Any = text if kind is str else text.encode()
        seconds = []
        for _ in range(3):
            started = time.thread_time()
            traces(statement)
            seconds.append(time.thread_time() - started)
        assert min(seconds) < 0.05
