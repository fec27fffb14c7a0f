"""mode="thread" on functions that must not run in a thread."""
import asyncio
import logging

import pymysql
from mysql.connector.pooling import MySQLConnectionPool
from offload_db import OffloadPool, offload

logger = logging.getLogger(__name__)
pool = OffloadPool.from_env()
five = MySQLConnectionPool(pool_size=5)
kept = pymysql.connect(host="db")  # expect: ODB304


async def pure():
    return 1


@offload(mode="thread")
async def waits():  # expect: ODB203
    pool.connection().close()
    await asyncio.sleep(1)


@offload(mode="thread")
async def streams(lines):  # expect: ODB203
    async for line in lines:
        pool.connection().close()


@offload(mode="thread")
async def never_waits():
    pool.connection().close()
    return await pure()


@offload
async def bridged():
    pool.connection().close()
    await asyncio.sleep(1)


@offload(mode="thread")
async def shares():  # expect: ODB203
    kept.ping()


@offload(mode="thread")
async def empties_a_pool():  # expect: ODB203
    five.get_connection().close()


@offload(mode="thread")
async def starts_a_task():  # expect: ODB203
    pool.connection().close()
    tell()


@offload(mode="thread")
async def is_given_something(connection: pymysql.Connection):
    connection.ping()


def tell():
    asyncio.create_task(pure())


@offload(mode="thread")
async def tells_a_logger(request):
    connection = pymysql.connect(host="db")
    logger.debug("%s is open", connection)
    connection.ping()
    request.state.connection.ping()
    request["connection"].ping()
