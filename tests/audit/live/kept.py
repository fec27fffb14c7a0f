"""Connections that everybody shares: of a module, of a class, made when they are first asked for."""
import os

import pymysql
from fastapi import FastAPI, Request

app = FastAPI()
SETTINGS = dict(
    host=os.environ["MYSQL_HOST"], port=int(os.environ["MYSQL_PORT"]), user=os.environ["MYSQL_USER"],
    password=os.environ["MYSQL_PASSWORD"], autocommit=True, ssl_disabled=True,
)
connection = pymysql.connect(**SETTINGS)
_lazy = None


def lazy():
    global _lazy
    if _lazy is None:
        _lazy = pymysql.connect(**SETTINGS)
    return _lazy


class Store:
    _connection = None

    def __new__(cls):
        if cls._connection is None:
            cls._connection = pymysql.connect(**SETTINGS)
        return super().__new__(cls)

    def ask(self, number):
        return ask(self._connection, number)


def ask(connection, number):
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s + SLEEP(0.002)", (number,))
        return int(cursor.fetchone()[0])


app.state.db = pymysql.connect(**SETTINGS)


@app.get("/module/{number}")
async def of_module(number: int):
    return ask(connection, number)


@app.get("/lazy/{number}")
async def of_lazy(number: int):
    return ask(lazy(), number)


@app.get("/class/{number}")
async def of_class(number: int):
    return Store().ask(number)


@app.get("/state/{number}")
async def of_state(request: Request, number: int):
    return ask(request.app.state.db, number)
