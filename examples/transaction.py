"""A transaction that is awaited: committed at its end, rolled back by an exception, with a savepoint inside.

Run it with ``python -m examples.transaction`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio
import secrets

import pymysql

import offload_db
from examples.support.mariadb import server

DATABASE = f"offload_db_example_{secrets.token_hex(4)}"


async def transfer(pool: offload_db.OffloadPool, litres: int) -> None:
    """Move fuel from tank 1 to tank 2; a note of it is welcome, but must not stop it."""
    async with pool.transaction() as conn, conn.cursor() as cursor:
        await cursor.execute(f"UPDATE {DATABASE}.tanks SET litres = litres - %s WHERE id = 1", (litres,))
        await cursor.execute(f"UPDATE {DATABASE}.tanks SET litres = litres + %s WHERE id = 2", (litres,))
        try:
            async with pool.transaction():  # a savepoint: only what is in here is undone
                await cursor.execute(f"INSERT INTO {DATABASE}.notes VALUES (%s)", (f"{litres} litres moved",))
        except pymysql.err.IntegrityError as error:
            print(f"  no note: {error.args[-1]}")
        await cursor.execute(f"SELECT litres FROM {DATABASE}.tanks WHERE id = 1")
        (left,) = await cursor.fetchone()
        if left < 0:
            raise ValueError(f"tank 1 would hold {left} litres")


async def run(pool: offload_db.OffloadPool) -> None:
    await pool.execute(f"CREATE DATABASE {DATABASE}")  # dropped below
    try:
        await pool.execute(f"CREATE TABLE {DATABASE}.tanks (id INT PRIMARY KEY, litres INT) ENGINE=InnoDB")
        await pool.execute(f"CREATE TABLE {DATABASE}.notes (text VARCHAR(16) PRIMARY KEY) ENGINE=InnoDB")
        await pool.execute_many(f"INSERT INTO {DATABASE}.tanks VALUES (%s, %s)", [(1, 100), (2, 0)])
        for litres in (30, 30, 80):
            try:
                await transfer(pool, litres)
            except ValueError as error:
                print(f"{litres} litres: rolled back, {error}")
            else:
                print(f"{litres} litres: committed")
        print("tanks:", await pool.fetch_all(f"SELECT litres FROM {DATABASE}.tanks ORDER BY id"))
        print("notes:", await pool.fetch_all(f"SELECT text FROM {DATABASE}.notes"))
    finally:
        await pool.execute(f"DROP DATABASE {DATABASE}")
        await pool.aclose()


def main() -> None:
    with server() as endpoint:
        asyncio.run(run(offload_db.OffloadPool.create(min_size=0, max_size=2, **endpoint.settings())))


if __name__ == "__main__":
    main()
