"""Any other blocking function: ``offload_db.blocking`` does for it what the pool does for queries.

In a decorated handler the wrapped function runs in a worker thread; the handler and the functions between call it as
before. Elsewhere it runs on the spot.

Run it with ``python -m examples.blocking_anything`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time

import pymysql
from dbutils.pooled_db import PooledDB

import offload_db
from examples.support.mariadb import server


@offload_db.blocking  # the new line
def send_mail(to: str) -> str:
    time.sleep(0.1)  # stands for SMTP, requests.get or a file on a slow disk
    return f"mail to {to} sent from a {'worker' if threading.current_thread().name != 'MainThread' else 'main'} thread"


# The same for a function that is not yours.
pbkdf2 = offload_db.blocking(hashlib.pbkdf2_hmac)


def main() -> None:
    with server() as endpoint:
        pool = PooledDB(pymysql, maxconnections=10, blocking=True, autocommit=True, **endpoint.settings())
        pool = offload_db.OffloadPool(pool)

        @offload_db.offload
        async def register(name: str) -> str:
            digest = pbkdf2("sha256", b"secret", name.encode(), 50_000)
            with pool.connection() as conn, conn.cursor() as cursor:
                cursor.execute("SELECT %s", (digest.hex(),))
            return send_mail(name)

        async def serve() -> None:
            started = time.perf_counter()
            answers = await asyncio.gather(*(register(f"user {number}") for number in range(10)))
            print(f"in ten handlers at once: {answers[0]!r} and nine more after {time.perf_counter() - started:.2f} s")

        asyncio.run(serve())
        print(f"in a script:             {send_mail('me')!r}")
        pool.close()


if __name__ == "__main__":
    main()
