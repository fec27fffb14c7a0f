"""Connections that all callers share."""
import pymysql
from dbutils.pooled_db import PooledDB
from fastapi import FastAPI
from sqlalchemy.orm import Session, scoped_session, sessionmaker

app = FastAPI()
pool = PooledDB(pymysql, 5)
connection = pool.connection()  # expect: ODB304
cursor = connection.cursor()  # expect: ODB304
session = Session()  # expect: ODB304
scoped = scoped_session(sessionmaker())
unused = pool.connection()
_lazy = None


def lazy():
    global _lazy
    if _lazy is None:
        _lazy = pymysql.connect(host="db")  # expect: ODB304
    return _lazy


class Dao:
    shared = pool.connection()  # expect: ODB304

    def __init__(self):
        self.own = pool.connection()

    def ping(self):
        self.own.ping()
        self.shared.ping()


class KeptDao:
    def __init__(self):
        self.conn = pool.connection()  # expect: ODB304

    def ping(self):
        self.conn.ping()


kept = KeptDao()


@app.on_event("startup")
async def startup():
    app.state.conn = pool.connection()  # expect: ODB102 ODB304


async def use(request):
    connection.ping()  # expect: ODB103
    cursor.execute("SELECT 1")  # expect: ODB101
    session.commit()  # expect: ODB105
    scoped.commit()  # expect: ODB105
    lazy().ping()  # expect: ODB103 ODB104
    Dao().ping()  # expect: ODB104
    kept.ping()  # expect: ODB104
    request.app.state.conn.ping()  # expect: ODB103
    local = pool.connection()  # expect: ODB102
    with local:
        local.ping()  # expect: ODB103
