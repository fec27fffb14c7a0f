"""PyMySQL's connection, with a faster way to read results.

Owns which connections read faster, and how they read and write their sockets. How the bytes of a result become Python
values is ``pymysql_results.py``'s; everything else is left to PyMySQL.
"""

from __future__ import annotations

import functools
import io
import logging
import select
import socket
import ssl
from collections import deque
from typing import Any

import pymysql
from pymysql.connections import Connection, MySQLResult
from pymysql.constants import COMMAND, CR

from ..bridge.reactor import TAKEN_AT_ONCE, PatientIO, current_reactor, make_patient, send_all
from .pymysql_results import FastResult

logger = logging.getLogger("offload_db")

# Versions whose internals are as this file expects them.
KNOWN = ((1, 1), (1, 2))
# Bytes that a connection's reader takes from the system at once: Python's own 8 KB, before 3.14, are 160 rows of five
# columns. Before each it waits in its thread, which others may share, and the row that is cut in two at the end is left
# to PyMySQL. Column definitions that are to be kept have to fit as well, and the server sends 16 KB at a time.
BUFFER = 32768

# What is said of a connection that holds bytes which the next statement would take for its answer.
OUT_OF_STEP = "the server has sent more than it was asked for, so the connection was closed and nothing was sent"

_GOODBYE = b"\1\0\0\0" + bytes((COMMAND.COM_QUIT,))
_UNKNOWN = object()

# The published types show nothing of PyMySQL's inside.
_Connection: Any = Connection


class FastConnection(_Connection):  # type: ignore[misc]
    """A PyMySQL connection that behaves the same and spends less time on results."""

    _current_timeout: float | None
    _rfile: io.BufferedReader | None
    looks_ahead = False
    """Whether it reads from a socket of Python's own: one of the user's may know no more than PyMySQL asks for."""
    news: Any = None
    """Tells whether anything can be read from the system, without waiting; None where that cannot be asked."""

    def connect(self, sock: Any = None) -> None:
        """Connect, as PyMySQL does, by a reader that may share its thread."""
        super().connect(sock)
        self._adopt_reader()

    def _adopt_reader(self) -> None:
        reader = self._rfile
        self.looks_ahead = reader is not None and make_patient(reader)
        if reader is not None and self.looks_ahead and not arrived(self):
            self._rfile = io.BufferedReader(reader.detach(), BUFFER)
        self.news = None
        if self.looks_ahead and hasattr(select, "poll"):  # which Windows does not have
            self.news = select.poll()
            self.news.register(self._sock, select.POLLIN)

    def _limit(self, seconds: float | None) -> None:
        # PyMySQL 1.2 keeps in mind what it has set, and asks the system only for changes.
        if getattr(self, "_current_timeout", _UNKNOWN) != seconds:
            self._sock.settimeout(seconds)
            if hasattr(self, "_current_timeout"):
                self._current_timeout = seconds

    def _write_bytes(self, data: bytes) -> None:
        # A packet with the number 0 begins a command: what was asked before has been read to its end.
        if data[3] == 0 and data != _GOODBYE:
            told = held(self)
            if not told and self.news is not None and self.news.poll(0):
                told = arrived(self)
            if told and not is_farewell(told):
                self._force_close()
                raise pymysql.err.OperationalError(CR.CR_SERVER_GONE_ERROR, OUT_OF_STEP)
        reactor = current_reactor()
        if reactor is None:
            super()._write_bytes(data)
            return
        try:
            self._limit(self._write_timeout)
            if data[3] == 0 and len(data) <= TAKEN_AT_ONCE:
                self._sock.sendall(data)
            else:
                send_all(reactor, self._sock, data)
        except OSError as error:
            self._force_close()
            raise pymysql.err.OperationalError(
                CR.CR_SERVER_GONE_ERROR, f"MySQL server has gone away ({error!r})"
            ) from None

    def _create_ssl_ctx(self, sslp: Any) -> Any:
        # Without settings it verifies nothing, and all connections can share the one context. To make one PyMySQL
        # reads the system's certificates: 20 ms that no other thread can use.
        if not isinstance(sslp, dict) or sslp:
            return super()._create_ssl_ctx(sslp)
        if not _bare_context:
            _bare_context.append(super()._create_ssl_ctx(sslp))
        return _bare_context[0]

    def _read_query_result(self, unbuffered: bool = False) -> Any:
        # Compression is of a PyMySQL to come: what is in the buffer are no rows yet.
        if not self.looks_ahead or getattr(self, "_compression", None):
            return super()._read_query_result(unbuffered)
        self._result = None
        result = FastResult(self)
        if unbuffered:
            try:
                result.init_unbuffered_query()
            except BaseException:
                result.unbuffered_active, result.connection = False, None
                raise
        else:
            result.read()
        self._result = result
        if result.server_status is not None:
            self.server_status = result.server_status
        return result.affected_rows


