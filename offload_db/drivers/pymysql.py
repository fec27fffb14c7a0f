"""What is known of PyMySQL.

Owns every look into its connections and cursors that goes beyond DB-API 2: is the link alive, is a result unread, is a
transaction open, did an error come from the server. Never waits for the server unless the docstring of
:class:`offload_db.drivers.base.Driver` says so.
"""
# ruff: noqa: D102  # an override does what the method that it overrides says

from __future__ import annotations

import copy
import inspect
import math
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymysql
from pymysql import converters
from pymysql.constants import CR, SERVER_STATUS

from . import pymysql_connection, pymysql_results
from .base import (
    CLIENT_CODES,
    OTHER_PACKAGES,
    DrainBudget,
    Identity,
    pymysql_code,
)
from .cursor_classes import OWN, CursorArguments, class_for, refusal
from .mysql_server import FAREWELLS, MySQLServerDriver
from .pymysql_unread import read_out, readable, skip, skip_few, whole_rows

# Where PyMySQL's connection is written, and the faster one that goes before it.
_WIRE_FILES = frozenset({pymysql.connections.__file__, pymysql_connection.__file__, pymysql_results.__file__})

# What a program may have put something of its own around, for its logs.
_SENDING: dict[type, tuple[str, ...]] = {
    pymysql.connections.Connection: ("query", "commit", "rollback", "_execute_command", "_read_query_result"),
    pymysql.cursors.Cursor: ("execute", "executemany", "_query"),
    pymysql.cursors.SSCursor: ("_query", "fetchone", "fetchall"),
}

_CURSORS = (pymysql.cursors, pymysql.cursors.SSCursor, pymysql.cursors.DictCursorMixin)
_ACCEPTED = "PyMySQL's cursor classes, offload_db.aio's, callables and None"

# PyMySQL's own converters; the dictionary that it gives to connections may have been changed.
_ENCODERS, _DECODERS = dict(converters.encoders), dict(converters.decoders)


