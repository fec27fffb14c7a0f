"""What an awaitable operation does in its one trip to a worker.

Owns the statement, its rows and its transaction, on a link that is checked out. Who checks it out, and how a call that
is cancelled or late ends, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymysql.cursors import Cursor, DictCursor

from .errors import ConfigurationError
from .settings import kind_of
from .statements import Link

Args = Any
"""Parameters of a statement: a tuple, a list, a mapping, a single value or None."""

Shape = tuple[Callable[..., Any] | None, type[Cursor] | None]
"""What makes rows: a callable that is given each row's columns by name, or a cursor class; None for the link's own."""


class Refused:
    """A row factory's error: it says nothing of the link, so it is not raised while the link is in use."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


def read(pick: Callable[[Any], Any], sql: str, args: Args, shape: Shape, link: Link) -> Any:
    """Execute a statement and fetch what *pick* takes of its rows."""
    make, kind = shape
    with link.raw.cursor(kind if make is None else DictCursor) as raw:
        raw.execute(sql, parameters(args))
        result = pick(raw)
    if make is not None and result is not None:
        try:
            result = [make(**row) for row in result] if isinstance(result, list) else make(**result)
        except Exception as error:
            return Refused(error)  # and what the statement began is rolled back
    _end_transaction(link)
    return result


def row_shape(cursor: Any) -> Shape:
    """Tell a callable that makes rows from a cursor class, PyMySQL's or awaitable; at most one of both is there.

    :raises ConfigurationError: if it is neither
    """
    kind = getattr(cursor, "_driver_class", cursor)
    if kind is None or (isinstance(kind, type) and issubclass(kind, Cursor)):
        return None, kind
    if not callable(cursor):
        raise ConfigurationError(f"cursor={kind_of(cursor)}; accepted are cursor classes, callables and None")
    return cursor, None


def parameters(args: Args) -> Any:
    """Wrap a single value: PyMySQL takes it as it is, but will not for ever."""
    return args if args is None or isinstance(args, (tuple, list, dict)) else (args,)


def all_rows(raw: Any) -> list[Any]:
    """Fetch every row."""
    return list(raw.fetchall())


def first_row(raw: Any) -> Any:
    """Fetch one row."""
    return raw.fetchone()


def write(pick: Callable[[Any], int], sql: str, args: Args, link: Link) -> int:
    """Execute a statement and return what *pick* reads off its cursor."""
    with link.raw.cursor() as raw:
        raw.execute(sql, parameters(args))
        result = pick(raw)
    _end_transaction(link)
    return result


def write_many(sql: str, rows: list[Any], link: Link) -> int:
    """Execute a statement for each of the rows, all of them in one transaction."""
    with link.raw.cursor() as raw:
        in_transaction = bool(link.autocommit)
        if in_transaction:
            link.begun()
            link.raw.begin()  # executemany may take several statements
        total = raw.executemany(sql, rows) or 0
    _end_transaction(link, forced=in_transaction)
    return int(total)


def affected(raw: Any) -> int:
    """Read the number of affected rows."""
    return int(raw.rowcount)


def inserted(raw: Any) -> int:
    """Read the id of the inserted row, 0 where there is none."""
    return int(raw.lastrowid or 0)


def _end_transaction(link: Link, *, forced: bool = False) -> None:
    """Commit what the statement began, in the same trip."""
    if forced or not link.clean:
        link.past_return()
        link.raw.commit()
        link.settled()
