"""An attempt to connect that fails is its own caller's; those who wait get what the next attempts come to."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import anyio
import pymysql
import pytest

import offload_db
from offload_db import CheckoutTimeout, OffloadPool
from offload_db.pool import throttle
from tests.support import PATIENCE, attempt, in_thread, outcome, pool_of

from .checks import serve
from .proxy import Proxy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


def closed_port() -> tuple[str, int]:
    """Return an address at which nobody listens."""
    with Proxy() as unused:
        return "127.0.0.1", unused.port


async def load(pool: OffloadPool, callers: int, calls: int) -> Counter[str]:
    """Have *callers* tasks make so many calls each; count how they ended."""
    ended: Counter[str] = Counter()

    async def call() -> None:
        for _ in range(calls):
            try:
                await pool.fetch_value("SELECT SLEEP(0.001)")
                ended["served"] += 1
            except pymysql.err.OperationalError as error:
                ended["in doubt" if getattr(error, "may_have_run", True) else "failed"] += 1

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for _ in range(callers):
                group.start_soon(call)
    return ended


async def test_the_first_connects_are_refused(
    proxy: Proxy, through: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 callers of a server that refuses five connects, five fail: nobody gets another one's error."""
    monkeypatch.setattr(throttle, "LONGEST_PAUSE", 0.1)
    proxy.targets = [closed_port()] * 5 + proxy.targets * 95
    with pool_of(20, through) as pool:
        assert await load(pool, 100, 1) == {"served": 95, "failed": 5}
        assert pool.statistics().in_use == 0


async def test_one_of_three_nodes_refuses(proxy: Proxy, through: dict[str, Any]) -> None:
    """Behind a balancer as many calls fail as attempts to connect were refused, and no more."""
    proxy.targets = [*proxy.targets * 2, closed_port()]
    with pool_of(8, through, maxusage=20) as pool:
        ended = await load(pool, 20, 20)
        assert 0 < ended["failed"] <= proxy.accepted // 3
        assert ended["served"] == 400 - ended["failed"]


async def test_an_outage_fails_who_was_there(
    proxy: Proxy, through: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is away is tried once for all who wait, those in the pool's queue as well; the next are served."""
    monkeypatch.setattr(throttle, "AWAY_AFTER", 0.0)
    real, proxy.targets = proxy.targets, [closed_port()]
    with pool_of(2, through) as pool:
        assert await load(pool, 50, 1) == {"failed": 50}
        assert proxy.accepted <= 2
        proxy.targets = real
        assert await load(pool, 50, 1) == {"served": 50}
        await outcome(in_thread(partial(serve, pool)))


def test_the_wait_for_an_attempt_has_the_callers_limit(through: dict[str, Any], proxy: Proxy) -> None:
    """Who waits for its turn to connect waits no longer than its `checkout_timeout`, and is told the reason."""
    proxy.targets = [closed_port()]
    with pool_of(2, through, checkout_timeout=0.02) as pool:
        kind, _ = attempt(pool.connection)
        assert kind == "OperationalError"
        with pytest.raises(CheckoutTimeout, match="no connection was opened in time") as caught:
            pool.connection()
        assert isinstance(caught.value.__cause__, pymysql.err.OperationalError)
        assert caught.value.may_have_run is False
        assert pool.statistics().in_use == 0


def test_a_hung_attempt_holds_nobody_up(through: dict[str, Any], proxy: Proxy) -> None:
    """Where one attempt is refused and the next one gets no answer, others are made beside it."""
    with pool_of(4, through, connect_timeout=5) as pool:
        real, proxy.targets = proxy.targets, [closed_port()]
        assert attempt(pool.connection)[0] == "OperationalError"
        proxy.targets, proxy.deaf = real, True
        hung = in_thread(partial(attempt, pool.connection))
        while proxy.accepted < 2:
            assert not hung.done()
        proxy.deaf = False
        pool.connection().close()
        assert not hung.done()
        proxy.cut()
        assert hung.result(PATIENCE)[0] == "OperationalError"


def test_a_failed_connect_ran_nothing(through: dict[str, Any], proxy: Proxy) -> None:
    """The error says so, for a pool's connections and for one of no pool, whatever the reason was."""
    proxy.targets = [closed_port()]
    for settings in (through, {**through, "charset": "klingon"}):
        with pool_of(1, settings) as pool:
            for connect in (pool.connection, partial(offload_db.connect, **settings, ssl_disabled=True)):
                with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever it is
                    connect()
                assert caught.value.may_have_run is False  # type: ignore[attr-defined]


async def test_the_loops_own_thread_does_not_wait(proxy: Proxy, through: dict[str, Any]) -> None:
    """Code that blocks the event loop gets the last error between two attempts, and makes the next one in its turn."""
    real, proxy.targets = proxy.targets, [closed_port()]
    with pool_of(2, through, on_loop_call="allow") as pool:
        started = anyio.current_time()
        while anyio.current_time() - started < 0.3:
            assert attempt(pool.connection)[0] == "OperationalError"
        assert 2 <= proxy.accepted <= 4
        proxy.targets = real
        while isinstance(attempt(pool.connection), tuple):
            assert anyio.current_time() - started < PATIENCE
