"""What a caller leaves on a session that no status flag shows, and what of it the next caller meets: nothing."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import anyio
import pymysql
import pytest
from pymysql.constants import CLIENT

from offload_db import OffloadCursor, OffloadPool, offload
from tests.conftest import MySQL, needs
from tests.support import PLACES, in_thread, outcome, pool_of, run_at, settings_for, until, value

# Each is executed in a database "home" beside a database "away", both with a table t.
ONE_SHOT: list[str | bytes] = [
    "SET TRANSACTION READ ONLY",
    "set /* for a report */ transaction read only",
    "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED",
    b"SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED, READ ONLY",
    "SET @@tx_read_only = 1",
    "SET @a = 1, @@`tx_isolation` = 'READ-UNCOMMITTED'",
    "SELECT 1; SET TRANSACTION READ ONLY",
    "SET STATEMENT max_statement_time = 5 FOR SET TRANSACTION READ ONLY",
    "BEGIN NOT ATOMIC SET TRANSACTION READ ONLY; END",
    "EXECUTE IMMEDIATE CONCAT('SET TRANS', 'ACTION READ ONLY')",
    "CALL reads_only()",
]
DATABASES: list[str | bytes] = [
    "USE away",
    "/* t7 */ USE away",
    "/**/ /***/ /* /* */USE away",
    "# t7\n-- t7\n--\nUSE`away`",
    "SELECT 1; USE away",
    "SELECT ';'; UPDATE t SET n = n;\nUSE away;",
    b"\n/* caf\xe9 */ use away",
    "/*! USE away */",
    "/*!50000USE away*/",
    "/*M!100000 USE*/ away",
    "SET STATEMENT max_statement_time = 5 FOR USE away",
    "PREPARE a FROM 'USE away'; EXECUTE a",
    "EXECUTE IMMEDIATE CONCAT('U', 'SE away')",
    "CALL wanders()",
]
LOCKS: list[str | bytes] = [
    "LOCK TABLES t WRITE",
    "/* t7 */ LOCK/**/TABLES t READ",
    "SELECT 1; LOCK TABLE t WRITE",
    "/*!LOCK*/ TABLES t WRITE",
    "FLUSH TABLES WITH READ LOCK",
    "# t7\nFLUSH LOCAL TABLES t WITH READ LOCK",
    "FLUSH TABLES t FOR EXPORT",
    "EXECUTE IMMEDIATE CONCAT('LO', 'CK TABLES t WRITE')",
    "CALL locks()",
]


@pytest.fixture
def home(mysql: MySQL, database: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the settings of a database beside another one, with statements that may be several in one text."""
    away = mysql.fresh_database()
    with mysql.connect(**database) as connection, connection.cursor() as cursor:
        for name, n in ((database["database"], 0), (away, 100)):
            cursor.execute(f"CREATE TABLE {name}.t (n INT) ENGINE=InnoDB")
            cursor.execute(f"INSERT INTO {name}.t VALUES ({n})")
        for name, body in {
            "reads_only": "SET TRANSACTION READ ONLY",
            "wanders": f"EXECUTE IMMEDIATE 'USE {away}'",
            "locks": "EXECUTE IMMEDIATE 'LOCK TABLES t WRITE'",
            "fails": "BEGIN START TRANSACTION; UPDATE t SET n = 5; SIGNAL SQLSTATE '45000'; END",
        }.items():
            cursor.execute(f"CREATE PROCEDURE {name}() {body}")
    yield {**database, "client_flag": CLIENT.MULTI_STATEMENTS, "away": away}
    mysql.drop_database(away)


@pytest.fixture
def pool(home: dict[str, Any]) -> Iterator[OffloadPool]:
    """Give a pool of one connection, which the next caller is certain to get."""
    settings = {name: value for name, value in home.items() if name != "away"}
    with pool_of(1, settings) as pool:
        yield pool


def there(text: Any, home: dict[str, Any]) -> Any:
    """Let a statement name the other database."""
    away = home["away"]
    return text.replace(b"away", away.encode()) if isinstance(text, bytes) else text.replace("away", away)


