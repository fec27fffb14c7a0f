"""What an awaitable operation does in its one hop to a worker thread.

Owns the statement, its rows and its transaction, on a physical connection that is checked out. Who checks it out, and
how a call that is cancelled or late ends, is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pymysql.cursors import Cursor

from ..connection.physical import PhysicalConnection
from ..drivers.cursor_classes import CursorArguments
from ..errors import ConfigurationError
from ..settings import kind_of

Args = Any
"""Parameters of a statement: a tuple, a list, a mapping, a single value or None."""

Shape = tuple[Callable[..., Any] | None, Any]
"""What makes rows: a callable that is given each row's columns by name or None, and what makes the rows before that.

The latter is a kind of cursor as :meth:`offload_db.drivers.base.Driver.cursor_arguments` knows them.
"""


class RowFactoryError:
    """A row factory's error, which says nothing of the connection and is raised when that is no longer in use."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


def run(
    pick: Callable[[Any], Any],
    sql: str,
    args: Args,
    link: PhysicalConnection,
    cursor: CursorArguments,
    *,
    make: Callable[..., Any] | None = None,
) -> Any:
    """Execute a statement and return what *pick* takes from its cursor, rows or numbers."""
    raw = link.raw.cursor(*cursor[0], **cursor[1])
    try:
        raw.execute(sql, None if args is None else parameters(args))
        result = pick(raw)
    except BaseException:
        with suppress(Exception):  # of a lost link some drivers say once more that it is lost
            raw.close()
        raise
    link.driver.close_cursor(raw)
    if make is not None and result is not None:
        try:
            result = _made(make, result)
        except Exception as error:
            return RowFactoryError(error)  # and what the statement began is rolled back
    if not link.clean:
        _commit(link)
    return result


def _made(make: Callable[..., Any], result: Any) -> Any:
    return [make(**row) for row in result] if isinstance(result, list) else make(**result)


def row_shape(cursor: Any) -> Shape:
    """Tell a callable that makes rows from a cursor class, a driver's or awaitable.

    :raises ConfigurationError: if it is neither
    """
    kind = getattr(cursor, "_driver_class", cursor)
    if kind is None or (isinstance(kind, type) and (issubclass(kind, Cursor) or _is_cursors(kind))):
        return None, kind
    if not callable(cursor):
        raise ConfigurationError(f"cursor={kind_of(cursor)}; accepted are cursor classes, callables and None")
    return cursor, dict


def _is_cursors(kind: type) -> bool:
    """Tell whether it is a class of cursors as DB-API 2 has them; which driver's is for the link's own to see."""
    return hasattr(kind, "execute") and hasattr(kind, "fetchone")


def parameters(args: Args) -> Any:
    """Wrap a single value: PyMySQL takes it as it is, but will not for ever."""
    return args if args is None or isinstance(args, (tuple, list, dict)) else (args,)


def all_rows(raw: Any) -> list[Any]:
    """Fetch every row."""
    return list(raw.fetchall()) if raw.description else []  # not every driver takes it that there is no result


def first_row(raw: Any) -> Any:
    """Fetch one row."""
    return raw.fetchone() if raw.description else None


def write_many(sql: str, rows: list[Any], link: PhysicalConnection, cursor: CursorArguments) -> int:
    """Execute a statement for each of the rows, all of them in one transaction."""
    raw = link.raw.cursor(*cursor[0], **cursor[1])
    try:
        in_transaction = link.autocommit is not False  # not every driver tells
        if in_transaction:
            link.begun()
            link.driver.begin(link.raw)  # executemany may take several statements
        total = raw.executemany(sql, rows)
        if not isinstance(total, int):  # DB-API 2 leaves it open what that returns
            total = raw.rowcount if rows else 0
    except BaseException:
        with suppress(Exception):  # of a lost link some drivers say once more that it is lost
            raw.close()
        raise
    raw.close()
    if in_transaction or not link.clean:
        _commit(link)
    return int(total)


def affected(raw: Any) -> int:
    """Read the number of affected rows."""
    return int(raw.rowcount)


def inserted(raw: Any) -> int:
    """Read the id of the inserted row, 0 where there is none."""
    return int(raw.lastrowid or 0)


def _commit(link: PhysicalConnection) -> None:
    """Commit what the statement began, in the same hop."""
    if link.driver.unread(link.raw):  # not every driver's cursor reads what follows when it is closed
        link.driver.read_out(link.raw, math.inf)
    link.protect_from_kill()
    link.raw.commit()
    link.transaction_ended()
