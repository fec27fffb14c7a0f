"""Claims about the synchronous cursor: in every place it does what PyMySQL's does."""

from __future__ import annotations

import datetime as dt
import decimal
import random
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pymysql.constants import CLIENT, FIELD_TYPE
from pymysql.converters import conversions
from pymysql.cursors import Cursor, DictCursor, SSCursor, SSDictCursor

from offload_db import OffloadPool
from tests.connection.statements import count_to
from tests.support import (
    PLACES,
    Connect,
    assert_same_as_pymysql,
    attempt,
    pool_of,
    pooled,
    pymysqls,
    run_at,
    run_with,
    unpooled,
    until,
)

pytestmark = pytest.mark.anyio


def rows_of(cursor: Any, query: str | bytes, *args: Any) -> Any:
    cursor.execute(query, *args)
    return cursor.fetchall()


def state(cursor: Any) -> tuple[Any, ...]:
    names = ("rowcount", "rownumber", "lastrowid", "description", "warning_count", "arraysize")
    return tuple(getattr(cursor, name, None) for name in names)


class OrderedCursor(DictCursor):
    dict_type: Any = OrderedDict


class ShoutingCursor(Cursor):
    """A cursor with methods of its own, and with one overridden."""

    shouted = 0

    def execute(self, query: Any, args: Any = None) -> int:
        self.shouted += 1
        return super().execute(query.replace("select", "SELECT 'shouted',"), args)

    def scalar(self, query: str, *args: Any) -> Any:
        self.execute(query, args or None)
        row = self.fetchone()
        return None if row is None else row[0]


class PairingCursor(SSCursor):
    """An unbuffered cursor that reads rows in its own way."""

    def pair(self) -> tuple[Any, Any]:
        return self.fetchone(), self.fetchone()


def with_each_cursor(connect: Connect) -> Any:
    connection = connect()
    seen = []
    for kind in (None, Cursor, DictCursor, SSCursor, SSDictCursor, OrderedCursor):
        cursor = connection.cursor(kind) if kind else connection.cursor()
        seen += [cursor.execute(count_to(5)), cursor.fetchone(), cursor.fetchmany(2), cursor.fetchmany()]
        seen += [state(cursor), cursor.fetchall(), cursor.fetchone(), cursor.fetchmany(3), cursor.fetchall()]
        seen += [state(cursor), cursor.close(), state(cursor)]
    return seen


def with_duplicate_names(connect: Connect) -> Any:
    cursor = connect(cursorclass=DictCursor).cursor()
    return rows_of(cursor, "SELECT a.n, b.n FROM (SELECT 1 AS n) a, (SELECT 2 AS n) b")


def with_cursorclass_argument(connect: Connect) -> Any:
    cursor = connect(cursorclass=SSDictCursor).cursor()
    return rows_of(cursor, count_to(3)), state(cursor)


def with_cursorclass_attribute(connect: Connect) -> Any:
    connection = connect()
    connection.cursorclass = DictCursor
    return connection.cursorclass is DictCursor, rows_of(connection.cursor(), "SELECT 1 AS one")


def with_own_cursor_class(connect: Connect) -> Any:
    cursor = connect().cursor(ShoutingCursor)
    seen = [cursor.execute("select 1 as one"), cursor.description, cursor.scalar("select %s", 5), cursor.shouted]
    cursor.shouted = 40
    seen += [cursor.scalar("select 1 from dual where false"), cursor.shouted]
    pairing = connect().cursor(PairingCursor)
    pairing.execute(count_to(7))
    return [*seen, pairing.pair(), pairing.fetchone(), pairing.pair(), pairing.rownumber, pairing.fetchall()]


