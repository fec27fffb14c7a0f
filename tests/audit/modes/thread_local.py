"""Connections of a thread: in threads nobody else has them, and on the event loop everybody."""
import threading

import pymysql
from fastapi import FastAPI

app = FastAPI()
local = threading.local()


class Local(threading.local):
    connection = None


mine = Local()


def get():
    if getattr(local, "connection", None) is None:
        local.connection = pymysql.connect(host="db")
    return local.connection


def get_mine():
    if mine.connection is None:
        mine.connection = pymysql.connect(host="db")
    return mine.connection


@app.get("/local")
async def of_local():  # mode: thread
    get().ping()


@app.get("/class")
async def of_class():  # mode: thread
    get_mine().ping()