def is_known() -> bool:
    """Tell whether PyMySQL's internals are as this file expects them; says so once, in the log, if they are not."""
    return not _strange()


@functools.cache
def _strange() -> bool:
    missing = [
        f"{owner.__name__}.{name}"
        for owner, names in _RELIED_ON.items()
        for name in names
        if not callable(getattr(owner, name, None))
    ]
    if pymysql.VERSION[:2] in KNOWN and not missing:
        return False
    logger.info(
        "PyMySQL %s is not one that offload_db knows from within (%s): results are read at PyMySQL's own speed",
        pymysql.__version__,
        ", ".join(missing) or "version",
    )
    return True


_RELIED_ON: dict[type, tuple[str, ...]] = {
    Connection: ("_create_ssl_ctx", "_force_close", "_read_packet", "_read_query_result", "_write_bytes", "connect"),
    MySQLResult: ("_check_packet_is_eof", "_get_descriptions", "_read_row_from_packet", "_read_rowdata_packet", "read"),
}


def connect(**kwargs: Any) -> FastConnection:
    """Connect, as :func:`pymysql.connect` does."""
    return FastConnection(**kwargs)


def fast_creator(creator: Any) -> Any:
    """Return what makes faster connections where *creator* is PyMySQL's own way to make them, else *creator* itself."""
    own = creator is pymysql or creator is Connection
    return connect if own and pymysql.connect is Connection and is_known() else creator


def upgrade(raw: Any) -> None:
    """Make a faster connection of one that PyMySQL has made."""
    if type(raw) is Connection and is_known():
        hastened: Any = raw
        hastened.__class__ = FastConnection
        hastened._adopt_reader()


_bare_context: list[ssl.SSLContext] = []


def arrived(connection: Any) -> bytes:
    """Return what has arrived over a connection and was not read, or the beginning of it; does not wait."""
    sock, peek = connection._sock, getattr(connection._rfile, "peek", None)
    if peek is None:  # the user's own kind of socket
        return b""
    before = sock.gettimeout()
    sock.settimeout(0.0)
    try:
        return bytes(peek())
    except OSError:  # of TLS: part of a record has arrived
        return b""
    finally:
        sock.settimeout(before)


def held(connection: Any) -> bytes:
    """Return what was taken from the system and not read, without asking the system for more.

    :return: what is in the reader's buffer; a "?" if there is something in the TLS layer alone
    """
    reader, sock = connection._rfile, connection._sock
    buffered = b""
    if type(reader) is io.BufferedReader and type(reader.raw) in _OUR_KINDS:
        # A look into its buffer would fill it first, if it is empty.
        raw: Any = reader.raw
        kind, raw.__class__ = raw.__class__, _Dry
        try:
            buffered = reader.peek()
        finally:
            raw.__class__ = kind
    if not buffered and isinstance(sock, ssl.SSLSocket) and sock.pending():
        return b"?"
    return buffered


def is_farewell(told: bytes) -> bool:
    """Tell whether what was read is no answer to a command: the server says goodbye, and PyMySQL will say so."""
    return told[3:4] == b"\0"  # the number of the packet


class _Dry(socket.SocketIO):
    """What a buffered reader reads from while its buffer is looked into."""

    # Takes a buffer and reads nothing, as if nothing had arrived. Not in Python: each statement comes here twice.
    readinto: Any = deque[Any](maxlen=0).append


_OUR_KINDS = (socket.SocketIO, PatientIO)