def with_executemany(connect: Connect) -> Any:
    cursor = connect().cursor()
    cursor.execute("CREATE TEMPORARY TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, a INT UNIQUE, b VARCHAR(20))")
    insert = "INSERT INTO t (a, b) VALUES (%s, %s)"
    seen = [cursor.executemany(insert, [(n, f"b{n}") for n in range(50)]), state(cursor), cursor._executed[:60]]
    cursor.max_stmt_length = 100
    seen += [cursor.executemany(insert, ((n, "é%s") for n in range(50, 90))), state(cursor), cursor._executed]
    seen += [cursor.executemany(insert, []), attempt(cursor.executemany, insert, None)]
    named = "INSERT INTO t (a, b) VALUES (%(a)s, %(b)s) ON DUPLICATE KEY UPDATE b = VALUES(b)"
    seen += [cursor.executemany(named, [{"a": n, "b": "new"} for n in (1, 2, 2000)]), cursor.rowcount]
    seen += [cursor.executemany("UPDATE t SET b = %s WHERE a < %s", [("u", 3), ("v", 2), ("w", -1)]), state(cursor)]
    seen += [attempt(cursor.executemany, insert, [(5000, "x"), (5000, "y")]), cursor.rowcount]
    seen += [attempt(cursor.executemany, insert, [(1,)]), attempt(cursor.executemany, "UPDATE t SET b = %s", [(1, 2)])]
    return [*seen, rows_of(cursor, "SELECT a, b FROM t ORDER BY a")]


def with_callproc(connect: Connect) -> Any:
    connection = connect()
    seen = []
    for kind in (Cursor, DictCursor, SSCursor):
        cursor = connection.cursor(kind)
        seen += [cursor.callproc("two_results", (5, 100)), cursor.fetchall(), cursor.nextset(), cursor.fetchone()]
        seen += [state(cursor), cursor.fetchall(), cursor.nextset(), state(cursor), cursor.fetchall(), cursor.nextset()]
        seen += [rows_of(cursor, "SELECT @_two_results_0, @_two_results_1"), cursor.callproc("no_result")]
        if kind is not SSCursor:  # PyMySQL's leaves a result behind
            cursor.callproc("two_results", [1, 2])
        seen.append(cursor.close())
    cursor = connection.cursor()
    seen += [attempt(cursor.callproc, "missing", (1,)), cursor.callproc("two_results", (5, 100))]
    return [*seen, rows_of(connection.cursor(), "SELECT 1"), cursor.nextset()]


def with_many_statements(connect: Connect) -> Any:
    connection = connect(client_flag=CLIENT.MULTI_STATEMENTS)
    seen: list[Any] = []
    for kind in (Cursor, SSCursor, SSDictCursor):
        cursor = connection.cursor(kind)
        seen += [cursor.execute("SELECT 1 AS a; SELECT 2 AS a; DO 0; SELECT 3 AS a"), cursor.nextset()]
        for _ in range(5):
            seen += [attempt(list, cursor), cursor.nextset(), state(cursor)]
        cursor.execute("SELECT 1; xyzzy")
        seen += [attempt(list, cursor), attempt(cursor.nextset), attempt(cursor.fetchall), attempt(cursor.nextset)]
        cursor.execute("SELECT 4; SELECT 5")
        if kind is Cursor:  # an unbuffered one would leave a result behind
            seen += [rows_of(cursor, "SELECT 42"), cursor.nextset()]
            cursor.execute("SELECT 6; SELECT 7")
        seen += [cursor.fetchall(), cursor.nextset(), cursor.fetchall()]
        seen += [cursor.close(), attempt(cursor.nextset), attempt(cursor.fetchone)]
    return seen


def with_converters(connect: Connect) -> Any:
    conv = {
        **conversions,
        FIELD_TYPE.LONGLONG: lambda text: f"<{text}>",
        FIELD_TYPE.NEWDECIMAL: float,
        decimal.Decimal: lambda number, mapping=None: f"'{number}'",
    }
    cursor = connect(conv=conv).cursor()
    seen = [rows_of(cursor, "SELECT CAST(5 AS SIGNED), 1.50, %s", (decimal.Decimal("2.5"),))]
    plain = connect(conv={}, use_unicode=False).cursor()
    seen += [rows_of(plain, "SELECT CAST(5 AS SIGNED), 'é', NOW() > 0"), attempt(plain.execute, "SELECT %s", (1,))]
    return [*seen, rows_of(connect(use_unicode=False).cursor(), "SELECT 'é', 1, CAST('2020-01-02' AS DATE)")]


