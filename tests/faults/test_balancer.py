"""Behind a balancer a session id can be somebody else's on the next server: nobody is killed by mistake."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from examples.support.mariadb import PrivateServer
from offload_db import OffloadPool, StatementTimeout, offload
from offload_db.connection import killer
from tests.conftest import MySQL
from tests.inside import core
from tests.support import pool_of, settled, value

from .checks import adds_up, assert_ended, running, serve
from .proxy import Proxy
from .storms import Victims, the_general_way

pytestmark = pytest.mark.anyio

LONG = "SELECT SLEEP(50)"
SIZE = 4


@pytest.fixture(scope="module")
def processes() -> Iterator[tuple[PrivateServer, PrivateServer]]:
    """Give two servers that know nothing of each other."""
    with PrivateServer() as first, PrivateServer() as second:
        yield first, second


@pytest.fixture(scope="module")
def servers(processes: tuple[PrivateServer, PrivateServer]) -> tuple[MySQL, MySQL]:
    """Give a way to each of them."""
    first, second = processes
    return MySQL(first.endpoint), MySQL(second.endpoint)


@contextlib.contextmanager
def collision(servers: tuple[MySQL, MySQL], **options: Any) -> Iterator[tuple[OffloadPool, Proxy, Victims, list[int]]]:
    """Give a pool on the first server, whose session ids belong to sleeping sessions on the second."""
    first, second = servers
    with Proxy((first.host, first.port)) as proxy:
        beyond = _next_id(second) + 10
        while _next_id(first) <= beyond:
            pass
        with pool_of(SIZE, {**first.settings(), **proxy.address}, **options) as pool:
            serve(pool)
            ids = sorted(link.identity.session for link in core(pool).links if link.identity is not None)
            assert len(ids) == SIZE
            with Victims(second, ids) as victims:
                proxy.targets = [(second.host, second.port), (first.host, first.port)]
                yield pool, proxy, victims, ids


def _next_id(server: MySQL) -> int:
    with server.connect() as connection:
        return int(connection.thread_id())  # type: ignore[no-untyped-call]


async def cancel_many(pool: OffloadPool, number: int) -> None:
    """Cancel *number* statements while they run."""
    numbers = iter(range(number))

    @offload
    async def handler() -> None:
        with pool.connection() as connection:
            value(connection, LONG)

    async def keep_cancelling() -> None:
        for _ in numbers:
            with anyio.move_on_after(0.01) as scope:
                await handler()
            assert scope.cancel_called

    async with anyio.create_task_group() as group:
        for _ in range(SIZE):
            group.start_soon(keep_cancelling)


@pytest.mark.parametrize("general", [False, True], ids=["by query id", "general way"])
async def test_ids_that_collide(general: bool, servers: tuple[MySQL, MySQL]) -> None:
    """Behind a balancer that takes turns, cancelled statements are killed and nobody else's with the same id."""
    with (
        the_general_way() if general else contextlib.nullcontext(),
        collision(servers) as (pool, proxy, victims, ids),
    ):
        await cancel_many(pool, 60)
        assert victims.alive == SIZE
        now = pool.statistics()
        # One that is cancelled before it was sent needs no kill.
        assert now.kills > 30
        assert now.kills_failed == 0
        assert proxy.accepted > SIZE  # the balancer did lead to the wrong server
        assert sorted(link.identity.session for link in core(pool).links if link.identity is not None) == ids
        assert_ended(servers[0], "SLEEP(50)")
        adds_up(pool)


@pytest.mark.parametrize("cancel", [True, False], ids=["cancel", "timeout"])
async def test_the_right_server_is_out_of_reach(cancel: bool, servers: tuple[MySQL, MySQL]) -> None:
    """Where every connection that can be had leads to the other server, the link is cut, and nobody is killed."""
    with collision(servers, statement_timeout=None if cancel else 0.2) as (pool, proxy, victims, _):
        proxy.targets = [proxy.targets[0]]

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, "SELECT SLEEP(1.5)")

        with contextlib.ExitStack() as busy:
            for _ in range(SIZE - 1):
                busy.enter_context(pool.connection())
            if cancel:
                with anyio.move_on_after(0.2):
                    await handler()
            else:
                with pytest.raises(StatementTimeout, match="link was cut"):
                    await handler()
        assert victims.alive == SIZE
        now = pool.statistics()
        assert (now.kills, now.kills_failed) == (0, 1)
        assert now.open == SIZE - 1
        adds_up(pool)
        serve(pool)


