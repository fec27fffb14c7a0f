"""The contestants: the blocking original, ways to put threads under it, async drivers, and offload_db.

Each opens a pool of some size on the running asyncio loop and answers a query in the way its users write it.
"""

# each is what its name says, and does what Contestant says

from __future__ import annotations

import asyncio
import importlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import anyio.to_thread
import pymysql
from dbutils.pooled_db import PooledDB

import offload_db


class Missing(Exception):
    """Raised where a contestant is not installed."""


def need(module: str) -> Any:
    """Import a peer's module."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Missing(f"{error.name} is not installed") from error


class Contestant(ABC):
    """One way to run queries under an event loop."""

    name: ClassVar[str]
    blocks: ClassVar[bool] = False
    """Whether it stops the event loop."""

    @abstractmethod
    async def open(self, settings: dict[str, Any], size: int) -> None:
        """Make a pool of *size* connections; *settings* are PyMySQL's."""

    @abstractmethod
    async def one(self, sql: str, args: Any = None) -> Any:
        """Do what a handler does for one row: take a connection, execute, fetch, give back."""

    @abstractmethod
    async def all(self, sql: str) -> Any:
        """Do what a handler does for all rows."""

    @abstractmethod
    async def close(self) -> None:
        """Close everything."""


class Blocking(Contestant):
    name = "blocking original"
    blocks = True
    driver: Any = pymysql
    dbutils: PooledDB

    async def open(self, settings: dict[str, Any], size: int) -> None:
        self.dbutils = PooledDB(self.driver, maxconnections=size, blocking=True, **settings)

    def query(self, sql: str, args: Any, *, every: bool) -> Any:
        connection = self.dbutils.connection()
        cursor = connection.cursor()
        cursor.execute(sql, args)
        result = cursor.fetchall() if every else cursor.fetchone()
        cursor.close()
        connection.close()
        return result

    async def one(self, sql: str, args: Any = None) -> Any:
        return self.query(sql, args, every=False)

    async def all(self, sql: str) -> Any:
        return self.query(sql, None, every=True)

    async def close(self) -> None:
        self.dbutils.close()


class ThreadPerCall(Blocking):
    name = "a thread per driver call"
    blocks = False

    async def open(self, settings: dict[str, Any], size: int) -> None:
        await super().open(settings, size)
        # Those who wait for a connection keep a thread: with fewer than this it hangs.
        self.threads = anyio.CapacityLimiter(20_000)

    async def one(self, sql: str, args: Any = None) -> Any:
        return await self._query(sql, args, "fetchone")

    async def all(self, sql: str) -> Any:
        return await self._query(sql, None, "fetchall")

    async def _query(self, sql: str, args: Any, fetch: str) -> Any:
        async def away(function: Any, *values: Any) -> Any:
            return await anyio.to_thread.run_sync(function, *values, limiter=self.threads)

        connection = await away(self.dbutils.connection)
        cursor = await away(connection.cursor)
        await away(cursor.execute, sql, args)
        result = await away(getattr(cursor, fetch))
        await away(cursor.close)
        await away(connection.close)
        return result


class DefHandler(Blocking):
    name = "FastAPI's def handlers"
    blocks = False

    async def one(self, sql: str, args: Any = None) -> Any:
        return await need("starlette.concurrency").run_in_threadpool(self.query, sql, args, every=False)

    async def all(self, sql: str) -> Any:
        return await need("starlette.concurrency").run_in_threadpool(self.query, sql, None, every=True)


class MysqlclientThread(Blocking):
    name = "mysqlclient, a thread per query"
    blocks = False

    async def open(self, settings: dict[str, Any], size: int) -> None:
        self.driver = need("MySQLdb")
        await super().open(_for_mysqlclient(settings), size)
        self.threads = anyio.CapacityLimiter(size)

    async def one(self, sql: str, args: Any = None) -> Any:
        return await anyio.to_thread.run_sync(lambda: self.query(sql, args, every=False), limiter=self.threads)

    async def all(self, sql: str) -> Any:
        return await anyio.to_thread.run_sync(lambda: self.query(sql, None, every=True), limiter=self.threads)


class MysqlclientDef(DefHandler):
    name = "mysqlclient in def handlers"

    async def open(self, settings: dict[str, Any], size: int) -> None:
        self.driver = need("MySQLdb")
        await super().open(_for_mysqlclient(settings), size)


def _for_mysqlclient(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "ssl_disabled"}