def with_local_file(connect: Connect) -> Any:
    file = Path(__file__)
    cursor = connect(local_infile=True).cursor()
    cursor.execute("CREATE TEMPORARY TABLE t (line VARCHAR(300))")
    load = "LOAD DATA LOCAL INFILE %s INTO TABLE t"
    seen = [cursor.execute(load, (str(file),)) > 100, cursor.rowcount > 100]
    failure = attempt(cursor.execute, load, (str(file.with_name("missing")),))
    seen += [failure[0], failure[1][0], rows_of(cursor, "SELECT 1")]
    unbuffered = cursor.connection.cursor(SSCursor)
    return [*seen, unbuffered.execute(load, (str(file),)) > 100, rows_of(unbuffered, "SELECT 2")]


def with_all_types(connect: Connect) -> Any:
    cursor = connect().cursor()
    cursor.execute(
        "CREATE TEMPORARY TABLE t (i BIGINT, u BIGINT UNSIGNED, d DECIMAL(20, 6), f DOUBLE, s TEXT, c CHAR(3), b BLOB,"
        " bits BIT(10), day DATE, moment DATETIME(6), stamp TIMESTAMP NULL, span TIME(6), y YEAR, js JSON,"
        " kind ENUM('a', 'b'), kinds SET('a', 'b'))"
    )
    row = (
        -(2**63),
        2**64 - 1,
        decimal.Decimal("-12345678901234.567891"),
        1.5e300,
        "naïve 日本 😀 %s %% ' \" \\ \0 \n",
        "é",
        bytes(range(256)),
        b"\x03\xff",
        dt.date(1999, 12, 31),
        dt.datetime(2024, 2, 29, 23, 59, 59, 999999),  # noqa: DTZ001  # as PyMySQL's are
        dt.datetime(2001, 1, 1),  # noqa: DTZ001
        dt.timedelta(hours=-800, minutes=5, microseconds=-250),
        2024,
        '{"a": [1, "😀"]}',
        "b",
        "a,b",
    )
    insert = f"INSERT INTO t VALUES ({', '.join(['%s'] * len(row))})"
    seen = [cursor.execute(insert, row), cursor.execute(insert, [None] * len(row)), cursor.lastrowid]
    seen += [rows_of(cursor, "SELECT * FROM t"), cursor.description]
    more = ({1}, [1, 2], (3, 4), True, 0.1, dt.time(1, 2, 3), b"", "", bytearray(b"x"))
    return [*seen, *(cursor.mogrify("%s", (item,)) for item in more)]


