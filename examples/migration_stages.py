"""The same handler at each stage of a migration: blocking, decorated, awaitable; all three over one pool.

Five calls of each at once, with queries of 50 ms. The stages may live side by side in one backend: the pool counts and
queues them together.

Run it with ``python -m examples.migration_stages`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pymysql
from dbutils.pooled_db import PooledDB

import offload_db
from examples.support.mariadb import server

QUERY = "SELECT %s AS truck_id, SLEEP(0.05) AS delay"
Handler = Callable[[int], Awaitable[Any]]


async def measure(name: str, handler: Handler) -> None:
    started = time.perf_counter()
    rows = await asyncio.gather(*(handler(number) for number in range(5)))
    elapsed = 1000 * (time.perf_counter() - started)
    print(f"{name}: {elapsed:.0f} ms for trucks {[row['truck_id'] for row in rows]}")


def main() -> None:
    with server() as endpoint:
        wrapped = PooledDB(
            pymysql,
            maxconnections=5,
            mincached=5,
            blocking=True,
            autocommit=True,
            cursorclass=pymysql.cursors.DictCursor,
            **endpoint.settings(),
        )
        # "allow": this example blocks on purpose and needs no warning.
        pool = offload_db.OffloadPool(wrapped, on_loop_call="allow")

        async def blocking(truck_id: int) -> Any:
            conn = pool.connection()
            cursor = conn.cursor()
            cursor.execute(QUERY, (truck_id,))
            row = cursor.fetchone()
            cursor.close()
            conn.close()
            return row

        @offload_db.offload  # one line more
        async def decorated(truck_id: int) -> Any:
            conn = pool.connection()
            cursor = conn.cursor()
            cursor.execute(QUERY, (truck_id,))
            row = cursor.fetchone()
            cursor.close()
            conn.close()
            return row

        async def awaitable(truck_id: int) -> Any:  # when it is next rewritten anyway
            return await pool.fetch_one(QUERY, (truck_id,))

        async def stages() -> None:
            await measure("blocking ", blocking)
            await measure("decorated", decorated)
            await measure("awaitable", awaitable)
            await asyncio.gather(blocking(1), decorated(2), awaitable(3))
            counted = pool.statistics()
            print(f"all three at once: {counted.checkouts} checkouts in all, {counted.checkins} came back")
            await pool.aclose()

        asyncio.run(stages())


if __name__ == "__main__":
    main()
