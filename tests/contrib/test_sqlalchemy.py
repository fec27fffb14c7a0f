"""Claims about SQLAlchemy on the pool: the loop stays free, and everything else is as on SQLAlchemy's own pool."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pymysql
import pytest
from dbutils.pooled_db import PooledDB
from pymysql.cursors import DictCursor

import offload_db
from offload_db import ConfigurationError, OffloadPool, offload
from tests.conftest import MySQL
from tests.support import (
    PLACES,
    QUICK,
    Gate,
    in_thread,
    outcome,
    pool_of,
    run_at,
    settled,
    together,
    value,
    warm,
    watched_wire,
)

sqlalchemy = pytest.importorskip("sqlalchemy")

import sqlalchemy as sa  # noqa: E402  # where it is installed
from sqlalchemy import Engine, event, exc, orm  # noqa: E402

from offload_db.contrib.sqlalchemy import create_engine, current_call  # noqa: E402
from tests.contrib.inside import database_of  # noqa: E402
from tests.contrib.sqlalchemy_models import Hop, Truck, engine, number_of_trucks, pool  # noqa: E402

__all__ = ["engine", "pool"]  # fixtures

pytestmark = pytest.mark.anyio


async def test_orm_sessions_under_load(pool: OffloadPool, engine: Engine, mysql: MySQL) -> None:
    """Many handlers at once, on an engine that nobody has used: all served, and no I/O on the loop's thread."""

    @offload
    async def handler(number: int) -> Any:
        with orm.Session(engine) as session:
            truck = session.get(Truck, number % 2 + 1)
            assert truck is not None
            session.execute(sa.text("SELECT SLEEP(0.005)"))
            await anyio.lowlevel.checkpoint()
            with session.begin_nested():
                session.add(Hop(truck=truck))
            session.commit()
            return truck.name, len(truck.trips) > 1

    me = threading.get_ident()
    with watched_wire() as wire:
        results = await together(*(partial(handler, number) for number in range(40)))
    assert results == [("FL-1", True), ("FL-2", True)] * 20
    assert wire.on(me) == []
    statistics = pool.statistics()
    assert (statistics.blocking_calls, statistics.in_use, statistics.kills) == (0, 0, 0)
    assert statistics.open <= 4
    assert len(mysql.process_list(database_of(pool.variant()))) <= 4


async def test_the_dialect_asks_the_server_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks and threads that come first together wait for one of them, and the loop for nobody."""
    gate = Gate()
    original = engine.dialect.initialize

    def initialize(connection: Any) -> None:
        gate()
        original(connection)

    monkeypatch.setattr(engine.dialect, "initialize", initialize)

    def use() -> Any:
        with engine.connect() as connection:
            assert engine.dialect.server_version_info is not None
            return connection.scalar(sa.text("SELECT 1"))

    async def ask(place: str) -> Any:
        return await run_at(place, use)

    async def open_late() -> None:
        await gate.entered()
        with anyio.fail_after(10):
            for _ in range(50):  # the loop turns while the first one waits for the server
                await anyio.sleep(0.001)
        gate.open()

    results = await together(*(partial(ask, place) for place in ("bridge", "plain") * 6), open_late)
    assert results == [1] * 12 + [None]
    assert gate.calls == 1


@pytest.mark.parametrize("place", PLACES)
async def test_row_counts(place: str, pool: OffloadPool, engine: Engine) -> None:
    """For the engine a row that was found counts, as always; for legacy code on the same pool one that changed."""

    def use() -> None:
        for _ in range(2):
            with engine.begin() as connection:
                result = connection.execute(sa.text("UPDATE trucks SET name = 'FL-1' WHERE id = 1"))
                assert result.rowcount == 1
            with pool.connection() as legacy, legacy.cursor() as cursor:
                assert cursor.execute("UPDATE trucks SET name = 'FL-1' WHERE id = 1") == 0
                cursor.execute("SELECT id FROM trucks WHERE id = 1")
                assert cursor.fetchall() == [{"id": 1}]
                assert legacy.get_autocommit()

    await run_at(place, use)
    assert pool.statistics().open == 2


async def test_optimistic_locking(engine: Engine) -> None:
    """Of two sessions that change the same row the second one is told, as on SQLAlchemy's own pool."""

    @offload
    async def handler() -> None:
        with orm.Session(engine) as one, orm.Session(engine) as other:
            mine, theirs = one.get_one(Truck, 1), other.get_one(Truck, 1)
            mine.name, theirs.name = "mine", "theirs"
            one.commit()
            with pytest.raises(orm.exc.StaleDataError):
                other.commit()
            other.rollback()
            assert other.get_one(Truck, 1).name == "mine"

    await handler()