def _where(server: MySQL) -> tuple[bytes, bytes]:
    """Return what a server says of its port and folder."""
    with server.connect() as connection:
        return str(value(connection, "SELECT @@port")).encode(), value(connection, "SELECT @@datadir").encode()


@pytest.mark.parametrize("general", [False, True], ids=["by query id", "general way"])
async def test_servers_that_are_clones(general: bool, servers: tuple[MySQL, MySQL]) -> None:
    """A server with the settings of another one, as a clone has or one that was restarted, is not taken for it."""
    with (
        the_general_way() if general else contextlib.nullcontext(),
        collision(servers) as (pool, proxy, victims, _),
    ):
        proxy.disguises = list(zip(_where(servers[1]), _where(servers[0]), strict=True))
        assert all(len(said) == len(told) for said, told in proxy.disguises)
        await cancel_many(pool, 40)
        assert victims.alive == SIZE
        assert pool.statistics().kills > 0  # one that is cancelled before it was sent needs none
        assert pool.statistics().kills_failed == 0
        assert_ended(servers[0], "SLEEP(50)")
        adds_up(pool)


@pytest.mark.parametrize("idle", [0, 1], ids=["none idle", "one idle"])
async def test_a_balancer_that_evens_connections_out(idle: int, servers: tuple[MySQL, MySQL]) -> None:
    """Where all connections of a large pool lead to one server, and new ones first to the others, kills get there."""
    first, second = ((server.host, server.port) for server in servers)
    size = 20
    with Proxy(first, least=True) as proxy, pool_of(size, {**servers[0].settings(), **proxy.address}) as pool:
        serve(pool)
        proxy.targets = [first, second]

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, LONG)

        async with anyio.create_task_group() as group:
            for _ in range(size - idle):
                group.start_soon(handler)
            await settled(lambda: len(running(servers[0], LONG)) == size - idle)
            group.cancel_scope.cancel()
        assert_ended(servers[0], LONG)
        now = pool.statistics()
        assert (now.kills, now.kills_failed, now.discards) == (size - idle, 0, {})
        adds_up(pool)


async def test_a_node_that_hangs(
    processes: tuple[PrivateServer, PrivateServer], servers: tuple[MySQL, MySQL], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has waited for a hung server is back soon, kills on another are not held up, and what was cut is ended."""
    monkeypatch.setattr(killer, "TRY", 0.4)
    size, pid = 18, processes[1].pid
    took: dict[int, list[float]] = {server.port: [] for server in servers}
    with (
        Proxy(*((server.host, server.port) for server in servers)) as proxy,
        pool_of(size, {**servers[0].settings(), **proxy.address}) as pool,
        contextlib.ExitStack() as going_on,
    ):
        serve(pool)

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                port = int(value(connection, "SELECT @@port"))
                if port == servers[0].port and idle:
                    idle.pop()  # one is not busy, for the kills to go over
                    return
                try:
                    value(connection, LONG)
                finally:
                    took[port].append(time.monotonic() - cancelled)

        idle, cancelled = [True], 0.0
        async with anyio.create_task_group() as group:
            for _ in range(size):
                group.start_soon(handler)
            # On each of them more than may be killed there at once.
            for server, busy in zip(servers, (size // 2 - 1, size // 2), strict=True):
                await settled(lambda: len(running(server, LONG)) == busy)  # noqa: B023
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            going_on.callback(os.kill, pid, signal.SIGCONT)
            cancelled = time.monotonic()
            group.cancel_scope.cancel()
        going_on.close()
        for server in servers:
            assert_ended(server, LONG)
        now = pool.statistics()
        assert (now.kills, now.kills_failed) == (size // 2 - 1, size // 2)
        assert max(took[servers[1].port]) < killer.PATIENCE / 2
        assert max(took[servers[0].port]) < killer.PATIENCE / 2


async def test_a_proxy_with_ids_of_its_own(
    database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the handshake's id is not the session's, nothing is killed by it: the link is cut."""
    from pymysql.connections import Connection

    with pool_of(1, database) as pool:
        original = Connection.thread_id
        monkeypatch.setattr(Connection, "thread_id", lambda self: original(self) + 1)  # type: ignore[no-untyped-call]

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, "SELECT SLEEP(1.5)")

        with anyio.move_on_after(0.2):
            await handler()
        now = pool.statistics()
        assert (now.kills, now.kills_failed, now.open) == (0, 1, 0)
        serve(pool)
        adds_up(pool)