class Handler(Contestant):
    name = "offload_db, decorated"
    creator: Any = pymysql
    mode: Literal["bridge", "thread"] = "bridge"

    async def open(self, settings: dict[str, Any], size: int) -> None:
        self.pool = offload_db.OffloadPool.create(
            self.creator, min_size=0, max_size=size, checkout_timeout=None, **settings
        )
        pool = self.pool

        @offload_db.offload(mode=self.mode)
        async def one(sql: str, args: Any) -> Any:
            connection = pool.connection()
            cursor = connection.cursor()
            cursor.execute(sql, args)
            row = cursor.fetchone()
            cursor.close()
            connection.close()
            return row

        @offload_db.offload(mode=self.mode)
        async def every(sql: str) -> Any:
            connection = pool.connection()
            cursor = connection.cursor()
            cursor.execute(sql)
            rows = cursor.fetchall()
            cursor.close()
            connection.close()
            return rows

        self._one, self._every = one, every

    async def one(self, sql: str, args: Any = None) -> Any:
        return await self._one(sql, args)

    async def all(self, sql: str) -> Any:
        return await self._every(sql)

    async def close(self) -> None:
        await self.pool.aclose()


class HandlerMysqlclient(Handler):
    name = "offload_db, decorated, mysqlclient"

    async def open(self, settings: dict[str, Any], size: int) -> None:
        self.creator = need("MySQLdb")
        await super().open(_for_mysqlclient(settings), size)


class Awaitable(Handler):
    name = "offload_db, awaitable"

    async def one(self, sql: str, args: Any = None) -> Any:
        return await self.pool.fetch_one(sql, args)

    async def all(self, sql: str) -> Any:
        return await self.pool.fetch_all(sql)


class Threaded(Handler):
    name = 'offload_db, mode="thread"'
    mode: Literal["bridge", "thread"] = "thread"


class Aiomysql(Contestant):
    name = "aiomysql"
    module = "aiomysql"

    async def open(self, settings: dict[str, Any], size: int) -> None:
        own = {name: settings[name] for name in ("host", "port", "user", "password", "autocommit")}
        self.pool = await need(self.module).create_pool(minsize=size, maxsize=size, db=settings["database"], **own)

    async def one(self, sql: str, args: Any = None) -> Any:
        async with self.pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(sql, args)
            return await cursor.fetchone()

    async def all(self, sql: str) -> Any:
        async with self.pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(sql)
            return await cursor.fetchall()

    async def close(self) -> None:
        self.pool.close()
        await self.pool.wait_closed()


class Asyncmy(Aiomysql):
    name = "asyncmy"
    module = "asyncmy"


class CymysqlAio(Aiomysql):
    name = "cymysql.aio"
    module = "cymysql.aio"

    async def open(self, settings: dict[str, Any], size: int) -> None:
        own = {name: settings[name] for name in ("host", "port", "user")}
        self.pool = await need(self.module).create_pool(
            minsize=size, maxsize=size, db=settings["database"], passwd=settings["password"], **own
        )


class ConnectorAio(Contestant):
    name = "mysql.connector.aio"

    async def open(self, settings: dict[str, Any], size: int) -> None:
        aio = need("mysql.connector.aio")
        own = {name: settings[name] for name in ("host", "port", "user", "password", "database", "autocommit")}
        self.idle: asyncio.Queue[Any] = asyncio.Queue()  # it has no pool of its own
        for _ in range(size):
            self.idle.put_nowait(await aio.connect(**own, ssl_disabled=True))

    async def one(self, sql: str, args: Any = None) -> Any:
        return await self._query(sql, args, "fetchone")

    async def all(self, sql: str) -> Any:
        return await self._query(sql, None, "fetchall")

    async def _query(self, sql: str, args: Any, fetch: str) -> Any:
        connection = await self.idle.get()
        try:
            cursor = await connection.cursor()
            await cursor.execute(sql, args)
            result = await getattr(cursor, fetch)()
            await cursor.close()
            return result
        finally:
            self.idle.put_nowait(connection)

    async def close(self) -> None:
        while not self.idle.empty():
            await self.idle.get_nowait().close()


class SqlalchemyAsyncio(Contestant):
    name = "SQLAlchemy asyncio (aiomysql)"

    async def open(self, settings: dict[str, Any], size: int) -> None:
        need("aiomysql")
        engine = need("sqlalchemy.ext.asyncio")
        url = need("sqlalchemy").URL.create(
            "mysql+aiomysql", *(settings[name] for name in ("user", "password", "host", "port", "database"))
        )
        self.engine = engine.create_async_engine(url, pool_size=size, max_overflow=0, isolation_level="AUTOCOMMIT")

    async def one(self, sql: str, args: Any = None) -> Any:
        async with self.engine.connect() as connection:
            return (await connection.exec_driver_sql(sql, args)).fetchone()

    async def all(self, sql: str) -> Any:
        async with self.engine.connect() as connection:
            return (await connection.exec_driver_sql(sql)).fetchall()

    async def close(self) -> None:
        await self.engine.dispose()


ALL: tuple[type[Contestant], ...] = (
    Blocking,
    ThreadPerCall,
    DefHandler,
    MysqlclientThread,
    Aiomysql,
    Asyncmy,
    CymysqlAio,
    ConnectorAio,
    SqlalchemyAsyncio,
    Handler,
    Awaitable,
    HandlerMysqlclient,
)