async def test_pools_that_connect_by_a_function(database: dict[str, Any], pool: OffloadPool) -> None:
    """A legacy pool whose creator is a function serves an engine just so."""

    def connect() -> Any:
        return pymysql.connect(**{**QUICK, **database, "cursorclass": DictCursor})

    by_function = OffloadPool(PooledDB(creator=connect, maxconnections=2, setsession=["SET @prepared = 7"]))
    engine = create_engine(by_function)

    def use() -> None:
        with engine.begin() as connection:
            assert connection.execute(sa.text("UPDATE trucks SET name = 'FL-1' WHERE id = 1")).rowcount == 1
            assert connection.execute(sa.text("SELECT @prepared, @@autocommit")).one() == (7, 0)
        with by_function.connection() as legacy, legacy.cursor() as cursor:
            assert cursor.execute("UPDATE trucks SET name = 'FL-1' WHERE id = 1") == 0

    await run_at("bridge", use)
    by_function.close()


async def test_one_bound_for_all_kinds(pool: OffloadPool, mysql: MySQL, database: dict[str, Any]) -> None:
    """Legacy code and two engines share the pool's size: idle connections of one kind make room for another."""
    engines = [create_engine(pool), create_engine(pool, isolation_level="AUTOCOMMIT")]
    most = 0

    @offload
    async def handler(number: int) -> Any:
        nonlocal most
        if number % 3 == 2:
            with pool.connection() as connection:
                found = value(connection, "SELECT SLEEP(0.005) + %s", number)
        else:
            with engines[number % 3].connect() as connection:
                found = connection.scalar(sa.text("SELECT SLEEP(0.005) + :n"), {"n": number})
        most = max(most, pool.statistics().open)
        return found

    await warm(pool, 4)  # all are of one kind
    assert await together(*(partial(handler, number) for number in range(60))) == list(range(60))
    assert most <= 4
    await settled(lambda: len(mysql.process_list(database["database"])) <= 4)
    assert pool.statistics().discards["displaced"] > 0


@pytest.mark.parametrize("place", PLACES)
async def test_transactions(place: str, pool: OffloadPool, engine: Engine) -> None:
    """Work is committed by commit alone, whatever the pool's own autocommit; errors roll back."""

    def use() -> None:
        with orm.Session(engine) as session:
            session.add(Truck(name="forgotten"))
            session.flush()
            assert number_of_trucks(pool) == 2
        with suppress(ZeroDivisionError), orm.Session(engine) as session, session.begin():
            session.add(Truck(name="failed"))
            session.flush()
            raise ZeroDivisionError
        with pytest.raises(exc.IntegrityError), orm.Session(engine) as session, session.begin():
            session.add(Hop(truck_id=99))
        assert number_of_trucks(pool) == 2
        with orm.Session(engine) as session, session.begin():
            session.add(Truck(name="kept"))
            with suppress(ZeroDivisionError), session.begin_nested():
                session.add(Truck(name="back to the savepoint"))
                session.flush()
                raise ZeroDivisionError
        assert number_of_trucks(pool) == 3

    await run_at(place, use)
    assert pool.statistics().in_use == 0


