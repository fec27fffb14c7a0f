"""The awaitable connection, in the shape that aiomysql users know.

Owns its methods. Each runs its synchronous sibling of ``sync_connection.py`` under a bridge.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, overload

import pymysql
from pymysql import cursors as drivers
from pymysql.constants import SERVER_STATUS

from ..bridge.background import start_thread
from ..bridge.hops import Hop
from ..bridge.place import Place, place
from ..bridge.portal import bridged
from ..connection.sync_connection import (
    OffloadConnection,
    break_off,
    call_driver,
    physical_of,
    returns_at_once,
    say_goodbye,
)
from ..connection.sync_cursor import driver_cursor
from ..connection.uncopied import Uncopied
from ..errors import ThreadUnavailable
from .cursors import AsyncCursor, DictCursor, SSDictCursor, awaitable_class, cursor_class, driver_class
from .pending import Pending
from .transactions import transaction

C = TypeVar("C", bound=AsyncCursor)


class AsyncConnection(Uncopied):
    """An awaitable connection; the methods are PyMySQL's, the attributes are plain properties.

    :meth:`close` breaks the link off, as aiomysql's does; a pool takes a connection back with
    :meth:`OffloadPool.release`, or at the end of ``async with pool.acquire()``.
    """

    def __init__(self, connection: OffloadConnection, *, echo: bool = False) -> None:
        self._connection = connection
        self._depth = 0
        self.echo = echo
        """Whether the statements of its cursors are logged, without values."""

    def __repr__(self) -> str:
        return f"<AsyncConnection {'closed' if self.closed else 'open'}>"

    @property
    def closed(self) -> bool:
        """Whether the connection cannot be used any more."""
        return not self._connection.open

    @property
    def user(self) -> str:
        """As whom the connection is logged in."""
        return str(_text(self._connection.user))

    @property
    def db(self) -> str | None:
        """The database that the connection was opened with."""
        return _text(self._connection.db)

    @overload
    def cursor(self) -> Pending[AsyncCursor]: ...
    @overload
    def cursor(self, cursor: type[C], /) -> Pending[C]: ...
    @overload
    def cursor(self, cursor: type[drivers.SSDictCursor], /) -> Pending[SSDictCursor]: ...
    @overload
    def cursor(self, cursor: type[drivers.DictCursor], /) -> Pending[DictCursor]: ...
    @overload
    def cursor(self, *cursors: Any) -> Pending[AsyncCursor]: ...
    def cursor(self, *cursors: Any) -> Pending[Any]:
        """Make a cursor: ``async with conn.cursor() as cur``, or ``cur = await conn.cursor()``.

        :param cursors: a cursor class, of :mod:`offload_db.aio` or PyMySQL's; without one it is the connection's own,
            and several are put together
        :raises TypeError: if that is no cursor class
        """
        return Pending(partial(self._make_cursor, cursor_class(cursors)))

    def escape(self, obj: Any) -> str:
        """Return the value as it would stand in a statement.

        :param obj: a value that the driver's converters know
        """
        return str(self._connection.escape(obj))

    literal = escape

    def get_transaction_status(self) -> bool:
        """Tell whether the server has said that a transaction is open."""
        return bool(self._connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    async def begin(self) -> None:
        """Begin a transaction.

        If the task is cancelled, the cancellation is raised when the call, which is killed, has come back.

        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        """
        await bridged(self._connection.begin)

    async def commit(self) -> None:
        """Commit the transaction.

        If the task is cancelled, the cancellation is raised when the call has come back, and the transaction may be
        committed or not.

        :raises ConnectionLost: if the link broke; it says whether the commit may have happened
        """
        await bridged(self._connection.commit)

    async def rollback(self) -> None:
        """Roll the transaction back.

        If the task is cancelled, the cancellation is raised when the call has come back.

        :raises ConnectionLost: if the link broke; the server then rolls back by itself
        """
        await bridged(self._connection.rollback)

    async def autocommit(self, value: bool) -> None:
        """Set the session's autocommit mode, until the connection is given back.

        If the task is cancelled, the cancellation is raised when the call, which is killed, has come back.

        :param value: True to commit each statement by itself
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        """
        await bridged(partial(self._connection.autocommit, value))

    async def ping(self, reconnect: bool = True) -> None:
        """Ask the server for a sign of life.

        If the task is cancelled, the cancellation is raised when the call has come back.

        :param reconnect: connect anew if there is none; never done inside :meth:`transaction`, half of which is gone
        :raises pymysql.err.MySQLError: if there is none, and no new link either
        """
        await bridged(partial(self._ping, reconnect and not self._depth))

    async def select_db(self, db: str) -> None:
        """Select another database, until the connection is given back.

        If the task is cancelled, the cancellation is raised when the call, which is killed, has come back.

        :param db: its name
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        """
        await bridged(partial(self._connection.select_db, db))

    async def set_charset(self, charset: str) -> None:
        """Speak another character set; the connection is thrown out when it is given back.

        If the task is cancelled, the cancellation is raised when the call, which is killed, has come back.

        :param charset: its name, such as ``utf8mb4``
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        """
        await bridged(partial(call_driver, self._connection, "set_character_set", charset))

    async def show_warnings(self) -> Any:
        """Return the warnings of the last statement.

        If the task is cancelled, the cancellation is raised when the call, which is killed, has come back.

        :return: level, code and message of each
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        """
        return await bridged(self._connection.show_warnings)

    async def query(self, sql: str, unbuffered: bool = False) -> int:
        """Send a statement without a cursor.

        If the task is cancelled, the cancellation is raised when the call, which is killed, has come back.

        :param sql: the statement, complete
        :param unbuffered: whether its rows are read only when they are fetched
        :return: the number of affected rows
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        :raises StatementTimeout: if the time is over; the statement was killed
        """
        return int(await bridged(partial(self._connection.query, sql, unbuffered)))

    async def kill(self, thread_id: int) -> None:
        """End another connection of the server.

        If the task is cancelled, the cancellation is raised when the call, which is killed, has come back.

        :param thread_id: the other connection's id, from its ``thread_id()``
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        """
        await bridged(partial(self._connection.kill, thread_id))

    def transaction(
        self, isolation_level: str | None = None, *, read_only: bool = False
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        """Run the block in a transaction; inside one it is a savepoint.

        It is committed on success, and rolled back on any exception and on cancellation.

        :param isolation_level: see :meth:`OffloadPool.transaction`
        :param read_only: let the server refuse writes
        """
        return transaction(self, isolation_level, read_only)

    def close(self) -> None:
        """Break the link off at once; a pool throws it out then."""
        break_off(self._connection)

    async def ensure_closed(self) -> None:
        """Close the connection, saying goodbye to the server.

        If the task is cancelled, the connection is closed all the same.
        """
        await bridged(partial(say_goodbye, self._connection))

    async def __aenter__(self) -> AsyncConnection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        await self._end_block()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def _end_block(self) -> None:
        await bridged(self._connection.close)

    def _make_cursor(self, kind: Any, *, buffered: bool | None = None) -> AsyncCursor:
        link = physical_of(self._connection)
        args, kwargs = link.driver.cursor_arguments(link.raw, driver_class(kind), buffered)
        cursor = self._connection.cursor(*args, **kwargs)
        awaitable = isinstance(kind, type) and issubclass(kind, AsyncCursor)
        made = kind if awaitable else awaitable_class(type(driver_cursor(cursor)))
        return made(self, cursor)

    def _ping(self, reconnect: bool) -> None:
        try:
            if self._connection.open or not reconnect:
                self._connection.ping(False)
                return
        except pymysql.MySQLError:
            if not reconnect:
                raise
        self._connection.connect()

    def _release(self) -> Awaitable[None]:
        if place() is Place.THREAD:
            self._connection.close()
            return _Released(None)
        if returns_at_once(self._connection):
            self._connection.close()
            return _Released(None)
        # It is under way even if nobody awaits it, and a task cannot be relied on to be there.
        hop = Hop(partial(copy_context().run, self._connection.close))
        try:
            start_thread(hop.run, "release", daemon=False)
        except ThreadUnavailable:  # it goes without a word to the server, which rolls back what is open
            self._connection.discard()
            return _Released(None)
        return _Released(hop)


def _text(name: str | bytes | None) -> str | None:
    return name.decode() if isinstance(name, bytes) else name  # PyMySQL keeps what it has encoded


class _Released:
    """What ``release()`` returns: awaiting it waits until the connection is back."""

    __slots__ = ("_hop",)

    def __init__(self, hop: Hop[None] | None) -> None:
        self._hop = hop

    def __await__(self) -> Generator[Any, Any, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        if self._hop is not None:
            await self._hop.join()


Connection = AsyncConnection
"""The name that aiomysql's users know."""


def synchronous(connection: AsyncConnection) -> OffloadConnection:
    """Return the synchronous connection under an awaitable one."""
    return connection._connection


def make_cursor(connection: AsyncConnection, kind: Any, *, buffered: bool) -> AsyncCursor:
    """Make a cursor of a kind, whose rows are read at once or as they are fetched."""
    return connection._make_cursor(kind, buffered=buffered)
