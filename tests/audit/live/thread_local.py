"""A connection for each thread: on the event loop it is everybody's, in threads nobody else's."""
import os
import threading

import pymysql
from fastapi import FastAPI

app = FastAPI()
SETTINGS = dict(
    host=os.environ["MYSQL_HOST"], port=int(os.environ["MYSQL_PORT"]), user=os.environ["MYSQL_USER"],
    password=os.environ["MYSQL_PASSWORD"], autocommit=True, ssl_disabled=True,
)
local = threading.local()


class Mine(threading.local):
    connection = None


mine = Mine()


def ask(connection, number):
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s + SLEEP(0.002)", (number,))
        return int(cursor.fetchone()[0])


def get():
    if getattr(local, "connection", None) is None:
        local.connection = pymysql.connect(**SETTINGS)
    return local.connection


@app.get("/local/{number}")
async def of_local(number: int):
    return ask(get(), number)


@app.get("/class/{number}")
async def of_class(number: int):
    if mine.connection is None:
        mine.connection = pymysql.connect(**SETTINGS)
    return ask(mine.connection, number)
