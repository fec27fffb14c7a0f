"""No pool: each request connects by itself, through helpers of several kinds."""
import os
from contextlib import contextmanager

import pymysql
import pymysql.cursors
from fastapi import Depends, FastAPI

app = FastAPI()
SETTINGS = dict(
    host=os.environ["MYSQL_HOST"], port=int(os.environ["MYSQL_PORT"]), user=os.environ["MYSQL_USER"],
    password=os.environ["MYSQL_PASSWORD"], ssl_disabled=True,
)
SLOW = "SELECT %s + SLEEP(0.002) AS answer"


def get_connection(database=None):
    return pymysql.connect(
        host=SETTINGS["host"],
        port=SETTINGS["port"],
        user=SETTINGS["user"],  # who
        password=SETTINGS["password"],
        database=database,
        ssl_disabled=True,
    )


class Service:
    def __init__(self, settings):
        self.settings = settings

    def ask(self, number):
        connection = pymysql.connect(cursorclass=pymysql.cursors.DictCursor, autocommit=True, **self.settings)
        try:
            with connection.cursor() as cursor:
                cursor.execute(SLOW, (number,))
                return int(cursor.fetchone()["answer"])
        finally:
            connection.close()


@contextmanager
def get_cursor():
    connection = get_connection("information_schema")
    try:
        yield connection.cursor()
        connection.commit()
    finally:
        connection.close()


def dependency():
    connection = pymysql.connect(**SETTINGS)
    try:
        yield connection
    finally:
        connection.close()


@app.get("/helper/{number}")
async def of_helper(number: int):
    with get_connection() as connection, connection.cursor() as cursor:
        cursor.execute(SLOW, (number,))
        return int(cursor.fetchone()[0])


@app.get("/service/{number}")
async def of_service(number: int):
    return Service(SETTINGS).ask(number)


@app.get("/cursor/{number}")
async def of_cursor(number: int):
    with get_cursor() as cursor:
        cursor.execute(SLOW, (number,))
        return int(cursor.fetchone()[0])


@app.get("/dependency/{number}")
async def of_dependency(number: int, connection=Depends(dependency)):
    with connection.cursor() as cursor:
        cursor.execute(SLOW, (number,))
        return int(cursor.fetchone()[0])
