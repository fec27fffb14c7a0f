"""What a connection's ``cursor()`` is to be given, for cursors that are asked for by what their rows are.

Owns the kinds that mean the same with every driver: rows as tuples or dictionaries, read at once or row by row. How a
driver makes them is told in its file.
"""

from __future__ import annotations

from typing import Any, Final

from pymysql import cursors as pymysql_cursors

from ..errors import ConfigurationError
from ..settings import kind_of

CursorArguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What ``cursor()`` is called with."""

OWN: Final[CursorArguments] = ((), {})
"""For cursors of the connection's own kind."""

# PyMySQL's names stand for what their rows are, with other drivers, too. Subclasses do more than that.
_FORMS: dict[Any, tuple[type, bool]] = {
    pymysql_cursors.Cursor: (tuple, True),
    pymysql_cursors.DictCursor: (dict, True),
    pymysql_cursors.SSCursor: (tuple, False),
    pymysql_cursors.SSDictCursor: (dict, False),
}


def form(kind: Any, buffered: bool | None) -> tuple[Any, bool | None]:
    """Return the rows that a class of PyMySQL's stands for, and whether they are read at once; others as they are."""
    if kind not in _FORMS:
        return kind, buffered
    rows, reads_at_once = _FORMS[kind]
    return rows, reads_at_once if buffered is None else buffered


def class_for(kind: Any, buffered: bool | None, cursors: Any, unbuffered: type, named: type) -> Any:
    """Choose among a driver's classes of cursors.

    :param kind: one of them, or ``tuple`` or ``dict``
    :param buffered: False for one whose rows are read as they are fetched
    :param cursors: the driver's module, whose four classes have PyMySQL's names
    :param unbuffered: what its unbuffered classes have in common
    :param named: what those have in common whose rows are dictionaries
    """
    wanted = cursors.Cursor if kind is tuple else cursors.DictCursor if kind is dict else kind
    if buffered is not False or issubclass(wanted, unbuffered):
        return wanted
    return cursors.SSDictCursor if issubclass(wanted, named) else cursors.SSCursor


def refusal(kind: Any, buffered: bool | None, driver: str, accepted: str) -> ConfigurationError:
    """Return the error that says that a driver has no such cursors, and which it has."""
    rows = {None: "rows", tuple: "rows as tuples", dict: "rows by name"}
    what = f"{rows[kind]}{', unbuffered' if buffered is False else ''}" if kind in rows else f"cursor={kind_of(kind)}"
    return ConfigurationError(f"{what}: {driver} has no such cursors; accepted are {accepted}")
