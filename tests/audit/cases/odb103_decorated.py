"""One decorator on several functions: what one of them takes and returns is not what the others do."""
import functools

import pymysql
from fastapi import FastAPI

app = FastAPI()


class Settings:
    def commit(self):
        return "saved"


def logged(function):
    @functools.wraps(function)
    async def wrapper(*args, **kwargs):
        print("called")
        return await function(*args, **kwargs)

    return wrapper


def retried(times):
    def decorate(function):
        def wrapper(*args, **kwargs):
            for _ in range(times):
                return function(*args, **kwargs)

        return wrapper

    return decorate


@logged
async def connection():
    return pymysql.connect(host="db")  # expect: ODB102


@logged
async def settings():
    return Settings()


@logged
async def show(thing):
    thing.commit()


@retried(3)
def store(conn):
    conn.commit()


@retried(3)
def count(thing):
    thing.commit()


@app.get("/both")
async def both():
    found = await settings()
    found.commit()
    conn = await connection()
    conn.commit()  # expect: ODB103
    await show(found)
    count(found)
    store(conn)  # expect: ODB104
