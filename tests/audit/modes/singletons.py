"""One object for everybody: caches, metaclasses, __new__, class decorators, class attributes, registries."""

import time
from functools import cache, lru_cache

import pymysql
from fastapi import Depends, FastAPI

app = FastAPI()


class Database:
    def __init__(self):
        self.conn = pymysql.connect(host="db")  # shared

    def fetch(self, sql):
        with self.conn.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()


@lru_cache
def cached():
    return Database()


@cache
def cached_connection():  # shared
    return pymysql.connect(host="db")


class Meta(type):
    _instances = {}

    def __call__(cls, *args):
        if cls not in cls._instances:
            cls._instances[cls] = super().__call__(*args)
        return cls._instances[cls]


class ByMeta(metaclass=Meta):
    def __init__(self):
        self.conn = pymysql.connect(host="db")  # shared

    def fetch(self):
        self.conn.query("SELECT 1")


class ByNew:
    _instance = None

    def __new__(cls):
        if cls._instance is None:
            cls._instance = super().__new__(cls)
            cls._instance.connection = pymysql.connect(host="db")  # shared
        return cls._instance

    def fetch(self):
        self.connection.query("SELECT 1")


def singleton(cls):
    instances = {}

    def get(*args):
        if cls not in instances:
            instances[cls] = cls(*args)
        return instances[cls]

    return get


@singleton
class Decorated:
    def __init__(self):
        self.conn = pymysql.connect(host="db")  # shared

    def fetch(self):
        self.conn.query("SELECT 1")


class Lazy:
    _connection = None

    @classmethod
    def get(cls):
        if cls._connection is None:
            cls._connection = pymysql.connect(host="db")  # shared
        return cls._connection


class Held:
    _one = None

    def __init__(self):
        self.conn = pymysql.connect(host="db")  # shared

    @classmethod
    def instance(cls):
        if cls._one is None:
            cls._one = cls()
        return cls._one


@app.get("/cached")
async def of_cache():  # mode: neither
    return cached().fetch("SELECT 1")


@app.get("/cached-connection")
async def of_cached_connection():  # mode: neither
    cached_connection().ping()


@app.get("/depends")
async def of_depends(db: Database = Depends(cached)):  # mode: neither
    return db.fetch("SELECT 1")


@app.get("/meta")
async def of_metaclass():  # mode: neither
    ByMeta().fetch()


@app.get("/new")
async def of_new():  # mode: neither
    ByNew().fetch()


@app.get("/new/attribute")
async def of_new_attribute():  # mode: neither
    db = ByNew()
    with db.connection.cursor() as cursor:
        cursor.execute("SELECT 1")


@app.get("/decorated")
async def of_decorated():  # mode: neither
    Decorated().fetch()


@app.get("/lazy")
async def of_lazy():  # mode: neither
    Lazy.get().ping()


@app.get("/held")
async def of_held():  # mode: neither
    Held.instance().conn.ping()


@app.get("/own")
async def of_its_own():  # mode: thread
    time.sleep(0.1)
    return Fresh().fetch()


class Fresh:
    def __init__(self):
        self.conn = pymysql.connect(host="db")

    def fetch(self):
        try:
            self.conn.query("SELECT 1")
        finally:
            self.conn.close()


def make():
    return pymysql.connect(host="db")


make_once = lru_cache(make)


def renamed():
    return pymysql.connect(host="db")


renamed = lru_cache(maxsize=1)(renamed)


class Wrapped:
    def __init__(self):
        self.conn = pymysql.connect(host="db")  # shared


Wrapped = singleton(Wrapped)


@app.get("/once")
async def of_cache_by_another_name():  # mode: neither
    make_once().ping()


@app.get("/renamed")
async def of_cache_by_its_name():  # mode: neither
    renamed().ping()


@app.get("/wrapped")
async def of_wrapped_class():  # mode: neither
    Wrapped().conn.ping()


@app.get("/made")
async def of_no_cache():  # mode: thread
    make().ping()
