"""How many Python calls a statement takes, over all threads: counted, not timed."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

from offload_db import OffloadPool, offload

from ..support import pool_of

USERS, EACH, ROUNDS = 5, 40, 25
# What the parts that are not ours take: PyMySQL's own cursor and connection, and asyncio's loop, which is in Python.
DECORATED, AWAITED = 180, 150


@contextmanager
def counting() -> Iterator[Counter[int]]:
    """Count the Python calls of each thread that begins in the block, and of this one."""
    calls: Counter[int] = Counter()

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            calls[threading.get_ident()] += 1

    before = sys.getprofile(), threading.getprofile() if hasattr(threading, "getprofile") else None
    threading.setprofile(count)
    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(before[0])
        threading.setprofile(before[1])


def calls_of(make: Callable[[OffloadPool], Callable[[], Awaitable[Any]]], database: dict[str, Any]) -> float:
    """Return the calls for each statement of five users who ask again and again, at best."""

    async def measure() -> float:
        with pool_of(USERS, database) as pool:
            ask = make(pool)

            async def user() -> None:
                for _ in range(EACH):
                    assert await ask() == (1, 2, 3)

            with counting() as calls:
                await asyncio.gather(*(user() for _ in range(USERS)))  # opens connections, starts threads
                found: list[float] = []
                for _ in range(ROUNDS):
                    calls.clear()
                    await asyncio.gather(*(user() for _ in range(USERS)))
                    found.append(sum(calls.values()) / (USERS * EACH))
            return min(found)

    return asyncio.run(measure())


def test_of_a_decorated_handler(database: dict[str, Any]) -> None:
    """A handler that takes a connection and a cursor, executes, fetches and closes both."""

    def make(pool: OffloadPool) -> Callable[[], Awaitable[Any]]:
        @offload
        async def handler() -> Any:
            connection = pool.connection()
            cursor = connection.cursor()
            cursor.execute("SELECT 1, 2, 3")
            row = cursor.fetchone()
            cursor.close()
            connection.close()
            return row

        return handler

    assert calls_of(make, database) <= DECORATED


def test_of_an_awaitable_operation(database: dict[str, Any]) -> None:
    """One row by `fetch_one`."""

    def make(pool: OffloadPool) -> Callable[[], Awaitable[Any]]:
        return partial(pool.fetch_one, "SELECT 1, 2, 3")

    assert calls_of(make, database) <= AWAITED
