"""Helpers deep below a handler: one decorator at the top covers them all, and they stay plain functions.

The query sits in a property of an object that a function in a comprehension of another function uses. The same helpers
serve a script or a worker thread, where they run as they always did.

Run it with ``python -m examples.helper_deep_below`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio
import threading
import time

import pymysql
from dbutils.pooled_db import PooledDB

import offload_db
from examples.support.mariadb import server


class Truck:
    def __init__(self, pool: offload_db.OffloadPool, number: int) -> None:
        self.pool = pool
        self.number = number

    @property
    def mileage(self) -> int:
        with self.pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("SELECT %s * 1000 FROM (SELECT SLEEP(0.02)) AS a_while", self.number)
            (miles,) = cursor.fetchone()
            return int(miles)


def miles_of(truck: Truck) -> int:
    return truck.mileage


def fleet_mileage(pool: offload_db.OffloadPool) -> int:
    return sum(miles_of(Truck(pool, number)) for number in range(1, 6))


def main() -> None:
    with server() as endpoint:
        pool = PooledDB(pymysql, maxconnections=10, blocking=True, autocommit=True, **endpoint.settings())
        pool = offload_db.OffloadPool(pool)

        @offload_db.offload
        async def handler() -> int:
            return fleet_mileage(pool)

        async def serve() -> None:
            await asyncio.gather(*(handler() for _ in range(10)))  # opens the connections
            started = time.perf_counter()
            answers = await asyncio.gather(*(handler() for _ in range(10)))
            print(f"in ten handlers at once: {set(answers)} after {1000 * (time.perf_counter() - started):.0f} ms")

        asyncio.run(serve())
        answers = [fleet_mileage(pool)]
        thread = threading.Thread(target=lambda: answers.append(fleet_mileage(pool)))
        thread.start()
        thread.join()
        print(f"in a script:             {answers[0]}\nin a plain thread:       {answers[1]}")
        print(f"calls that blocked the event loop: {pool.statistics().blocking_calls}")
        pool.close()


if __name__ == "__main__":
    main()
