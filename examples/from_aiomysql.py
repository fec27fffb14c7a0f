"""A ``database_async.py`` that was written for aiomysql, with one line changed: the import.

Everything below that line is as it was. The decorated handlers of the same backend can use the same pool, and so the
two surfaces share its connections.

Run it with ``python -m examples.from_aiomysql`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio
from typing import Any

import offload_db
from examples.support.mariadb import Endpoint, server
from offload_db import aio as aiomysql  # was: import aiomysql

_pool: aiomysql.Pool | None = None


async def get_async_pool(endpoint: Endpoint) -> aiomysql.Pool:
    global _pool
    if _pool is None:
        _pool = await aiomysql.create_pool(
            host=endpoint.host,
            port=endpoint.port,
            user=endpoint.user,
            password=endpoint.password,
            db="mysql",
            minsize=2,
            maxsize=10,
            autocommit=True,
            charset="utf8mb4",
            cursorclass=aiomysql.DictCursor,
            pool_recycle=3600,
        )
    return _pool


async def execute_query(pool: aiomysql.Pool, query: str, params: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
    try:
        async with pool.acquire() as conn, conn.cursor(aiomysql.DictCursor) as cursor:
            await cursor.execute(query, params)
            return list(await cursor.fetchall())
    except aiomysql.ProgrammingError as error:
        print(f"  {type(error).__name__}: {error.args[0]}")
        return []


async def close_async_pool() -> None:
    global _pool
    if _pool is not None:
        _pool.close()
        await _pool.wait_closed()
        _pool = None


# Up to here nothing but the import has changed.

THREE = "(SELECT 1 AS number UNION SELECT 2 UNION SELECT 3) AS numbers"


async def run(endpoint: Endpoint) -> None:
    pool = await get_async_pool(endpoint)
    print(f"size {pool.size}, free {pool.freesize}, at most {pool.maxsize}")
    print("as before:", await execute_query(pool, f"SELECT number FROM {THREE} WHERE number > %s", (1,)))
    await execute_query(pool, "SELECT nothing FROM nowhere_at_all")

    @offload_db.offload
    async def legacy_handler() -> Any:
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute(f"SELECT COUNT(*) AS trucks FROM {THREE}")
            return cursor.fetchone()

    print("a legacy handler on the same pool:", await legacy_handler())
    print("one trip in all:", await pool.fetch_value(f"SELECT MAX(number) FROM {THREE}"))
    print(f"size {pool.size} still")
    await close_async_pool()


def main() -> None:
    with server() as endpoint:
        asyncio.run(run(endpoint))


if __name__ == "__main__":
    main()
