"""Claims about SQLAlchemy on the pool where something fails: cancelling, limits, lost links, no free connection."""

from __future__ import annotations

import gc
import threading
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import offload_db
from offload_db import ConnectionLost, OffloadPool, offload
from tests.conftest import MySQL
from tests.faults.proxy import Proxy
from tests.support import (
    PLACES,
    assert_ended,
    attempt,
    pool_of,
    run_at,
    running,
    settled,
    watched_wire,
)

sqlalchemy = pytest.importorskip("sqlalchemy")

import sqlalchemy as sa  # noqa: E402  # where it is installed
from sqlalchemy import Engine, exc, orm  # noqa: E402

from offload_db.contrib.sqlalchemy import create_engine  # noqa: E402
from tests.contrib.sqlalchemy_models import Truck, engine, number_of_trucks, pool  # noqa: E402

__all__ = ["engine", "pool"]  # fixtures

pytestmark = pytest.mark.anyio


async def test_a_first_use_that_fails_is_done_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first user's start fails, the next one starts the dialect."""
    original = engine.dialect.initialize
    failures = [ZeroDivisionError("at first")]

    def initialize(connection: Any) -> None:
        if failures:
            raise failures.pop()
        original(connection)

    monkeypatch.setattr(engine.dialect, "initialize", initialize)

    def use() -> Any:
        assert attempt(engine.connect)[0] == "ZeroDivisionError"
        with engine.connect() as connection:
            return connection.scalar(sa.text("SELECT 1"))

    assert await run_at("bridge", use) == 1


async def test_a_cancelled_statement_is_killed(
    pool: OffloadPool, engine: Engine, mysql: MySQL, database: dict[str, Any]
) -> None:
    """The statement ends on the server, ``session.close()`` works in the cancelled scope, and nothing is held."""
    ended: list[str] = []

    @offload
    async def handler() -> None:
        session = orm.Session(engine)
        try:
            session.add(Truck(name="never"))
            session.flush()
            session.execute(sa.text("SELECT SLEEP(60)"))
        finally:
            session.close()
            ended.append("closed")

    async with anyio.create_task_group() as group:
        group.start_soon(handler)
        await settled(lambda: running(mysql, database, "SLEEP(60)"))
        group.cancel_scope.cancel()
    assert ended == ["closed"]
    assert_ended(mysql, database, "SLEEP(60)")
    assert (pool.statistics().in_use, pool.statistics().kills) == (0, 1)
    assert await run_at("bridge", partial(number_of_trucks, pool)) == 2


async def test_closing_in_a_cancelled_scope(pool: OffloadPool, engine: Engine) -> None:
    """A handler that is cancelled between statements rolls back on its way out, and its connection is used again."""

    @offload
    async def handler() -> None:
        with orm.Session(engine) as session:
            session.add(Truck(name="never"))
            session.flush()
            scope.cancel()
            await anyio.sleep(60)

    with anyio.CancelScope() as scope:
        await handler()
    assert (pool.statistics().in_use, dict(pool.statistics().discards)) == (0, {})
    assert await run_at("bridge", partial(number_of_trucks, pool)) == 2


async def test_a_session_goes_on_after_a_cancelled_statement(engine: Engine) -> None:
    """Where the cancelled scope is inside the handler, the same session can be used after a rollback."""

    @offload
    async def handler() -> Any:
        with orm.Session(engine) as session:
            with anyio.move_on_after(0.1):  # noqa: ASYNC100  # the call below suspends the task
                session.execute(sa.text("SELECT SLEEP(60)"))
            session.rollback()
            return session.scalar(sa.text("SELECT 5"))

    assert await handler() == 5