def with_all_kinds_of_arguments(connect: Connect) -> Any:
    cursor = connect().cursor()
    seen = [
        rows_of(cursor, *arguments)
        for arguments in (
            ("SELECT '%', '%s', '%%'",),
            ("SELECT '%%', %s", (1,)),
            ("SELECT %s, %s", [1, "a"]),
            ("SELECT %(b)s, %(a)s, %(b)s, '%%'", {"a": 1, "b": "%s"}),
            ("SELECT 'x' LIKE '%'", None),
            ("SELECT 1", ()),
            ("SELECT %s IN %s", (2, (1, 2, 3))),
        )
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyMySQL 1.2 calls a single argument deprecated
        seen += [rows_of(cursor, "SELECT %s", 5), rows_of(cursor, "SELECT %s", "five")]
    seen.append(rows_of(cursor, b"SELECT 1"))
    cursor.execute(query="SELECT %s", args=(1,))
    seen += [
        cursor.fetchall(),
        attempt(cursor.execute, "SELECT %s, %s", (1,)),
        attempt(cursor.execute, "SELECT %s", ()),
    ]
    seen += [attempt(cursor.execute, "SELECT %(a)s", {"b": 1}), attempt(cursor.execute, "SELECT '%'", (1,))]
    seen += [cursor.mogrify("SELECT %s, '%%'", ("o'clock",)), cursor.mogrify("SELECT '%'"), attempt(cursor.execute, "")]
    return [*seen, attempt(cursor.execute, None), rows_of(cursor, "SELECT 1")]


def with_iteration(connect: Connect) -> Any:
    connection = connect()
    seen: list[Any] = []
    for kind in (Cursor, DictCursor, SSCursor, SSDictCursor):
        with connection.cursor(kind) as cursor:
            cursor.execute(count_to(300))
            for number, row in enumerate(cursor):
                seen.append((number, row, cursor.rownumber))
                if number == 100:
                    break
            seen += [next(iter(cursor)), cursor.rownumber, sum(1 for _ in cursor), cursor.rownumber, list(cursor)]
            cursor.execute(count_to(3))
            seen.append(list(cursor.fetchall_unbuffered()) if hasattr(cursor, "fetchall_unbuffered") else None)
    return seen


def with_nested_cursors(connect: Connect) -> Any:
    connection = connect()
    outer, inner = connection.cursor(), connection.cursor(DictCursor)
    outer.execute(count_to(4))
    seen = [(row, rows_of(inner, "SELECT %s AS n", (row[0] * 2,))) for row in outer]
    with connection.cursor() as first, connection.cursor() as second:
        return seen, rows_of(first, "SELECT 1"), rows_of(second, "SELECT 2"), first.fetchall(), state(first)


def with_everything_closed(connect: Connect) -> Any:
    seen: list[Any] = []
    for kind in (Cursor, DictCursor, SSCursor):
        connection = connect()
        cursor = connection.cursor(kind)
        cursor.execute(count_to(5))
        seen += [cursor.fetchone(), cursor.close(), cursor.close(), connection.close(), state(cursor)]
        seen += [cursor.fetchone(), cursor.fetchmany(2), cursor.fetchall(), cursor.rownumber, cursor.connection]
        seen += [attempt(cursor.execute, "SELECT 1"), attempt(cursor.nextset), attempt(cursor.executemany, "x", [(1,)])]
    connection = connect()
    cursor = connection.cursor()
    cursor.execute(count_to(5))
    connection.close()
    return [*seen, cursor.fetchmany(3), cursor.scroll(-1), list(cursor), state(cursor), cursor.close(), state(cursor)]


def with_errors(connect: Connect) -> Any:
    connection = connect()
    cursor = connection.cursor()
    seen = [attempt(cursor.fetchone), attempt(cursor.fetchall), attempt(cursor.fetchmany), attempt(cursor.scroll, 1)]
    seen += [
        attempt(connection.cursor(SSCursor).fetchone),
        attempt(connection.cursor(SSCursor).scroll, 1),
        state(cursor),
    ]
    cursor.execute("CREATE TEMPORARY TABLE t (id INT PRIMARY KEY, small TINYINT NOT NULL, text VARCHAR(2))")
    for kind in (Cursor, SSCursor):
        cursor = connection.cursor(kind)
        for query in (
            "INSERT INTO t VALUES (1, 1, 'a')",
            "INSERT INTO t VALUES (1, 1, 'a')",
            "INSERT INTO t VALUES (2, NULL, 'a')",
            "INSERT INTO t VALUES (2, 1000, 'a')",
            "INSERT INTO t VALUES (2, 1, 'too long')",
            "SELECT * FROM no_such_table",
            "SELECT no_such_column FROM t",
            "SELEC 1",
            "SELECT no_such_function()",
            "SELECT (SELECT 1 UNION SELECT 2)",
            "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'mine', MYSQL_ERRNO = 5000",
            "SELECT 1; SELECT 2",
            "CALL no_such_procedure()",
            "USE no_such_database",
            "SELECT 1",
        ):
            seen += [attempt(cursor.execute, query), state(cursor), attempt(cursor.fetchall)]
    return seen


def with_error_on_the_way(connect: Connect) -> Any:
    cursor = connect().cursor(SSCursor)
    cursor.execute("CREATE TEMPORARY TABLE t (id INT PRIMARY KEY)")
    cursor.executemany("INSERT INTO t VALUES (%s)", [(number,) for number in range(1, 3001)])
    # A subquery of two rows is an error when it comes to be evaluated, for one of the last rows.
    query = "SELECT id, IF(id = 2990, (SELECT 1 UNION SELECT 2), id) FROM t ORDER BY id"
    seen: list[Any] = [cursor.execute(query)]
    read = 0
    while not isinstance(row := attempt(cursor.fetchone), tuple) or isinstance(row[0], int):
        read += 1
    seen += [read, row, cursor.rownumber, attempt(cursor.fetchone), attempt(cursor.fetchall)]
    cursor.execute(query)
    seen += [attempt(cursor.fetchall), cursor.rownumber, rows_of(cursor, "SELECT 1"), cursor.execute(query)]
    return [
        *seen,
        attempt(cursor.fetchmany, 2985)[-2:],
        attempt(cursor.fetchmany, 200),
        cursor.rownumber,
        cursor.close(),
    ]


def with_warnings(connect: Connect) -> Any:
    connection = connect()
    cursor = connection.cursor()
    seen = [cursor.execute("DROP TABLE IF EXISTS no_such_table"), cursor.warning_count, connection.show_warnings()]
    seen += [rows_of(cursor, "SELECT CAST('abc' AS SIGNED)"), cursor.warning_count, connection.show_warnings()]
    unbuffered = connection.cursor(SSCursor)
    unbuffered.execute("SELECT CAST('abc' AS SIGNED)")
    seen += [unbuffered.warning_count, unbuffered.fetchone(), unbuffered.warning_count]
    return [*seen, unbuffered.fetchone(), unbuffered.warning_count, rows_of(cursor, "SHOW WARNINGS")]


def with_row_counts(connect: Connect) -> Any:
    connection = connect(autocommit=False)
    cursor = connection.cursor()
    cursor.execute("CREATE TEMPORARY TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, n INT) ENGINE=InnoDB")
    seen: list[Any] = []
    for query in (
        "INSERT INTO t (n) VALUES (1), (2), (3)",
        "UPDATE t SET n = 5",
        "UPDATE t SET n = 5",
        "SELECT * FROM t",
        "DELETE FROM t WHERE id > 2",
        "REPLACE INTO t VALUES (1, 7)",
        "SELECT 1 FROM t WHERE FALSE",
        "SET @a = 1",
    ):
        seen += [cursor.execute(query), state(cursor), connection.affected_rows(), connection.insert_id()]
    connection.rollback()
    return [*seen, rows_of(cursor, "SELECT * FROM t"), cursor.setinputsizes(1), cursor.setoutputsizes(1)]


def with_big_rows(connect: Connect) -> Any:
    cursor = connect().cursor(SSCursor)
    cursor.execute(f"SELECT n, REPEAT('y', n * 3001) FROM ({count_to(40)}) big")
    seen = [(cursor.rownumber, row[0], len(row[1])) for row in cursor]
    cursor.execute("SELECT REPEAT('z', 17000000) UNION ALL SELECT 'end'")
    return [*seen, len(cursor.fetchone()[0]), cursor.fetchone(), cursor.fetchone()]


SCENARIOS = [
    with_each_cursor,
    with_duplicate_names,
    with_cursorclass_argument,
    with_cursorclass_attribute,
    with_own_cursor_class,
    with_executemany,
    with_callproc,
    with_many_statements,
    with_converters,
    with_local_file,
    with_all_types,
    with_all_kinds_of_arguments,
    with_iteration,
    with_nested_cursors,
    with_everything_closed,
    with_errors,
    with_error_on_the_way,
    with_warnings,
    with_row_counts,
    with_big_rows,
]


@pytest.mark.parametrize("source", [unpooled, pooled])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_same_as_pymysql(
    scenario: Callable[[Connect], Any], place: str, source: Callable[..., Any], settings: dict[str, Any]
) -> None:
    """Results, errors, counts and states are PyMySQL's own in every place, and the loop's thread does no I/O."""
    await assert_same_as_pymysql(scenario, place, source, settings)


def play(seed: int, connect: Connect) -> list[Any]:
    """Mix everything that reads from a cursor, at random; give what each step showed."""
    dice = random.Random(seed)
    connection = connect(client_flag=CLIENT.MULTI_STATEMENTS)
    cursors = [connection.cursor(dice.choice([SSCursor, SSCursor, SSDictCursor, Cursor])) for _ in range(2)]
    steps: list[Any] = []

    def execute(cursor: Any) -> Any:
        query = count_to(dice.choice([1, 2, 10, 150, 300, 700]), dice.choice([1, 3, 200]))
        return cursor.execute(f"{query}; SELECT 'second'" if dice.random() < 0.3 else query)

    choices: list[tuple[int, Callable[[Any], Any]]] = [
        (3, execute),
        (10, lambda cursor: cursor.fetchone()),
        (3, lambda cursor: cursor.fetchmany(dice.choice([0, 1, 2, 7, 60, 250]))),
        (2, lambda cursor: cursor.fetchmany()),
        (1, lambda cursor: cursor.fetchall()),
        (3, lambda cursor: [cursor.fetchone() for _ in range(dice.choice([2, 20, 120]))]),
        (3, lambda cursor: cursor.scroll(dice.choice([-1, 0, 1, 5, 100]))),
        (2, lambda cursor: cursor.scroll(cursor.rownumber + dice.choice([-1, 0, 3]), "absolute")),
        (1, lambda cursor: cursor.scroll(1, "sideways")),
        (2, lambda cursor: next(iter(cursor), "end")),
        (2, lambda cursor: cursor.nextset()),
        (1, lambda _: connection.commit()),
        (1, lambda cursor: cursor.execute("SELECT %s, %s", (1,))),
        (1, lambda cursor: cursor.execute("SELEC")),
        (1, lambda cursor: cursor.read_next()),
        (1, lambda cursor: setattr(cursor, "arraysize", dice.choice([1, 5]))),
    ]
    actions = [action for weight, action in choices for _ in range(weight)]
    for _ in range(60):
        cursor = cursors[0] if dice.random() < 0.85 else cursors[1]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            shown = attempt(dice.choice(actions), cursor)
        steps.append((shown, *state(cursor)[:3], [str(warning.message) for warning in caught]))
    return steps


@pytest.mark.parametrize("place", ["bridge", "plain"])
@pytest.mark.parametrize("seed", range(12))
async def test_reading_in_any_order_is_the_same_as_in_pymysql(seed: int, place: str, settings: dict[str, Any]) -> None:
    """Reading ahead is invisible: rows, positions, errors and warnings of any sequence of calls are PyMySQL's."""
    expected = run_with(pymysqls, settings, partial(play, seed))
    seen = await run_at(place, partial(run_with, unpooled, settings, partial(play, seed)))
    for number, (ours, theirs) in enumerate(zip(seen, expected, strict=True)):
        assert repr(ours) == repr(theirs), f"step {number}"


@pytest.fixture
def pool(settings: dict[str, Any]) -> Iterator[OffloadPool]:
    with pool_of(1, settings) as pool:
        yield pool


def test_dbutils_own_block_is_there(pool: OffloadPool) -> None:
    """``with cursor.no_failover()``, which DBUtils 3.2 has, works: no statement is ever executed again."""
    with pool.connection() as connection, connection.cursor() as cursor, cursor.no_failover() as same:
        assert same is cursor
        assert attempt(same.execute, "SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 1205")[1][0] == 1205
        assert pool.statistics().statements == 1


def test_repr_shows_state(pool: OffloadPool) -> None:
    """The repr tells whether the cursor is open."""
    with pool.connection() as connection:
        cursor = connection.cursor()
        assert repr(cursor) == "<OffloadCursor open>"
        assert cursor.connection is connection
        cursor.close()
        assert repr(cursor) == "<OffloadCursor closed>"
        assert cursor.connection is None
    until(lambda: pool.statistics().in_use == 0)
