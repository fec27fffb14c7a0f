"""Claims about connections: PyMySQL's and DBUtils' own behaviour wherever they are used, given back in every case."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pymysql
import pytest
from dbutils.pooled_db import InvalidConnectionError, PooledDB
from pymysql.cursors import Cursor, DictCursor, SSCursor

from offload_db import OffloadPool, offload
from tests.conftest import MySQL
from tests.support import (
    PLACES,
    QUICK,
    Connect,
    Gate,
    assert_same_as_pymysql,
    attempt,
    in_thread,
    outcome,
    pool_of,
    pooled,
    run_at,
    settled,
    together,
    unpooled,
    value,
    watched_wire,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def settings(mysql: MySQL) -> Iterator[dict[str, Any]]:
    """Give one database for all tests here, with one table that each test may use with an id of its own."""
    name = mysql.fresh_database()
    with mysql.connect(database=name) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, n INT) ENGINE=InnoDB")
    yield mysql.settings(name)
    mysql.drop_database(name)


@pytest.fixture
def pool(settings: dict[str, Any]) -> Iterator[OffloadPool]:
    with pool_of(1, settings) as pool:
        yield pool


class OwnConnection(pymysql.connections.Connection):
    """A connection with a method of its own."""

    def scalar(self, query: str) -> Any:
        with self.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()


def with_what_dbutils_hides(connect: Connect) -> Any:
    connection = connect()
    seen = [connection.open, connection.get_autocommit(), connection.autocommit(False), connection.get_autocommit()]
    seen += [connection.autocommit(True), connection.get_autocommit(), connection.insert_id()]
    seen += [connection.affected_rows(), connection.thread_id() == value(connection, "SELECT CONNECTION_ID()")]
    seen += [connection.get_server_info(), connection.get_proto_info(), connection.get_host_info()]
    seen += [
        connection.character_set_name(),
        connection.escape("it's \\ é"),
        connection.escape(b"\x00"),
        connection.escape(5),
    ]
    seen += [
        connection.escape([1, "a"]),
        connection.host,
        connection.port,
    ]
    seen += [
        connection.user,
        connection.encoding,
        connection.charset,
        connection.cursorclass is Cursor,
        connection.unix_socket,
    ]
    seen += [connection.Error is pymysql.err.Error, connection.IntegrityError is pymysql.err.IntegrityError]
    seen += [attempt(getattr, connection, "no_such_attribute")[0], hasattr(connection, "escape_string")]
    if hasattr(connection, "escape_string"):
        seen.append(connection.escape_string("it's"))
    return seen


def with_databases(connect: Connect) -> Any:
    connection = connect()
    seen = [connection.select_db("information_schema"), value(connection, "SELECT DATABASE()")]
    seen += [attempt(connection.select_db, "no_such_database"), value(connection, "SELECT DATABASE()")]
    return [
        *seen,
        attempt(connect, database="no_such_database")[1][0],
        value(connect(database=None), "SELECT DATABASE()"),
    ]


def with_character_sets(connect: Connect) -> Any:
    connection = connect(charset="latin1")
    seen = [
        connection.character_set_name(),
        value(connection, "SELECT 'é'"),
        value(connection, "SELECT @@character_set_client"),
    ]
    seen += [connection.set_character_set("utf8mb4"), connection.character_set_name(), value(connection, "SELECT '😀'")]
    seen += [connection.encoding, attempt(connection.set_character_set, "klingon")]
    latin = connect(charset="latin1")
    # A text that the connection can't encode is refused before anything is sent.
    return [*seen, attempt(value, latin, "SELECT '😀'")[0], value(latin, "SELECT 'é'")]


def with_transactions(connect: Connect) -> Any:
    connection = connect(autocommit=False)
    count = partial(value, connection, "SELECT COUNT(*) FROM t WHERE n = 7")
    insert = "INSERT INTO t (n) VALUES (7)"
    seen = [connection.begin(), value(connection, insert), count(), connection.rollback(), count()]
    seen += [
        value(connection, insert),
        connection.insert_id() > 0,
        connection.affected_rows(),
        connection.commit(),
        count(),
    ]
    seen += [connection.query("DELETE FROM t WHERE n = 7"), connection.affected_rows(), connection.commit(), count()]
    return [*seen, connection.commit(), connection.rollback()]


def with_low_level_calls(connect: Connect) -> Any:
    connection = connect()
    seen = [connection.query("SELECT 1 AS one"), connection._result.rows, connection.affected_rows(), connection.ping()]
    seen += [connection.ping(False), connection.ping(reconnect=False), connection.show_warnings()]
    seen += [attempt(connection.query, "SELEC"), attempt(connection.kill, "1"), attempt(connection.kill, 2**31 - 1)]
    seen += [attempt(connection.query, None), attempt(connection.begin, 1, 2)[0], value(connection, "SELECT 2")]
    return [*seen, connection.query("SELECT 1", unbuffered=True), connection._result._read_rowdata_packet_unbuffered()]


def with_blocks(connect: Connect) -> Any:
    seen: list[Any] = []
    with connect() as connection:
        with connection.cursor() as cursor, connection.cursor(DictCursor) as other:
            seen += [cursor.execute("SELECT 1"), other.execute("SELECT 2 AS two"), cursor.fetchall(), other.fetchall()]
        seen += [connection.open, attempt(cursor.execute, "SELECT 1")]
    seen.append(connection.open)
    try:
        with connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            raise KeyError("mine")
    except KeyError as error:
        seen += [error.args, connection.open, cursor.fetchall()]
    return seen


SCENARIOS = [
    with_what_dbutils_hides,
    with_databases,
    with_character_sets,
    with_transactions,
    with_low_level_calls,
    with_blocks,
]


@pytest.mark.parametrize("source", [unpooled, pooled])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_same_as_pymysql(
    scenario: Callable[[Connect], Any], place: str, source: Callable[..., Any], settings: dict[str, Any]
) -> None:
    """What a connection gives and raises is PyMySQL's own in every place, and the loop's thread does no I/O."""
    await assert_same_as_pymysql(scenario, place, source, settings)


@pytest.mark.parametrize("place", PLACES)
async def test_leaving_a_with_block_rolls_back(place: str, settings: dict[str, Any]) -> None:
    """``with pool.connection() as conn`` gives back and rolls back on success as well as on an error, as in DBUtils."""
    with pool_of(1, settings, autocommit=False) as pool:

        def leave(error: bool) -> None:
            with pool.connection() as connection:
                value(connection, "INSERT INTO t (n) VALUES (11)")
                if error:
                    raise KeyError

        await run_at(place, partial(leave, False))
        with pytest.raises(KeyError):
            await run_at(place, partial(leave, True))
        statistics = pool.statistics()
        assert (statistics.idle, statistics.in_use, dict(statistics.discards)) == (1, 0, {})
        assert await run_at(place, lambda: value(pool.connection(), "SELECT COUNT(*) FROM t WHERE n = 11")) == 0


def test_what_only_dbutils_has(settings: dict[str, Any]) -> None:
    """DBUtils' connections tell their driver and its thread safety, and can be told to cancel; so can these."""
    dbutils = PooledDB(pymysql, **QUICK, **settings)
    plain = dbutils.connection()
    with pool_of(1, settings) as pool, pool.connection() as connection:
        assert connection.dbapi() is plain.dbapi() is pymysql
        assert connection.threadsafety() == plain.threadsafety() == 1
        plain.cancel()
        connection.cancel()
        assert value(connection, "SELECT 1") == 1
    plain.close()
    dbutils.close()