class PyMySQLDriver(MySQLServerDriver):
    """PyMySQL, 1.1 and later."""

    # All others may wait, those that users add in subclasses above all.
    _local_methods = frozenset(
        {
            "_escape_string",
            "affected_rows",
            "character_set_name",
            "escape",
            "escape_string",
            "get_autocommit",
            "get_host_info",
            "get_proto_info",
            "get_server_info",
            "insert_id",
            "literal",
            "thread_id",
        }
    )
    _local_cursor_methods = frozenset({"mogrify", "setinputsizes", "setoutputsizes"})

    # Whoever is in one of these has sent a command or is reading its answer.
    _wire_methods = frozenset(
        {
            "_execute_command",
            "_finish_unbuffered_query",
            "_read_ok_packet",
            "_read_packet",
            "_read_query_result",
            "_read_rowdata_packet_unbuffered",
        }
    )

    def module(self, raw: Any) -> Any:
        return pymysql

    def blocks(self, name: str) -> bool:
        return name not in self._local_methods

    def cursor_blocks(self, name: str) -> bool:
        return name not in self._local_cursor_methods

    def upgrade(self, raw: Any, settings: dict[str, Any]) -> None:
        pymysql_connection.upgrade(raw)

    def shares(self, raw: Any) -> bool:
        # What belongs to the user may keep the thread or hold locks; so may a file that is to be loaded.
        if type(raw) is not pymysql_connection.FastConnection or getattr(raw, "_local_infile", False):
            return False
        return all(_is_pymysqls(owner, name) for owner, names in _SENDING.items() for name in names)

    def reads_as_usual(self, raw: Any) -> bool:
        try:
            return bool(raw.looks_ahead and raw.encoders == _ENCODERS and raw.decoders == _DECODERS)
        except Exception:  # a converter of the user's that cannot be compared
            return False

    def cursor_shares(self, kind: type) -> bool:
        return kind.__module__ == pymysql.cursors.__name__

    def cursor_arguments(self, raw: Any, kind: Any, buffered: bool | None = None) -> CursorArguments:
        if kind is None:
            if buffered is not False:
                return OWN
            kind = raw.cursorclass
        elif not issubclass(kind, pymysql.cursors.Cursor) and _is_others(kind):
            raise refusal(kind, buffered, "PyMySQL", _ACCEPTED)
        return (class_for(kind, buffered, *_CURSORS),), {}

    def begin(self, raw: Any) -> None:
        raw.begin()

    def code(self, error: BaseException) -> int | None:
        return pymysql_code(error)

    def alive_at_rest(self, raw: Any) -> bool:
        # A server at rest sends nothing but the end of the connection, so anything to read is bad news.
        sock: socket.socket | None = raw._sock
        if sock is None or pymysql_connection.held(raw):
            return False
        news = getattr(raw, "news", None)
        return not (readable(sock, 0) if news is None else news.poll(0))

    def out_of_step(self, raw: Any) -> bool:
        # The faster connection looks by itself, before each command.
        if type(raw) is pymysql_connection.FastConnection or raw._sock is None or self.unread(raw):
            return False
        told = pymysql_connection.held(raw)
        if not told and readable(raw._sock, 0):
            told = pymysql_connection.arrived(raw)
        return bool(told) and not pymysql_connection.is_farewell(told)

    def unread(self, raw: Any) -> bool:
        result = raw._result
        return result is not None and bool(result.unbuffered_active or result.has_next)

    def streams(self, cursor: Any) -> bool:
        result = cursor._result
        # Rows that were left unread must not look like the end of the result.
        return result is not None and bool(result.unbuffered_active or getattr(result, "abandoned", False))

    def unfinished(self, cursor: Any) -> bool:
        result, connection = cursor._result, cursor.connection
        if connection is None or result is None or result is not connection._result:
            return False
        return bool(result.unbuffered_active or result.has_next)

    def arrived(self, cursor: Any) -> int:
        result = cursor._result
        if not result.unbuffered_active or _reads_its_own_way(cursor.__class__):
            return 0
        ahead = getattr(result, "ahead", None)
        if ahead:
            return len(ahead)
        # The end of the result and an error stay where they are, for whoever asks for what comes after the last row.
        return whole_rows(pymysql_connection.arrived(result.connection))[0]

    def hold(self, cursor: Any) -> bool:
        # An unbuffered cursor's finaliser would read the rest. A garbage collector may call it first, so reference it
        # from what the collector finds in use: the connection's result.
        result = cursor._result
        if result is None:
            return True
        new = not hasattr(result, "reader")
        left = result.unbuffered_active or (result.has_next and isinstance(cursor, pymysql.cursors.SSCursor))
        result.reader = cursor if left else None
        return new

    def close_cursor(self, cursor: Any) -> None:
        # What close() of PyMySQL's own classes comes to where nothing is left to read, in a fourth of the calls.
        if type(cursor).__module__ == pymysql.cursors.__name__ and not self.unfinished(cursor):
            cursor.connection = None
        else:
            cursor.close()

    def leave(self, cursor: Any) -> None:
        # Nothing but a mark: this may come from a finaliser while a worker uses the connection.
        if self.unfinished(cursor):
            cursor._result.left = True

    def forget(self, raw: Any) -> None:
        raw._result = None  # or it would hold them until its next statement

    def skip_rest(self, raw: Any) -> None:
        result = raw._result
        if result is None or not getattr(result, "left", False):
            return
        try:
            result._finish_unbuffered_query()
        except pymysql.MySQLError as error:
            if not self.in_step(error):
                raise

    def clean(self, raw: Any) -> bool:
        # PyMySQL reads the status flags of OK packets only. With autocommit on that is enough: a transaction begins
        # with a statement that an OK packet answers. With autocommit off any SELECT begins one unseen.
        status = raw.server_status
        return bool(status & SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT) and not (
            status & SERVER_STATUS.SERVER_STATUS_IN_TRANS
        )

    def autocommit(self, raw: Any) -> bool | None:
        return None if raw._sock is None else bool(raw.server_status & SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT)

    def is_open(self, raw: Any) -> bool:
        return raw._sock is not None

    def in_step(self, error: BaseException) -> bool:
        code = pymysql_code(error)
        if code is not None:
            return code > 0 and code not in CLIENT_CODES and code not in FAREWELLS
        # A converter or decoder that raised left packets unread; an error made before anything was sent did not.
        names: list[str] = []
        trail = error.__traceback__
        while trail is not None:
            where = trail.tb_frame.f_code
            names.append(where.co_name if where.co_filename in _WIRE_FILES else "")
            trail = trail.tb_next
        if self._wire_methods.isdisjoint(names):
            return True
        # What this method does itself comes before the sending: it refuses a statement that is no text, and warns of
        # an unread result where warnings are errors. An interrupt may come anywhere.
        return names[-1] == "_execute_command" and isinstance(error, (TypeError, UnicodeError, Warning))

    def may_have_sent(self, error: BaseException) -> bool:
        # PyMySQL gives this code to a failed write alone, and a statement that is not there whole cannot be executed.
        return pymysql_code(error) != CR.CR_SERVER_GONE_ERROR

    def session(self, raw: Any) -> int | None:
        session: int | None = raw.thread_id() if raw.open else None
        return session

    def plain_cursor(self, raw: Any) -> Any:
        return pymysql.cursors.Cursor(raw)

    def identity(self, raw: Any) -> Identity | None:
        with _unseen(raw):
            return super().identity(raw)

    def is_fit(self, raw: Any) -> bool:
        with _unseen(raw):
            return super().is_fit(raw)

    def rolled_back(self, raw: Any, error: BaseException) -> bool:
        with _unseen(raw):
            return super().rolled_back(raw, error)

    def kill(self, admin: Any, identity: Identity) -> bool:
        with _unseen(admin):
            return super().kill(admin, identity)

    def cut(self, raw: Any) -> None:
        sock: socket.socket | None = raw._sock
        if sock is not None:
            sock.shutdown(socket.SHUT_RDWR)

    def bounded(self, kwargs: dict[str, Any], seconds: float) -> dict[str, Any]:
        limits = dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), seconds)
        return {**kwargs, **limits}

    def set_read_timeout(self, raw: Any, seconds: float | None) -> float | None:
        before: float | None = raw._read_timeout
        raw._read_timeout = seconds  # PyMySQL applies it with the next read
        return before

    @contextmanager
    def limited(self, raw: Any, seconds: float) -> Iterator[None]:
        before = self.set_read_timeout(raw, seconds)
        try:
            yield
        finally:
            self.set_read_timeout(raw, before)

    def skip_few(self, raw: Any) -> bool:
        return skip_few(raw, DrainBudget())

    def skip_killed(self, raw: Any) -> None:
        try:
            read_out(raw, math.inf)
        except pymysql.MySQLError as error:
            if not self.in_step(error):  # else it is how the answer ends
                raise

    def read_out(self, raw: Any, most: float) -> bool:
        return read_out(raw, most)

    def finish(self, cursor: Any) -> None:
        allowance = DrainBudget()
        while self.unfinished(cursor):
            if not skip(cursor._result, cursor.connection, allowance):
                self._part(cursor, cursor.connection)
            if not cursor.nextset():
                break
        if cursor._result is not None:
            cursor._result.reader = None  # it is read to its end; the two would keep each other alive
        cursor.close()

    def _part(self, cursor: Any, connection: Any) -> None:
        """Leave the unread rows to the connection; for the cursor the result ends here."""
        result = cursor._result
        connection._result = copy.copy(result)
        connection._result.left = True
        connection._result.reader = result.reader = None
        result.unbuffered_active, result.connection = False, None

    def close(self, raw: Any) -> None:
        if self.unread(raw):
            self.abandon(raw)
        else:
            super().close(raw)

    def abandon(self, raw: Any) -> None:
        # The result's finaliser, and the unbuffered cursor's, would read the rest.
        result, raw._result = raw._result, None
        if result is not None:
            if result.unbuffered_active:
                result.unbuffered_active, result.connection = False, None
                result.abandoned = True
            result.reader = None
        raw._force_close()

    def disown(self, raw: Any) -> None:
        result, raw._result = raw._result, None
        if result is not None:
            result.unbuffered_active, result.connection = False, None
        reader, sock, raw._rfile, raw._sock = raw._rfile, raw._sock, None, None
        if reader is not None:
            reader.detach()  # to close it would wait for its lock
        if sock is not None:
            sock.close()  # the child's copy; the server is told nothing


