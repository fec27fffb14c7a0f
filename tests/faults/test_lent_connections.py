"""A kill goes over an idle connection of its pool, which comes back as it was, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from offload_db import OffloadPool, StatementTimeout, offload
from offload_db.connection import killer
from offload_db.drivers.base import Identity
from offload_db.drivers.pymysql import PyMySQLDriver
from tests.conftest import MySQL
from tests.inside import core
from tests.support import PATIENCE, in_thread, pool_of, settings_for, settled, value, warm

from .checks import adds_up, assert_ended, checked, running
from .proxy import Proxy

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),  # what kills are threads, whatever the loop
    # mysql-connector-python says so of the old ciphers of its own list.
    pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning"),
]

LONG = "SELECT SLEEP(50)"
Kill = Callable[[PyMySQLDriver, Any, Identity], bool]


async def cancel_one(pool: OffloadPool, mysql: MySQL) -> None:
    """Cancel a statement that runs."""

    @offload
    async def handler() -> None:
        with pool.connection() as connection:
            value(connection, LONG)

    async with anyio.create_task_group() as group:
        group.start_soon(handler)
        await settled(lambda: running(mysql, LONG))
        group.cancel_scope.cancel()


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("name", ["pymysql", "MySQLdb", "mysql.connector"])
async def test_a_kill_goes_over_an_idle_connection(
    name: str, autocommit: bool, proxy: Proxy, through: dict[str, Any], mysql: MySQL
) -> None:
    """No connection is opened for the kill, and the next who has the idle one finds nothing of it."""
    driver = pytest.importorskip(name)
    settings = settings_for(name, through)
    pool = OffloadPool.create(driver, min_size=0, max_size=2, autocommit=autocommit, **settings)
    try:
        for _ in range(2):
            await warm(pool, 2)
            before = proxy.accepted
            for link in core(pool).links:
                if name == "pymysql":  # a user's own converters, which stay with the connection
                    link.raw.decoders = dict.fromkeys(range(256), str)
            await cancel_one(pool, mysql)
            assert proxy.accepted == before
        assert_ended(mysql, LONG)
        now = pool.statistics()
        assert (now.kills, now.kills_failed) == (2, 0)
        # The driver leaves the killed one's result unread; mysqlclient before 2.3 does not tell whether more follows.
        unread = name == "mysql.connector" or (name == "MySQLdb" and driver.version_info < (2, 3))
        assert now.discards == ({"abandoned_result": 2} if unread else {})
        assert now.idle == 2 - unread
        for link in core(pool).links:
            assert link.clean
            assert name != "pymysql" or len(link.raw.decoders) == 256
        adds_up(pool)
    finally:
        pool.close()


def during_kill(patch: pytest.MonkeyPatch, meanwhile: Callable[[Any], None]) -> None:
    """Have something done, once, while an idle connection is lent and before it kills."""
    kill, done = PyMySQLDriver.kill, threading.Event()

    def killing(self: PyMySQLDriver, admin: Any, identity: Identity) -> bool:
        if not done.is_set():
            done.set()
            meanwhile(admin)
        return kill(self, admin, identity)

    patch.setattr(PyMySQLDriver, "kill", killing)


async def test_another_is_opened_meanwhile(
    database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who needs a connection while the idle one is lent opens another, and the pool does not stay larger for it."""
    with pool_of(2, database) as pool:
        await warm(pool, 2)
        taken: list[Any] = []
        during_kill(monkeypatch, lambda _: taken.append(in_thread(pool.connection).result(PATIENCE)))
        await cancel_one(pool, mysql)
        assert pool.statistics().discards == {"displaced": 1}
        assert pool.statistics().open == 2
        taken[0].close()
        assert pool.statistics().kills == 1
        assert_ended(mysql, LONG)
        await checked(pool, mysql, database["database"])


@pytest.mark.parametrize("closed", [False, True], ids=["breaks", "pool closed"])
async def test_it_comes_back_to_nobody(
    closed: bool, database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle connection that breaks under its kill is thrown out and another way is found; so with a closed pool's."""
    with pool_of(2, database) as pool:
        await warm(pool, 2)
        closing: list[Any] = []

        def meanwhile(admin: Any) -> None:
            if closed:
                closing.append(in_thread(pool.close))
                core_closed.wait(PATIENCE)
            else:
                admin._sock.shutdown(2)

        core_closed = threading.Event()
        close_all = core(pool).idle.close_all

        def closed_all() -> None:
            close_all()
            core_closed.set()

        monkeypatch.setattr(core(pool).idle, "close_all", closed_all)
        during_kill(monkeypatch, meanwhile)
        await cancel_one(pool, mysql)
        assert_ended(mysql, LONG)
        now = pool.statistics()
        assert (now.kills, now.kills_failed, now.in_use) == (1, 0, 0)
        if closed:
            closing[0].result(PATIENCE)
            await settled(lambda: pool.statistics().open == 0)
        else:
            assert now.discards == {"dead_idle": 1}
            await checked(pool, mysql, database["database"])


async def test_one_that_is_silent(
    proxy: Proxy, through: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an idle connection does not answer, its server is taken for hung: the link is cut soon."""
    monkeypatch.setattr(killer, "TRY", 0.3)
    with pool_of(2, through) as pool:
        await warm(pool, 2)

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, LONG)

        async with anyio.create_task_group() as group:
            group.start_soon(handler)
            await settled(lambda: running(mysql, LONG))
            proxy.blackhole()
            group.cancel_scope.cancel()
            with anyio.fail_after(killer.PATIENCE / 2, shield=True):
                await settled(lambda: pool.statistics().in_use == 0)
        now = pool.statistics()
        assert (now.kills, now.kills_failed) == (0, 1)
        proxy.flow()
        assert_ended(mysql, LONG)  # by the kill that goes on
        await checked(pool, mysql, through["database"])


async def test_a_commit_on_a_hung_server(
    proxy: Proxy, through: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit may finish, but not where its server answers nobody: the caller is back soon."""
    monkeypatch.setattr(killer, "TRY", 0.3)
    with pool_of(2, through, autocommit=False, statement_timeout=0.3) as pool:
        await warm(pool, 2)

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                assert value(connection, "SELECT 1") == 1
                proxy.blackhole()
                with pytest.raises(StatementTimeout, match="link was cut") as caught:
                    connection.commit()
                assert caught.value.may_have_run

        with anyio.fail_after(killer.PATIENCE / 2):
            await handler()
        proxy.flow()
        await checked(pool, mysql, through["database"])