@pytest.mark.parametrize("place", PLACES)
async def test_closed_means_closed(place: str, pool: OffloadPool) -> None:
    """A closed connection refuses everything with an error of PyMySQL's and of DBUtils' class; closing it is fine."""

    def use() -> None:
        connection = pool.connection()
        commit = connection.commit
        connection.close()
        connection.close()
        assert not connection.open
        uses: list[Callable[[], Any]] = [
            connection.cursor,
            commit,
            connection.rollback,
            connection.begin,
            connection.__enter__,
            partial(connection.select_db, "mysql"),
            lambda: connection.ping(),  # noqa: PLW0108  # there is no such attribute of a closed connection
            lambda: connection.escape("a"),
            lambda: setattr(connection, "cursorclass", DictCursor),
        ]
        for call in uses:
            with pytest.raises(pymysql.err.InterfaceError) as caught:
                call()
            assert isinstance(caught.value, InvalidConnectionError)
            assert caught.value.args[0] == 0
        assert pool.statistics().in_use == 0

    await run_at(place, use)


async def test_closed_does_not_touch_the_next_holder(pool: OffloadPool) -> None:
    """Closing a connection again, or its cursor afterwards, leaves the connection's next holder alone."""

    @offload
    async def handler() -> Any:
        first = pool.connection()
        stale = first.cursor(SSCursor)
        stale.execute("SELECT 1")
        stale.fetchall()
        first.close()
        second = pool.connection()
        cursor = second.cursor(SSCursor)
        cursor.execute("SELECT 1 UNION SELECT 2")
        stale.close()
        first.close()
        del stale, first
        gc.collect()
        rows = cursor.fetchall()
        second.close()
        return rows

    assert await handler() == [(1,), (2,)]


