"""The awaitable cursors, in the shape that aiomysql users know.

Owns their methods and classes. Each method runs its synchronous sibling of ``sync_cursor.py`` under a bridge.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import anyio.lowlevel
from pymysql import cursors as drivers

from ..bridge.place import Place, place
from ..bridge.portal import bridged
from ..connection.sync_cursor import OffloadCursor, driver_cursor, physical_under
from ..connection.uncopied import Uncopied
from ..drivers.statement_digest import digest
from ..settings import kind_of
from .one_shot import parameters

Row = TypeVar("Row")

logger = logging.getLogger("offload_db")

RE_INSERT_VALUES = drivers.RE_INSERT_VALUES  # aiomysql has it here, too

# Rows after which other tasks get their turn, and a cancellation comes through: those that are there already need no
# waiting for, and to fetch one takes some 10 us.
TURN_ROWS = 100

# What a subclass may set, and what aiomysql's subclasses may set besides, which nothing would ask for here.
_SETTINGS = ("dict_type", "max_stmt_length")
_HOOKS = ("_conv_row", "_do_get_result", "_query", "_show_warnings")


class _Connection(Protocol):
    """What a cursor needs of the connection that made it."""

    echo: bool


class AsyncCursor(Uncopied):
    """An awaitable cursor; the methods are PyMySQL's, the attributes are plain properties.

    Cancelling the task kills the statement that runs; the cursor and its connection can be used afterwards.
    """

    _driver_class: ClassVar[Any] = None
    """The driver's class of such cursors, None where it is the connection's own."""

    def __init__(self, connection: _Connection, cursor: OffloadCursor) -> None:
        self._connection = connection
        self._cursor = cursor
        self._in_a_row = 0

    def __repr__(self) -> str:
        return f"<AsyncCursor {'closed' if self.closed else 'open'}>"

    @property
    def connection(self) -> Any:
        """The connection, None after closing."""
        return None if self.closed else self._connection

    @property
    def closed(self) -> bool:
        """Whether the cursor was closed."""
        return self._cursor.connection is None

    @property
    def echo(self) -> bool:
        """Whether statements are logged, without values."""
        return self._connection.echo

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
    def _last_executed(self) -> Any:
        # aiomysql's name for the text that was sent; code that logs statements reads it in spite of the underscore.
        return driver_cursor(self._cursor)._executed

    @property
    def arraysize(self) -> int:
        """How many rows :meth:`fetchmany` fetches by default."""
        return int(self._cursor.arraysize)

    @arraysize.setter
    def arraysize(self, value: int) -> None:
        self._cursor.arraysize = value

    def mogrify(self, query: str, args: Any = None) -> str:
        """Return the statement as it would be sent.

        :param query: the statement, with the driver's placeholders
        :param args: a tuple, list or mapping of parameters, a single one, or None
        """
        return str(self._cursor.mogrify(query, args))

    async def execute(self, query: str, args: Any = None) -> int:
        """Execute a statement, once, and return the number of rows.

        If the task is cancelled, the statement is killed, and the cursor and its connection can be used afterwards.

        :param query: the statement, with the driver's placeholders
        :param args: a tuple, list or mapping of parameters, a single one, or None
        :raises StatementTimeout: if it ran past its timeout; it was killed
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        """
        self._log(query)
        number = await bridged(partial(self._cursor.execute, query, parameters(args)))
        return number if isinstance(number, int) else self.rowcount  # DB-API 2 leaves it open what that returns

    async def executemany(self, query: str, args: Iterable[Any]) -> int | None:
        """Execute a statement for each item of *args*, in one hop.

        If the task is cancelled, the statement is killed, and the cursor and its connection can be used afterwards.

        :param query: the statement, with the driver's placeholders
        :param args: the parameters of each statement, as :meth:`execute` takes them
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        :raises StatementTimeout: if the time is over; the statement was killed
        :return: the number of rows; None if there is no item
        """
        self._log(query)
        if isinstance(args, Iterator):  # of an empty one PyMySQL raises StopIteration, which no coroutine can
            args = list(args)
        affected: int | None = await bridged(partial(self._cursor.executemany, query, args))
        return affected if isinstance(affected, int) or not args else self.rowcount

    async def callproc(self, procname: str, args: Sequence[Any] = ()) -> Any:
        """Call a stored procedure; its results are read with ``fetch…`` and :meth:`nextset`.

        If the task is cancelled, the statement is killed, and the cursor and its connection can be used afterwards.

        :param procname: the procedure's name
        :param args: its arguments
        :return: *args* as given
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        :raises StatementTimeout: if the time is over; the statement was killed
        """
        self._log(f"CALL {procname}")
        return await bridged(partial(self._cursor.callproc, procname, args))

    async def nextset(self) -> bool | None:
        """Go to the next result.

        If the task is cancelled, the statement is killed, and the cursor and its connection can be used afterwards.

        :return: True if there is one
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        :raises StatementTimeout: if the time is over; the statement was killed
        """
        more: bool | None = await bridged(self._cursor.nextset)
        return more

    async def fetchone(self) -> Any:
        """Fetch the next row, None after the last.

        If the task is cancelled, the rest of the result is discarded; buffered rows cost no hop.

        :return: the row as the cursor class shapes it, or None
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        """
        if self._in_a_row >= TURN_ROWS:
            await self._give_way()
        self._in_a_row += 1
        return await bridged(self._cursor.fetchone)

    async def fetchmany(self, size: int | None = None) -> Any:
        """Fetch the next *size* rows, by default ``arraysize``.

        If the task is cancelled, the rest of the result is discarded; buffered rows cost no hop.

        :param size: the most rows to fetch
        :return: the rows, as the driver gives them; empty after the last
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        """
        if self._in_a_row >= TURN_ROWS:
            await self._give_way()
        rows = await bridged(partial(self._cursor.fetchmany, size))
        self._in_a_row += len(rows)
        return rows if self.description else []

    async def fetchall(self) -> Any:
        """Fetch all rows that are left.

        If the task is cancelled, the rest of the result is discarded; buffered rows cost no hop.

        :return: the rows, as the driver gives them; empty after the last
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        """
        return await bridged(self._cursor.fetchall)

    async def scroll(self, value: int, mode: str = "relative") -> None:
        """Move to another row; an unbuffered cursor only goes forward.

        If the task is cancelled, the rest of the result is discarded; buffered rows cost no hop.

        :param value: how many rows to move, or the row's number from 0
        :param mode: ``"relative"`` or ``"absolute"``
        """
        await bridged(partial(self._cursor.scroll, value, mode))

    async def close(self) -> None:
        """Close the cursor; the rows it has fetched stay. Closing twice is fine.

        If the task is cancelled, rows that are left unread are not read here, but when the connection is given back,
        or it is thrown out then.
        """
        link = physical_under(self._cursor)
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
        try:
            await self.close()
        except Exception:
            if error is None:  # else the user's own is on its way
                raise

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        row = await self.fetchone()
        if row is None:
            raise StopAsyncIteration
        return row

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    async def _end_block(self) -> None:
        await self.close()

    async def _give_way(self) -> None:
        self._in_a_row = 0
        if place() is not Place.THREAD:
            await anyio.lowlevel.checkpoint()

    def _log(self, statement: str) -> None:
        if self.echo:
            logger.info("%s", digest(statement))


class _RowCursor(AsyncCursor, Generic[Row]):
    """A cursor whose rows have a shape that is known."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_driver_class" in vars(cls):
            return
        if hooks := [name for name in _HOOKS if name in vars(cls)]:
            raise TypeError(
                f"{cls.__qualname__}.{hooks[0]} would never be called: rows are made by PyMySQL's cursors; set"
                f" dict_type, convert the rows that are fetched, or override it in a subclass of PyMySQL's cursor"
            )
        bases = dict.fromkeys(base._driver_class for base in cls.__bases__ if issubclass(base, _RowCursor))
        chosen = {name: vars(cls)[name] for name in _SETTINGS if name in vars(cls)}
        cls._driver_class = type(cls.__name__, tuple(bases), {**chosen, "awaitable": cls})

    if TYPE_CHECKING:

        async def fetchone(self) -> Row | None: ...
        async def fetchmany(self, size: int | None = None) -> Sequence[Row]: ...
        async def fetchall(self) -> Sequence[Row]: ...
        def __aiter__(self) -> AsyncIterator[Row]: ...
        async def __anext__(self) -> Row: ...


