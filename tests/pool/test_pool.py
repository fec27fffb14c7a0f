"""The pool: what it takes over, what it opens and closes, what comes back, and what it never shows."""

from __future__ import annotations

import gc
import inspect
import logging
import threading
import warnings
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import anyio
import pymysql
import pytest
from dbutils.pooled_db import PooledDB

from offload_db import ConfigurationError, OffloadPool, PoolClosed, offload
from offload_db.settings import shown
from tests.conftest import MySQL
from tests.inside import core
from tests.support import PATIENCE, QUICK, in_thread, outcome, pool_of, settled, together, until, value, watched_wire

SECRET = "swordfish-1906"


def server_connections(mysql: MySQL, database: str) -> int:
    return len(mysql.process_list(database))


@pytest.mark.anyio
async def test_takes_over_the_connections_of_a_pooled_db(mysql: MySQL, database: dict[str, Any]) -> None:
    """A PooledDB with mincached connections is adopted: the server never sees more than `size` of them."""
    name = database["database"]
    original = PooledDB(pymysql, mincached=4, maxconnections=4, blocking=True, **QUICK, **database)
    assert server_connections(mysql, name) == 4
    pool = OffloadPool(original)
    assert (pool.statistics().size, pool.statistics().open, pool.statistics().idle) == (4, 4, 4)
    most: list[int] = []

    @offload
    async def work() -> None:
        with pool.connection() as connection:
            assert value(connection, "SELECT 1") == 1
            most.append(value(connection, "SELECT COUNT(*) FROM information_schema.processlist WHERE db = %s", name))

    await together(*[work] * 24)
    assert len(most) == 24
    assert max(most) <= 4
    assert pool.statistics().open == 4
    await outcome(in_thread(pool.close))
    await settled(lambda: server_connections(mysql, name) == 0)
    original.close()


def test_a_smaller_size_closes_what_is_too_many(mysql: MySQL, database: dict[str, Any]) -> None:
    """Connections beyond `size` that the wrapped pool holds are closed."""
    original = PooledDB(pymysql, mincached=4, **QUICK, **database)
    pool = OffloadPool(original, size=2)
    assert pool.statistics().open == 2
    until(lambda: server_connections(mysql, database["database"]) == 2)
    pool.close()


def test_size_defaults(mysql: MySQL) -> None:
    """The size is the wrapped pool's maxconnections, 20 where that is unlimited."""
    for maximum, size in ((7, 7), (0, 20), (None, 20)):
        assert OffloadPool(PooledDB(pymysql, maxconnections=maximum, **mysql.settings())).statistics().size == size


def test_waits_though_the_wrapped_pool_would_not(mysql: MySQL) -> None:
    """A pool made without blocking=True waits for a free connection all the same."""
    pool = OffloadPool(PooledDB(pymysql, maxconnections=1, blocking=False, **QUICK, **mysql.settings()))
    first = pool.connection()
    waiting = in_thread(lambda: value(pool.connection(), "SELECT 1"))
    until(lambda: pool.statistics().waiting == 1)
    first.close()
    assert waiting.result(PATIENCE) == 1
    pool.close()


def test_maxusage(mysql: MySQL) -> None:
    """A connection is replaced after maxusage statements, when it is given back."""
    original = PooledDB(pymysql, maxusage=3, maxconnections=1, **QUICK, **mysql.settings())
    pool = OffloadPool(original)
    seen: list[int] = []
    for _ in range(4):
        with pool.connection() as connection:
            seen += [value(connection, "SELECT CONNECTION_ID()") for _ in range(2)]
    assert seen[:4] == [seen[0]] * 4
    assert seen[4:] == [seen[4]] * 4
    assert seen[4] != seen[0]
    assert pool.statistics().discards == {"maxusage": 2}
    pool.close()