@pytest.mark.parametrize("place", PLACES)
async def test_statement_timeouts(place: str, database: dict[str, Any]) -> None:
    """A statement that takes too long raises SQLAlchemy's error with ours in it; the session goes on."""
    with pool_of(1, database, statement_timeout=0.2) as pool:
        engine = create_engine(pool)

        def use() -> None:
            with orm.Session(engine) as session:
                with pytest.raises(exc.OperationalError) as caught:
                    session.execute(sa.text("SELECT SLEEP(60)"))
                assert isinstance(caught.value.orig, offload_db.StatementTimeout)
                assert not caught.value.connection_invalidated
                session.rollback()
                assert session.scalar(sa.text("SELECT 5")) == 5

        await run_at(place, use)
        assert (pool.statistics().timeouts, pool.statistics().in_use) == (1, 0)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("pre_ping", [False, True])
async def test_lost_connections(place: str, pre_ping: bool, pool: OffloadPool, mysql: MySQL) -> None:
    """One that broke at rest is not noticed; one that breaks in use is invalidated, and the session goes on."""
    engine = create_engine(pool, pool_pre_ping=pre_ping)

    def use() -> None:
        for _ in range(2):
            with engine.connect() as connection:
                session = connection.scalar(sa.text("SELECT CONNECTION_ID()"))
            mysql.kill_connection(session)
        with orm.Session(engine) as session:
            mysql.kill_connection(session.scalar(sa.text("SELECT CONNECTION_ID()")))
            with pytest.raises(exc.OperationalError) as caught:
                session.execute(sa.text("SELECT 1"))
            assert isinstance(caught.value.orig, ConnectionLost)
            assert caught.value.connection_invalidated
            session.rollback()
            assert session.scalar(sa.text("SELECT 5")) == 5

    await run_at(place, use)
    assert pool.statistics().in_use == 0


async def test_a_rollback_that_nobody_answers(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up after a while, as a connection that is lost, and the session goes on with another one."""
    monkeypatch.setattr("offload_db.connection.sync_connection.TIDY_TIMEOUT", 0.2)
    monkeypatch.setattr("offload_db.connection.killer.PATIENCE", 0.2)
    with Proxy((database["host"], database["port"])) as proxy, pool_of(2, {**database, **proxy.address}) as pool:

        @offload
        async def handler() -> None:
            with orm.Session(create_engine(pool)) as session:
                assert session.scalar(sa.text("SELECT 4")) == 4
                proxy.blackhole()
                with pytest.raises(exc.OperationalError, match="took longer") as caught:
                    session.rollback()
                assert caught.value.connection_invalidated
                proxy.flow()
                assert session.scalar(sa.text("SELECT 5")) == 5

        await handler()
        assert pool.statistics().in_use == 0


async def test_checkout_timeouts_and_lanes(database: dict[str, Any]) -> None:
    """No connection in time is an error of the database to SQLAlchemy; an engine may have a lane of its own."""
    lane = offload_db.Lane("reports", 1, checkout_timeout=0.05)
    with pool_of(3, database, lanes=[lane]) as pool:
        engine = create_engine(pool, lane="reports")

        def use() -> None:
            with engine.connect():
                assert pool.statistics().lanes["reports"].in_use == 1
                with pytest.raises(exc.OperationalError) as caught:
                    engine.connect()
                assert isinstance(caught.value.orig, offload_db.CheckoutTimeout)

        await run_at("bridge", use)


@pytest.mark.parametrize("level", [None, "SERIALIZABLE"])
async def test_dropped_without_closing(level: str | None, pool: OffloadPool, engine: Engine) -> None:
    """A session that nobody closes comes back when it is collected, without I/O on the loop's thread."""

    @offload
    async def handler() -> None:
        session = orm.Session(engine if level is None else engine.execution_options(isolation_level=level))
        session.add(Truck(name="never"))
        session.flush()
        ring: list[Any] = [session]
        ring.append(ring)

    me = threading.get_ident()
    with watched_wire() as wire:
        await handler()
        gc.collect()
        assert pool.statistics().in_use == 0
        assert wire.on(me) == []
    assert await run_at("bridge", partial(number_of_trucks, pool)) == 2
