"""Admission: a heavy report must not take every connection from an endpoint that is polled.

The same load twice, over a pool of four connections: eight reports at once, beside a dashboard that polls. First
without lanes, then with a lane that lets reports have two connections and six callers wait.

Run it with ``python -m examples.lanes`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio
import time

import pymysql
from dbutils.pooled_db import PooledDB

import offload_db
from examples.support.mariadb import Endpoint, server


async def measure(name: str, pool: offload_db.OffloadPool, lane: str | None) -> None:
    def query(seconds: float) -> None:
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("SELECT SLEEP(%s)", (seconds,))

    @offload_db.offload(lane=lane)
    async def report() -> None:
        query(0.2)

    @offload_db.offload
    async def dashboard() -> None:
        query(0.01)

    reports = [asyncio.create_task(report()) for _ in range(8)]
    await asyncio.sleep(0.05)  # the reports are under way
    latencies = []
    while not all(task.done() for task in reports):
        started = time.perf_counter()
        await dashboard()
        latencies.append(time.perf_counter() - started)
        await asyncio.sleep(0.02)
    worst = 1000 * max(latencies)
    print(f"{name}: {len(latencies):2} polls answered while the reports ran, the slowest after {worst:.0f} ms")
    if lane is not None:
        for answer in await asyncio.gather(*(report() for _ in range(9)), return_exceptions=True):
            if answer is not None:
                print(f"a ninth report at once is one too many:\n  {type(answer).__name__}: {answer}")


def make_pool(endpoint: Endpoint, *lanes: offload_db.Lane) -> offload_db.OffloadPool:
    pool = PooledDB(pymysql, maxconnections=4, mincached=4, blocking=True, autocommit=True, **endpoint.settings())
    return offload_db.OffloadPool(pool, lanes=lanes)


def main() -> None:
    with server() as endpoint:
        pool = make_pool(endpoint)
        asyncio.run(measure("without lanes", pool, None))
        pool.close()

        pool = make_pool(endpoint, offload_db.Lane("reports", 2, max_waiting=6))
        asyncio.run(measure("with a lane  ", pool, "reports"))
        pool.close()


if __name__ == "__main__":
    main()