@pytest.mark.parametrize("how", ["cursor", "transaction", "idle"])
async def test_a_dropped_connection_comes_back(how: str, pool: OffloadPool) -> None:
    """A connection that nobody references returns without any I/O; one in a transaction is thrown out."""

    @offload
    async def handler() -> int:
        connection = pool.connection()
        if how == "cursor":
            connection.cursor().execute("SELECT 1")
        elif how == "transaction":
            connection.begin()
        wire.clear()
        del connection
        gc.collect()
        return len(wire.events)

    with watched_wire() as wire:
        assert await handler() == 0
    statistics = pool.statistics()
    assert statistics.in_use == 0
    assert dict(statistics.discards) == ({"dropped_in_transaction": 1} if how == "transaction" else {})


async def test_dropping_works_without_the_garbage_collector(pool: OffloadPool) -> None:
    """The library keeps no cycle through a connection: the last reference gone, it is back, after errors as well."""

    @offload
    async def handler() -> int:
        connection = pool.connection()
        cursor = connection.cursor()
        for query in ("SELECT 1", "SELEC", "SELECT 2"):
            attempt(cursor.execute, query)
        connection.commit()
        del cursor, connection
        return pool.statistics().in_use

    gc.collect()
    gc.disable()
    try:
        assert await handler() == 0
    finally:
        gc.enable()


async def test_opened_used_and_closed_on_three_threads(pool: OffloadPool) -> None:
    """A connection may move from thread to thread, and into a bridged task in between."""
    connection = await outcome(in_thread(pool.connection))
    cursor = await outcome(in_thread(partial(connection.cursor, SSCursor)))
    await outcome(in_thread(partial(cursor.execute, "SELECT 1 UNION SELECT 2 UNION SELECT 3")))
    assert await run_at("bridge", cursor.fetchone) == (1,)
    assert await outcome(in_thread(cursor.fetchone)) == (2,)
    assert await run_at("thread", cursor.fetchall) == [(3,)]
    await outcome(in_thread(connection.close))
    assert pool.statistics().idle == 1


async def test_two_who_close_at_once(pool: OffloadPool) -> None:
    """Closing a connection that somebody else closes meanwhile is fine, too."""
    gate = Gate()

    @offload
    async def handler() -> list[Any]:
        connection = pool.connection()
        connection.cursorclass = partial(_GatedCursor, gate)

        async def execute() -> None:
            await nested(connection.cursor().execute, "SELECT 1")

        async def close() -> None:
            await gate.entered()
            async with anyio.create_task_group() as group:
                group.start_soon(nested, connection.close)
                group.start_soon(nested, connection.close)
                await anyio.lowlevel.checkpoint()
                gate.open()

        return await together(execute, close)

    @offload
    async def nested(function: Callable[..., Any], *args: Any) -> None:
        function(*args)

    assert await handler() == [None, None]
    assert pool.statistics().in_use == 0


class _GatedCursor(Cursor):
    def __init__(self, gate: Gate, connection: Any) -> None:
        super().__init__(connection)
        self.gate = gate

    def execute(self, query: Any, args: Any = None) -> int:
        self.gate()
        return super().execute(query, args)


