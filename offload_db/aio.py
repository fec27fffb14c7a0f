"""The awaitable surface: connections and cursors in the shape that aiomysql users know.

Owns no behaviour of its own: each awaitable method runs its synchronous sibling of ``connection.py`` under a bridge.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import partial
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from pymysql.cursors import Cursor, DictCursorMixin, SSCursor, SSDictCursor

from .bridge import Caller, Place, bridged, caller, place
from .connection import OffloadConnection
from .cursor import OffloadCursor
from .errors import ConfigurationError
from .pool import OffloadPool
from .trips import Trip

T = TypeVar("T")
R = TypeVar("R", bound="_Resource")

ISOLATION_LEVELS = ("READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


class _Resource(Protocol):
    """Something that is given up at the end of an ``async with`` block."""

    async def _give_up(self) -> None:
        """Give it up."""


class Pending(Generic[R]):
    """A call that can be awaited for its result, or entered with ``async with``, which gives the result up again."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], R]) -> None:
        self._make = make
        self._made: R | None = None

    def __await__(self) -> Generator[Any, Any, R]:
        return bridged(self._make).__await__()

    async def __aenter__(self) -> R:
        self._made = made = await self
        return made

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        made, self._made = self._made, None
        if made is not None:
            await made._give_up()


class AsyncCursor:
    """An awaitable cursor; the methods are PyMySQL's, the attributes are plain properties.

    Cancelling the task kills the statement that runs; the cursor and its connection can be used afterwards.
    """

    def __init__(self, connection: AsyncConnection, cursor: OffloadCursor) -> None:
        self._connection = connection
        self._cursor = cursor

    def __repr__(self) -> str:
        return f"<AsyncCursor {'closed' if self.closed else 'open'}>"

    @property
    def connection(self) -> AsyncConnection | None:
        """The connection, None after closing."""
        return None if self.closed else self._connection

    @property
    def closed(self) -> bool:
        """Whether the cursor was closed."""
        return self._cursor.connection is None

    @property
    def rowcount(self) -> int:
        """The number of rows that the last statement returned or changed, -1 before the first."""
        return int(self._cursor.rowcount)

    @property
    def rownumber(self) -> int:
        """The number of rows fetched so far."""
        return int(self._cursor.rownumber)

    @property
    def lastrowid(self) -> Any:
        """The id that the server gave to the last inserted row."""
        return self._cursor.lastrowid

    @property
    def description(self) -> Any:
        """The columns of the result, None where there is none."""
        return self._cursor.description

    @property
    def arraysize(self) -> int:
        """How many rows :meth:`fetchmany` fetches by default."""
        return int(self._cursor.arraysize)

    @arraysize.setter
    def arraysize(self, value: int) -> None:
        self._cursor.arraysize = value

    def mogrify(self, query: str, args: Any = None) -> str:
        """Return the statement as it would be sent."""
        return str(self._cursor.mogrify(query, args))

    async def execute(self, query: str, args: Any = None) -> int:
        """Execute a statement, once, and return the number of rows.

        :raises StatementTimeout: if it ran past its timeout; it was killed
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        """
        return int(await bridged(partial(self._cursor.execute, query, args)))

    async def executemany(self, query: str, args: Sequence[Any]) -> int:
        """Execute a statement for each item of *args*, in one trip, and return the number of rows."""
        return int(await bridged(partial(self._cursor.executemany, query, args)) or 0)

    async def callproc(self, procname: str, args: Sequence[Any] = ()) -> Any:
        """Call a stored procedure; its results are read with ``fetch…`` and :meth:`nextset`."""
        return await bridged(partial(self._cursor.callproc, procname, args))

    async def nextset(self) -> bool | None:
        """Go to the next result; True if there is one."""
        more: bool | None = await bridged(self._cursor.nextset)
        return more

    async def fetchone(self) -> Any:
        """Fetch the next row, None after the last."""
        return await bridged(self._cursor.fetchone)

    async def fetchmany(self, size: int | None = None) -> Any:
        """Fetch the next *size* rows, by default ``arraysize``."""
        return await bridged(partial(self._cursor.fetchmany, size))

    async def fetchall(self) -> Any:
        """Fetch all rows that are left."""
        return await bridged(self._cursor.fetchall)

    async def scroll(self, value: int, mode: str = "relative") -> None:
        """Move to another row; an unbuffered cursor only goes forward."""
        await bridged(partial(self._cursor.scroll, value, mode))

    async def close(self) -> None:
        """Close the cursor; the rows it has fetched stay. Closing twice is fine."""
        link = self._cursor._link
        try:
            await bridged(self._cursor.close)
        except Exception:
            # What is left of a link that was lost can't be read; that it was lost has been raised where it happened.
            if link.driver.is_open(link.raw):
                raise

    async def __aenter__(self) -> AsyncCursor:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncCursor:
        return self

    async def __anext__(self) -> Any:
        row = await self.fetchone()
        if row is None:
            raise StopAsyncIteration
        return row

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    async def _give_up(self) -> None:
        await self.close()


