"""Offloaded handlers whose driver a bridge does not free."""
import functools

import offload_db
import pandas as pd
import pymysql
from dbutils.pooled_db import PooledDB
from fastapi import FastAPI
from sqlalchemy import create_engine

app = FastAPI()
bare = PooledDB(pymysql, 5)
wrapped = offload_db.OffloadPool(PooledDB(pymysql, 5))
engine = create_engine("mysql+pymysql://db/fleet")
freed_engine = offload_db.contrib.sqlalchemy.create_engine(wrapped)


def own_connection():
    return pymysql.connect(host="db")


@app.get("/bare")
@offload_db.offload
async def not_wrapped():
    with bare.connection() as conn:  # expect: ODB202
        conn.commit()


@app.get("/own")
@offload_db.offload
async def own():
    with own_connection() as conn:  # expect: ODB202
        conn.commit()


@app.get("/engine")
@offload_db.offload
async def sqlalchemy_engine():
    with engine.connect() as conn:  # expect: ODB202
        conn.commit()


@app.get("/pandas")
@offload_db.offload
async def frames():
    return pd.read_sql("SELECT 1", engine)  # expect: ODB202


@app.get("/thread")
@offload_db.offload(mode="thread")
async def in_thread():
    return pd.read_sql("SELECT 1", engine)


@app.get("/freed")
@offload_db.offload
async def freed():
    with wrapped.connection() as conn:
        conn.commit()
    with freed_engine.connect() as conn:
        conn.commit()
    with offload_db.connect(host="db") as conn:
        conn.commit()
    return offload_db.blocking(pd.read_sql)("SELECT 1", engine)


in_threads = functools.partial(offload_db.offload, mode="thread")


@offload_db.blocking
def hops():
    return pymysql.connect(host="db").ping()


def decorated_with(mode):
    def decorate(fn):
        return offload_db.offload(mode=mode)(fn)

    return decorate


@in_threads()
async def by_partial():
    own_connection().ping()


@decorated_with("thread")
async def by_computed_mode():
    own_connection().ping()


@offload_db.offload
async def through_blocking():
    hops()
