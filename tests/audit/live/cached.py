"""One Database() for all requests, by a cache, a metaclass, __new__ and the application's state; some have their own."""
import os
from functools import lru_cache

import pymysql
from fastapi import Depends, FastAPI, Request

app = FastAPI()


def connect():
    return pymysql.connect(
        host=os.environ["MYSQL_HOST"], port=int(os.environ["MYSQL_PORT"]), user=os.environ["MYSQL_USER"],
        password=os.environ["MYSQL_PASSWORD"], autocommit=True, ssl_disabled=True,
    )


class Database:
    def __init__(self):
        self.connection = connect()

    def ask(self, number):
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT %s + SLEEP(0.002)", (number,))
            return int(cursor.fetchone()[0])


@lru_cache
def get_database():
    return Database()


class Once(type):
    made = {}

    def __call__(cls, *args):
        if cls not in cls.made:
            cls.made[cls] = super().__call__(*args)
        return cls.made[cls]


class Single(Database, metaclass=Once):
    pass


class New:
    _instance = None

    def __new__(cls):
        if cls._instance is None:
            cls._instance = super().__new__(cls)
            cls._instance.database = Database()
        return cls._instance


app.state.database = Database()


@app.get("/cached/{number}")
async def cached(number: int):
    return get_database().ask(number)


@app.get("/depends/{number}")
async def depends(number: int, database: Database = Depends(get_database)):
    return database.ask(number)


@app.get("/single/{number}")
async def single(number: int):
    return Single().ask(number)


@app.get("/new/{number}")
async def new(number: int):
    return New().database.ask(number)


@app.get("/state/{number}")
async def state(request: Request, number: int):
    return request.app.state.database.ask(number)


@app.get("/own/{number}")
async def own(number: int):
    database = Database()
    try:
        return database.ask(number)
    finally:
        database.connection.close()
