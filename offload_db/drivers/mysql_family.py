"""What drivers of MySQL's protocol other than PyMySQL have in common.

Owns what their errors say, and how a link is told apart by its socket. Where nothing can be seen, the
careful answer stands: a transaction may be open, a fetch may wait.
"""
# ruff: noqa: D102  # an override does what the method that it overrides says

from __future__ import annotations

import abc
import math
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import CodeType
from typing import Any, ClassVar

from ..errors import OffloadError
from .base import CLIENT_CODES, Identity
from .cursor_classes import CursorArguments, form, refusal
from .mysql_server import FAREWELLS, MySQLServerDriver

# Rows that are read at once where nobody wants them.
CHUNK = 500

# Seconds that connecting may take where the settings do not say.
CONNECT_TIMEOUT = 10


class MySQLFamilyDriver(MySQLServerDriver):
    """A driver of MySQL's protocol, by what such drivers have in common."""

    package: ClassVar[str]
    timeouts: ClassVar[tuple[str, ...]]
    """Its names for the seconds that connecting, reading and writing may take."""

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
        return not any(map(self._is_wire, _own_frames(error, self.defines)))

    def defines(self, code: CodeType) -> bool:
        """Tell whether the driver's files define a function."""
        return f"{os.sep}{self.package.replace('.', os.sep)}{os.sep}" in code.co_filename

    @abc.abstractmethod
    def _is_wire(self, code: CodeType) -> bool:
        """Tell whether who is in a function may have sent something, or may be reading an answer."""

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
        raw._own_socket = None if number is None else socket_of(number)
        return super().identity(raw)

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
    def descriptor(self, raw: Any) -> int | None:
        """Return the number of the link's socket, None where it cannot be had."""

    def sees_rest(self, raw: Any) -> bool:
        return self.descriptor(raw) is not None

    def alive_at_rest(self, raw: Any) -> bool:
        # A server at rest sends nothing but the end of the connection, so anything to read is bad news.
        number = self.descriptor(raw)
        if number is None:
            return self.is_open(raw)
        if not is_own(number, raw):
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
        if not is_own(number, raw):
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
        PARENTS_LINKS.append(raw)

    def opening(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {self.timeouts[0]: CONNECT_TIMEOUT, **kwargs}

    def bounded(self, kwargs: dict[str, Any], seconds: float) -> dict[str, Any]:
        return {**kwargs, **dict.fromkeys(self.timeouts, max(1, math.ceil(seconds)))}


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
PARENTS_LINKS: list[Any] = []


def has_more(raw: Any) -> bool:
    """Tell whether further results follow; older versions of mysqlclient cannot."""
    more = getattr(raw, "more_results", None)  # a method of mysqlclient's, a property of mysql-connector's in C
    if more is None:
        more = getattr(raw, "have_next_result", False)  # of mysql-connector's in Python
    return bool(more() if callable(more) else more)


def bytes_of(rows: Any) -> int:
    """Return about how many bytes the rows took that were read."""
    return sum(len(value) if isinstance(value, (bytes, bytearray, str)) else 8 for row in rows for value in row)


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


def socket_of(number: int) -> tuple[int, int] | None:
    """Tell sockets apart that have the same number one after the other."""
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_own(number: int, raw: Any) -> bool:
    """Tell whether the number is still that of the connection's own socket.

    mysqlclient goes on to tell the number of a link that it has lost and closed, which may be anybody's by then.
    """
    own = getattr(raw, "_own_socket", None)
    return own is not None and socket_of(number) == own
