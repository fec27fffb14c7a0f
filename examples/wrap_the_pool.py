"""Wrap the pool that exists: the first step, and one that changes nothing yet.

Shows that the code below the pool needs no change, that a plain thread or script works as before, and that a handler
without a decorator still works and still blocks, but is reported now.

Run it with ``python -m examples.wrap_the_pool`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pymysql
from dbutils.pooled_db import PooledDB

import offload_db
from examples.support.mariadb import server


def main() -> None:
    with server() as endpoint:
        pool = PooledDB(pymysql, maxconnections=5, blocking=True, autocommit=True, **endpoint.settings())
        pool = offload_db.OffloadPool(pool)  # the new line

        def get_version() -> dict[str, Any]:
            """Code as legacy backends have it: not a word of it changes."""
            conn = pool.connection()
            cursor = conn.cursor(pymysql.cursors.DictCursor)
            cursor.execute("SELECT VERSION() AS version")
            row: dict[str, Any] = cursor.fetchone()
            cursor.close()
            conn.close()
            return row

        async def handler() -> dict[str, Any]:
            return get_version()

        print("from a script:              ", get_version())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            print("from an undecorated handler:", asyncio.run(handler()))
        print(f"reported, once for each line that blocks:\n  {caught[0].message}")

        now = pool.statistics()
        print(f"statistics: {now.statements} statements, {now.blocking_calls} of the driver's calls blocked the loop")
        print(f"            {now.checkouts} checkouts, {now.open} open, {now.in_use} in use now")
        pool.close()


if __name__ == "__main__":
    main()
