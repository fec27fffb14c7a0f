"""Behind a balancer a session id can be somebody else's on the next server: nobody is killed by mistake."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from examples.support.mariadb import PrivateServer
from offload_db import OffloadPool, StatementTimeout, offload
from tests.conftest import MySQL
from tests.inside import core
from tests.support import pool_of, value

from .checks import adds_up, assert_ended, serve
from .proxy import Proxy
from .storms import Victims, the_general_way

pytestmark = pytest.mark.anyio

LONG = "SELECT SLEEP(50)"
SIZE = 4


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[MySQL, MySQL]]:
    """Give two servers that know nothing of each other."""
    with PrivateServer() as first, PrivateServer() as second:
        yield MySQL(first.endpoint), MySQL(second.endpoint)


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
        assert proxy.accepted > SIZE + now.kills  # the balancer did lead to the wrong server
        assert sorted(link.identity.session for link in core(pool).links if link.identity is not None) == ids
        assert_ended(servers[0], "SLEEP(50)")
        adds_up(pool)


@pytest.mark.parametrize("cancel", [True, False], ids=["cancel", "timeout"])
async def test_the_right_server_is_out_of_reach(cancel: bool, servers: tuple[MySQL, MySQL]) -> None:
    """Where every new connection leads to the other server, the link is cut and counted, and nobody is killed."""
    with collision(servers, statement_timeout=None if cancel else 0.2) as (pool, proxy, victims, _):
        proxy.targets = [proxy.targets[0]]

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                value(connection, "SELECT SLEEP(1.5)")

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
