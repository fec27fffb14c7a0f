"""What is known of the driver mysql-connector-python, in pure Python or with its C extension.

Owns the looks into its connections and cursors. It is not imported here: it is told by the module that its connections
come from.
"""

# ruff: noqa: D102  # an override does what the method that it overrides says

from __future__ import annotations

import math
import os
import re
import socket
import ssl
from types import CodeType
from typing import Any

from ..errors import OffloadError
from .base import (
    DrainBudget,
)
from .cursor_classes import CursorArguments
from .mysql_family import (
    _LOCAL_STEPS,
    _TIMEOUTS,
    _UNCONNECTED,
    _WIRE_FILES,
    CHUNK,
    MySQLFamilyDriver,
    bytes_of,
    has_more,
)
from .pymysql_unread import readable


class MySQLConnectorDriver(MySQLFamilyDriver):
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
        return name in _WIRE_FILES and code.co_name not in _LOCAL_STEPS and self.defines(code)

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
        return bool(raw.unread_result) or has_more(raw)

    def skip_few(self, raw: Any) -> bool:
        if raw.unread_result:
            try:
                raw.get_rows(DrainBudget().rows, raw=True)
            except Exception as error:
                if not self.in_step(error):  # else it is how the result ends
                    raise
                raw.unread_result = False
        return not self.unread(raw)

    def read_out(self, raw: Any, most: float) -> bool:
        while True:
            while raw.unread_result:
                most -= bytes_of(raw.get_rows(count=CHUNK, raw=True)[0])
                if most < 0:
                    return False
            if not has_more(raw):
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
MYSQL_CONNECTOR = MySQLConnectorDriver()
