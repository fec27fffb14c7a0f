"""mysqlclient's connection, whose statements may share a thread.

Owns which connections can do that, and how they wait: a statement is sent, others go on until its answer has arrived,
and only then mysqlclient reads it. What has not arrived to its end would keep the thread, so it is read in another one.
"""

from __future__ import annotations

import functools
import select
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from pymysql.constants import SERVER_STATUS

from ..bridge.reactor import TAKEN_AT_ONCE, current_reactor

T = TypeVar("T")

# Bytes of an answer that are looked at before it is read. The server sends so many at a time.
LOOKED_AT = 16384

# Settings that hide what is sent, or let mysqlclient wait for more than an answer.
_IN_THE_WAY = ("compress", "read_timeout", "local_infile", "read_default_file", "read_default_group")

# Where the functions come from that convert values and neither wait nor hold locks.
_CONVERTERS = frozenset({"MySQLdb.converters", "MySQLdb.times", "builtins", "decimal"})

# Stands before mysqlclient's own class, which is not imported here.
_Own: Any = object


class PatientConnection(_Own):  # type: ignore[misc]  # it is typed as what comes after it at run time
    """What calls on a connection of mysqlclient's do where they share a thread."""

    _is_there: bool
    """Whether the answer had arrived to its end before it was read, with no other result after it."""
    usual_converters: tuple[dict[Any, Any], dict[Any, Any]]
    """The converters that it came with."""
    hides: bool
    """Whether nothing can be told of its answers: they are encrypted."""

    def query(self, query: bytes | bytearray | str) -> None:
        """Send a statement, and read the beginning of the answer."""
        self._is_there = False
        reactor = current_reactor()
        if reactor is None or len(query) > TAKEN_AT_ONCE:
            self._read(partial(super().query, query))
            return
        self.send_query(bytes(query) if isinstance(query, bytearray) else query)
        reactor.wait(self, select.POLLIN, None)
        answer = _arrived(self.fileno())
        self.hides = self.hides or (len(answer) > 3 and answer[3] != 1)
        self._is_there = not answer or is_whole(answer)
        self._read(self.read_query_result)

    def store_result(self) -> Any:
        """Read the rest of the answer."""
        return self._read(super().store_result)

    def next_result(self) -> Any:
        """Read the beginning of the next result, if there is one."""
        return self._read(super().next_result)

    def commit(self) -> None:
        """Commit, as the client library does."""
        self.query(b"COMMIT")

    def rollback(self) -> None:
        """Roll back, as the client library does."""
        self.query(b"ROLLBACK")

    def autocommit(self, on: Any) -> None:
        """Set whether each statement is a transaction of its own."""
        self._is_there = False
        self._read(partial(super().autocommit, on))

    def select_db(self, database: Any) -> None:
        """Go to another database."""
        self._is_there = False
        self._read(partial(super().select_db, database))

    def _read(self, function: Callable[[], T]) -> T:
        """Call what waits for the server unless the answer is there; it shall not keep a shared thread."""
        reactor = None if self._is_there else current_reactor()
        return function() if reactor is None else reactor.aside(function)


def make_patient(raw: Any, settings: Mapping[str, Any]) -> None:
    """Let calls on a connection of mysqlclient's share a thread, if it is mysqlclient's own and nothing is in the way.

    :param settings: what it was opened with
    """
    own: Any = getattr(sys.modules.get("MySQLdb.connections"), "Connection", None)
    if raw.__class__ is not own or not hasattr(raw, "send_query") or any(map(settings.get, _IN_THE_WAY)):
        return
    if all(map(_is_plain, (*raw.converter.values(), *raw.encoders.values()))):
        raw.__class__ = _patient(own)
        raw._is_there = raw.hides = False
        raw.usual_converters = _copied(raw)


def _is_plain(converter: Any) -> bool:
    """Tell whether nothing of the user's converts: a function, or several by the flags of columns."""
    if isinstance(converter, (list, tuple)):
        return all(_is_plain(function) for _, function in converter)
    return getattr(converter, "__module__", None) in _CONVERTERS


def converts_as_usual(raw: Any) -> bool:
    """Tell whether a patient connection has the converters that it came with."""
    try:
        return bool(raw.usual_converters == (raw.converter, raw.encoders))
    except Exception:  # a converter of the user's that cannot be compared
        return False


def _copied(raw: Any) -> tuple[dict[Any, Any], dict[Any, Any]]:
    converter = {kind: value[:] if isinstance(value, list) else value for kind, value in raw.converter.items()}
    return converter, dict(raw.encoders)


@functools.cache
def _patient(own: type) -> type:
    return type(own.__name__, (PatientConnection, own), {"__slots__": (), "__module__": own.__module__})


def _arrived(descriptor: int) -> bytes:
    """Look at what can be read, or the beginning of it, and leave it there; it is ready to be read."""
    if socket.getdefaulttimeout() is not None:  # a socket would be made one that never waits
        return b"\0"
    link = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=descriptor)  # whatever it is
    try:
        return link.recv(LOOKED_AT, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:  # mysqlclient will meet the same
        return b""
    finally:
        link.detach()


def is_whole(answer: bytes) -> bool:
    """Tell whether the bytes are an answer to its end, after which no other result follows.

    The protocol is told in MySQL's and MariaDB's documentation: packets with their length and number before them, the
    first of which says whether it is an error, a success, or how many definitions of columns follow; after these come
    the rows, up to a packet that ends them.
    """
    size = len(answer)
    if size < 5 or answer[3] != 1:
        return False
    kind, at = answer[4], _after(answer, 0)
    if kind == 0xFF:  # an error; MariaDB tells of its progress by one that has no number
        return at == size and answer[5:7] != b"\xff\xff"
    if kind == 0:
        return at == size and _is_last(answer, _past_number(answer, _past_number(answer, 5)))
    if kind > 250:  # a file is asked for, or there are more columns than that
        return False
    for _ in range(kind):
        at = _after(answer, at)
    if _ends(answer, at) and answer[at] == 5:  # the end of the definitions, which servers may leave out
        at = _after(answer, at)
    while at + 4 < size:
        after = _after(answer, at)
        if answer[at + 4] == 0xFF:
            return after == size
        if _ends(answer, at):
            return after == size and _is_last(answer, at + 7)
        at = after
    return False


def _after(answer: bytes, at: int) -> int:
    """Return where the packet ends that begins there."""
    return at + 4 + int.from_bytes(answer[at : at + 3], "little")


def _ends(answer: bytes, at: int) -> bool:
    """Tell whether the packet that begins there ends a series, rather than to be a row."""
    return answer[at + 4 : at + 5] == b"\xfe" and answer[at] < 9 and answer[at + 1 : at + 3] == b"\0\0"


def _past_number(answer: bytes, at: int) -> int:
    """Return where the number ends that begins there, whose first byte says how long it is."""
    return at + {0xFC: 3, 0xFD: 4, 0xFE: 9}.get(answer[at] if at < len(answer) else 0, 1)


def _is_last(answer: bytes, at: int) -> bool:
    """Tell whether the status that stands there says that no other result follows."""
    status = int.from_bytes(answer[at : at + 2], "little")
    return at + 2 <= len(answer) and not status & SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS
