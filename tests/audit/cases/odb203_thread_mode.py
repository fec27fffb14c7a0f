"""mode="thread" on functions that await."""
import asyncio

from offload_db import OffloadPool, offload

pool = OffloadPool.from_env()


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
