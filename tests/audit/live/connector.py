"""mysql-connector without a pool: for each request, and one connection that is kept for all."""
import os

import mysql.connector
from fastapi import FastAPI

app = FastAPI()
SETTINGS = dict(
    host=os.environ["MYSQL_HOST"], port=int(os.environ["MYSQL_PORT"]), user=os.environ["MYSQL_USER"],
    password=os.environ["MYSQL_PASSWORD"], ssl_disabled=True,
)
kept = mysql.connector.connect(autocommit=True, **SETTINGS)


class Database:
    _instance = None

    @classmethod
    def get(cls):
        if cls._instance is None:
            cls._instance = mysql.connector.connect(autocommit=True, **SETTINGS)
        return cls._instance


def ask(connection, number):
    cursor = connection.cursor(dictionary=True)
    cursor.execute("SELECT %s + SLEEP(0.002) AS answer", (number,))
    row = cursor.fetchone()
    cursor.close()
    return int(row["answer"])


@app.get("/each/{number}")
async def of_each(number: int):
    connection = mysql.connector.connect(**SETTINGS)
    try:
        return ask(connection, number)
    finally:
        connection.close()


@app.get("/named/{number}")
async def of_named(number: int):
    connection = mysql.connector.connect(pool_name="seven", pool_size=7, **SETTINGS)
    try:
        return ask(connection, number)
    finally:
        connection.close()


@app.get("/kept/{number}")
async def of_kept(number: int):
    return ask(kept, number)


@app.get("/lazy/{number}")
async def of_lazy(number: int):
    return ask(Database.get(), number)