def test_setsession_creator_and_arguments(mysql: MySQL) -> None:
    """Session statements are run on each new connection; a creator function and its arguments are honoured."""
    calls: list[dict[str, Any]] = []

    def creator(**kwargs: Any) -> Any:
        calls.append(kwargs)
        return mysql.connect()

    original = PooledDB(creator, maxconnections=2, setsession=["SET @tenant = 7"], extra=2)
    pool = OffloadPool(original)
    with pool.connection() as one, pool.connection() as two:
        assert value(one, "SELECT @tenant") == value(two, "SELECT @tenant") == 7
    assert [call["extra"] for call in calls] == [2, 2]
    pool.close()


def test_create_opens_nothing_and_takes_all_options(mysql: MySQL, database: dict[str, Any]) -> None:
    """`create` opens no connection before one is needed, and passes what is not its own to the driver."""
    with pool_of(3, database, init_command="SET @tenant = 9", setsession=["SET @more = 1"], maxusage=1) as pool:
        assert server_connections(mysql, database["database"]) == 0
        assert pool.statistics().size == 3
        with pool.connection() as connection:
            assert value(connection, "SELECT @tenant + @more") == 10
        assert pool.statistics().discards == {"maxusage": 1}


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: OffloadPool(pymysql), ("pool=pymysql", "PooledDB")),
        (lambda: OffloadPool(None), ("pool=", "NoneType")),
        (lambda: OffloadPool({"password": SECRET}), ("pool=", "dict")),
        (lambda: OffloadPool(_unconnected(), size=-1), ("size=-1", "from 1")),
        (lambda: OffloadPool(_unconnected(), size=cast("Any", 2.0)), ("size=2.0", "whole numbers")),
        (lambda: OffloadPool(_unconnected(), checkout_timeout=0), ("checkout_timeout=0", "above 0")),
        (lambda: OffloadPool(_unconnected(), checkout_timeout=float("inf")), ("checkout_timeout=inf",)),
        (lambda: OffloadPool(_unconnected(), max_waiting=-1), ("max_waiting=-1", "from 0")),
        (lambda: OffloadPool(_unconnected(), statement_timeout=-5), ("statement_timeout=-5",)),
        (lambda: OffloadPool(_unconnected(), max_age=cast("Any", "old")), ("max_age=<builtins.str object>",)),
        (lambda: OffloadPool(_unconnected(), leak_warning=True), ("leak_warning=True",)),
        (
            lambda: OffloadPool(_unconnected(), on_loop_call=cast("Any", "shout")),
            ("on_loop_call=<builtins.str object>", "'warn'", "'raise'"),
        ),
        (lambda: OffloadPool(_unconnected(), checkout_timeout=10**400), ("checkout_timeout=a huge number", "above 0")),
        (lambda: OffloadPool(_unconnected(), statement_timeout=1e300), ("statement_timeout=1e+300", "above 0")),
        (lambda: OffloadPool(_unconnected(), lanes=cast("Any", 3)), ("lanes=<builtins.int object>", "Lane objects")),
        (lambda: OffloadPool.create(max_size=-1), ("max_size=-1",)),
        (lambda: OffloadPool.create(min_size=-1), ("min_size=-1",)),
        (lambda: OffloadPool.create(min_size=6, max_size=5), ("min_size=6", "max_size=5")),
        (lambda: OffloadPool.create(min_size=5, max_size=3), ("min_size=5", "max_size=3")),
        (lambda: OffloadPool.create(size=5), ("size", "max_size")),
        (lambda: OffloadPool.create(maxusage=-1), ("maxusage=-1", "from 0")),
        (lambda: OffloadPool.create(setsession=cast("Any", "SET @a = 1")), ("setsession=", "str", "lists")),
        (lambda: OffloadPool.create(setsession=cast("Any", [b"SET @a = 1"])), ("setsession=", "lists")),
        (lambda: OffloadPool.create(checkout_timeuot=5, password=SECRET), ("checkout_timeuot", "checkout_timeout?")),
        (lambda: OffloadPool.create(hots="db", password=SECRET), ("hots", "host?", "pymysql.connect")),
        (lambda: OffloadPool.create("pymysql", password=SECRET), ("creator=",)),
        (lambda: OffloadPool.create(mincached="x", password=SECRET), ("OffloadPool.create",)),
    ],
)
def test_bad_settings_are_named(make: Callable[[], Any], named: tuple[str, ...]) -> None:
    """A bad setting raises an error that names it, what was given and what is accepted, and shows no password."""
    with pytest.raises(ConfigurationError) as caught:
        make()
    for words in named:
        assert words in str(caught.value)
    assert SECRET not in repr(caught.value)


