"""What looks like a statement of a driver and is none."""
import asyncio
import sqlite3

import aiomysql
import offload_db
import pymysql
from anyio import to_thread
from dbutils.pooled_db import PooledDB
from fastapi import Depends, FastAPI
from fastapi.concurrency import run_in_threadpool

app = FastAPI()
pool = offload_db.OffloadPool(PooledDB(creator=pymysql))


class Command:
    def execute(self, text):
        return text

    def commit(self):
        return None


def get_db():
    conn = pool.connection()
    try:
        yield conn
    finally:
        conn.close()


@app.get("/def")
def plain_handler(conn=Depends(get_db)):
    with conn.cursor() as cursor:
        cursor.execute("SELECT 1")


@app.get("/threads")
async def handed_over(conn=Depends(get_db)):
    def query():
        with conn.cursor() as cursor:
            cursor.execute("SELECT 1")
            return cursor.fetchall()

    await run_in_threadpool(query)
    await to_thread.run_sync(query)
    await asyncio.to_thread(query)
    await asyncio.to_thread(lambda: query())
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, query)


@app.get("/command")
async def not_a_cursor(command: Command):
    command.execute("SELECT 1")
    Command().commit()
    cursor = Command()
    cursor.execute("SELECT 1")


@app.get("/aio")
async def awaitable():
    other = await aiomysql.create_pool(host="db")
    async with other.acquire() as conn:
        async with conn.cursor() as cursor:
            await cursor.execute("SELECT 1")
            await cursor.fetchall()
            await conn.commit()


@app.get("/own")
async def awaitable_surface():
    rows = await pool.fetch_all("SELECT 1")
    async with pool.acquire() as conn, conn.cursor() as cursor:
        await cursor.execute("SELECT 1")
    async with pool.transaction() as conn:
        await conn.commit()
    await pool.execute("DELETE FROM log WHERE id = 1")
    return rows


@app.get("/other")
async def other_database():
    conn = sqlite3.connect("x")
    conn.execute("SELECT 1")


@app.get("/task")
async def scheduler(executor):
    executor.execute(lambda: 1)
    executor.commit()


@app.get("/unknown")
async def unknown_cursor(cursor):
    await cursor.execute("SELECT 1")