@contextmanager
def _unseen(raw: Any) -> Iterator[None]:
    """Let the block ask the server on a connection that its user is to find untouched."""
    decoders, raw.decoders = raw.decoders, {}  # the user's may be anything
    try:
        yield
    finally:
        raw.decoders = decoders
        raw._result, raw._affected_rows = None, 0  # insert_id() and affected_rows() read these


def _is_others(kind: type) -> bool:
    """Tell whether a class is one of another driver's, or made of one."""
    return any(cls.__module__.partition(".")[0] in OTHER_PACKAGES for cls in kind.__mro__)


def _reads_its_own_way(kind: type) -> bool:
    """Tell whether a class of unbuffered cursors may read rows by other methods than PyMySQL's."""
    if not issubclass(kind, pymysql.cursors.SSCursor):
        return True
    own = [cls for cls in kind.__mro__ if cls.__module__ not in (pymysql.cursors.__name__, "builtins")]
    return any(inspect.isfunction(value) for cls in own for value in vars(cls).values())


def _is_pymysqls(owner: type, name: str) -> bool:
    """Tell whether a method is the one that PyMySQL's file defines."""
    code = getattr(getattr(owner, name), "__code__", None)
    return code is not None and code.co_filename == sys.modules[owner.__module__].__file__


PYMYSQL = PyMySQLDriver()
