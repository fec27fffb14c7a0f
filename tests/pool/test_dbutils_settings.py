"""Claims about the settings of a DBUtils pool that is wrapped: which of them hold, and what is said of the others."""

from __future__ import annotations

import inspect
import logging
import threading
from contextlib import ExitStack
from typing import Any, ClassVar

import anyio
import pymysql
import pytest
from dbutils.pooled_db import PooledDB

from offload_db import OffloadPool, StatementTimeout, offload
from tests.conftest import MySQL
from tests.inside import core
from tests.support import PLACES, QUICK, run_at, settled, value

pytestmark = pytest.mark.anyio


def wrapped(database: dict[str, Any], **options: Any) -> OffloadPool:
    return OffloadPool(PooledDB(pymysql, **options, **{**QUICK, **database}))


@pytest.mark.parametrize("place", PLACES)
async def test_maxcached(place: str, database: dict[str, Any], mysql: MySQL) -> None:
    """No more connections than `maxcached` stay open when nobody uses them, and they are used again."""
    pool = wrapped(database, maxcached=2, maxconnections=5)

    def use() -> None:
        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(pool.connection()).ping()

    for _ in range(2):
        await run_at(place, use)
        statistics = pool.statistics()
        assert (statistics.open, statistics.idle, statistics.in_use) == (2, 2, 0)
    assert dict(pool.statistics().discards) == {"maxcached": 6}
    assert pool.statistics().checkins == 4
    await settled(lambda: len(mysql.process_list(database["database"])) == 2)  # goodbyes are on their way
    await pool.aclose()


async def test_maxcached_and_dropped_connections(database: dict[str, Any]) -> None:
    """Connections that are dropped instead of closed are held to `maxcached` as well, and those of tasks at once."""
    pool = wrapped(database, maxcached=1, maxconnections=4)
    held: list[Any] = await run_at("bridge", lambda: [pool.connection() for _ in range(3)])
    held.clear()
    assert (pool.statistics().idle, pool.statistics().in_use) == (1, 0)

    @offload
    async def handler() -> None:
        with pool.connection() as connection:
            value(connection, "SELECT SLEEP(0.05)")

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(handler)
    assert (pool.statistics().idle, pool.statistics().in_use) == (1, 0)
    await pool.aclose()


@pytest.mark.parametrize("maxcached", [1, 2, 4])
async def test_maxcached_while_others_wait(maxcached: int, database: dict[str, Any]) -> None:
    """A connection that somebody waits for is not closed for want of room, whoever has not come for theirs yet."""
    pool = wrapped(database, maxcached=maxcached, maxconnections=5)

    @offload
    async def handler() -> None:
        for _ in range(5):
            with pool.connection() as connection:
                value(connection, "SELECT 1")

    async with anyio.create_task_group() as group:
        for _ in range(40):
            group.start_soon(handler)
    statistics = pool.statistics()
    assert statistics.checkouts == 200
    assert (statistics.idle, statistics.in_use) == (maxcached, 0)
    assert dict(statistics.discards) == {"maxcached": 5 - maxcached}
    await pool.aclose()


def test_maxcached_after_a_kill(database: dict[str, Any]) -> None:
    """A connection that comes back from a kill is closed where as many have come to rest meanwhile as may."""
    pool = wrapped(database, maxcached=1, maxconnections=3)
    pool.connection().close()
    (link,) = core(pool).links
    assert link.identity is not None
    lent = core(pool).lend(link.identity.server, link.connect_admin)
    assert lent is not None
    pool.connection().close()
    assert (pool.statistics().open, pool.statistics().idle) == (2, 1)
    _, give_back = lent
    give_back(True)
    assert (pool.statistics().open, pool.statistics().idle) == (1, 1)
    assert dict(pool.statistics().discards) == {"maxcached": 1}
    pool.close()


async def test_without_maxcached(database: dict[str, Any]) -> None:
    """Without `maxcached` every connection stays, those of `mincached` from the start."""
    pool = wrapped(database, mincached=2, maxconnections=4)
    assert pool.statistics().idle == 2
    held = await run_at("plain", lambda: [pool.connection() for _ in range(4)])
    for each in held:
        await run_at("plain", each.close)
    assert pool.statistics().idle == 4
    assert dict(pool.statistics().discards) == {}
    await pool.aclose()


def test_what_has_no_meaning_is_said_once(database: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Settings of the DBUtils pool that change nothing here are named in the log, those that hold are not."""
    caplog.set_level(logging.INFO, "offload_db")
    wrapped(database, maxconnections=2, mincached=0, maxcached=1, maxusage=9, setsession=["SET @a = 1"], reset=True)
    assert caplog.messages == []
    pool = wrapped(database, maxconnections=2, ping=4, failures=pymysql.err.OperationalError)
    with pool.connection() as connection:
        value(connection, "SELECT 1")
    pool.close()
    assert caplog.messages == ["of the PooledDB that is wrapped, these settings change nothing here: ping, failures"]


class _Tenants(PooledDB):  # type: ignore[misc]  # DBUtils has no types
    """A pool whose own method decides how connections are made."""

    made: ClassVar[list[str]] = []

    def steady_connection(self) -> Any:
        """Connect in the way of DBUtils, as a user whose password is known now alone."""
        self.made.append(threading.current_thread().name)
        self._kwargs["init_command"] = f"SET @tenant = {len(self.made)}"
        return super().steady_connection()


@pytest.mark.parametrize("fast", [True, False])
async def test_a_method_of_the_users_own(*, fast: bool, database: dict[str, Any], mysql: MySQL) -> None:
    """A subclass's `steady_connection()` opens each connection, those to kill with as well; each is prepared once."""
    _Tenants.made.clear()
    original = _Tenants(pymysql, setsession=["SET @n = COALESCE(@n, 0) + 1"], **{**QUICK, **database})
    async with OffloadPool(original, size=2, fast=fast, statement_timeout=0.5) as pool:
        assert await pool.fetch_one("SELECT @tenant, @n") == (1, 1)
        with pytest.raises(StatementTimeout):
            await pool.fetch_value("SELECT SLEEP(30)")
        assert len(_Tenants.made) == 2, "the connection that kills"
        assert "init_command" not in original._kwargs


async def test_a_session_that_cannot_be_prepared(database: dict[str, Any], mysql: MySQL) -> None:
    """The error of a `setsession` statement reaches who wants a connection, and none stays open."""
    pool = wrapped(database, setsession=["SET @a = 1", "SET no_such_variable = 1"])
    for _ in range(2):
        with pytest.raises(pymysql.MySQLError, match="no_such_variable"):
            await pool.fetch_value("SELECT 1")
    assert pool.statistics().open == 0
    await settled(lambda: not mysql.process_list(database["database"]))
    await pool.aclose()


async def test_positional_arguments(database: dict[str, Any]) -> None:
    """What stands after the settings in PooledDB's arguments goes to the creator, as with DBUtils."""

    def create(extra: int, /, **kwargs: Any) -> Any:
        return pymysql.connect(init_command=f"SET @extra = {extra}", **kwargs)

    before: tuple[Any, ...] = (0, 0, 0, 2, True, 0, None, True, None, 1)
    if "isfatal" in inspect.signature(PooledDB).parameters:
        before += (None,)
    async with OffloadPool(PooledDB(create, *before, 7, **{**QUICK, **database})) as pool:
        assert await pool.fetch_value("SELECT @extra") == 7