@pytest.mark.parametrize("place", PLACES)
async def test_isolation_levels(place: str, pool: OffloadPool) -> None:
    """Levels for an engine, for a part of its use and for one connection hold there, and nowhere else."""
    query = sa.text("SELECT @@tx_isolation, @@autocommit")

    def seen(engine: Any) -> Any:
        with engine.connect() as connection:
            return tuple(connection.execute(query).one())

    def use() -> None:
        plain = create_engine(pool)
        assert seen(plain) == ("REPEATABLE-READ", 0)
        committed = create_engine(pool, isolation_level="READ COMMITTED")
        auto = create_engine(pool, isolation_level="AUTOCOMMIT")
        part = plain.execution_options(isolation_level="SERIALIZABLE")
        other = plain.execution_options(isolation_level="AUTOCOMMIT")
        for _ in range(2):
            assert seen(committed) == ("READ-COMMITTED", 0)
            assert seen(auto) == ("REPEATABLE-READ", 1)
            assert seen(part) == ("SERIALIZABLE", 0)
            assert seen(other) == ("REPEATABLE-READ", 1)
            assert seen(plain) == ("REPEATABLE-READ", 0)
        with plain.connect() as connection:
            changed = connection.execution_options(isolation_level="READ UNCOMMITTED")
            assert tuple(changed.execute(query).one()) == ("READ-UNCOMMITTED", 0)
        assert seen(plain) == ("REPEATABLE-READ", 0)
        with auto.connect() as connection:
            connection.execute(sa.text("INSERT INTO trucks (name) VALUES ('at once')"))
        assert number_of_trucks(pool) == 3

    await run_at(place, use)


@pytest.mark.parametrize("place", PLACES)
async def test_streaming(place: str, pool: OffloadPool, engine: Engine) -> None:
    """Results that are read as they come give all rows; one that is left early does not spoil the next."""
    rows = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 900) SELECT n FROM c"

    def use() -> None:
        with engine.connect() as connection:
            result = connection.execution_options(stream_results=True, max_row_buffer=50).execute(sa.text(rows))
            assert [row.n for row in result] == list(range(1, 901))
        with engine.connect() as connection, connection.execution_options(yield_per=100).execute(sa.text(rows)) as left:
            assert len(next(left.partitions(100))) == 100
        with orm.Session(engine) as session:
            names = session.scalars(sa.select(Truck).execution_options(yield_per=1))
            assert sorted(truck.name for truck in names) == ["FL-1", "FL-2"]
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT 42")) == 42

    await run_at(place, use)
    assert pool.statistics().in_use == 0


@pytest.mark.parametrize("place", PLACES)
async def test_leaving_a_long_result(place: str, pool: OffloadPool, engine: Engine) -> None:
    """An error amid a long stream of rows reaches the caller; the rest of the rows is not waited for."""
    rows = sa.text("SELECT seq, REPEAT('x', 9999) AS text FROM seq_1_to_9000000")

    def use() -> None:
        with engine.connect() as connection:
            for row in connection.execution_options(stream_results=True, max_row_buffer=2).execute(rows):
                raise LookupError(row.seq)

    with pytest.raises(LookupError, match="1"):
        await run_at(place, use)
    assert pool.statistics().kills == 1
    assert pool.statistics().in_use == 0


