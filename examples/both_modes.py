"""Both modes: ``"bridge"`` for a handler that awaits, ``"thread"`` for one that blocks elsewhere, too.

Shows on which thread a handler's own code runs in each mode, and what a ``mode="thread"`` handler is told that
suspends after all.

Run it with ``python -m examples.both_modes`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio
import threading
import time

import pymysql
from dbutils.pooled_db import PooledDB

import offload_db
from examples.support.mariadb import server


def main() -> None:
    with server() as endpoint:
        pool = PooledDB(pymysql, maxconnections=5, blocking=True, autocommit=True, **endpoint.settings())
        pool = offload_db.OffloadPool(pool)

        def query() -> None:
            with pool.connection() as conn, conn.cursor() as cursor:
                cursor.execute("SELECT SLEEP(0.05)")

        @offload_db.offload  # the same as mode="bridge"
        async def awaits() -> str:
            query()  # suspends here ...
            await asyncio.sleep(0.01)  # ... and here
            return threading.current_thread().name

        @offload_db.offload(mode="thread")
        async def blocks_elsewhere() -> str:
            query()
            time.sleep(0.05)  # noqa: ASYNC251  # stands for pandas, requests or SMTP
            return threading.current_thread().name

        @offload_db.offload(mode="thread")
        async def awaits_after_all() -> None:
            query()
            await asyncio.sleep(0.01)

        async def call_all() -> None:
            print(f'mode="bridge": the handler\'s code ran on {await awaits()!r}')
            print(f'mode="thread": the handler\'s code ran on {await blocks_elsewhere()!r}')
            try:
                await awaits_after_all()
            except offload_db.BridgeError as error:
                print(f'mode="thread", but it suspends:\n  BridgeError: {error}')

        asyncio.run(call_all())
        print(f"trips to a worker thread for single driver calls: {pool.statistics().hops}, all of them bridged")
        pool.close()


if __name__ == "__main__":
    main()
