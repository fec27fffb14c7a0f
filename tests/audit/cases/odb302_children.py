"""Tasks that query outside of any bridge."""
import asyncio

import anyio
import offload_db

pool = offload_db.OffloadPool.from_env()


async def child(number=0):
    pool.connection().close()  # expect: ODB102 ODB103


async def waits_for_child():
    await child()


@offload_db.offload
async def decorated_child():
    pool.connection().close()


async def harmless():
    await asyncio.sleep(0)


@offload_db.offload
async def parent():
    await asyncio.gather(child(), child(1))  # expect: ODB302
    await asyncio.gather(*(child(n) for n in range(3)))  # expect: ODB302
    tasks = [child(n) for n in range(3)]
    await asyncio.gather(*tasks)
    task = asyncio.create_task(waits_for_child())  # expect: ODB302
    async with anyio.create_task_group() as group:
        group.start_soon(child, 1)  # expect: ODB302
        group.start_soon(decorated_child)
    async with asyncio.TaskGroup() as group:
        group.create_task(harmless())
        group.create_task(decorated_child())
    await asyncio.gather(decorated_child(), harmless())
    await child()
    await task
