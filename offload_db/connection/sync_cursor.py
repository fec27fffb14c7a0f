"""The synchronous cursor, which behaves like DBUtils' and PyMySQL's.

Owns which calls of a cursor may wait for the server. What may wait goes through ``PhysicalConnection.call``; the
driver's own cursor answers the rest on the spot. ``read_ahead.py`` has the rows that were read before they were asked
for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import GeneratorType, TracebackType
from typing import Any, NoReturn, Protocol

import anyio
import pymysql

from ..bridge.call_scope import BridgedCall, Given, current_cancellation
from ..bridge.place import Place, place
from .call_lock import CallLock, closed_error
from .lazy_results import LazyResult
from .physical import PhysicalConnection
from .read_ahead import ReadAhead
from .uncopied import Uncopied

# Calls that are counted as statements.
_STATEMENTS = frozenset({"callproc", "execute", "executemany"})
# What the drivers call the statement, or the procedure, where it is given by name.
_TEXTS = ("query", "operation", "procname")
# Arguments that are read without running any code of the user's, which a generator of rows does.
_PLAIN = frozenset({str, bytes, int, float, bool, tuple, list, dict, type(None)})


class _Connection(Protocol):
    """What a cursor needs of the connection that made it."""

    _link: PhysicalConnection | None
    _call_lock: CallLock

    def _entrust(self, scope: BridgedCall) -> None:
        """Let a call have it as its own."""


class OffloadCursor(Given, Uncopied):
    """A cursor whose calls suspend a bridged task and run inline elsewhere.

    It has everything that the driver's cursor has. Rows that were fetched with the statement need no further hop;
    ``rowcount``, ``lastrowid``, ``description`` and the rows can be read after the cursor and its connection are
    closed. An unbuffered cursor takes with each hop the rows that have arrived besides.
    """

    __slots__ = ("__weakref__", "_ahead", "_connection", "_link", "_raw")

    _raw: Any
    _link: PhysicalConnection
    _connection: _Connection | None
    _ahead: ReadAhead

    def __init__(self, connection: _Connection, link: PhysicalConnection, raw: Any) -> None:
        put = partial(object.__setattr__, self)
        put("_raw", raw)
        put("_link", link)
        put("_ahead", ReadAhead(raw, link.driver))
        put("_connection", connection)

    @property  # type: ignore[misc]  # object's can be set
    def __class__(self) -> Any:
        # So that isinstance() says of what kind the cursor is: SSCursor or DictCursor.
        return type(self._raw)

    def __repr__(self) -> str:
        return f"<OffloadCursor {'closed' if self._connection is None else 'open'}>"

    @property
    def connection(self) -> Any:
        """The connection, None after closing."""
        return self._connection

    @property
    def rownumber(self) -> Any:
        """The number of rows fetched so far."""
        return self._raw.rownumber - len(self._ahead.rows)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Execute a statement, once, and fetch its rows unless the cursor is unbuffered.

        If the task is cancelled, the statement is killed and the cancellation raised when it has come back. It takes
        what the driver's takes, under the driver's names: the statement, and its parameters.

        :return: the number of rows, as the driver counts them
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        :raises ConnectionClosed: if the connection is closed
        :raises StatementTimeout: if the time is over; the statement was killed
        """
        return self._run("execute", *args, **kwargs)

    def executemany(self, *args: Any, **kwargs: Any) -> Any:
        """Execute a statement for each item of a sequence, in one hop.

        If the task is cancelled, the statement is killed. It takes what the driver's takes, under the driver's names:
        the statement, and the parameters of each.

        :return: the number of rows, as the driver counts them
        """
        return self._run("executemany", *args, **kwargs)

    def callproc(self, *args: Any, **kwargs: Any) -> Any:
        """Call a stored procedure; its results are read with ``fetch…`` and :meth:`nextset`.

        If the task is cancelled, the call is killed. It takes what the driver's takes, under the driver's names: the
        procedure's name, and its arguments.

        :return: what the driver returns, the arguments as given mostly
        """
        return self._run("callproc", *args, **kwargs)

    def nextset(self) -> Any:
        """Go to the next result.

        If the task is cancelled, the statement is killed.

        :return: True if there is one
        """
        raw = self._raw
        if not self._link.driver.unfinished(raw):
            return raw.nextset()
        return self._call(self._alive(), "nextset", partial(self._ahead.hold, raw.nextset))

    def fetchone(self) -> Any:
        """Fetch the next row, None after the last."""
        raw = self._raw
        if not (self._ahead.rows or self._link.driver.streams(raw)) or not self._streams():
            return raw.fetchone()
        return self._ahead.rows.popleft() if self._ahead.rows else self._fetch(raw.fetchone)

    def fetchmany(self, size: int | None = None) -> Any:
        """Fetch the next *size* rows, by default ``arraysize``.

        :param size: the most rows to fetch
        :return: the rows, as the driver gives them; empty after the last
        """
        raw = self._raw
        if not self._streams():
            return raw.fetchmany() if size is None else raw.fetchmany(size)
        if not self._ahead.rows:
            return self._fetch(raw.fetchmany if size is None else partial(raw.fetchmany, size))
        rows = self._ahead.take(raw.arraysize if size is None else size)
        missing = (raw.arraysize if size is None else size) - len(rows)
        if missing > 0:
            rows.extend(self._fetch(partial(raw.fetchmany, missing)))
        return rows or ()

    def fetchall(self) -> Any:
        """Fetch all rows that are left.

        :return: the rows, as the driver gives them; empty after the last
        """
        raw = self._raw
        if not self._streams():
            return raw.fetchall()
        if not self._ahead.rows:
            return self._fetch(raw.fetchall)
        return [*self._ahead.take(), *self._fetch(raw.fetchall)]

    def scroll(self, value: int, mode: str = "relative") -> Any:
        """Move to another row; an unbuffered cursor only goes forward.

        :param value: how many rows to move, or the row's number from 0
        :param mode: ``"relative"`` or ``"absolute"``
        """
        raw = self._raw
        if not self._streams():
            return raw.scroll(value, mode)
        if not self._ahead.rows:
            return self._fetch(partial(raw.scroll, value, mode))
        step = value - self.rownumber if mode == "absolute" else value
        if step < 0 or mode not in ("absolute", "relative"):
            return raw.scroll(value, mode)  # raises
        step -= len(self._ahead.take(step))
        return self._fetch(partial(raw.scroll, step)) if step else None

    @contextmanager
    def no_failover(self) -> Iterator[OffloadCursor]:
        """Enter the block in which DBUtils 3.2 would not execute a statement again; here that never happens."""
        yield self

    @property
    def dbapi_cursor(self) -> Any:
        """The driver's own cursor, as DBUtils' cursors name it from 3.2 on; its calls block, and go unseen."""
        if self._connection is not None:
            self._link.begun()
        return self._raw

    def setoutputsize(self, size: Any, column: Any = None) -> None:
        """Do nothing: DBUtils' cursors have it of DB-API 2, and drivers of MySQL use no such sizes."""

    def close(self) -> None:
        """Close the cursor; the rows it has fetched stay. Closing twice is fine.

        In a cancelled scope, or of many rows that are left, none are read here: when the connection is given back it
        is thrown out, or what may still write is read to its end.
        """
        connection, link, raw = self._connection, self._link, self._raw
        if connection is None:
            return
        unfinished = True
        try:
            unfinished = link.driver.unfinished(raw)
            if not unfinished:
                try:  # a cursor is closed for each statement, and suppress() takes three calls
                    link.driver.close_cursor(raw)
                except Exception:  # as DBUtils does: of a lost link some say once more that it is lost
                    pass
            elif connection._link is link and link.driver.is_open(link.raw) and not _cancelled():
                link.call("close", partial(link.driver.finish, raw), connection._call_lock)
        finally:
            if self._ahead.rows:
                self._ahead.drop_rows()
            if unfinished:
                link.driver.leave(raw)
            object.__setattr__(self, "_connection", None)

    def __enter__(self) -> OffloadCursor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception:
            if error is None:  # else the user's own is on its way, and closing must not stand over it
                raise

    def __iter__(self) -> OffloadCursor:
        return self

    def __next__(self) -> Any:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def __getattr__(self, name: str) -> Any:
        if name in OffloadCursor.__slots__:  # an exception came before it was set
            raise AttributeError(name)
        value = getattr(self._raw, name)
        if name == "fetchall_unbuffered":
            return partial(iter, self.fetchone, None)
        if name == "read_next":
            return self._read_next
        if not callable(value) or isinstance(value, type) or not self._link.driver.cursor_blocks(name):
            return value
        return partial(self._run, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._raw, name, value)

    def __del__(self) -> None:
        # Never any I/O here: this may run on the event loop's thread, in the middle of anything.
        if getattr(self, "_connection", None) is not None:
            self._let_go()

    def _read_next(self) -> Any:
        """Fetch a row as PyMySQL's unbuffered cursors do, without counting it."""
        raw = self._raw
        if not self._streams():
            return raw.read_next()
        if not self._ahead.rows:
            return self._fetch(raw.read_next)
        raw.rownumber -= 1
        return self._ahead.rows.popleft()

    def _run(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        link, connection = self._alive(), self._connection or self._refuse_closed()
        send = partial(self._ahead.send, link, getattr(self._raw, name), *args, **kwargs)
        statement = name in _STATEMENTS
        if statement:
            text = args[0] if args else _text(kwargs)
            self._ahead.text = f"CALL {text}" if name == "callproc" else text
        # Many rows of parameters take a while to be put together, and others would wait for it.
        plain = (
            name != "executemany"
            and _PLAIN.issuperset(map(type, args))
            and (not kwargs or _PLAIN.issuperset(map(type, kwargs.values())))
        )
        shared = plain and link.driver.cursor_shares(type(self._raw))
        call_lock, text = connection._call_lock, self._ahead.text
        result = link.call(name, send, call_lock, statement=statement, shared=shared, text=text)
        if type(result) is GeneratorType:  # of mysql-connector's, which reads on with each of its steps
            return LazyResult(self._step, result, (self._raw, self))
        return result

    def _step(self, function: Callable[[], Any]) -> Any:
        """Go on with a result that is read step by step."""
        return self._call(self._alive(), "nextset", partial(self._ahead.hold, function), plain=False)

    def _call(
        self,
        link: PhysicalConnection,
        name: str,
        function: Callable[[], Any],
        *,
        plain: bool = True,
    ) -> Any:
        shared = plain and link.driver.cursor_shares(type(self._raw))
        connection = self._connection or self._refuse_closed()
        return link.call(name, function, connection._call_lock, shared=shared, text=self._ahead.text)

    def _fetch(self, function: Callable[[], Any]) -> Any:
        """Take rows from the server, in one hop."""
        # Elsewhere there is no hop to save.
        read = partial(self._ahead.read, function, more=place() is Place.BRIDGED)
        return self._call(self._alive(), "fetch", partial(self._ahead.hold, read))

    def _alive(self) -> PhysicalConnection:
        link = self._link
        connection = self._connection or self._refuse_closed()
        if connection._link is not link:
            raise closed_error()
        if link.fault is not None:
            link.check()
        return link

    def _refuse_closed(self) -> NoReturn:
        link = self._link
        raise getattr(link.driver.module(link.raw), "ProgrammingError", pymysql.err.ProgrammingError)("Cursor closed")

    def _streams(self) -> bool:
        """Tell whether fetching may wait for the server; raise where rows are left that cannot be had any more."""
        if not self._link.driver.streams(self._raw):
            if self._ahead.rows:
                self._ahead.drop_rows()  # another statement has ended the result
            return False
        self._alive()
        return True

    def _entrust(self, scope: BridgedCall) -> None:
        if self._connection is not None:
            self._connection._entrust(scope)

    def _let_go(self) -> None:
        """Drop the connection, so that it can come back to its pool."""
        self._link.driver.leave(self._raw)
        object.__setattr__(self, "_connection", None)


def _text(named: dict[str, Any]) -> object:
    """Return the statement of a call that was given it by name."""
    return next((named[each] for each in _TEXTS if each in named), None)


def _cancelled() -> bool:
    if place() is Place.BRIDGED:
        return anyio.current_effective_deadline() == -math.inf
    cancellation = current_cancellation()
    return cancellation is not None and cancellation.requested


def driver_cursor(cursor: OffloadCursor) -> Any:
    """Return the driver's own cursor."""
    return cursor._raw


def physical_under(cursor: OffloadCursor) -> PhysicalConnection:
    """Return the physical connection that the cursor was made on, also after closing."""
    return cursor._link


def fetch_chunk(cursor: OffloadCursor, read: Callable[[], list[Any]], size: int) -> Any:
    """Fetch rows in one call: by *read* from an unbuffered result, else up to *size* of those that are there."""
    return cursor._fetch(read) if cursor._streams() else cursor.fetchmany(size)


def raise_later_error(cursor: OffloadCursor, error: Exception) -> None:
    """Raise an error whose rows before it were given out first; the physical connection takes note of it."""
    cursor._call(cursor._alive(), "fetch", partial(_raise, error))


def _raise(error: Exception) -> None:
    raise error
