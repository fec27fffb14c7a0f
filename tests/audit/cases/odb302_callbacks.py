"""What the loop calls by itself runs in no task, and so in no bridge."""
import asyncio
import functools

import offload_db
import pymysql
from fastapi import FastAPI

app = FastAPI()
pool = offload_db.OffloadPool.from_env()


def save(row=None):
    with pool.connection() as conn:
        conn.commit()


def note(task):
    print(task)


@offload_db.offload
async def save_offloaded():
    save()


def start(task=None):
    asyncio.get_running_loop().create_task(save_offloaded())


@app.post("/later")
@offload_db.offload
async def later():
    loop = asyncio.get_running_loop()
    loop.call_later(5, save)  # expect: ODB302
    loop.call_soon(functools.partial(save, 1))  # expect: ODB302
    loop.call_at(5, lambda: save(1))  # expect: ODB302
    loop.call_soon_threadsafe(note, 1)
    task = asyncio.create_task(save_offloaded())
    task.add_done_callback(save)  # expect: ODB302
    task.add_done_callback(note)
    task.add_done_callback(start)