@pytest.mark.parametrize("place", PLACES)
async def test_events(place: str, engine: Engine) -> None:
    """``connect`` comes once for each connection of the driver's, with an ``info`` that lasts; the others each time."""
    seen: list[str] = []
    for name in ("connect", "checkout", "checkin", "reset"):
        event.listen(engine, name, lambda *args, name=name: seen.append(name))

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        record.info["prepared"] = value(connection, "SELECT 'prepared'")

    @event.listens_for(engine, "before_cursor_execute")
    def before(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    def use() -> None:
        for _ in range(2):
            with engine.connect() as connection:
                assert connection.scalar(sa.text("SELECT 1")) == 1
                assert connection.info == {"prepared": "prepared"}

    await run_at(place, use)
    assert [name for name in seen if "@@" not in name and "SHOW" not in name and "()" not in name][:9] == [
        "connect",
        *["checkout", "SELECT 1", "reset", "checkin"] * 2,
    ]


@pytest.mark.parametrize("place", PLACES)
async def test_raw_connections(place: str, pool: OffloadPool, engine: Engine) -> None:
    """``raw_connection()``, ``detach()`` and ``invalidate()`` do what they do elsewhere, within the pool's bound."""

    def use() -> None:
        raw = engine.raw_connection()
        session = value(raw, "SELECT CONNECTION_ID()")
        raw.close()
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT CONNECTION_ID()")) == session
            connection.detach()
            assert pool.statistics().in_use == 1
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT CONNECTION_ID()")) != session
            connection.invalidate()
            connection.rollback()
            assert connection.scalar(sa.text("SELECT 7")) == 7
        assert dict(pool.statistics().discards) == {"discarded": 2}
        engine.dispose()
        assert pool.statistics().open == 0
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT 8")) == 8

    await run_at(place, use)
    assert pool.statistics().in_use == 0


async def test_tools_that_look_at_the_database(engine: Engine) -> None:
    """Reflection and DDL work in a bridged task."""

    @offload
    async def handler() -> Any:
        metadata = sa.MetaData()
        metadata.reflect(engine)
        extra = sa.Table("extra", metadata, sa.Column("id", sa.Integer, primary_key=True))
        metadata.create_all(engine)
        assert sa.inspect(engine).has_table("extra")
        extra.drop(engine)
        return sorted(metadata.tables)

    assert await handler() == ["extra", "trips", "trucks"]


async def test_a_session_for_each_request_closed_on_another_thread(pool: OffloadPool, engine: Engine) -> None:
    """A generator dependency that frameworks run in threads opens, hands over and closes a session."""

    def get_session() -> Iterator[orm.Session]:
        with orm.Session(engine) as session:
            yield session

    @offload
    async def handler(session: orm.Session) -> Any:
        return [trip.id for trip in session.get_one(Truck, 1).trips]

    dependency = get_session()
    session = await outcome(in_thread(partial(next, dependency)))
    assert await handler(session) == [1, 2]
    assert await outcome(in_thread(partial(next, dependency, "over"))) == "over"
    assert (pool.statistics().in_use, pool.statistics().blocking_calls) == (0, 0)


async def test_scoped_sessions(engine: Engine) -> None:
    """With ``current_call`` each bridged call has a session of its own, and each thread outside of any."""
    sessions = orm.scoped_session(orm.sessionmaker(engine), scopefunc=current_call)

    @offload
    async def handler(number: int) -> Any:
        mine = sessions()
        sessions.execute(sa.text("SELECT SLEEP(0.01)"))
        assert sessions() is mine
        found = sessions.scalar(sa.text("SELECT :n"), {"n": number})
        sessions.remove()
        return found, id(mine)

    results: Any = await together(*(partial(handler, number) for number in range(4)))
    assert [number for number, _ in results] == list(range(4))
    assert current_call() == threading.get_ident() != await outcome(in_thread(current_call))


@pytest.mark.parametrize(
    ("options", "instead"),
    [
        ({"pool_size": 5}, "size"),
        ({"max_overflow": 5}, "size"),
        ({"poolclass": sa.NullPool}, "the OffloadPool is the pool"),
        ({"pool_timeout": 3}, "checkout_timeout"),
        ({"pool_recycle": 3600}, "max_age"),
        ({"connect_args": {"password": "secret"}}, "settings"),
        ({"creator": print}, "settings"),
        ({"pool_reset_on_return": None}, "always rolled back"),
    ],
)
def test_options_that_are_the_pools(pool: OffloadPool, options: dict[str, Any], instead: str) -> None:
    """What the pool decides is refused with the name of what decides it there."""
    with pytest.raises(ConfigurationError, match=instead) as caught:
        create_engine(pool, **options)
    assert next(iter(options)) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_what_is_no_pool() -> None:
    """A URL is refused without being shown."""
    with pytest.raises(ConfigurationError, match="accepted is an OffloadPool") as caught:
        create_engine("mysql+pymysql://me:secret@localhost/db")  # type: ignore[arg-type]  # what is tested
    assert "secret" not in str(caught.value)


def test_the_url_tells_where(engine: Engine, database: dict[str, Any]) -> None:
    """``engine.url`` says what other tools look for, and hides the password like any other."""
    assert engine.url.get_backend_name() == "mysql"
    assert engine.url.drivername == "mysql+pymysql"
    assert (engine.url.database, engine.url.port) == (database["database"], database["port"])
    assert engine.url.password == database["password"]
    assert database["password"] not in f"{engine.url} {engine!r} {engine.pool!r}"
    assert engine.dialect.name == "mysql"


def test_making_an_engine_sends_nothing(database: dict[str, Any]) -> None:
    """Neither the engine nor its sessions reach for the server before they are used."""
    with pool_of(1, database) as pool, watched_wire() as wire:
        engine = create_engine(pool, echo=False, future=True, pool_pre_ping=True, pool_logging_name="mine")
        orm.Session(engine).close()
        assert wire.events == []
        assert engine.pool.status().startswith("Pool size: 1  Connections in pool: 0 Current Overflow: -1 ")
        assert wire.events == []


async def test_the_loop_is_named_where_it_is_blocked(pool: OffloadPool, engine: Engine) -> None:
    """An undecorated handler works as before and is reported, with the first line outside of this library."""
    with pytest.warns(offload_db.BlockingCallWarning), engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1
    assert pool.statistics().blocking_calls > 0


async def test_pandas(engine: Engine) -> None:
    """``pandas.read_sql`` leaves the loop free."""
    pandas = pytest.importorskip("pandas")

    @offload
    async def handler() -> Any:
        with engine.connect() as connection:
            by_connection = pandas.read_sql("SELECT id, name FROM trucks ORDER BY id", connection)
        return [*by_connection["name"], *pandas.read_sql(sa.text("SELECT 3 AS n"), engine)["n"]]

    me = threading.get_ident()
    with watched_wire() as wire:
        assert await handler() == ["FL-1", "FL-2", 3]
    assert wire.on(me) == []


@contextmanager
def counted(function: Callable[[], int]) -> Iterator[Callable[[], int]]:
    before = function()
    yield lambda: function() - before


def test_reading_costs_no_more_trips_than_elsewhere(pool: OffloadPool, engine: Engine) -> None:
    """A session that reads and closes sends its query and one rollback; one that commits no rollback more."""
    with engine.connect():
        pass
    with watched_wire() as wire, counted(lambda: len(wire.on(threading.get_ident()))) as sent:
        with engine.connect() as connection:
            connection.scalar(sa.text("SELECT 1"))
        reading = sent()
        with engine.begin() as connection:
            connection.scalar(sa.text("SELECT 1"))
        assert [name for name, _ in wire.events].count("sendall") == 4
        assert reading * 2 == sent()


@pytest.mark.parametrize("place", PLACES)
async def test_what_health_pages_read(place: str, pool: OffloadPool, engine: Engine, database: dict[str, Any]) -> None:
    """The numbers of the engine's pool are those of SQLAlchemy's own; connections of other code are not among them."""
    url = sa.URL.create("mysql+pymysql", database["user"], database["password"], database["host"], database["port"])
    usual = sa.create_engine(url, pool_size=pool.statistics().size, connect_args={"ssl_disabled": True})

    def use(engine: Engine) -> list[Any]:
        seen = []

        def look() -> None:
            of: Any = engine.pool
            seen.append((of.size(), of.checkedin(), of.checkedout(), of.overflow(), of.timeout(), of.status()))

        look()
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
            look()
            with engine.connect():
                look()
            look()
        look()
        return seen

    def use_both() -> list[Any]:
        with pool.connection():
            return use(engine)

    assert await run_at(place, use_both) == use(usual)
    usual.dispose()


def test_all_refused_options_are_named_with_a_url() -> None:
    """Also where a URL stands in the place of the pool, one error names all that is to be changed, and shows none."""
    url: Any = "mysql+pymysql://me:secret@localhost/db"
    with pytest.raises(ConfigurationError) as caught:
        create_engine(url, pool_size=5, max_overflow=1, echo=False, connect_args={"password": "secret"})
    said = str(caught.value)
    assert "accepted is an OffloadPool" in said
    assert [name for name in ("pool_size", "max_overflow", "connect_args") if f"{name} is not accepted" in said] == [
        "pool_size", "max_overflow", "connect_args"
    ]  # fmt: skip
    assert "echo" not in said
    assert "secret" not in said


def test_all_refused_options_are_named(database: dict[str, Any]) -> None:
    """One error names every option that is the pool's to decide, with what to use instead."""
    with pool_of(1, database) as pool, pytest.raises(ConfigurationError) as caught:
        create_engine(pool, pool_size=5, max_overflow=1, echo=False, pool_recycle=9)
    for name in ("pool_size", "max_overflow", "pool_recycle"):
        assert f"{name} is not accepted" in str(caught.value)
    assert str(caught.value).count("use instead: the OffloadPool's") == 3