class Cursor(_RowCursor[tuple[Any, ...]]):
    """A cursor whose rows are tuples."""

    _driver_class: ClassVar[Any] = drivers.Cursor


class SSCursor(Cursor):
    """An unbuffered cursor whose rows are tuples."""

    _driver_class = drivers.SSCursor


class DictCursor(_RowCursor[dict[str, Any]]):
    """A cursor whose rows are dictionaries; a subclass may set another *dict_type*."""

    _driver_class: ClassVar[Any] = drivers.DictCursor


class SSDictCursor(DictCursor):
    """An unbuffered cursor whose rows are dictionaries; a subclass may set another *dict_type*."""

    _driver_class = drivers.SSDictCursor


def cursor_class(wanted: tuple[Any, ...]) -> Any:
    """Return the one class that was asked for, or one that is all of them; None if none was.

    :raises TypeError: if one of them is no class of cursors
    """
    for kind in wanted:
        if kind is not None and not (isinstance(kind, type) and hasattr(kind, "execute")):
            raise TypeError(f"cursor({kind_of(kind)}): accepted are cursor classes, of offload_db.aio or of PyMySQL")
    if len(wanted) < 2:
        return wanted[0] if wanted else None
    name = "".join(kind.__name__ for kind in wanted).replace("Cursor", "") + "Cursor"
    return type(name, wanted, {})


def driver_class(kind: Any) -> Any:
    """Return the driver's class of a class of cursors."""
    return getattr(kind, "_driver_class", kind)


def awaitable_class(kind: type) -> type[AsyncCursor]:
    """Return the class of awaitable cursors that is made for a driver's class of cursors."""
    made: type[AsyncCursor] | None = getattr(kind, "awaitable", None)
    if made is not None:
        return made
    for found in (SSDictCursor, DictCursor, SSCursor, Cursor):
        if issubclass(kind, found._driver_class):
            return found
    return AsyncCursor


def synchronous_cursor(cursor: AsyncCursor) -> OffloadCursor:
    """Return the synchronous cursor under an awaitable one."""
    return cursor._cursor
