"""The awaitable half of a pool: whole operations, and the ways to a connection.

Owns the operations that need no connection in the user's hand (one hop to a worker thread each), and the way to
transactions and streams, which do. ``checkout.py`` gives connections out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Generic, TypeVar, overload

import anyio
from pymysql.cursors import Cursor, DictCursorMixin

from ..awaitable.connection import AsyncConnection
from ..awaitable.cursors import AsyncCursor, DictCursor as AsyncDictCursor
from ..awaitable.one_shot import (
    Args,
    RowFactoryError,
    affected,
    all_rows,
    first_row,
    inserted,
    parameters,
    row_shape,
    run,
    write_many,
)
from ..awaitable.pending import Pending
from ..awaitable.streams import stream
from ..awaitable.transactions import outer_transaction, pool_transaction
from ..bridge.call_scope import bridged_call, current_setting
from ..bridge.handled_errors import reraise
from ..bridge.place import Place, place
from ..bridge.portal import bridged
from ..connection.physical import PhysicalConnection
from ..connection.sync_connection import OffloadConnection
from ..drivers.cursor_classes import CursorArguments
from ..drivers.registry import code_of
from ..drivers.server_errors import COMMIT_FAILED, RETRYABLE, ROLLED_BACK_AT_COMMIT
from ..settings import check_count, check_seconds, kind_of
from .checkout import PoolCore
from .lanes import Permit

Dicts = type[DictCursorMixin | AsyncDictCursor]
"""Classes of cursors whose rows are dictionaries."""
Rows = type[Cursor | AsyncCursor]
"""Classes of cursors whose rows may be anything."""

T = TypeVar("T")
Row = TypeVar("Row")


class Operations:
    """The awaitable methods of :class:`offload_db.OffloadPool`."""

    _core: PoolCore

    @overload
    async def fetch_all(
        self, sql: str, args: Args = None, *, lane: str | None = None, timeout: float | None = None, cursor: Dicts
    ) -> list[dict[str, Any]]: ...
    @overload
    async def fetch_all(
        self,
        sql: str,
        args: Args = None,
        *,
        lane: str | None = None,
        timeout: float | None = None,
        cursor: Rows | None = None,
    ) -> list[Any]: ...
    @overload
    async def fetch_all(
        self,
        sql: str,
        args: Args = None,
        *,
        lane: str | None = None,
        timeout: float | None = None,
        cursor: Callable[..., Row],
    ) -> list[Row]: ...
    async def fetch_all(
        self,
        sql: str,
        args: Args = None,
        *,
        lane: str | None = None,
        timeout: float | None = None,
        cursor: Any = None,
    ) -> list[Any]:
        """Execute a statement and return all its rows, in a transaction of its own.

        If the task is cancelled, the statement is killed and the transaction rolled back.

        :param sql: the statement, with PyMySQL's placeholders
        :param args: its parameters: a tuple, list or mapping, a single value, or None
        :param lane: name of the lane that the connection counts against
        :param timeout: seconds for all of it: waiting, connecting, executing and fetching
        :param cursor: what makes the rows: a cursor class of the pool's driver, or a callable that is given each row's
            columns as keyword arguments; None takes the pool's cursor class
        :raises StatementTimeout: if the time is over; the statement was killed
        :raises CheckoutTimeout: if no connection became free in time
        """
        make, kind = (None, None) if cursor is None else row_shape(cursor)
        return await self._operate(
            sql, lane, timeout, partial(run, all_rows, sql, args, make=make), kind, plain=make is None
        )

    @overload
    async def fetch_one(
        self, sql: str, args: Args = None, *, lane: str | None = None, timeout: float | None = None, cursor: Dicts
    ) -> dict[str, Any] | None: ...
    @overload
    async def fetch_one(
        self,
        sql: str,
        args: Args = None,
        *,
        lane: str | None = None,
        timeout: float | None = None,
        cursor: Rows | None = None,
    ) -> Any: ...
    @overload
    async def fetch_one(
        self,
        sql: str,
        args: Args = None,
        *,
        lane: str | None = None,
        timeout: float | None = None,
        cursor: Callable[..., Row],
    ) -> Row | None: ...
    async def fetch_one(
        self,
        sql: str,
        args: Args = None,
        *,
        lane: str | None = None,
        timeout: float | None = None,
        cursor: Any = None,
    ) -> Any:
        """Execute a statement and return its first row, None if there is none; otherwise like :meth:`fetch_all`."""
        make, kind = (None, None) if cursor is None else row_shape(cursor)
        return await self._operate(
            sql, lane, timeout, partial(run, first_row, sql, args, make=make), kind, plain=make is None
        )

    async def fetch_value(
        self, sql: str, args: Args = None, *, lane: str | None = None, timeout: float | None = None, cursor: Any = None
    ) -> Any:
        """Execute a statement and return the first column of its first row, None if there is no row.

        Otherwise like :meth:`fetch_all`; no row is made, so a callable as *cursor* is not called.
        """
        make, kind = row_shape(cursor)
        kind = tuple if make is not None or kind is None else kind
        row = await self._operate(sql, lane, timeout, partial(run, first_row, sql, args), kind)
        if row is None:
            return None
        return next(iter(row.values())) if isinstance(row, dict) else row[0]

    async def execute(
        self, sql: str, args: Args = None, *, lane: str | None = None, timeout: float | None = None
    ) -> int:
        """Execute a statement in a transaction of its own and return the number of affected rows.

        It is committed on success. If the task is cancelled, the statement is killed and rolled back, unless the
        commit is under way already.
        """
        return await self._operate(sql, lane, timeout, partial(run, affected, sql, args))

    async def insert(
        self, sql: str, args: Args = None, *, lane: str | None = None, timeout: float | None = None
    ) -> int:
        """Execute an INSERT like :meth:`execute`, and return the id that the server gave."""
        return await self._operate(sql, lane, timeout, partial(run, inserted, sql, args))

    async def execute_many(
        self, sql: str, rows: Iterable[Any], *, lane: str | None = None, timeout: float | None = None
    ) -> int:
        """Execute a statement for each of *rows*, all in one transaction; returns the number of affected rows."""
        if isinstance(rows, (str, bytes, Mapping)):  # they can be iterated, but are no rows
            raise TypeError(f"rows={type(rows).__name__}; accepted are lists of rows, and what else gives rows")
        # Many rows of parameters take a while to be put together, and others would wait for it.
        return await self._operate(sql, lane, timeout, partial(write_many, sql, list(rows)), plain=False)

    def acquire(self, lane: str | None = None) -> Pending[AsyncConnection]:
        """Check out an awaitable connection: ``async with pool.acquire() as conn``, or ``await pool.acquire()``.

        One that was awaited is given back with :meth:`release`.

        :param lane: name of the lane that it counts against
        :raises CheckoutTimeout: if none became free in time, or if none ever can
        :raises LaneFull: if ``max_waiting`` callers are queued already
        :raises PoolClosed: if the pool is closed
        """
        return Pending(lambda: AsyncConnection(OffloadConnection(self._core.checkout(lane))))

    def release(self, connection: AsyncConnection) -> Awaitable[None]:
        """Give a connection back; it is under way at once, and awaiting the result waits until it is done.

        What is open on it is rolled back. Giving it back twice is fine.
        """
        give_back = getattr(connection, "_release", None)
        if give_back is None:
            raise TypeError(f"release({kind_of(connection)}); accepted are connections that acquire() gave")
        released: Awaitable[None] = give_back()
        return released

    def transaction(
        self, lane: str | None = None, isolation_level: str | None = None, *, read_only: bool = False
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        """Check out a connection for one transaction: ``async with pool.transaction() as conn``.

        It is committed on success, and rolled back on any exception and on cancellation. Inside the block, another
        ``pool.transaction()`` of the same task is a savepoint of this one.

        :param lane: name of the lane that the connection counts against
        :param isolation_level: ``"READ UNCOMMITTED"``, ``"READ COMMITTED"``, ``"REPEATABLE READ"`` or
            ``"SERIALIZABLE"``; None takes the session's
        :param read_only: let the server refuse writes
        :raises ConfigurationError: if there is no such isolation level, or if a savepoint is asked for one of its own
        :raises ConnectionLost: if the link broke; during the commit the outcome is unknown, and the error says so
        """
        return pool_transaction(self, lane, isolation_level, read_only)

    @overload
    def stream(
        self, sql: str, args: Args = None, *, chunk_size: int = 500, lane: str | None = None, cursor: Dicts
    ) -> AsyncGenerator[dict[str, Any], None]: ...
    @overload
    def stream(
        self, sql: str, args: Args = None, *, chunk_size: int = 500, lane: str | None = None, cursor: Rows | None = None
    ) -> AsyncGenerator[Any, None]: ...
    @overload
    def stream(
        self, sql: str, args: Args = None, *, chunk_size: int = 500, lane: str | None = None, cursor: Callable[..., Row]
    ) -> AsyncGenerator[Row, None]: ...
    def stream(
        self,
        sql: str,
        args: Args = None,
        *,
        chunk_size: int = 500,
        lane: str | None = None,
        cursor: Any = None,
    ) -> AsyncGenerator[Any, None]:
        """Iterate over the rows of a statement without holding them all: ``async for row in pool.stream(sql)``.

        Rows come in chunks, the next one being read while the last is worked on, and other tasks have a turn for each.
        It is a transaction of its own, committed after the last row. Detached the loop early, by ``break`` or by an
        error, costs no reading of the rest, and what the statement wrote is rolled back; ``async with
        contextlib.aclosing(pool.stream(sql)) as rows`` gives the connection back right there. If the task is cancelled,
        the statement is killed and rolled back. Rows before an error come first.

        :param chunk_size: rows for each hop to a worker thread
        :param lane: name of the lane that the connection counts against
        :param cursor: an unbuffered PyMySQL cursor class, or a callable that makes each row; None takes what is like
            the pool's cursor class
        """
        check_count("OffloadPool.stream", "chunk_size", chunk_size, minimum=1)
        row_shape(cursor)
        return stream(self, sql, parameters(args), chunk_size=chunk_size, lane=lane, cursor=cursor)

    async def run_transaction(
        self,
        function: Callable[[AsyncConnection], Awaitable[T]],
        *,
        attempts: int = 3,
        lane: str | None = None,
        isolation_level: str | None = None,
    ) -> T:
        """Run *function* in a transaction, and the whole of it again after a deadlock or a lock wait timeout.

        The same where the COMMIT failed in a cluster of servers and nothing is committed for certain: another node's
        transaction came first, or the node was cut off (1180 and 1047 from Galera, 3100 and 3101 from MySQL's group
        replication).

        Nothing is repeated but the whole function, from a new transaction on: it must have no effect besides what it
        does on the connection it is given. Inside another transaction it is a savepoint of it and runs once: what the
        server has undone with it is the outer one's to repeat.

        :param function: an async function of the connection
        :param attempts: how often to run it at most
        :raises pymysql.err.OperationalError: the error of the last attempt, as the pool's driver raises it
        """
        check_count("OffloadPool.run_transaction", "attempts", attempts, minimum=1)
        if outer_transaction(self) is not None:
            attempts = 1
        for attempt in range(1, attempts + 1):
            try:
                async with self.transaction(lane, isolation_level) as connection:
                    return await function(connection)
            except Exception as error:
                if attempt == attempts or not _is_undone(error):
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _operate(
        self,
        sql: object,
        lane: str | None,
        timeout: float | None,
        work: Callable[[PhysicalConnection, CursorArguments], T | RowFactoryError],
        kind: Any = None,
        *,
        plain: bool = True,
    ) -> Awaitable[T]:
        """Return what performs an operation, to be awaited at once.

        :param work: what it does, on a connection and with a cursor of its kind
        :param kind: what makes the rows, as :meth:`offload_db.drivers.base.Driver.cursor_arguments` takes it
        :param plain: whether it runs no code of the user's, and no long one of the driver's
        """
        if timeout is not None:
            check_seconds("OffloadPool", "timeout", timeout)
        if not isinstance(sql, (str, bytes)):
            raise TypeError(f"sql={type(sql).__name__}; accepted are str and bytes")
        operation = _Operation(self._core, lane, sql, work, kind, plain=plain)
        if timeout is not None or place() is not Place.LOOP or current_setting() is not None:
            run = operation.run
            return bridged(run if timeout is None else partial(_limited, lane, timeout, run))
        permit = operation.permit = self._core.enter(lane)
        return bridged(operation.run) if permit.ticket.signal is None else operation.run_when_admitted(permit)


class _Operation(Generic[T]):
    """One operation: of those that wait, the garbage collector looks at all that they hold, and this is one object."""

    __slots__ = ("_core", "_kind", "_lane", "_plain", "_sql", "_work", "permit")

    def __init__(
        self,
        core: PoolCore,
        lane: str | None,
        sql: object,
        work: Callable[[PhysicalConnection, CursorArguments], T | RowFactoryError],
        kind: Any,
        *,
        plain: bool,
    ) -> None:
        self._core = core
        self._lane = lane
        self._sql = sql
        self._work = work
        self._kind = kind
        self._plain = plain
        self.permit: Permit | None = None
        """The admission to the pool, where that does not come with the connection."""

    async def run_when_admitted(self, permit: Permit) -> T:
        """Wait for a connection, which takes a task less memory than it does a bridged call, and perform it."""
        try:
            await self._core.admission.wait(permit)
        except GeneratorExit:  # the task is thrown away, and its loop may be gone
            raise
        except anyio.get_cancelled_exc_class():
            self._core.counters.add("cancelled")
            raise
        return await bridged(self.run)

    def run(self) -> T:
        """Perform it, in a bridged call or in a thread."""
        core, permit = self._core, self.permit
        lease = core.checkout(self._lane, private=True) if permit is None else core.serve(permit)
        link = lease.link
        try:
            cursor = link.driver.cursor_arguments(link.raw, self._kind, True)
            shared = self._plain and link.shares and link.driver.cursor_shares(*cursor[0] or (link.raw.cursorclass,))
            made = partial(self._work, link, cursor)
            result = link.call_privately("execute", made, shared=shared, text=self._sql)
            if isinstance(result, RowFactoryError):
                reraise(result.error)
            return result
        except GeneratorExit:  # thrown away unfinished: a rollback could not be waited for
            lease.drop()
            raise
        finally:
            lease.give_back()


def _is_undone(error: Exception) -> bool:
    """Tell whether the server has rolled back and the transaction may be tried again."""
    code = code_of(error)
    if code == COMMIT_FAILED or code in ROLLED_BACK_AT_COMMIT - RETRYABLE:
        return getattr(error, "may_have_run", True) is False
    return code in RETRYABLE


def _limited(lane: str | None, timeout: float, operate: Callable[[], T]) -> T:
    """Perform an operation as a bridged call of its own, which has so much time."""
    with bridged_call(lane, timeout):
        return operate()
