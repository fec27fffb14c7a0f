"""Claims about switching while requests are under way: none of them fails."""

from __future__ import annotations

import itertools
import json
import random
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from offload_db import OffloadPool, offload, rollout
from tests.conftest import needs
from tests.serving import served
from tests.support import in_thread, pool_of, until, value

pytestmark = pytest.mark.anyio

SETTINGS: list[tuple[Any, float]] = [
    *(("offload", share) for share in (0.0, 0.1, 0.5, 1.0)),
    *((mode, share) for mode in ("observe", "block") for share in (0.5, 1.0)),
]


def of_pool(pool: OffloadPool) -> Callable[[], Awaitable[int]]:
    @offload
    async def handler() -> int:
        with pool.connection() as connection:
            return int(value(connection, "SELECT 1"))

    return handler


def of_shared_connection(pool: OffloadPool) -> Callable[[], Awaitable[int]]:
    kept: list[Any] = []

    @offload
    async def handler() -> int:
        if not kept:
            kept.append(pool.connection())
        # Both belong to one another, so that a call that came between would be seen.
        number = random.getrandbits(30)
        assert value(kept[0], f"SELECT @number := {number}") == number
        assert value(kept[0], "SELECT @number") == number
        return 1

    return handler


@pytest.mark.parametrize("make", [of_pool, of_shared_connection])
@pytest.mark.parametrize("size", [1, 3])
async def test_switching(database: dict[str, Any], size: int, make: Callable[[OffloadPool], Any]) -> None:
    """Ten users ask for connections of a pool that is too small for them; each request follows on a switch."""
    chosen = random.Random(7)
    with pool_of(size, database, on_loop_call="raise") as pool:
        handler = make(pool)
        assert await handler() == 1

        async def user() -> None:
            for _ in range(20):
                mode, share = chosen.choice(SETTINGS)
                rollout.set("*", mode, share=share)
                assert await handler() == 1

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(user)
        assert pool.statistics().in_use == (make is of_shared_connection)
    row = rollout.snapshot()[0]
    assert row.matched == 200
    assert {mode: dict(arm.errors) for mode, arm in row.arms.items()} == {"offload": {}, "observe": {}, "block": {}}


@needs("fastapi")
@needs("uvicorn")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The 'alias' attribute with value")
def test_a_thousand_switches(database: dict[str, Any]) -> None:
    """A served application is switched a thousand times by route while eight clients ask; each gets its answer."""
    from fastapi import FastAPI

    app = FastAPI()
    with pool_of(4, database, on_loop_call="raise") as pool:

        @app.get("/truck/{number}")
        @offload
        async def truck(number: int) -> int:
            with pool.connection() as connection:
                return int(value(connection, "SELECT %s", number))

        def client(address: str) -> int:
            parts = urlsplit(address)
            with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as connection:
                file = connection.makefile("rb")
                for number in itertools.count():
                    if over.is_set():
                        return number
                    connection.sendall(f"GET /truck/{number} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                    assert b" 200 " in file.readline()
                    length = 0
                    while (line := file.readline().strip()) != b"":
                        if line.lower().startswith(b"content-length:"):
                            length = int(line.split(b":")[1])
                    assert json.loads(file.read(length)) == number
            raise AssertionError

        over = threading.Event()
        chosen = random.Random(7)
        rollout.set("GET:/truck/{number}", "offload")
        with served(app) as address:
            clients = [in_thread(lambda: client(address)) for _ in range(8)]
            for _ in range(1000):
                mode, share = chosen.choice(SETTINGS)
                rollout.set("GET:/truck/{number}", mode, share=share)
                seen = rollout.snapshot()[0].matched
                until(lambda seen=seen: rollout.snapshot()[0].matched > seen)  # type: ignore[misc]  # it takes nothing
            over.set()
            answers = sum(each.result(30) for each in clients)
    row = rollout.snapshot()[0]
    assert row.matched >= answers >= 1000
    assert all(arm.errors == {} and arm.checkout_timeouts == 0 for arm in row.arms.values())
    assert set(row.arms) == {"offload", "observe", "block"}
