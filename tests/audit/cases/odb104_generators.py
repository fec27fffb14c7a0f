"""A generator blocks where it is run, not where it is made; what a response streams runs in a thread."""
import asyncio
from contextlib import closing, contextmanager

import pymysql
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()


def rows(sql):
    with closing(pymysql.connect(host="db")) as conn, conn.cursor() as cursor:
        cursor.execute(sql)
        yield from cursor


def all_rows():
    yield "id"
    yield from rows("SELECT id FROM trucks")


def made():
    return rows("SELECT id FROM trucks")


def total(numbers):
    return sum(numbers)


def get_db():
    conn = pymysql.connect(host="db")
    try:
        yield conn
    finally:
        conn.close()


@app.get("/run")
async def run():
    for row in all_rows():  # expect: ODB104
        print(row)
    found = rows("SELECT 1")
    first = next(found)  # expect: ODB104
    rest = [*made()]  # expect: ODB104
    text = ",".join(rows("SELECT 1"))  # expect: ODB104
    number = total(rows("SELECT 1"))  # expect: ODB104
    with contextmanager(get_db)() as conn:  # expect: ODB104
        conn.ping()  # expect: ODB103
    return first, rest, text, number


@app.get("/only-made")
async def only_made():
    body = rows("SELECT 1")
    await asyncio.to_thread(list, rows("SELECT 1"))
    if isinstance(body, list):
        return StreamingResponse(f"{row}" for row in rows("SELECT 1"))
    return StreamingResponse(all_rows() if body is None else body, media_type="text/csv")