class AsyncConnection:
    """An awaitable connection; the methods are PyMySQL's, the attributes are plain properties.

    :meth:`close` breaks the link off, as aiomysql's does; a pool takes a connection back with
    :meth:`OffloadPool.release`, or at the end of ``async with pool.acquire()``.
    """

    def __init__(self, connection: OffloadConnection) -> None:
        self._connection = connection
        self._depth = 0

    def __repr__(self) -> str:
        return f"<AsyncConnection {'closed' if self.closed else 'open'}>"

    @property
    def closed(self) -> bool:
        """Whether the connection cannot be used any more."""
        return not self._connection.open

    def cursor(self, *cursors: Any) -> Pending[AsyncCursor]:
        """Make a cursor: ``async with conn.cursor() as cur``, or ``cur = await conn.cursor()``.

        :param cursors: a PyMySQL cursor class; without one it is the connection's own
        """
        return Pending(lambda: AsyncCursor(self, self._connection.cursor(*cursors)))

    async def begin(self) -> None:
        """Begin a transaction."""
        await bridged(self._connection.begin)

    async def commit(self) -> None:
        """Commit the transaction.

        :raises ConnectionLost: if the link broke; it says whether the commit may have happened
        """
        await bridged(self._connection.commit)

    async def rollback(self) -> None:
        """Roll the transaction back."""
        await bridged(self._connection.rollback)

    async def autocommit(self, value: bool) -> None:
        """Set the session's autocommit mode, until the connection is given back."""
        await bridged(partial(self._connection.autocommit, value))

    async def ping(self, reconnect: bool = False) -> None:
        """Ask the server for a sign of life."""
        await bridged(partial(self._connection.ping, reconnect))

    async def select_db(self, db: str) -> None:
        """Select another database, until the connection is given back."""
        await bridged(partial(self._connection.select_db, db))

    async def set_charset(self, charset: str) -> None:
        """Speak another character set; the connection is thrown out when it is given back."""
        await bridged(partial(self._connection._call, "set_character_set", charset))

    async def show_warnings(self) -> Any:
        """Return the warnings of the last statement."""
        return await bridged(self._connection.show_warnings)

    async def query(self, sql: str, unbuffered: bool = False) -> int:
        """Send a statement without a cursor."""
        return int(await bridged(partial(self._connection.query, sql, unbuffered)))

    async def kill(self, thread_id: int) -> None:
        """End another connection of the server."""
        await bridged(partial(self._connection.kill, thread_id))

    def transaction(
        self, isolation_level: str | None = None, *, read_only: bool = False
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        """Run the block in a transaction; inside one it is a savepoint.

        It is committed on success, and rolled back on any exception and on cancellation.

        :param isolation_level: see :meth:`OffloadPool.transaction`
        :param read_only: let the server refuse writes
        """
        return _transaction(self, isolation_level, read_only)

    def close(self) -> None:
        """Break the link off at once; a pool throws it out then."""
        self._connection._break_off()

    async def ensure_closed(self) -> None:
        """Close the connection, saying goodbye to the server."""
        await bridged(self._end)

    async def __aenter__(self) -> AsyncConnection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        await self._give_up()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def _give_up(self) -> None:
        await bridged(self._connection.close)

    def _end(self) -> None:
        link = self._connection._link
        if link is None:
            return
        try:
            link.call("close", partial(link.driver.close, link.raw), killable=False)
        finally:
            self.close()
            self._connection.close()

    def _release(self) -> Awaitable[None]:
        if place() is Place.THREAD:
            self._connection.close()
            return _Released(None)
        if self._connection._returns_at_once:
            self._connection.close()
            return _Released(None)
        # It is under way even if nobody awaits it, and a task cannot be relied on to be there.
        trip = Trip(partial(copy_context().run, self._connection.close))
        threading.Thread(target=trip.run, name="offload_db release").start()
        return _Released(trip)


class _Released:
    """What ``release()`` returns: awaiting it waits until the connection is back."""

    __slots__ = ("_trip",)

    def __init__(self, trip: Trip[None] | None) -> None:
        self._trip = trip

    def __await__(self) -> Generator[Any, Any, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        if self._trip is not None:
            await self._trip.join()


_current: ContextVar[tuple[OffloadPool, Caller, AsyncConnection] | None] = ContextVar(
    "offload_db_transaction", default=None
)


def _outer(pool: OffloadPool) -> AsyncConnection | None:
    """Return the connection whose transaction on *pool* the calling task is in."""
    current = _current.get()
    if current is None or current[0] is not pool or current[1] != caller() or not current[2]._depth:
        return None
    return current[2]


@asynccontextmanager
async def _transaction(
    connection: AsyncConnection, isolation_level: str | None, read_only: bool
) -> AsyncGenerator[AsyncConnection, None]:
    inner = connection._depth > 0
    if isolation_level is not None and isolation_level.upper() not in ISOLATION_LEVELS:
        raise ConfigurationError(
            f"transaction: isolation_level={isolation_level!r}; accepted are {', '.join(ISOLATION_LEVELS)} and None"
        )
    if inner and (isolation_level is not None or read_only):
        raise ConfigurationError(
            "transaction: a transaction inside another is a savepoint, which has no isolation_level or read_only"
        )
    savepoint = f"offload_db_{connection._depth}" if inner else None
    if savepoint is not None:
        begin = [f"SAVEPOINT {savepoint}"]
    else:
        begin = [f"SET TRANSACTION ISOLATION LEVEL {isolation_level.upper()}"] if isolation_level else []
        begin.append(f"START TRANSACTION READ {'ONLY' if read_only else 'WRITE'}")
    sync = connection._connection
    await bridged(partial(_send, sync, begin))
    connection._depth += 1
    try:
        yield connection
    except BaseException:
        connection._depth -= 1
        await bridged(partial(sync._undo, savepoint))
        raise
    connection._depth -= 1
    end = sync.commit if savepoint is None else partial(_send, sync, [f"RELEASE SAVEPOINT {savepoint}"])
    await bridged(end)


def _send(connection: OffloadConnection, statements: list[str]) -> None:
    with connection.cursor(Cursor) as cursor:
        for statement in statements:
            cursor.execute(statement)


class _Surface:
    """What the awaitable half of the pool takes from this file."""

    def acquire(self, pool: OffloadPool, lane: str | None) -> Pending[AsyncConnection]:
        return Pending(lambda: AsyncConnection(pool.connection(lane=lane)))

    @asynccontextmanager
    async def transaction(
        self, pool: OffloadPool, lane: str | None, isolation_level: str | None, read_only: bool
    ) -> AsyncGenerator[AsyncConnection, None]:
        outer = _outer(pool)
        if outer is not None:
            async with _transaction(outer, isolation_level, read_only):
                yield outer
            return
        async with pool.acquire(lane) as connection:
            token = _current.set((pool, caller(), connection))
            try:
                async with _transaction(connection, isolation_level, read_only):
                    yield connection
            finally:
                with suppress(ValueError):  # left by another context than it was entered in
                    _current.reset(token)

    def nested(self, pool: OffloadPool) -> bool:
        return _outer(pool) is not None

    async def stream(
        self, pool: OffloadPool, sql: str, args: Any, *, chunk_size: int, lane: str | None, cursor: Any
    ) -> AsyncGenerator[Any, None]:
        async with pool.acquire(lane) as connection:
            make, unbuffered = _unbuffered(connection, cursor)
            async with connection.cursor(unbuffered) as rows:
                await rows.execute(sql, args)
                chunks = _Chunks(rows._cursor, chunk_size, make)
                try:
                    async for chunk in chunks:
                        for row in chunk:
                            yield row
                finally:
                    await chunks.stop()


def _unbuffered(connection: AsyncConnection, cursor: Any) -> tuple[Callable[..., Any] | None, Any]:
    """Choose the row factory and the unbuffered cursor class for what the user asked for."""
    if cursor is not None and not (isinstance(cursor, type) and issubclass(cursor, Cursor)):
        return cursor, SSDictCursor
    wanted = cursor or connection.cursorclass
    if issubclass(wanted, SSCursor):
        return None, wanted
    return None, SSDictCursor if issubclass(wanted, DictCursorMixin) else SSCursor


class _Chunks:
    """Reads the chunks of an unbuffered result, one ahead of the consumer."""

    def __init__(self, cursor: OffloadCursor, size: int, make: Callable[..., Any] | None) -> None:
        self._cursor = cursor
        self._size = size
        self._make = make
        self._next: Trip[list[Any]] | None = None
        # Errors whose rows before them were given out first: of the link, and of the row factory.
        self._late: Exception | None = None
        self._refused: Exception | None = None

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> list[Any]:
        if place() is Place.THREAD:
            chunk = self._read()
            if not chunk:
                raise StopAsyncIteration
            return chunk
        trip = self._next or self._start()
        self._next = None
        try:
            chunk = await trip.join()
        except BaseException:
            if not trip.back:
                self._next = trip
            raise
        if not chunk:
            raise StopAsyncIteration
        if len(chunk) == self._size:
            self._next = self._start()
        return chunk

    async def stop(self) -> None:
        """Bring back the reader that is under way."""
        trip, self._next = self._next, None
        if trip is not None:
            await trip.abandon(partial(self._interrupt, trip))

    def _interrupt(self, trip: Trip[list[Any]]) -> None:
        while not trip.back:  # it may be on its way to the wire still
            self._cursor._link.interrupt()
            time.sleep(0.001)

    def _start(self) -> Trip[list[Any]]:
        trip = Trip(partial(copy_context().run, self._read))
        threading.Thread(target=trip.run, name="offload_db stream", daemon=True).start()
        return trip

    def _read(self) -> list[Any]:
        """Read a chunk, on a thread; rows before an error come first, and the error comes with the next chunk."""
        cursor, make = self._cursor, self._make
        late, self._late = self._late, None
        refused, self._refused = self._refused, None
        try:
            if refused is not None:
                raise refused
            if late is not None:
                cursor._call("fetch", partial(_fail, late))  # the link is to know of it
        finally:
            del late, refused
        rows = cursor._fetch(self._some) if cursor._streams() else cursor.fetchmany(self._size)
        if make is None:
            return list(rows)
        made: list[Any] = []
        try:
            for row in rows:
                made.append(make(**row))  # noqa: PERF401  # what was made before an error is given out
        except Exception as error:
            if not made:
                raise
            self._refused = error
        return made

    def _some(self) -> list[Any]:
        raw = self._cursor._raw
        rows: list[Any] = []
        try:
            while len(rows) < self._size and (row := raw.fetchone()) is not None:
                rows.append(row)
        except Exception as error:
            if not rows:
                raise
            self._late = error
        return rows


def _fail(error: Exception) -> None:
    raise error


OffloadPool._awaitable = _Surface()
