"""Connections that are made for a call, and leave it."""

import threading
import time
from contextlib import closing, contextmanager

import pymysql
from fastapi import FastAPI

app = FastAPI()
idle = []
last = None
known = {}


def make():
    return pymysql.connect(host="db")


def make_or_keep():
    global last
    last = make()  # shared
    return last


@contextmanager
def connected():
    connection = make()
    try:
        yield connection, connection.cursor()
    finally:
        connection.close()


def pair():
    connection = make()
    return connection, connection.cursor()


def query(connection, sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


class Repository:
    def __init__(self, connection):
        self._connection = connection

    def names(self):
        return query(self._connection, "SELECT name FROM trucks LIMIT 9")


@app.get("/helper")
async def by_helper():  # mode: thread
    with closing(make()) as connection:
        return query(connection, "SELECT 1")


@app.get("/pair")
async def by_pair():  # mode: thread
    connection, cursor = pair()
    cursor.execute("SELECT 1")
    connection.close()


@app.get("/repository")
async def by_repository():  # mode: thread
    connection = make()
    try:
        return Repository(connection).names()
    finally:
        connection.close()


@app.get("/idle")
async def puts_aside():  # mode: neither
    connection = make()
    connection.ping()
    idle.append(connection)


@app.get("/takes")
async def takes():  # mode: neither
    connection = idle.pop() if idle else make()
    connection.ping()
    connection.close()


@app.get("/global")
async def sets_a_global():  # mode: neither
    make_or_keep().ping()


@app.get("/dictionary")
async def keeps_by_key(key):  # mode: neither
    if key not in known:
        known[key] = make()  # shared
    known[key].ping()


@app.get("/thread")
async def starts_a_thread():  # mode: neither
    connection = make()
    threading.Thread(target=query, args=(connection, "SELECT 1")).start()
    time.sleep(0.1)
    connection.close()


@app.get("/lambda")
async def hands_a_lambda_on():  # mode: neither
    connection = make()
    threading.Timer(1, lambda: connection.ping()).start()
    connection.ping()


async def dependency():  # mode: neither
    return make()


@app.get("/imported-or-made")
async def imports_or_makes_it():  # mode: neither
    try:
        from elsewhere import connection
    except ImportError:
        connection = make()
    connection.ping()


@app.get("/caught")
async def by_another_name():  # mode: neither
    try:
        make().ping()
    except ValueError as connection:
        connection.cursor().execute("SELECT 1")


@app.get("/pair-kept")
async def keeps_a_pair():  # mode: neither
    connection = make()
    connection.ping()
    known["pair"] = (connection, 1)