def _unconnected() -> PooledDB:
    return PooledDB(pymysql, maxconnections=2, password=SECRET)


GOOD = {"MYSQL_HOST": "db", "MYSQL_USER": "app", "MYSQL_PASSWORD": SECRET, "MYSQL_DATABASE": "fleet"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        *[({name: None}, (f"{name} is not set",)) for name in GOOD],
        *[({name: " "}, (f"{name} is empty",)) for name in GOOD if name != "MYSQL_PASSWORD"],
        *[
            ({name: wrong}, (f"{name}={shown(wrong)}", "whole numbers"))
            for name, wrongs in {
                "MYSQL_PORT": ("0", "65536", "3306x", "-1", "", "٣"),
                "DB_POOL_MIN_SIZE": ("-1", "few", "1.5"),
                "DB_POOL_MAX_SIZE": ("0", "-3", "", "1e3"),
            }.items()
            for wrong in wrongs
        ],
        ({"DB_POOL_MIN_SIZE": "9", "DB_POOL_MAX_SIZE": "3"}, ("DB_POOL_MIN_SIZE=9", "DB_POOL_MAX_SIZE=3")),
        (
            {"MYSQL_HOST": None, "MYSQL_USER": "", "MYSQL_PORT": "x", "DB_POOL_MAX_SIZE": "none"},
            (
                "MYSQL_HOST is not set",
                "MYSQL_USER is empty",
                "MYSQL_PORT=<builtins.str object>",
                "DB_POOL_MAX_SIZE=<builtins.str object>",
            ),
        ),
        (
            {"MYSQL_HOST": None, "DB_POOL_MIN_SIZE": "9", "DB_POOL_MAX_SIZE": "3"},
            ("MYSQL_HOST is not set", "DB_POOL_MIN_SIZE=9", "DB_POOL_MAX_SIZE=3"),
        ),
    ],
)
def test_from_env_names_every_problem(changes: dict[str, str | None], named: tuple[str, ...]) -> None:
    """Each variable that is missing or wrong is named, all in one message, and the password is never shown."""
    environ = {name: text for name, text in {**GOOD, **changes}.items() if text is not None}
    with pytest.raises(ConfigurationError) as caught:
        OffloadPool.from_env(environ)
    for words in named:
        assert words in str(caught.value)
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize("environ", [3, SECRET, [("MYSQL_HOST", "localhost")]])
def test_from_env_of_something_else(environ: Any) -> None:
    """What is no mapping is refused by name, and not shown."""
    with pytest.raises(ConfigurationError, match=r"environ=.*accepted are mappings") as caught:
        OffloadPool.from_env(environ)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", GOOD)
def test_from_env_with_values_that_are_no_text(name: str) -> None:
    """A mapping with something else than text in it is refused by the variable's name."""
    with pytest.raises(ConfigurationError, match=name):
        OffloadPool.from_env({**GOOD, name: None})  # type: ignore[dict-item]


def test_from_env_with_one_size_alone() -> None:
    """A pool that is to be smaller than five needs no DB_POOL_MIN_SIZE, no more than create() needs min_size."""
    pool = OffloadPool.from_env({**GOOD, "DB_POOL_MAX_SIZE": "3"})
    assert (core(pool).min_size, pool.statistics().size) == (3, 3)


def test_help_shows_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No default argument is the environment itself: whoever shows the signature would show its passwords."""
    monkeypatch.setenv("MYSQL_PASSWORD", SECRET)
    assert SECRET not in str(inspect.signature(OffloadPool.from_env))


def test_from_env(mysql: MySQL, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables make a pool of autocommit utf8mb4 connections that give dictionaries."""
    for name, text in mysql.endpoint.environment(database["database"]).items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("DB_POOL_MIN_SIZE", " 0 ")
    monkeypatch.setenv("DB_POOL_MAX_SIZE", "2")
    pool = OffloadPool.from_env()
    assert pool.statistics().size == 2
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@autocommit AS a, @@character_set_connection AS c, DATABASE() AS d")
        assert cursor.fetchone() == {"a": 1, "c": "utf8mb4", "d": database["database"]}
    pool.close()


