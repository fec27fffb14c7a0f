"""A block of a transaction is left within a limit, whatever the server does, and with the error that it was left by."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import anyio
import pytest

from offload_db import OffloadPool, offload
from tests.conftest import needs
from tests.support import PLACES, pool_of, run_at

from .proxy import Proxy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

CREATE = "CREATE TABLE IF NOT EXISTS t (id INT)"


class Broken(Exception):
    """What a block is left by."""


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sync_connection", "tidying"):
        monkeypatch.setattr(f"offload_db.connection.{name}.TIDY_TIMEOUT", 0.1)
    monkeypatch.setattr("offload_db.connection.killer.PATIENCE", 0.1)


async def plain(pool: OffloadPool, leave: Callable[[], Any]) -> None:
    """Leave a transaction of the pool."""
    async with pool.transaction() as connection, connection.cursor() as cursor:
        await cursor.execute("INSERT INTO t VALUES (1)")
        await leave()


async def nested(pool: OffloadPool, leave: Callable[[], Any]) -> None:
    """Leave a savepoint in a transaction."""
    async with pool.transaction(), pool.transaction() as connection, connection.cursor() as cursor:
        await cursor.execute("INSERT INTO t VALUES (1)")
        await leave()


async def acquired(pool: OffloadPool, leave: Callable[[], Any]) -> None:
    """Leave a connection on which a transaction was begun."""
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await connection.begin()
        await cursor.execute("INSERT INTO t VALUES (1)")
        await leave()


async def on_connection(pool: OffloadPool, leave: Callable[[], Any]) -> None:
    """Leave a transaction of a connection."""
    async with pool.acquire() as connection, connection.transaction(), connection.cursor() as cursor:
        await cursor.execute("INSERT INTO t VALUES (1)")
        await leave()


async def served(pool: OffloadPool, proxy: Proxy) -> None:
    """Assert that nothing is held, nothing was committed, and the pool serves again."""
    now = pool.statistics()
    assert (now.in_use, now.open, now.waiting) == (0, 0, 0)
    proxy.flow()
    assert await pool.fetch_value("SELECT COUNT(*) FROM t") == 0


@pytest.mark.parametrize("block", [plain, nested, acquired, on_connection])
@pytest.mark.parametrize("cancelled", [False, True], ids=["error", "cancelled"])
async def test_leaving_while_the_server_hangs(
    block: Any, *, cancelled: bool, proxy: Proxy, through: dict[str, Any]
) -> None:
    """The rollback on the way out is given up with its connection; the block's error or cancellation arrives."""
    with pool_of(1, through) as pool:
        await pool.execute(CREATE)
        with anyio.CancelScope() as scope:

            async def leave() -> None:
                proxy.blackhole()
                if not cancelled:
                    raise Broken
                scope.cancel()
                await anyio.sleep(60)

            if cancelled:
                await block(pool, leave)
            else:
                with pytest.raises(Broken):
                    await block(pool, leave)
        assert scope.cancel_called is cancelled
        await served(pool, proxy)


@needs("sqlalchemy")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["engine", "session", "savepoint"])
async def test_leaving_a_block_of_sqlalchemys(place: str, kind: str, proxy: Proxy, through: dict[str, Any]) -> None:
    """The same for `engine.begin()`, a session and a savepoint of its, wherever they run."""
    import sqlalchemy as sa
    from sqlalchemy import orm

    from offload_db.contrib.sqlalchemy import create_engine

    with pool_of(1, through) as pool:
        engine = create_engine(pool)

        def use() -> None:
            with engine.begin() as connection:
                connection.execute(sa.text(CREATE))
            with ExitStack() as stack:
                if kind == "engine":
                    user: Any = stack.enter_context(engine.begin())
                else:
                    user = stack.enter_context(orm.Session(engine))
                    stack.enter_context(user.begin())
                    if kind == "savepoint":
                        stack.enter_context(user.begin_nested())
                user.execute(sa.text("INSERT INTO t VALUES (1)"))
                proxy.blackhole()
                raise Broken

        with pytest.raises(Broken):
            await run_at(place, use)
        await served(pool, proxy)


@needs("sqlalchemy")
async def test_cancelled_in_a_block_of_sqlalchemys(proxy: Proxy, through: dict[str, Any]) -> None:
    """A task that is cancelled in such a block gets its cancellation, and nothing is held."""
    import sqlalchemy as sa

    from offload_db.contrib.sqlalchemy import create_engine

    with pool_of(1, through) as pool:
        await pool.execute(CREATE)
        engine = create_engine(pool)

        @offload
        async def handler() -> None:
            with engine.begin() as connection:
                connection.execute(sa.text("INSERT INTO t VALUES (1)"))
                proxy.blackhole()
                scope.cancel()
                await anyio.sleep(60)

        with anyio.CancelScope() as scope:
            await handler()
        assert scope.cancel_called
        await served(pool, proxy)
