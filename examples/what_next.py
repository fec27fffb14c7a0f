"""Observe, decorate, check: measure what blocks before anything is changed, and again afterwards.

Two handlers share a helper. The report says which of them costs the event loop more time, with which statement.

Run it with ``python -m examples.what_next`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pymysql
from dbutils.pooled_db import PooledDB

import offload_db
from examples.support.mariadb import server
from offload_db import monitor

Handler = Callable[[Any], Awaitable[None]]


def ask(pool: Any, seconds: float) -> None:
    """The helper below both handlers."""
    conn = pool.connection()
    cursor = conn.cursor()
    cursor.execute("SELECT SLEEP(%s)", (seconds,))
    cursor.close()
    conn.close()


async def dashboard(pool: Any) -> None:
    ask(pool, 0.08)


async def status(pool: Any) -> None:
    ask(pool, 0.005)


async def load(pool: Any, *handlers: Handler) -> monitor.LoopLag:
    """Call each handler five times at once; return how late the loop was meanwhile."""
    async with monitor.watch(interval=0.01) as watched:
        await asyncio.gather(*(handler(pool) for handler in handlers for _ in range(5)))
        return watched.lag()


def main() -> None:
    with server() as endpoint:
        legacy = PooledDB(pymysql, maxconnections=10, blocking=True, ssl_disabled=True, **endpoint.settings())

        # 1. Observe. The pool is not wrapped, and nothing is decorated yet.
        with monitor.observe_pymysql():
            lag = asyncio.run(load(legacy, dashboard, status))
        print(monitor.report())
        print(f"\nbefore: the loop was late by {1000 * lag.max:.0f} ms at most")

        # 2. Decorate: the costliest first, and here all.
        pool = offload_db.OffloadPool(legacy, on_loop_call="allow")
        lag = asyncio.run(load(pool, offload_db.offload(dashboard), offload_db.offload(status)))

        # 3. Check.
        print(f"after : the loop was late by {1000 * lag.max:.0f} ms at most")
        print(f"calls that still block: {len(pool.blocking_calls())}")
        pool.close()


if __name__ == "__main__":
    main()
