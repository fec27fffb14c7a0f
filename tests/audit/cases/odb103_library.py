"""What the library itself gives out, in handlers that nobody has decorated."""
import aiomysql
import offload_db
import pandas as pd
from fastapi import FastAPI
from offload_db import aio, queries
from offload_db.contrib import sqlalchemy as offload_sqlalchemy

app = FastAPI()
pool = offload_db.OffloadPool.from_env()
reports = pool.variant(autocommit=True)
engine = offload_sqlalchemy.create_engine(pool)


@app.get("/pool")
async def from_pool():
    with pool.connect() as conn, conn.cursor() as cursor:  # expect: ODB102 ODB103
        cursor.execute("SELECT id FROM trucks LIMIT 1")  # expect: ODB101
    with reports.connection() as conn:  # expect: ODB102
        conn.ping()  # expect: ODB103


@app.get("/frame")
@offload_db.offload
async def frame():
    return pd.read_sql("SELECT id FROM trucks LIMIT 1", pool.connect())


@app.get("/frame/undecorated")
async def undecorated():
    conn = offload_db.connect(host="db")  # expect: ODB102
    try:
        return pd.read_sql("SELECT id FROM trucks LIMIT 1", conn)  # expect: ODB106
    finally:
        conn.close()  # expect: ODB103


@app.get("/default")
async def default():
    shared = await queries.get_async_pool()
    with shared.connection() as conn:  # expect: ODB102
        conn.commit()  # expect: ODB103


@app.get("/engine")
async def from_engine():
    with engine.connect() as conn:  # expect: ODB105
        conn.execute("SELECT id FROM trucks LIMIT 1")  # expect: ODB105


@app.get("/awaited")
async def awaited(given: offload_db.AsyncConnection):
    await pool.fetch_all("SELECT id FROM trucks LIMIT 1")
    await queries.execute_query("SELECT id FROM trucks LIMIT 1")
    async with pool.acquire() as conn, conn.cursor() as cursor:
        await cursor.execute("SELECT id FROM trucks LIMIT 1")
    async with aio.create_pool(host="db") as made, made.acquire() as conn:
        await conn.commit()
        made.close()
        await made.wait_closed()
    conn = await aio.connect(host="db")
    await conn.ping()
    conn.close()
    await given.commit()
    other = await aiomysql.connect(host="db")
    await other.ping()