async def test_a_changed_connection_is_not_handed_on(pool: OffloadPool) -> None:
    """Attributes that a user sets, and a database selected, hold for that user and for nobody else."""

    @offload
    async def handler() -> Any:
        with pool.connection() as connection:
            before = value(connection, "SELECT DATABASE()")
            connection.cursorclass = DictCursor
            connection.select_db("information_schema")
            with connection.cursor() as cursor:
                cursor.execute("SELECT DATABASE() AS name")
                assert cursor.fetchall() == [{"name": "information_schema"}]
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT DATABASE()")
            assert cursor.fetchall() == ((before,),)

    await handler()


async def test_methods_of_an_own_connection_class_leave_the_loop_free(settings: dict[str, Any]) -> None:
    """A method that a subclass adds runs on a worker as a whole."""

    def connect(**kwargs: Any) -> OwnConnection:
        return OwnConnection(**kwargs)

    connect.threadsafety = 1  # type: ignore[attr-defined]  # DBUtils wants to know
    with pool_of(1, settings, creator=connect) as pool, watched_wire() as wire:

        @offload
        async def handler() -> Any:
            with pool.connection() as connection:
                return connection.scalar("SELECT 5")

        assert await handler() == (5,)
        assert wire.events
        assert not wire.on(threading.get_ident())


class Proxy:
    """What tracing libraries wrap objects in: it looks like the object in every respect but its type."""

    def __init__(self, wrapped: Any) -> None:
        object.__setattr__(self, "_self_wrapped", wrapped)

    @property
    def __class__(self) -> Any:
        return type(self._self_wrapped)

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise TypeError

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_self_wrapped"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._self_wrapped, name, value)


class TracedCursor(Proxy):
    def execute(self, *args: Any, **kwargs: Any) -> Any:
        SPANS.append(str(args[0]))
        return self._self_wrapped.execute(*args, **kwargs)


class TracedConnection(Proxy):
    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        return TracedCursor(self._self_wrapped.cursor(*args, **kwargs))


SPANS: list[str] = []


@pytest.mark.parametrize("kind", [Cursor, SSCursor])
async def test_traced_connections_work(kind: Any, settings: dict[str, Any]) -> None:
    """A creator may return its connection in a proxy, and that its cursors: both are gone through, from workers."""
    SPANS.clear()
    query = "SELECT 1 UNION SELECT 2"

    def connect(**kwargs: Any) -> Any:
        return TracedConnection(pymysql.connect(**kwargs))

    connect.threadsafety = 1  # type: ignore[attr-defined]  # DBUtils wants to know
    pool = OffloadPool(
        PooledDB(creator=connect, maxconnections=1, failures=(pymysql.err.OperationalError,), **QUICK, **settings)
    )

    @offload
    async def handler() -> Any:
        with pool.connection() as connection:
            assert connection.open
            cursor = connection.cursor(kind)
            cursor.execute(query)
            first = cursor.fetchone()
            cursor.close()
            assert cursor.rownumber == 1
            return first, value(connection, "SELECT 5")

    with watched_wire() as wire:
        assert await handler() == ((1,), 5)
        assert not wire.on(threading.get_ident())
    assert [query, "SELECT 5"] == SPANS
    assert pool.statistics().idle == 1
    pool.close()


async def test_a_lost_link_is_reported_and_replaced(pool: OffloadPool, mysql: MySQL) -> None:
    """After the server ended a connection, its user gets errors until it is closed, and the next one a live one."""

    @offload
    async def handler() -> None:
        connection = pool.connection()
        mysql.kill_connection(connection.thread_id())
        shown = attempt(value, connection, "SELECT 1")
        assert shown[0] == "ConnectionLost"
        assert not connection.open
        with pytest.raises(pymysql.err.InterfaceError):
            value(connection, "SELECT 1")
        connection.close()
        assert value(pool.connection(), "SELECT 1") == 1

    await handler()
    await settled(lambda: pool.statistics().in_use == 0)


async def test_connections_can_be_referenced_weakly(pool: OffloadPool) -> None:
    """Frameworks keep weak references to what they hand out."""

    @offload
    async def handler() -> None:
        connection = pool.connection()
        cursor = connection.cursor()
        assert weakref.ref(connection)() is connection
        assert weakref.ref(cursor)() is cursor
        assert repr(connection) == "<OffloadConnection open>"
        connection.close()
        assert repr(connection) == "<OffloadConnection closed>"

    await handler()
