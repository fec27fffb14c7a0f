"""What is known of the driver mysqlclient, 2.2 and later.

Owns the looks into its connections and cursors. It is not imported here: it is told by the module that its connections
come from.
"""

# ruff: noqa: D102  # an override does what the method that it overrides says

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any

from .base import (
    DrainBudget,
)
from .cursor_classes import OWN, CursorArguments, class_for
from .mysql_family import CHUNK, OUT_OF_SYNC, MySQLFamilyDriver, bytes_of, has_more
from .mysqlclient_connection import PatientConnection, converts_as_usual, make_patient
from .only_reads import only_reads


class MySQLClientDriver(MySQLFamilyDriver):
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
        return code.co_name in self._wire_methods and self.defines(code)

    def blocks(self, name: str) -> bool:
        return name not in self._local_methods

    def cursor_blocks(self, name: str) -> bool:
        return name not in ("mogrify", "setinputsizes", "setoutputsizes")

    def upgrade(self, raw: Any, settings: dict[str, Any]) -> None:
        make_patient(raw, settings)

    def shares(self, raw: Any) -> bool:
        return isinstance(raw, PatientConnection)

    def reads_as_usual(self, raw: Any) -> bool:
        return not raw.hides and converts_as_usual(raw)

    def cursor_shares(self, kind: type) -> bool:
        # The rows of the others are read as they are fetched.
        cursors = sys.modules["MySQLdb.cursors"]
        return kind is cursors.Cursor or kind is cursors.DictCursor

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
            # Versions before 2.3 do not tell whether further results follow, which only what may write has.
            raw._unasked = not hasattr(raw, "more_results") and not only_reads(cursor._executed)
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
        return _streaming(raw) is not None or has_more(raw) or getattr(raw, "_unasked", False)

    def finish(self, cursor: Any) -> None:
        raw = cursor.connection
        if _skip_few(cursor):
            super().finish(cursor)
            raw._unasked = False
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
                most -= bytes_of(rows)
                if most < 0:
                    return False
            if cursor is not None:
                cursor._result = None
            if raw.next_result() != 0:
                raw._unasked = False
                return True
            cursor, result = None, raw.use_result()


def _skip_few(cursor: Any) -> bool:
    """Read what is left of a result of mysqlclient's if it is little, and tell whether that was all."""
    if cursor._result is None:
        return True
    allowance = DrainBudget()
    for _ in range(allowance.rows + 1):
        try:
            if not cursor._fetch_row(1):
                return True
        except Exception:  # which ends it, too
            return True
        if allowance.seconds < 0:
            break
    return False


def _streaming(raw: Any) -> Any:
    """Return the cursor of mysqlclient's that has rows of the connection's to read, None if there is none."""
    cursor = getattr(raw, "_streaming", None)
    return None if cursor is None or cursor._result is None else cursor


class UsedResult:
    """What mysqlclient's ``connection.use_result()`` returns, told of as if it were a cursor that holds it."""

    def __init__(self, connection: Any, result: Any) -> None:
        self.connection = connection
        self._own = self._result = result

    def fetch_row(self, maxrows: int = 1, how: int = 0) -> Any:
        """Fetch some rows, all that are left for 0."""
        rows = self._own.fetch_row(maxrows, how)
        if len(rows) < (maxrows or len(rows) + 1):
            self._result = None
        return rows

    def discard(self) -> None:
        """Read what is left."""
        self._own.discard()
        self._result = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    _fetch_row = fetch_row
    _discard = discard


MYSQLCLIENT = MySQLClientDriver()
