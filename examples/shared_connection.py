"""A connection in a module global: it stays safe, because each call owns it until its end.

Handlers that shared one connection were safe only because nobody else ran while one waited. Here two transactions on
such a connection run at once, one is rolled back, and they do not mix. The tasks that a call starts share it.

Run it with ``python -m examples.shared_connection`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio
import secrets

import offload_db
from examples.support.mariadb import server

DATABASE = f"offload_db_example_{secrets.token_hex(4)}"


def main() -> None:
    with server() as endpoint:
        connection = offload_db.connect(**endpoint.settings())  # the global of the process
        cursor = connection.cursor()  # some keep even the cursor
        cursor.execute(f"CREATE DATABASE {DATABASE}")  # dropped below
        cursor.execute(f"CREATE TABLE {DATABASE}.trips (driver VARCHAR(20), leg INT)")

        @offload_db.offload
        async def drive(driver: str, *, arrives: bool) -> None:
            for leg in (1, 2, 3):
                cursor.execute(f"INSERT INTO {DATABASE}.trips VALUES (%s, %s)", (driver, leg))
                cursor.execute("SELECT SLEEP(0.02)")  # time enough for the other call to come between
                print(f"  {driver}: leg {leg}")
            if arrives:
                connection.commit()
            else:
                connection.rollback()

        @offload_db.offload
        async def one_query(number: int) -> int:
            cursor = connection.cursor()
            cursor.execute("SELECT %s", (number,))
            (answer,) = cursor.fetchone()
            return int(answer)

        @offload_db.offload
        async def parent() -> list[int]:
            return await asyncio.gather(*(one_query(number) for number in range(5)))

        async def both() -> None:
            print("two transactions at once on one connection:")
            await asyncio.gather(drive("Ana", arrives=True), drive("Ben", arrives=False))
            print("children of one call share it, statement by statement:", await parent())

        try:
            asyncio.run(both())
            cursor.execute(f"SELECT driver, COUNT(*) FROM {DATABASE}.trips GROUP BY driver")
            print(f"what is in {DATABASE}.trips, Ben having rolled back:", cursor.fetchall())
        finally:
            cursor.execute(f"DROP DATABASE {DATABASE}")
            connection.close()


if __name__ == "__main__":
    main()
