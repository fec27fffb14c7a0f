"""The first decorator: the same handler before and after, under ten calls at once.

A ticker on the same event loop stands for every other request: its worst lag is how long all of them had to wait.

Run it with ``python -m examples.first_decorator`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pymysql
from dbutils.pooled_db import PooledDB

import offload_db
from examples.support.mariadb import server

TICK = 0.005


async def measure(name: str, handler: Callable[[], Awaitable[None]]) -> None:
    """Call the handler ten times at once and watch the loop meanwhile."""
    lags = [0.0]

    async def ticker() -> None:
        while True:
            asked = time.perf_counter()
            await asyncio.sleep(TICK)
            lags.append(time.perf_counter() - asked - TICK)

    ticking = asyncio.create_task(ticker())
    await asyncio.sleep(0)  # let it begin
    started = time.perf_counter()
    await asyncio.gather(*(handler() for _ in range(10)))
    elapsed = time.perf_counter() - started
    await asyncio.sleep(2 * TICK)
    ticking.cancel()
    print(f"{name}: 10 calls in {elapsed:.2f} s, the loop stood still for up to {1000 * max(lags):.0f} ms")


def main() -> None:
    with server() as endpoint:
        # "allow": this example blocks on purpose and needs no warning.
        pool = PooledDB(pymysql, maxconnections=10, mincached=10, blocking=True, autocommit=True, **endpoint.settings())
        pool = offload_db.OffloadPool(pool, on_loop_call="allow")

        async def before() -> None:
            with pool.connection() as conn, conn.cursor() as cursor:
                cursor.execute("SELECT SLEEP(0.08)")

        @offload_db.offload  # the new line
        async def after() -> None:
            with pool.connection() as conn, conn.cursor() as cursor:
                cursor.execute("SELECT SLEEP(0.08)")

        async def both() -> None:
            await measure("before", before)
            await measure("after ", after)

        asyncio.run(both())
        pool.close()


if __name__ == "__main__":
    main()
