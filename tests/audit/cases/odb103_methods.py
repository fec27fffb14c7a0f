"""Other methods of connections and cursors."""
import pymysql
from dbutils.pooled_db import PooledDB

pool = PooledDB(pymysql, 5)


async def transaction():
    with pool.connection() as conn:  # expect: ODB102
        conn.begin()  # expect: ODB103
        conn.ping(reconnect=True)  # expect: ODB103
        conn.rollback()  # expect: ODB103
        conn.commit()  # expect: ODB103
        conn.escape("x")
        print(conn.open, conn.thread_id())
        cursor = conn.cursor()  # expect: ODB103
        print(cursor.rowcount, cursor.lastrowid, cursor.description)
        for row in cursor:  # expect: ODB103
            print(row)
        rows = list(cursor)  # expect: ODB103
        print(rows, cursor.mogrify("SELECT 1"))
        cursor.nextset()  # expect: ODB103
        cursor.close()  # expect: ODB103
