"""What a grown backend has side by side: a lazy engine, connects in helpers, a kept connection, a pool, pandas."""
import os

import pandas as pd
import pymysql
from fastapi import APIRouter, FastAPI
from mysql.connector import pooling
from sqlalchemy import create_engine, text

app = FastAPI()
router = APIRouter()
URL = (
    f"mysql+pymysql://{os.environ['MYSQL_USER']}:{os.environ['MYSQL_PASSWORD']}"
    f"@{os.environ['MYSQL_HOST']}:{os.environ['MYSQL_PORT']}/information_schema?charset=utf8mb4"
)
SETTINGS = {
    "host": os.environ["MYSQL_HOST"], "port": int(os.environ["MYSQL_PORT"]), "user": os.environ["MYSQL_USER"],
    "password": os.environ["MYSQL_PASSWORD"], "ssl_disabled": True,
}
SLOW = "SELECT %s + SLEEP(0.002) AS answer"
_engine = None
_pool = None


def get_engine():
    global _engine
    if _engine is None:
        _engine = create_engine(URL, pool_size=10, max_overflow=5, connect_args={"ssl_disabled": True})
    return _engine


def get_pool():
    global _pool
    if _pool is None:
        _pool = pooling.MySQLConnectionPool(pool_name="fleet", pool_size=3, pool_reset_session=True, **SETTINGS)
    return _pool


class Trips:
    """Keeps one connection, and makes another one when that is gone."""

    def __init__(self):
        self.connection = None

    def cursor(self):
        if self.connection is None or not self.connection.open:
            self.connection = pymysql.connect(autocommit=True, **SETTINGS)
        return self.connection.cursor()


trips = Trips()


def frame(number):
    return pd.read_sql(text("SELECT :number + SLEEP(0.002) AS answer"), get_engine(), params={"number": number})


@router.get("/pandas/{number}")
async def of_pandas(number: int):
    return int(frame(number)["answer"][0])


@router.get("/connect/{number}")
async def of_connect(number: int):
    connection = pymysql.connect(**SETTINGS)
    try:
        with connection.cursor() as cursor:
            cursor.execute(SLOW, (number,))
            return int(cursor.fetchone()[0])
    finally:
        connection.close()


@router.get("/trips/{number}")
async def of_trips(number: int):
    with trips.cursor() as cursor:
        cursor.execute(SLOW, (number,))
        return int(cursor.fetchone()[0])


@router.get("/pool/{number}")
async def of_pool(number: int):
    connection = get_pool().get_connection()
    try:
        cursor = connection.cursor()
        cursor.execute(SLOW, (number,))
        return int(cursor.fetchone()[0])
    finally:
        connection.close()


app.include_router(router)