def test_secrets_are_never_shown(mysql: MySQL, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the password nor a statement's parameters appear in a repr, an error, a warning or a log line."""
    caplog.set_level(logging.DEBUG)
    shown: list[Any] = []
    settings = {**mysql.settings(), "password": SECRET, "user": "nobody-here"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pool_of(1, settings, checkout_timeout=0.05, leak_warning=0.05) as pool:
            with pytest.raises(pymysql.err.OperationalError) as denied:
                pool.connection()
            shown += [pool, pool.statistics(), denied.value]
        with pool_of(1, mysql.settings(), checkout_timeout=0.05, leak_warning=0.01) as pool:
            connection = pool.connection()
            cursor = connection.cursor()
            with pytest.raises(pymysql.err.ProgrammingError) as wrong:
                cursor.execute("SELECT * FROM nowhere.nothing WHERE a = %s", ("parameter-4711",))
            cursor.execute("SELECT %s", ("parameter-4711",))
            shown += [connection, cursor, wrong.value, pool, pool.statistics(), pool.blocking_calls()]
            with pytest.raises(TimeoutError) as full:
                in_thread(pool.connection).result(PATIENCE)
            mysql.kill_connection(connection.thread_id())
            with pytest.raises(pymysql.err.OperationalError) as lost:
                cursor.execute("SELECT %s", ("parameter-4711",))
            shown += [full.value, lost.value]
            connection.close()
    shown += [str(warning.message) for warning in caught] + [record.getMessage() for record in caplog.records]
    text = "\n".join(f"{item!r} {item}" for item in shown)
    for secret in (SECRET, mysql.password, "parameter-4711"):
        assert secret not in text


# A connection that is dropped without close()


def drop(pool: OffloadPool, *statements: str) -> int:
    """Use a connection and forget it; give its id on the server."""
    connection = pool.connection()
    cursor = connection.cursor()
    for statement in statements:
        cursor.execute(statement)
    cursor.execute("SELECT CONNECTION_ID()")
    number: int = cursor.fetchone()[0]
    return number


def test_a_dropped_clean_connection_is_idle_again(mysql: MySQL) -> None:
    """A connection dropped without close() returns to the pool at once, and its finaliser does no I/O."""
    with pool_of(1, mysql.settings()) as pool:
        connection = pool.connection()
        number = value(connection, "SELECT CONNECTION_ID()")
        with watched_wire() as wire:
            del connection
            assert not wire.events
        statistics = pool.statistics()
        assert (statistics.in_use, statistics.idle, statistics.checkins) == (0, 1, 1)
        assert value(pool.connection(), "SELECT CONNECTION_ID()") == number


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_connection_dropped_in_a_transaction_is_discarded(
    autocommit: bool, mysql: MySQL, database: dict[str, Any]
) -> None:
    """Dropped inside a transaction, a connection is thrown out without I/O, and the server rolls back."""
    with pool_of(1, database, autocommit=autocommit) as pool:
        with pool.connection() as connection:
            connection.cursor().execute("CREATE TABLE t (a INT)")
        connection = pool.connection()
        if autocommit:
            connection.begin()
        connection.cursor().execute("INSERT INTO t VALUES (1)")
        with watched_wire() as wire:
            del connection
            assert not wire.events
        statistics = pool.statistics()
        assert (statistics.in_use, statistics.open) == (0, 0)
        assert statistics.discards == {"dropped_in_transaction": 1}
        until(lambda: server_connections(mysql, database["database"]) == 0)
        assert value(pool.connection(), "SELECT COUNT(*) FROM t") == 0


@pytest.mark.anyio
async def test_finalisers_do_no_io_on_the_loop(mysql: MySQL) -> None:
    """Whatever state a connection is dropped in, also by the collector, no socket is touched on the loop's thread."""
    with pool_of(3, mysql.settings("mysql"), cursorclass=pymysql.cursors.SSCursor) as pool:

        @offload
        async def forgetful(statement: str, cycle: bool) -> None:
            connection = pool.connection()
            cursor = connection.cursor()
            cursor.execute(statement)
            if cycle:
                held: list[Any] = [connection, cursor]
                held.append(held)

        with watched_wire() as wire:
            for statement in ("DO 1", "BEGIN", "SELECT seq FROM seq_1_to_20000", "SELECT 1"):
                for cycle in (True, False):
                    await forgetful(statement, cycle)
                gc.collect()
            assert not wire.on(threading.get_ident())
            assert wire.events
        statistics = pool.statistics()
        assert statistics.in_use == 0
        assert statistics.checkouts == 8 == statistics.checkins + sum(statistics.discards.values())
        assert statistics.open == statistics.idle


@pytest.mark.anyio
async def test_a_closed_cursor_does_not_keep_its_connection(mysql: MySQL) -> None:
    """Cursors that are kept after closing do not keep their connection from coming back."""
    with pool_of(1, mysql.settings()) as pool:
        kept: list[Any] = []

        @offload
        async def work() -> None:
            connection = pool.connection()
            cursor = connection.cursor()
            cursor.execute("SELECT 1")
            cursor.close()
            kept.append(cursor)

        for _ in range(3):
            await work()
        assert pool.statistics().in_use == 0
        assert [cursor.fetchall() for cursor in kept] == [((1,),)] * 3


# Dead links, closing


@pytest.mark.anyio
async def test_a_dead_idle_link_is_replaced(mysql: MySQL) -> None:
    """A link that the server closed while it was idle is replaced at checkout, without an error to the caller."""
    with pool_of(3, mysql.settings()) as pool:

        @offload
        async def work() -> int:
            with pool.connection() as connection:
                return int(value(connection, "SELECT CONNECTION_ID()"))

        @offload
        async def three() -> set[int]:
            with pool.connection() as one, pool.connection() as two, pool.connection() as third:
                return {value(connection, "SELECT CONNECTION_ID()") for connection in (one, two, third)}

        old = await three()
        for number in old:
            await outcome(in_thread(partial(mysql.kill_connection, number)))
        await settled(lambda: not {row["ID"] for row in mysql.process_list()} & old)
        assert await work() not in old
        assert not await three() & old
        assert pool.statistics().discards == {"dead_idle": 3}
        assert pool.statistics().open == 3


def test_closing(mysql: MySQL, database: dict[str, Any]) -> None:
    """Closing twice is fine; checkouts are refused then, and a connection that is out is closed when it comes back."""
    with pool_of(2, database) as pool:
        one, two = pool.connection(), pool.connection()
        one.close()
        one.close()
        pool.close()
        pool.close()
        with pytest.raises(PoolClosed):
            pool.connection()
        assert value(two, "SELECT 1") == 1
        two.close()
        assert (pool.statistics().open, pool.statistics().in_use) == (0, 0)
        assert pool.statistics().discards == {"closed": 2}
        until(lambda: server_connections(mysql, database["database"]) == 0)


@pytest.mark.anyio
async def test_a_connection_that_was_opened_for_nobody_is_closed_with_its_pool(mysql: MySQL) -> None:
    """If the task that opens a connection is cancelled and the pool closed meanwhile, the connection is closed."""
    opening, go_on = threading.Event(), threading.Event()

    def slow(**settings: Any) -> Any:
        opening.set()
        go_on.wait(PATIENCE)
        return pymysql.connect(**settings)

    with pool_of(1, mysql.settings(), creator=slow) as pool:

        @offload
        async def doomed() -> None:
            pool.connection()

        async with anyio.create_task_group() as group:
            group.start_soon(doomed)
            await settled(opening.is_set)
            pool.close()
            group.cancel_scope.cancel()
            go_on.set()
        await settled(lambda: pool.statistics().in_use == 0)
        assert pool.statistics().open == 0


def test_closing_while_another_thread_takes_the_last_idle_link(mysql: MySQL) -> None:
    """Closing is fine where another thread takes the last idle link between the look and the taking."""
    with pool_of(1, mysql.settings()) as pool:
        taken: list[Any] = []

        class Raced(deque):  # type: ignore[type-arg]
            def pop(self) -> Any:  # type: ignore[override]
                taken.append(super().pop())
                return super().pop()

        pool.connection().close()
        core(pool).idle.resting = Raced(core(pool).idle.resting)
        pool.close()
        assert len(taken) == 1


# Trips


@pytest.mark.anyio
async def test_a_checkout_of_an_idle_link_costs_no_trip(mysql: MySQL) -> None:
    """Checkout and checkin of a clean idle connection need neither a worker nor a round trip."""
    with pool_of(1, mysql.settings()) as pool:

        @offload
        async def work() -> None:
            connection = pool.connection()
            connection.cursor().close()
            connection.close()

        await work()
        before = pool.statistics().hops
        with watched_wire() as wire:
            for _ in range(5):
                await work()
            assert not wire.events
        assert pool.statistics().hops == before
        assert pool.statistics().checkouts == 6


def test_a_connection_that_comes_back_just_now_is_kept(mysql: MySQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opens a connection throws none out that comes back in between, before its slot is free."""
    with pool_of(2, mysql.settings()) as pool:
        held = pool.connection()
        rest, look = core(pool).idle.rest, core(pool).idle.take
        rested, opened = threading.Event(), threading.Event()

        def rest_and_wait(link: Any) -> None:
            rest(link)
            rested.set()
            assert opened.wait(PATIENCE)

        def look_too_early(connector: Any, seconds: float | None) -> Any:
            found = look(connector, seconds)
            closing.append(in_thread(held.close))
            assert rested.wait(PATIENCE)
            return found

        closing: list[Any] = []
        monkeypatch.setattr(core(pool).idle, "rest", rest_and_wait)
        monkeypatch.setattr(core(pool).idle, "take", look_too_early)
        with pool.connection():
            opened.set()
            closing[0].result(PATIENCE)
            assert pool.statistics().discards == {}
            assert pool.statistics().open == 2


@pytest.mark.anyio
async def test_statistics_add_up_after_everything(mysql: MySQL) -> None:
    """After checkouts that ended in every way, open is idle, and checkouts are checkins and discards."""
    with pool_of(3, mysql.settings()) as pool:

        @offload
        async def work(number: int) -> None:
            connection = pool.connection()
            cursor = connection.cursor()
            if number % 5 == 0:
                cursor.execute("BEGIN")
            elif number % 5 == 1:
                with pytest.raises(pymysql.err.ProgrammingError):
                    cursor.execute("SELEC 1")
            elif number % 5 == 2:
                return  # dropped
            elif number % 5 == 3:
                cursor.execute("BEGIN")
                return  # dropped in a transaction
            connection.close()

        await together(*[partial(work, number) for number in range(50)])
        statistics = pool.statistics()
        assert (statistics.in_use, statistics.waiting) == (0, 0)
        assert statistics.open == statistics.idle <= 3
        assert statistics.discards == {"dropped_in_transaction": 10}
        assert statistics.checkouts == 50 == statistics.checkins + 10
        assert statistics.statements == 30


def test_counters_under_threads(mysql: MySQL) -> None:
    """The counters of 20 threads lose nothing."""
    with pool_of(4, mysql.settings()) as pool:

        def work() -> None:
            for _ in range(25):
                with pool.connection() as connection:
                    assert value(connection, "SELECT 1") == 1

        for future in [in_thread(work) for _ in range(20)]:
            future.result(PATIENCE)
        statistics = pool.statistics()
        assert statistics.checkouts == statistics.checkins == statistics.statements == 500
        assert statistics.queue_wait.count == statistics.statement_time.count == 500
        assert (statistics.in_use, statistics.hops) == (0, 0)
        assert statistics.open == statistics.idle <= 4


# No dirty connection is reused


@pytest.fixture
def table(mysql: MySQL, database: dict[str, Any]) -> dict[str, Any]:
    with mysql.connect(**database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, n INT NOT NULL)")
        cursor.execute("INSERT INTO t VALUES (1, 0), (2, 0)")
    return database


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("autocommit", "statements"),
    [
        (False, ["UPDATE t SET n = 1 WHERE id = 1"]),
        (True, ["BEGIN", "UPDATE t SET n = 1 WHERE id = 1"]),
        (True, ["START TRANSACTION", "UPDATE t SET n = 1 WHERE id = 1", "SELECT 1"]),
        (False, ["SELECT * FROM t WHERE id = 1 FOR UPDATE"]),
        (True, ["SET autocommit = 0", "SELECT * FROM t WHERE id = 1 FOR UPDATE"]),
        (True, ["XA START 'x'", "UPDATE t SET n = 1 WHERE id = 1"]),
    ],
    ids=["off", "begin", "start-select", "locks-off", "locks-set-off", "xa"],
)
async def test_an_open_transaction_ends_at_checkin(
    autocommit: bool, statements: list[str], mysql: MySQL, table: dict[str, Any]
) -> None:
    """What a caller left open is rolled back at checkin, and its row locks are gone."""
    with pool_of(1, table, autocommit=autocommit) as pool:

        @offload
        async def careless() -> None:
            with pool.connection() as connection:
                for statement in statements:
                    connection.cursor().execute(statement)

        @offload
        async def next_one() -> tuple[Any, Any]:
            with pool.connection() as connection:
                return value(connection, "SELECT n FROM t WHERE id = 1"), value(connection, "SELECT @@autocommit")

        await careless()
        with mysql.connect(**table) as other, other.cursor() as cursor:
            cursor.execute("SET innodb_lock_wait_timeout = 1")
            cursor.execute("UPDATE t SET n = n + 10 WHERE id = 1")
        assert await next_one() == (10, int(autocommit))
        assert pool.statistics().in_use == 0


def test_session_settings_are_restored(table: dict[str, Any]) -> None:
    """Autocommit and the selected database are as they were when the next caller gets the connection."""

    def by_method(connection: Any) -> None:
        connection.autocommit(False)

    def by_statement(connection: Any) -> None:
        connection.cursor().execute("SET autocommit = 0")

    def other_database(connection: Any) -> None:
        connection.select_db("mysql")

    def other_database_by_statement(connection: Any) -> None:
        connection.cursor().execute("\n use mysql")

    with pool_of(1, table) as pool:
        for change in (by_method, by_statement, other_database, other_database_by_statement):
            with pool.connection() as connection:
                number = value(connection, "SELECT CONNECTION_ID()")
                change(connection)
            with pool.connection() as connection:
                assert value(connection, "SELECT CONCAT(@@autocommit + 0, DATABASE())") == f"1{table['database']}"
                assert value(connection, "SELECT CONNECTION_ID()") == number


def test_a_database_is_left_selected_where_there_is_none_to_go_back_to(mysql: MySQL) -> None:
    """Code on a pool without a database says USE for each use: that must not cost a connection each time."""
    with pool_of(1, mysql.settings()) as pool:
        for _ in range(2):
            with pool.connection() as connection:
                connection.cursor().execute("USE mysql")
        assert (pool.statistics().discards, pool.statistics().checkins) == ({}, 2)


@pytest.mark.anyio
@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("lock", ["LOCK TABLES t WRITE", b"lock table t read", "FLUSH TABLES t WITH READ LOCK"])
async def test_locked_tables_are_unlocked(lock: Any, autocommit: bool, mysql: MySQL, table: dict[str, Any]) -> None:
    """Tables that a caller has left locked, or a caller of the awaitable surface, are there for everybody again."""

    def by_cursor(pool: OffloadPool) -> None:
        with pool.connection() as connection:
            connection.cursor().execute(lock)

    def by_query(pool: OffloadPool) -> None:
        with pool.connection() as connection:
            connection.query(lock)

    def dropped(pool: OffloadPool) -> None:
        pool.connection().cursor().execute(lock)

    with pool_of(1, table, autocommit=autocommit) as pool, mysql.connect(**table) as other:
        other.cursor().execute("SET lock_wait_timeout = 1")
        for use in (by_cursor, by_query, dropped):
            in_thread(partial(use, pool)).result(PATIENCE)
            until(lambda: not _is_locked(other))
        await pool.execute(lock)
        assert not _is_locked(other)
        assert pool.statistics().discards == {"dropped_in_transaction": 1}


def _is_locked(connection: Any) -> bool:
    try:
        connection.cursor().execute("UPDATE t SET n = n + 1")
    except pymysql.err.OperationalError as error:
        return bool(error.args[0] == 1205)
    return False


def test_a_changed_character_set_is_not_passed_on(mysql: MySQL) -> None:
    """A caller that sets another character set does not leave it to the next one."""
    with pool_of(1, mysql.settings(), charset="utf8mb4") as pool:
        with pool.connection() as connection:
            connection.set_character_set("latin1")
            assert value(connection, "SELECT @@character_set_client") == "latin1"
        with pool.connection() as connection:
            assert value(connection, "SELECT @@character_set_client") == "utf8mb4"
            assert connection.charset == "utf8mb4"


@pytest.mark.parametrize("unbuffered", [True, False], ids=["unbuffered", "multi-result"])
def test_an_abandoned_result_is_never_read_by_the_next(unbuffered: bool, table: dict[str, Any]) -> None:
    """A connection with many rows that nobody read is thrown out; further results are read to their end."""
    with pool_of(1, table, client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS) as pool:
        connection = pool.connection()
        cursor = connection.cursor(pymysql.cursors.SSCursor if unbuffered else pymysql.cursors.Cursor)
        cursor.execute("SELECT seq FROM seq_1_to_100000" if unbuffered else "SELECT 1; SELECT 2; SELECT 3")
        assert cursor.fetchone() == (1,)
        connection.close()
        assert pool.statistics().discards == ({"abandoned_result": 1} if unbuffered else {})
        assert value(pool.connection(), "SELECT 'mine'") == "mine"


def explode(text: Any) -> Any:
    if text in ("7", b"7"):
        raise LookupError("a converter that fails")
    return int(text)


@pytest.mark.anyio
@pytest.mark.parametrize("unbuffered", [False, True], ids=["buffered", "unbuffered"])
async def test_a_converter_that_fails_in_mid_result(unbuffered: bool, mysql: MySQL) -> None:
    """Its error reaches the caller; nobody reads the rest of that answer as the answer to something else."""
    converters = {**pymysql.converters.conversions, pymysql.constants.FIELD_TYPE.LONGLONG: explode}
    with pool_of(1, mysql.settings("mysql"), conv=converters) as pool:

        @offload
        async def work() -> tuple[int, Any]:
            connection = pool.connection()
            number = connection.thread_id()
            cursor = connection.cursor(pymysql.cursors.SSCursor if unbuffered else None)
            with pytest.raises(LookupError, match="a converter that fails"):  # noqa: PT012  # one of them, by cursor
                cursor.execute("SELECT seq FROM seq_1_to_20")
                cursor.fetchall()
            # The connection is of no more use, but never gives a wrong answer.
            for _ in range(2):
                with pytest.raises((pymysql.err.MySQLError, LookupError)):
                    value(connection, "SELECT 'mine'")
            with pytest.raises(pymysql.err.MySQLError):
                connection.commit()
            cursor.close()
            connection.close()
            with pool.connection() as connection:
                return number, (connection.thread_id(), value(connection, "SELECT 'mine'"))

        before, (after, answer) = await work()
        assert answer == "mine"
        assert after != before
        assert sum(pool.statistics().discards.values()) == 1
        assert pool.statistics().in_use == 0


@pytest.mark.anyio
@pytest.mark.parametrize(("max_size", "opened"), [(2, 2), (8, 5)])
async def test_a_pool_without_min_size(max_size: int, opened: int, database: dict[str, Any]) -> None:
    """Five connections are opened ahead of need, or as many as there may be."""
    async with OffloadPool.create(max_size=max_size, **QUICK, **database) as pool:
        assert pool.statistics().open == opened