def assert_untouched(pool: OffloadPool, mysql: MySQL, home: dict[str, Any], text: Any = "") -> None:
    """Assert that the next caller, and callers elsewhere, meet nothing of what was left."""
    with mysql.connect(database=home["database"]) as other, other.cursor() as cursor:
        cursor.execute("SET lock_wait_timeout = 1")
        cursor.execute("UPDATE t SET n = 1")  # or a table is locked
        with pool.connection() as connection:
            # One statement uses up what was left for the next transaction: either shows the one or the other.
            if "UNCOMMITTED" in str(text):
                cursor.execute("BEGIN")
                cursor.execute("UPDATE t SET n = 2")
            else:
                connection.cursor().execute("UPDATE t SET n = n")
            assert value(connection, "SELECT n FROM t") == 1
            assert value(connection, "SELECT @@autocommit") == 1


def leave_by_execute(pool: OffloadPool, text: Any) -> None:
    """Leave what a statement leaves, with its results read."""
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute(text)
        while cursor.nextset():
            pass


@pytest.mark.parametrize("text", ONE_SHOT)
def test_characteristics_of_the_next_transaction(
    text: Any, pool: OffloadPool, mysql: MySQL, home: dict[str, Any]
) -> None:
    """How a caller wanted its next transaction to be is not how the next caller's is."""
    leave_by_execute(pool, text)
    assert_untouched(pool, mysql, home, text)
    assert dict(pool.statistics().discards) == {}


@pytest.mark.parametrize("text", DATABASES + LOCKS)
def test_databases_and_locks(text: Any, pool: OffloadPool, mysql: MySQL, home: dict[str, Any]) -> None:
    """However a caller has written it, the next one is in the pool's database, and no table stays locked."""
    leave_by_execute(pool, there(text, home))
    assert_untouched(pool, mysql, home, text)
    assert dict(pool.statistics().discards) == {}


def by_query(pool: OffloadPool, text: str) -> None:
    with pool.connection() as connection:
        connection.query(text)


def by_named_argument(pool: OffloadPool, text: str) -> None:
    with pool.connection() as connection:
        connection.query(sql=text)


def by_many(pool: OffloadPool, text: str) -> None:
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.executemany(text, [()])


def by_a_procedure(pool: OffloadPool, text: str) -> None:
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.callproc("wanders" if "USE" in text else "locks" if "LOCK" in text else "reads_only")


def by_a_prepared_statement(pool: OffloadPool, text: str) -> None:
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("PREPARE a FROM %s", [text])
        cursor.execute("EXECUTE a")


def by_the_drivers_own_connection(pool: OffloadPool, text: str) -> None:
    with pool.connection() as connection, connection.driver_connection.cursor() as cursor:
        cursor.execute(text)


def by_a_method_that_nobody_knows(pool: OffloadPool, text: str) -> None:
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor._query(text)


WAYS: list[Callable[[OffloadPool, str], None]] = [
    leave_by_execute,
    by_query,
    by_named_argument,
    by_many,
    by_a_procedure,
    by_a_prepared_statement,
    by_the_drivers_own_connection,
    by_a_method_that_nobody_knows,
]
LEFT = ["SET TRANSACTION READ ONLY", "# t7\nUSE away", "/*! LOCK TABLES t WRITE */"]


@pytest.mark.anyio
@pytest.mark.parametrize("place", PLACES)
async def test_whoever_sends_it(place: str, pool: OffloadPool, mysql: MySQL, home: dict[str, Any]) -> None:
    """By whatever call and from wherever it was sent, the connection goes on to the next caller, in order."""
    for way in WAYS:
        for text in LEFT:
            await run_at(place, partial(way, pool, there(text, home)))
            await outcome(in_thread(partial(assert_untouched, pool, mysql, home, text)))
    assert dict(pool.statistics().discards) == {}


async def leave_by_await(pool: OffloadPool, text: str) -> None:
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute(text)


OPERATIONS: list[Callable[[OffloadPool, str], Awaitable[Any]]] = [
    lambda pool, text: pool.execute(text),
    lambda pool, text: pool.fetch_all(text),
    leave_by_await,
]


