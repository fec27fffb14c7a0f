"""Ways by which a connection gets to where it is used."""
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias, NamedTuple, Callable, Awaitable
import pymysql
from pymysql.cursors import DictCursor
from dbutils.pooled_db import PooledDB
from fastapi import FastAPI, Depends, APIRouter

app = FastAPI()
pool = PooledDB(pymysql, maxconnections=5)
Conn: TypeAlias = pymysql.connections.Connection
current: ContextVar[Conn] = ContextVar("current")
untyped = ContextVar("untyped", default=None)
local = threading.local()


def connect():
    return pymysql.connect(host="db")


@asynccontextmanager
async def acquire():
    conn = pool.connection()  # expect: ODB102
    try:
        yield conn
    finally:
        conn.close()  # expect: ODB103


class Session:
    async def __aenter__(self):
        self.conn = connect()  # expect: ODB104
        return self.conn

    async def __aexit__(self, *a):
        self.conn.close()  # expect: ODB103


@app.get("/acm")
async def acm():
    async with acquire() as conn:
        with conn.cursor() as cur:  # expect: ODB103
            cur.execute("SELECT 1")  # expect: ODB101
    async with Session() as c2:
        c2.ping()  # expect: ODB103
    async with AsyncExitStack() as stack:
        c3 = await stack.enter_async_context(acquire())
        c3.ping()  # expect: ODB103


class LoggingCursor(DictCursor):
    def execute(self, q, a=None):
        print(q)
        return super().execute(q, a)


@app.get("/custom")
async def custom(conn: Conn = Depends(connect)):
    cur = conn.cursor(LoggingCursor)  # expect: ODB103
    cur.execute("SELECT 1")  # expect: ODB101


@app.get("/deps")
async def deps(a=Depends(pool.connection), b=Depends(lambda: pool.connection()), c=Depends(pymysql.connect)):
    a.ping()  # expect: ODB103
    b.ping()  # expect: ODB103
    c.ping()  # expect: ODB103


@dataclass
class Unit:
    conn: Any = field(default_factory=connect)
    log: list = field(default_factory=list)

    def done(self):
        self.conn.commit()


@app.get("/unit")
async def unit():
    Unit().done()  # expect: ODB104
    current.set(connect())  # expect: ODB104
    current.get().ping()  # expect: ODB103
    untyped.set(connect())  # expect: ODB104
    untyped.get().ping()  # expect: ODB103
    local.conn = connect()  # expect: ODB104
    local.conn.ping()  # expect: ODB103


class Proxy:
    def __init__(self, conn):
        self._conn = conn

    def __getattr__(self, name):
        return getattr(self._conn, name)


class Lazy:
    @cached_property
    def conn(self):
        return connect()

    def __call__(self, sql):
        return self.conn.cursor().execute(sql)

    def __getitem__(self, key):
        return self(key)

    def __iter__(self):
        yield from self("SELECT 1")

    def __len__(self):
        return self("SELECT 1")


lazy = Lazy()


@app.get("/lazy")
async def lazy_things():
    lazy("SELECT 1")  # expect: ODB104
    lazy.conn.ping()  # expect: ODB103 ODB104
    lazy["x"]  # expect: ODB104
    len(lazy)  # expect: ODB104
    for x in lazy:  # expect: ODB104
        pass
    p = Proxy(connect())  # expect: ODB104
    p.ping()  # expect: ODB103


async def sync_query(x):
    return connect()  # expect: ODB104


async def async_query(x):
    return 1

query = sync_query if app else async_query


@app.get("/choose")
async def choose():
    conn = await query(1)
    conn.ping()  # expect: ODB103


async def with_db(fn: Callable[[Conn], Awaitable[Any]]):
    async with acquire() as conn:
        return await fn(conn)


@app.get("/callback")
async def callback():
    async def inner(conn):
        conn.ping()  # expect: ODB103
    await with_db(inner)
    return await with_db(lambda c: inner(c))


class Row(NamedTuple):
    conn: Conn
    name: str


@app.get("/row")
async def row():
    r = Row(connect(), "x")  # expect: ODB104
    r.conn.ping()  # expect: ODB103


router = APIRouter()


def make_crud(table):
    async def listing():
        with pool.connection() as c, c.cursor() as cur:  # expect: ODB102 ODB103
            cur.execute(f"SELECT * FROM {table}")  # expect: ODB101
    return listing


router.add_api_route("/crud", make_crud("x"))
app.include_router(router)


@app.get("/del")
async def deleting():
    conns = {"a": connect()}  # expect: ODB104
    conns["a"].ping()  # expect: ODB103
    for name, c in conns.items():
        c.close()  # expect: ODB103
    lst = [connect() for _ in range(2)]  # expect: ODB104
    [c.ping() for c in lst]  # expect: ODB103
    a, *rest = lst
    rest[0].ping()  # expect: ODB103
    (x := connect()).ping()  # expect: ODB103 ODB104
    first, second = connect(), 1  # expect: ODB104
    first.ping()  # expect: ODB103
