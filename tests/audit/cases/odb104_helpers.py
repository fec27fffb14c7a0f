"""Plain functions, methods, properties and context managers that reach the driver."""
import asyncio
import functools
from contextlib import closing, contextmanager

import pymysql
from dbutils.pooled_db import PooledDB
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.concurrency import run_in_threadpool

app = FastAPI()
pool = PooledDB(pymysql, 5)


def query(sql, args=None):
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute(sql, args)
        return cursor.fetchall()


def find(truck_id):
    return query("SELECT * FROM trucks WHERE truck_id = %s", (truck_id,))


class Repository:
    def __init__(self):
        self._connection = None

    @property
    def connection(self):
        if self._connection is None:
            self._connection = pymysql.connect(host="db")  # expect: ODB304
        return self._connection

    def get(self, truck_id):
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT * FROM trucks WHERE truck_id = %s", (truck_id,))
            return cursor.fetchone()

    @classmethod
    def count(cls):
        return query("SELECT COUNT(*) FROM trucks")

    @staticmethod
    def ping():
        return query("SELECT 1")


class CachedRepository(Repository):
    def get(self, truck_id):
        return super().get(truck_id)


@contextmanager
def cursor_of_pool():
    with closing(pool.connection()) as conn:
        with conn.cursor() as cursor:
            yield cursor


class UnitOfWork:
    def __enter__(self):
        self.conn = pool.connection()
        return self.conn

    def __exit__(self, *exc):
        self.conn.close()


def retry(times):
    def decorate(fn):
        @functools.wraps(fn)
        def wrapper(*args, **kwargs):
            return fn(*args, **kwargs)

        return wrapper

    return decorate


@retry(3)
def retried():
    return query("SELECT 1")


@retry(3)
def harmless():
    return 1


@functools.lru_cache
def settings():
    return query("SELECT * FROM settings")


def call_it(fn, *args):
    return fn(*args)


def in_thread(fn):
    @functools.wraps(fn)
    async def wrapper(*args):
        return await run_in_threadpool(fn, *args)

    return wrapper


@in_thread
def threaded():
    return query("SELECT 1")


repository = CachedRepository()


@app.get("/all/{truck_id}")
async def all_of_them(truck_id: str, background: BackgroundTasks, repo: Repository = Depends()):
    find(truck_id)  # expect: ODB104
    repository.get(truck_id)  # expect: ODB104
    repo.get(truck_id)  # expect: ODB104
    Repository.count()  # expect: ODB104
    Repository().ping()  # expect: ODB104
    print(repo.connection)  # expect: ODB104
    with cursor_of_pool() as cursor:  # expect: ODB104
        cursor.execute("SELECT 1")  # expect: ODB101
    with UnitOfWork() as conn:  # expect: ODB104
        conn.commit()  # expect: ODB103
    retried()  # expect: ODB104
    settings()  # expect: ODB104
    call_it(find, truck_id)  # expect: ODB104
    list(map(find, [truck_id]))  # expect: ODB104
    sorted([truck_id], key=lambda one: find(one))  # expect: ODB104
    partial = functools.partial(find, truck_id)
    partial()  # expect: ODB104
    # none of these blocks
    harmless()
    call_it(str, truck_id)
    call_it(harmless)
    await threaded()
    await run_in_threadpool(find, truck_id)
    await asyncio.to_thread(repository.get, truck_id)
    background.add_task(find, truck_id)
    return find