@pytest.mark.anyio
async def test_awaited_operations(pool: OffloadPool, mysql: MySQL, home: dict[str, Any]) -> None:
    """The awaitable surface leaves as little behind."""
    for operation in OPERATIONS:
        for text in [*LEFT, "CALL wanders()"]:
            await operation(pool, there(text, home))
            await outcome(in_thread(partial(assert_untouched, pool, mysql, home, text)))
    assert dict(pool.statistics().discards) == {}


@pytest.mark.anyio
@pytest.mark.parametrize("statements", [1, 2])
async def test_a_transaction_cancelled_before_it_has_begun(
    statements: int, monkeypatch: pytest.MonkeyPatch, pool: OffloadPool, mysql: MySQL, home: dict[str, Any]
) -> None:
    """Cancelled after saying what it is to be, or as it begins, a transaction leaves the next one as it was.

    So it does on the connection itself, if that is used on: what comes next is no part of what has begun.
    """
    execute = OffloadCursor.execute
    sent: list[str] = []
    level = "READ UNCOMMITTED"

    def cancelled_after(cursor: OffloadCursor, query: str, *args: Any) -> Any:
        result = execute(cursor, query, *args)
        sent.append(query)
        if len(sent) == statements:
            scope.cancel()
            execute(cursor, "SELECT 1")  # where the cancellation is raised
        return result

    async def begin(transaction: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(OffloadCursor, "execute", cancelled_after)
            async with transaction:
                raise AssertionError("it has begun")

    with anyio.CancelScope() as scope:
        await begin(pool.transaction(isolation_level=level))
    assert sent == [f"SET TRANSACTION ISOLATION LEVEL {level}", "START TRANSACTION READ WRITE"][:statements]
    await outcome(in_thread(partial(assert_untouched, pool, mysql, home, level)))

    sent.clear()
    async with pool.acquire() as connection:
        with anyio.CancelScope() as scope:
            await begin(connection.transaction(isolation_level=level))
        async with connection.cursor() as cursor:
            await cursor.execute("SELECT @@in_transaction")
            assert await cursor.fetchone() == (0,)
            with mysql.connect(database=home["database"]) as other:
                other.begin()
                other.cursor().execute("UPDATE t SET n = 2")
                await cursor.execute("SELECT n FROM t")
                assert await cursor.fetchone() == (1,)


@pytest.mark.parametrize("text", [*LEFT, "CALL reads_only()"])
def test_a_dropped_connection_is_not_trusted(text: str, pool: OffloadPool, mysql: MySQL, home: dict[str, Any]) -> None:
    """Where nothing can be put in order, in a finaliser, the connection is thrown out."""

    def careless() -> None:
        cursor = pool.connection().cursor()
        cursor.execute(there(text, home))
        while cursor.nextset():
            pass

    in_thread(careless).result()
    until(lambda: sum(pool.statistics().discards.values()) == 1)
    assert_untouched(pool, mysql, home, text)


def test_a_procedure_that_failed_in_its_transaction(pool: OffloadPool, mysql: MySQL, home: dict[str, Any]) -> None:
    """An error tells nothing of the transaction that was begun before it: that is rolled back all the same."""
    for text in ("CALL fails()", "BEGIN NOT ATOMIC START TRANSACTION; UPDATE t SET n = 5; SELECT nothing; END"):
        with pool.connection() as connection:
            value(connection, "SELECT 1")
            with pytest.raises(pymysql.MySQLError):
                connection.cursor().execute(text)
        assert_untouched(pool, mysql, home)
    assert dict(pool.statistics().discards) == {}


@pytest.mark.parametrize("text", ["BACKUP LOCK t", "BACKUP STAGE START", "HANDLER t OPEN"])
def test_what_no_statement_of_ours_undoes(text: str, pool: OffloadPool, mysql: MySQL, home: dict[str, Any]) -> None:
    """A session that keeps a lock for a backup, or a table open, is ended."""
    leave_by_execute(pool, text)
    assert dict(pool.statistics().discards) == {"altered": 1}
    with mysql.connect(database=home["database"]) as other, other.cursor() as cursor:
        cursor.execute("SET lock_wait_timeout = 2")
        cursor.execute("ALTER TABLE t ADD COLUMN m INT")


def test_a_transaction_that_no_rollback_ends(pool: OffloadPool, mysql: MySQL, home: dict[str, Any]) -> None:
    """A branch of a distributed transaction, which refuses a rollback, ends with its session."""
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("/* t7 */ XA START 'a'")
        cursor.execute("UPDATE t SET n = 7")
    until(lambda: not mysql.process_list(home["database"]))
    assert_untouched(pool, mysql, home)
    assert dict(pool.statistics().discards) == {"rollback_failed": 1}


def test_the_database_that_setsession_selects(home: dict[str, Any]) -> None:
    """Where a session's first database is not the one it connected to, that is the one it goes back to."""
    name, away = home["database"], home["away"]
    settings = {key: home[key] for key in ("host", "port", "user", "password")}
    for own in ({}, {"database": name}):
        with pool_of(1, {**settings, **own}, setsession=[f"USE {away}"]) as pool:
            leave_by_execute(pool, f"USE {name}")
            with pool.connection() as connection:
                assert value(connection, "SELECT DATABASE()") == away
            assert dict(pool.statistics().discards) == {}


EVERYDAY = [
    "SELECT n FROM t",
    "/* t7 */ SELECT n FROM t -- USE INDEX",
    "# t7\n(SELECT n FROM t);\n",
    "INSERT INTO t VALUES (1)",
    "UPDATE t SET n = 1",
    b"DELETE FROM t WHERE n > 1",
    "SET NAMES utf8mb4",
    "SET @a = 1",
    "SET SESSION max_statement_time = 5",
]


@pytest.mark.anyio
async def test_everyday_statements_cost_no_round_trip_more(pool: OffloadPool) -> None:
    """What leaves nothing behind for certain is one trip, with nothing sent when the connection is given back."""

    @offload
    async def handler(text: Any) -> None:
        with pool.connection() as connection:
            connection.cursor().execute(text)

    await handler("SELECT 1")
    for text in EVERYDAY:
        before = pool.statistics().hops
        await handler(text)
        assert pool.statistics().hops - before == 1, text
    assert dict(pool.statistics().discards) == {}


@pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning")
@pytest.mark.parametrize("name", ["MySQLdb", "mysql.connector"])
def test_other_drivers(name: str, mysql: MySQL, home: dict[str, Any]) -> None:
    """With mysqlclient and mysql-connector the next caller meets as little."""
    try:
        driver: Any = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} is not installed: {error}")
    settings = settings_for(name, home)
    pool = OffloadPool.create(driver, min_size=0, max_size=1, autocommit=True, **settings)
    for text in (
        "SET TRANSACTION READ ONLY",
        "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED",
        "/* t7 */ USE away",
        "USE away",
        "/* t7 */ LOCK TABLES t WRITE",
        "EXECUTE IMMEDIATE 'USE away'",
        "FLUSH TABLES WITH READ LOCK",
    ):
        with pool.connection() as connection:
            cursor = connection.cursor()
            cursor.execute(there(text, home))
            cursor.close()
        assert_untouched(pool, mysql, home, text)
    assert dict(pool.statistics().discards) == {}
    pool.close()


@needs("sqlalchemy")
def test_sqlalchemy(mysql: MySQL, pool: OffloadPool, home: dict[str, Any]) -> None:
    """An engine's next connection meets nothing of what a statement of the last one left."""
    contrib = importlib.import_module("offload_db.contrib.sqlalchemy")
    for options in ({}, {"isolation_level": "AUTOCOMMIT"}):
        engine = contrib.create_engine(pool, **options)
        for text in [*LEFT, "CALL wanders()"]:
            with engine.connect() as connection:
                connection.exec_driver_sql(there(text, home))
            with mysql.connect(database=home["database"]) as other, other.cursor() as cursor:
                cursor.execute("SET lock_wait_timeout = 1")
                cursor.execute("UPDATE t SET n = 3")
            with engine.connect() as connection:
                connection.exec_driver_sql("UPDATE t SET n = n")
                assert connection.exec_driver_sql("SELECT n FROM t").scalar() == 3
        engine.dispose()
    assert pool.statistics().discards == {"closed": 2}
