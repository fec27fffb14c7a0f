"""What is known of drivers other than PyMySQL: mysqlclient and mysql-connector-python.

Owns the same looks into their connections and cursors as ``pymysql.py``'s. None of them is imported here: a driver is
told by the module that its connections come from. Where nothing can be seen, the careful answer stands: a transaction
may be open, a fetch may wait.
"""

# ruff: noqa: D102  # an override does what the method that it overrides says

from __future__ import annotations

import abc
import math
import os
import re
import select
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from types import CodeType
from typing import Any, ClassVar

from ..connection.lazy_results import UsedResult
from ..errors import OffloadError
from .base import (
    CLIENT_CODES,
    FAREWELLS,
    IDENTIFY,
    INTERRUPTED,
    LOST,
    NOTHING_TO_KILL,
    UNFIT_NODE,
    Allowance,
    Driver,
    Identity,
)
from .cursor_classes import OWN, CursorArguments, class_for, form, refusal
from .pymysql_unread import readable

# Rows that are read at once where nobody wants them.
CHUNK = 500

# Seconds that connecting may take where the settings do not say.
CONNECT_TIMEOUT = 10


class _Known(Driver, abc.ABC):
    """A driver of MySQL's protocol, by what such drivers have in common."""

    package: ClassVar[str]
    timeouts: ClassVar[tuple[str, ...]]
    """Its names for the seconds that connecting, reading and writing may take."""

    is_mysqls = True

    def __init__(self) -> None:
        self._classes: dict[type, type] = {}

    def code(self, error: BaseException) -> int | None:
        """Return the code of an error of this driver."""
        if type(error).__module__.partition(".")[0] != self.package.partition(".")[0]:
            return None
        code = getattr(error, "errno", None) or (error.args[0] if error.args else None)
        return code if isinstance(code, int) else None

    def module(self, raw: Any) -> Any:
        return sys.modules[self.package]

    def in_step(self, error: BaseException) -> bool:
        code = self.code(error)
        if code is None or code <= 0:
            return super().in_step(error)
        if code in CLIENT_CODES or code in _LIBMARIADB:
            return code in _NOTHING_SENT
        return code not in FAREWELLS

    def refused(self, raw: Any, error: BaseException) -> bool:
        code = self.code(error)
        if (code is not None and code > 0) or not isinstance(error, Exception) or not self.is_open(raw):
            return False
        return not any(map(self._is_wire, _own_frames(error, self._defines)))

    def _defines(self, code: CodeType) -> bool:
        """Tell whether the driver's files define a function."""
        return f"{os.sep}{self.package.replace('.', os.sep)}{os.sep}" in code.co_filename

    @abc.abstractmethod
    def _is_wire(self, code: CodeType) -> bool:
        """Tell whether who is in a function may have sent something, or may be reading an answer."""

    def lost(self, error: BaseException) -> bool:
        return self.code(error) in (FAREWELLS | LOST)

    def unfit(self, error: BaseException) -> bool:
        return self.code(error) in UNFIT_NODE

    def disguised(self, error: OffloadError) -> OffloadError:
        cls = type(error)
        if cls not in self._classes:
            own: Any = sys.modules[self.package].OperationalError
            self._classes[cls] = type(cls.__name__, (cls, own), {"__module__": cls.__module__})
        kind: Any = self._classes[cls]
        other: OffloadError = kind.__new__(kind)
        other.args = error.args
        vars(other).update(vars(error))
        return other

    def identity(self, raw: Any) -> Identity | None:
        number = self.descriptor(raw)
        raw._own_socket = None if number is None else _socket_of(number)
        with closing(self.plain_cursor(raw)) as cursor:
            cursor.execute(IDENTIFY)
            session, version, raw._home, *server = map(_text, cursor.fetchone() or ())
        if session != str(self.session(raw)):
            return None  # a proxy stands between and has ids of its own
        return Identity(int(session), tuple(server), "mariadb" in version.lower())

    def kill(self, admin: Any, identity: Identity) -> bool:
        with closing(self.plain_cursor(admin)) as cursor:
            try:
                if not identity.by_query:
                    cursor.execute(f"KILL QUERY {identity.session:d}")
                    return True
                cursor.execute(
                    f"SELECT query_id, command FROM information_schema.processlist WHERE id = {identity.session:d}"
                )
                row = cursor.fetchone()
                if row is None or _text(row[1]) == "Sleep":
                    return False
                cursor.execute(f"KILL QUERY ID {int(row[0]):d}")
            except Exception as error:
                if self.code(error) in NOTHING_TO_KILL:
                    return False
                raise
        return True

    def absorb(self, raw: Any) -> None:
        with closing(self.plain_cursor(raw)) as cursor:
            try:
                cursor.execute("DO 0")
            except Exception as error:
                if self.code(error) != INTERRUPTED:
                    raise

    def cursor_arguments(self, raw: Any, kind: Any, buffered: bool | None = None) -> CursorArguments:
        kind, buffered = form(kind, buffered)
        if kind not in (None, tuple, dict) and not self._makes(kind):
            accepted = f"{self.package}'s cursor classes, PyMySQL's four and offload_db.aio's, callables and None"
            raise refusal(kind, buffered, self.package, accepted)
        return self.own_arguments(raw, kind, buffered)

    @abc.abstractmethod
    def own_arguments(self, raw: Any, kind: Any, buffered: bool | None) -> CursorArguments:
        """Return what ``cursor()`` is to be given for the driver's own cursors."""

    def _makes(self, kind: type) -> bool:
        return any(cls.__module__.partition(".")[0] == self.package.partition(".")[0] for cls in kind.__mro__)

    @abc.abstractmethod
    def plain_cursor(self, raw: Any) -> Any:
        """Make a cursor that returns tuples and has read its rows."""

    @abc.abstractmethod
    def descriptor(self, raw: Any) -> int | None:
        """Return the number of the link's socket, None where it cannot be had."""

    def sees_rest(self, raw: Any) -> bool:
        return self.descriptor(raw) is not None

    def alive_at_rest(self, raw: Any) -> bool:
        # A server at rest sends nothing but the end of the connection, so anything to read is bad news.
        number = self.descriptor(raw)
        if number is None:
            return self.is_open(raw)
        if not _is_own(number, raw):
            return False
        try:
            poll = select.poll()
        except AttributeError:  # Windows
            return not select.select([number], [], [], 0)[0]
        poll.register(number, select.POLLIN)
        return not poll.poll(0)

    def cut(self, raw: Any) -> None:
        number = self.descriptor(raw)
        if number is None:
            return
        number = os.dup(number)  # which stays what it is, whatever other threads open and close
        if not _is_own(number, raw):
            os.close(number)
            return
        with socket.socket(fileno=number) as link:
            link.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def limited(self, raw: Any, seconds: float) -> Iterator[None]:
        self.descriptor(raw)  # so that it is known to the thread that cuts the link
        with super().limited(raw, seconds):
            yield

    def abandon(self, raw: Any) -> None:
        with suppress(Exception):  # then closing neither waits for the rest of a result nor for the server
            self.cut(raw)
        self.close(raw)

    def disown(self, raw: Any) -> None:
        # Closing would say goodbye in the parent's name. The child's copy of the socket ends with the child.
        _parents.append(raw)

    def opening(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {self.timeouts[0]: CONNECT_TIMEOUT, **kwargs}

    def bounded(self, kwargs: dict[str, Any], seconds: float) -> dict[str, Any]:
        return {**kwargs, **dict.fromkeys(self.timeouts, max(1, math.ceil(seconds)))}


class MySQLClientDriver(_Known):
    """The driver mysqlclient, 2.2 and later."""

    package = "MySQLdb"
    timeouts = ("connect_timeout", "read_timeout", "write_timeout")

    # What else there is puts statements together. Rows are converted as they are read.
    _wire_methods = frozenset(
        {
            *("_discard", "_do_get_result", "_execute_multi_statement_batch", "_fetch_row", "_get_result"),
            *("_post_get_result", "_query", "nextset", "query", "set_character_set", "set_sql_mode", "show_warnings"),
        }
    )

    _local_methods = frozenset(
        {
            *("affected_rows", "character_set_name", "errno", "error", "escape", "escape_string", "field_count"),
            *("fileno", "get_autocommit", "get_character_set_info", "get_host_info", "get_proto_info"),
            *("get_server_info", "info", "insert_id", "literal", "more_results", "sqlstate", "string_literal"),
            *("thread_id", "warning_count"),
        }
    )

    def _is_wire(self, code: CodeType) -> bool:
        return code.co_name in self._wire_methods and self._defines(code)

    def blocks(self, name: str) -> bool:
        return name not in self._local_methods

    def cursor_blocks(self, name: str) -> bool:
        return name not in ("mogrify", "setinputsizes", "setoutputsizes")

    def plain_cursor(self, raw: Any) -> Any:
        return raw.cursor(sys.modules["MySQLdb.cursors"].Cursor)

    def own_arguments(self, raw: Any, kind: Any, buffered: bool | None) -> CursorArguments:
        if kind is None and buffered is not False:
            return OWN
        cursors = sys.modules["MySQLdb.cursors"]
        wanted = kind or raw.cursorclass
        return (class_for(wanted, buffered, cursors, cursors.CursorUseResultMixIn, cursors.CursorDictRowsMixIn),), {}

    def descriptor(self, raw: Any) -> int | None:
        try:
            number = int(raw.fileno()) if raw.open and hasattr(raw, "fileno") else None
        except Exception:  # newer versions answer nobody but the thread that is in a call
            known: int | None = getattr(raw, "_descriptor", None)
            return known
        raw._descriptor = number
        return number

    def session(self, raw: Any) -> int | None:
        return int(raw.thread_id()) if raw.open else None

    def is_open(self, raw: Any) -> bool:
        return bool(raw.open)

    def autocommit(self, raw: Any) -> bool | None:
        return bool(raw.get_autocommit()) if raw.open else None

    def ping(self, raw: Any) -> None:
        raw.ping()

    def streams(self, cursor: Any) -> bool:
        return cursor._result is not None

    def unfinished(self, cursor: Any) -> bool:
        raw = cursor.connection
        if raw is None or not raw.open:
            return False
        more: Callable[[], Any] | None = getattr(raw, "more_results", None)  # from 2.3 on
        return cursor._result is not None or more is None or bool(more())

    def hold(self, cursor: Any) -> bool:
        # A result that is not read to its end is read by its finaliser.
        raw = cursor.connection
        if raw is not None and (cursor._result is not None or not self._refuses(raw)):
            raw._streaming = cursor if cursor._result is not None else None
        return True

    def _refuses(self, raw: Any) -> bool:
        """Tell whether the statement was refused because another cursor's result is not read to its end."""
        return self.unread(raw) and raw.open and raw.errno() == OUT_OF_SYNC

    def lazy(self, raw: Any, name: str, result: Any) -> Any:
        if name != "use_result" or result is None:
            return super().lazy(raw, name, result)
        raw._streaming = UsedResult(raw, result)
        return raw._streaming

    def unread(self, raw: Any) -> bool:
        return _streaming(raw) is not None or _has_more(raw)

    def finish(self, cursor: Any) -> None:
        if _skip_few(cursor):
            super().finish(cursor)
        else:
            cursor.connection._left = True  # closing it would read the rest

    def skip_rest(self, raw: Any) -> None:
        if getattr(raw, "_left", False):
            raw._left = False
            super().finish(raw._streaming)

    def skip_few(self, raw: Any) -> bool:
        if self.unread(raw):
            cursor = _streaming(raw)
            if cursor is None or not _skip_few(cursor):
                return False
            self.skip_killed(raw)
        return True

    def skip_killed(self, raw: Any) -> None:
        cursor, raw._left = _streaming(raw), False
        try:
            if cursor is None:
                self.read_out(raw, math.inf)
            else:
                cursor._discard()  # without closing it: its user may go on with it
        except Exception as error:
            if not self.in_step(error):  # else it is how the result ends
                raise
        finally:
            if cursor is not None:
                cursor._result = None

    def read_out(self, raw: Any, most: float) -> bool:
        cursor, raw._left = _streaming(raw), False
        result = None if cursor is None else cursor._result
        while True:
            while result is not None and (rows := result.fetch_row(CHUNK)):
                most -= _bytes_of(rows)
                if most < 0:
                    return False
            if cursor is not None:
                cursor._result = None
            if raw.next_result() != 0:
                return True
            cursor, result = None, raw.use_result()


class MySQLConnectorDriver(_Known):
    """The driver mysql-connector-python, in pure Python or with its C extension."""

    package = "mysql.connector"
    timeouts = ("connection_timeout",)
    cursors_ask = True

    def property_blocks(self, name: str) -> bool:
        return name in ("autocommit", "database", "sql_mode", "time_zone")

    def in_step(self, error: BaseException) -> bool:
        if type(error).__name__ in _TIMEOUTS:  # which have a server's code, and the answer is still to come
            return False
        # "Unread result found": it refused to send anything.
        return type(error).__name__ == "InternalError" or super().in_step(error)

    def refused(self, raw: Any, error: BaseException) -> bool:
        # Some refusals have the code, or the text, of a lost link: of a cursor that is closed, of an unread result in
        # the way of a ping, and of a statement that is no text.
        refusal = _UNCONNECTED in str(error) or type(error.__cause__).__name__ in ("InternalError", "AttributeError")
        return (refusal and self.is_open(raw)) or super().refused(raw, error)

    def _is_wire(self, code: CodeType) -> bool:
        name = os.path.basename(code.co_filename)
        return name in _WIRE_FILES and code.co_name not in _LOCAL_STEPS and self._defines(code)

    def lost(self, error: BaseException) -> bool:
        return super().lost(error) or _UNAVAILABLE in str(error)

    def may_have_sent(self, error: BaseException) -> bool:
        return _UNAVAILABLE not in str(error)

    def plain_cursor(self, raw: Any) -> Any:
        return raw.cursor(buffered=True, dictionary=False, raw=False)

    def own_arguments(self, raw: Any, kind: Any, buffered: bool | None) -> CursorArguments:
        if kind is None:
            return (), {"buffered": buffered is not False}
        if kind in (tuple, dict):
            return (), {"buffered": buffered is not False, "dictionary": kind is dict, "raw": False}
        if buffered is None or not _PLAIN_CURSOR.fullmatch(kind.__name__) or not kind.__module__.startswith("mysql."):
            return (), {"cursor_class": kind}
        # Read at once or row by row, as it is wanted, and fit for a link in C or in Python.
        name = kind.__name__
        return (), {"buffered": buffered, "dictionary": name.endswith("Dict"), "raw": "Raw" in name}

    def select_database(self, raw: Any, name: Any) -> None:
        raw.cmd_init_db(name)

    def begin(self, raw: Any) -> None:
        if not raw.in_transaction:  # it refuses then, and DBUtils sends nothing at all
            raw.start_transaction()

    def descriptor(self, raw: Any) -> int | None:
        sock = getattr(getattr(raw, "_socket", None), "sock", None)
        return None if sock is None else int(sock.fileno())

    def alive_at_rest(self, raw: Any) -> bool:
        return not self._encrypted(raw) and super().alive_at_rest(raw)

    def out_of_step(self, raw: Any) -> bool:
        # In pure Python it takes no more from the system than it needs, so that has to be asked. Of its C extension, as
        # of mysqlclient, nothing can be seen.
        sock = getattr(getattr(raw, "_socket", None), "sock", None)
        if sock is None or raw.unread_result:
            return False
        if isinstance(sock, ssl.SSLSocket):
            return sock.pending() > 0
        if sock.fileno() < 0 or not readable(sock, 0):
            return False
        told = sock.recv(4, socket.MSG_PEEK)
        return len(told) > 0 and told[3:] != b"\0"  # the end of the link, and a goodbye, the driver tells by itself

    def _encrypted(self, raw: Any) -> int:
        sock = getattr(getattr(raw, "_socket", None), "sock", None)
        return sock.pending() if isinstance(sock, ssl.SSLSocket) else 0

    def session(self, raw: Any) -> int | None:
        session: int | None = raw.connection_id
        return session

    def is_open(self, raw: Any) -> bool:
        if hasattr(raw, "_cmysql"):
            return raw._cmysql is not None and bool(raw._cmysql.connected())
        number = self.descriptor(raw)
        return number is not None and number >= 0

    def unread(self, raw: Any) -> bool:
        return bool(raw.unread_result) or _has_more(raw)

    def skip_few(self, raw: Any) -> bool:
        if raw.unread_result:
            try:
                raw.get_rows(Allowance().rows, raw=True)
            except Exception as error:
                if not self.in_step(error):  # else it is how the result ends
                    raise
                raw.unread_result = False
        return not self.unread(raw)

    def read_out(self, raw: Any, most: float) -> bool:
        while True:
            while raw.unread_result:
                most -= _bytes_of(raw.get_rows(count=CHUNK, raw=True)[0])
                if most < 0:
                    return False
            if not _has_more(raw):
                return True
            # As its cursors do it: a new one would send a ping into the middle of the answer.
            if hasattr(raw, "_cmysql"):
                raw.next_result()
            else:
                raw._handle_result(raw._socket.recv())

    def skip_killed(self, raw: Any) -> None:
        try:
            self.read_out(raw, math.inf)
        except Exception as error:
            if not self.in_step(error):  # else it is how the result ends
                raise
        raw.unread_result = False

    def disguised(self, error: OffloadError) -> OffloadError:
        other: Any = super().disguised(error)
        other.errno, other.msg, other.sqlstate = error.args[0], error.args[-1], None
        return other  # type: ignore[no-any-return]  # what it was, with what the driver's errors have besides

    def ping(self, raw: Any) -> None:
        raw.ping(reconnect=False)


# Its classes of cursors that differ in what their rows are, and when they are read, alone.
_PLAIN_CURSOR = re.compile(r"C?MySQLCursor(Buffered)?(Raw|Dict)?")

# What mysql-connector-python says, before it sends anything, of a link that its ping has found broken.
_UNAVAILABLE = "MySQL Connection not available"

# What its cursors say when they are closed.
_UNCONNECTED = "Cursor is not connected"

# Its errors of answers that have not come in time.
_TIMEOUTS = frozenset({"ReadTimeoutError", "WriteTimeoutError"})

# Where it sends and reads, and what else its connections do on the way to a statement.
_WIRE_FILES = frozenset({"connection.py", "connection_cext.py", "network.py", "protocol.py"})
_LOCAL_STEPS = frozenset({"cursor", "handle_unread_result", "prepare_for_mysql"})

OUT_OF_SYNC = 2014

# What the client libraries refuse before anything is sent, which leaves the link as it was: 2014 commands out of sync,
# 2019 unknown character set, the others of the use of prepared statements.
_NOTHING_SENT = frozenset({OUT_OF_SYNC, 2019, 2030, 2031, 2033, 2034, 2036, 2053, 2056})

# Codes that MariaDB's client library has besides.
_LIBMARIADB = range(5000, 6000)

# Links of a parent process that nobody may close here.
_parents: list[Any] = []


def _streaming(raw: Any) -> Any:
    """Return the cursor of mysqlclient's that has rows of the connection's to read, None if there is none."""
    cursor = getattr(raw, "_streaming", None)
    return None if cursor is None or cursor._result is None else cursor


def _has_more(raw: Any) -> bool:
    """Tell whether further results follow; older versions of mysqlclient cannot."""
    more = getattr(raw, "more_results", None)  # a method of mysqlclient's, a property of mysql-connector's in C
    if more is None:
        more = getattr(raw, "have_next_result", False)  # of mysql-connector's in Python
    return bool(more() if callable(more) else more)


def _bytes_of(rows: Any) -> int:
    """Return about how many bytes the rows took that were read."""
    return sum(len(value) if isinstance(value, (bytes, bytearray, str)) else 8 for row in rows for value in row)


def _skip_few(cursor: Any) -> bool:
    """Read what is left of a result of mysqlclient's if it is little, and tell whether that was all."""
    if cursor._result is None:
        return True
    allowance = Allowance()
    for _ in range(allowance.rows + 1):
        try:
            if not cursor._fetch_row(1):
                return True
        except Exception:  # which ends it, too
            return True
        if allowance.seconds < 0:
            break
    return False


def _own_frames(error: BaseException, own: Callable[[CodeType], bool]) -> Iterator[CodeType]:
    """Give the functions that an error has come through, with those of the errors that the driver made it from."""
    seen: BaseException | None = error
    while seen is not None:
        trail = seen.__traceback__
        # What the driver has caught begins with the driver; else it is what the user was handling.
        if seen is not error and (trail is None or not own(trail.tb_frame.f_code)):
            return
        while trail is not None:
            yield trail.tb_frame.f_code
            trail = trail.tb_next
        seen = seen.__context__


def _socket_of(number: int) -> tuple[int, int] | None:
    """Tell sockets apart that have the same number one after the other."""
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_own(number: int, raw: Any) -> bool:
    """Tell whether the number is still that of the connection's own socket.

    mysqlclient goes on to tell the number of a link that it has lost and closed, which may be anybody's by then.
    """
    own = getattr(raw, "_own_socket", None)
    return own is not None and _socket_of(number) == own


def _text(value: Any) -> str:
    return bytes(value).decode() if isinstance(value, (bytes, bytearray)) else str(value)


MYSQLCLIENT, MYSQL_CONNECTOR = MySQLClientDriver(), MySQLConnectorDriver()

OTHERS: dict[str, Driver] = {"MySQLdb": MYSQLCLIENT, "mysql": MYSQL_CONNECTOR}
"""Drivers by the name of the package that their connections come from."""
