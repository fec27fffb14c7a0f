"""What needs the event loop's thread further down, in whatever helper."""

import asyncio
import sqlite3
import time
from asyncio import ensure_future, get_running_loop

import offload_db
import pandas
import pymysql
from fastapi import FastAPI

app = FastAPI()
pool = offload_db.OffloadPool.from_env()
changed = asyncio.Event()
cache = sqlite3.connect("cache.db")


def query():
    connection = pymysql.connect(host="db")
    try:
        connection.ping()
    finally:
        connection.close()


def tell():
    asyncio.create_task(log())


def tell_later():
    get_running_loop().call_later(1, print)


def tell_by_name():
    ensure_future(log())


def tell_old():
    asyncio.get_event_loop().create_task(log())


def deep():
    tell_old()


async def log():
    await asyncio.sleep(0)


async def never_suspends():  # mode: thread
    query()


async def may_suspend():  # mode: neither
    query()
    await asyncio.sleep(0)


@app.get("/plain")
async def plain():  # mode: thread
    query()


@app.get("/task")
async def starts_a_task():  # mode: neither
    query()
    tell()


@app.get("/later")
async def calls_later():  # mode: neither
    query()
    tell_later()


@app.get("/by-name")
async def by_name():  # mode: neither
    query()
    tell_by_name()


@app.get("/deep")
async def far_below():  # mode: neither
    query()
    deep()


@app.get("/event")
async def sets_an_event():  # mode: neither
    query()
    changed.set()


@app.get("/timeout")
async def knows_an_error():  # mode: thread
    try:
        query()
    except asyncio.TimeoutError:
        time.sleep(1)


@app.get("/awaits-nothing")
async def awaits_what_never_suspends():  # mode: thread
    time.sleep(1)
    query()
    await never_suspends()


@app.get("/awaits")
async def awaits_what_may_suspend():  # mode: neither
    query()
    await may_suspend()


@app.get("/sqlite")
async def uses_an_object_of_its_thread():  # mode: neither
    query()
    cache.execute("SELECT 1")


@app.get("/own-sqlite")
async def uses_an_object_of_its_own():  # mode: thread
    query()
    own = sqlite3.connect("cache.db")
    own.execute("SELECT 1")


@app.get("/executor")
async def hands_on():  # mode: neither
    connection = pymysql.connect(host="db")
    connection.ping()
    asyncio.get_running_loop().run_in_executor(None, connection.ping)


@app.get("/frame")
async def makes_a_frame():  # mode: thread
    query()
    pandas.DataFrame([[1]])


async def of_pool():  # mode: either
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return pandas.DataFrame(cursor.fetchall())


async def of_pool_and_file():  # mode: thread
    with pool.connection() as connection:
        connection.ping()
    return pandas.read_csv("prices.csv")
