"""The results of PyMySQL's connections, read faster.

Owns how the bytes of a result become Python values: definitions of columns that are known are compared instead of
parsed, rows are decoded by the bufferful, and now and then other threads get the interpreter. Every packet out of the
ordinary is left to PyMySQL. What is known of columns is ``pymysql_columns.py``'s.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import MutableSequence
from typing import Any

import pymysql
from pymysql.connections import MySQLResult
from pymysql.constants import CR, SERVER_STATUS

from .pymysql_columns import Columns, known

# Rows after which other threads get their turn, and the seconds that they have to take it. Without, a waiting event
# loop gets it only after the interpreter's switch interval, 5 ms, and only as one of all that wait: while four tasks
# fetch 100,000 rows each, its p99 lag fell from 20 ms to 5 ms. A turn costs some 70 us, what 20 rows cost.
TURN_ROWS = 250
TURN_SECONDS = 2e-5

_HEADER = 4
_END = 5  # bytes of the packet that ends column definitions or rows
_EOF, _ERROR, _NULL, _TWO_BYTES, _WHOLE = 0xFE, 0xFF, 0xFB, 0xFC, 0xFFFFFF

Rows = MutableSequence[tuple[Any, ...]]

# The published types show nothing of PyMySQL's inside.
_Result: Any = MySQLResult


class FastResult(_Result):  # type: ignore[misc]
    """A result that reads its rows from whole bufferfuls."""

    connection: Any
    affected_rows: Any
    rows: Any
    _columns: Columns
    unbuffered_active = False  # the finaliser asks for it, also where making the result failed
    ahead: deque[tuple[Any, ...]] | None = None
    """Rows of an unbuffered result that were decoded with others and not fetched yet."""
    _in_a_row = 0

    def read(self) -> None:
        """Read the whole answer to a statement, as PyMySQL does."""
        connection = self.connection
        try:
            if connection._rfile is None:  # it was closed; PyMySQL says so
                super().read()
                return
            connection._limit(connection._read_timeout)
            buffered = _peek(connection)
            number, size = _column_count(buffered, connection._next_seq_id)
            if not number:
                super().read()
                return
            connection._rfile.read(size)
            connection._next_seq_id = (connection._next_seq_id + 1) % 256
            self.field_count = number
            self._describe(buffered[size:] or _peek(connection))
            self._read_rowdata_packet()
        finally:
            self.connection = None

    def _get_descriptions(self) -> None:
        self._describe(_peek(self.connection))

    def _describe(self, buffered: bytes) -> None:
        """Read the definitions of the columns; *buffered* is what the reader's buffer begins with."""
        connection, number, sequence = self.connection, self.field_count, self.connection._next_seq_id
        # Results of one number of columns, with one first column, are few; which one it is tells a comparison.
        first = _HEADER + int.from_bytes(buffered[:3], "little")
        key = (buffered[:first], number, sequence, connection.encoding, connection.use_unicode)
        for columns in known.kept.get(key, ()):
            if buffered.startswith(columns.raw) and columns.fit(connection.decoders):
                size = len(columns.raw)
                if _is_end(buffered, size, (sequence + number) % 256):
                    _skip(connection, size + _HEADER + _END, number + 1)
                else:
                    _skip(connection, size, number)
                    end = connection._read_packet()
                    assert end.is_eof_packet(), "Protocol error, expecting EOF"
                self.fields, self.description = list(columns.fields), columns.description
                self.converters = list(columns.converters)
                self._columns = columns
                return
        raw = _packets(buffered, number, sequence)
        super()._get_descriptions()
        self._columns = columns = Columns(raw, self, connection.decoders)
        if raw:
            known.keep(key, columns)

    def _read_rowdata_packet(self) -> None:
        connection = self.connection
        rows: list[tuple[Any, ...]] = []
        while True:
            before = len(rows)
            end = _whole_rows(connection, self._columns, rows, TURN_ROWS - self._in_a_row)
            self._in_a_row += len(rows) - before
            if self._in_a_row >= TURN_ROWS:
                self._give_turn()
            elif end is not None:
                _skip(connection, _HEADER + _END)
                self.warning_count, status = struct.unpack("<hh", end)
                self.has_next = status & SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS
                break
            else:  # a row that is not whole, or no row
                packet = connection._read_packet()
                if self._check_packet_is_eof(packet):
                    break
                rows.append(self._read_row_from_packet(packet))
        self.connection = None
        self.affected_rows = len(rows)
        self.rows = tuple(rows)

    def _read_rowdata_packet_unbuffered(self) -> Any:
        if not self.unbuffered_active:
            return None
        connection, ahead = self.connection, self.ahead
        if ahead is None:
            ahead = self.ahead = deque()
        if not ahead and connection._rfile is not None:
            connection._limit(connection._read_timeout)
            if self._in_a_row >= TURN_ROWS:
                self._give_turn()
            # Those that are there, and never more: the next ones may be long in coming, or never come. What the user's
            # own converters do is done when the row is wanted.
            most = 1 if self._columns.own else TURN_ROWS - self._in_a_row
            _whole_rows(connection, self._columns, ahead, most)
            self._in_a_row += len(ahead)
        if not ahead:
            return super()._read_rowdata_packet_unbuffered()
        self.affected_rows, self.rows = 1, (ahead.popleft(),)
        return self.rows[0]

    def _give_turn(self) -> None:
        """Let other threads have the interpreter."""
        self._in_a_row = 0
        if threading.active_count() > 1:
            time.sleep(TURN_SECONDS)


def _peek(connection: Any) -> bytes:
    """Return what is in the reader's buffer; if it is empty, wait for the server to fill it."""
    try:
        return connection._rfile.peek()  # type: ignore[no-any-return]
    except OSError as error:
        connection._force_close()
        raise pymysql.err.OperationalError(
            CR.CR_SERVER_LOST, f"Lost connection to MySQL server during query ({error})"
        ) from None
    except BaseException:  # a signal's handler raised it, and the next statement would get this one's result
        connection._force_close()
        raise


def _skip(connection: Any, size: int, packets: int = 1) -> None:
    """Take packets out of the reader's buffer."""
    connection._rfile.read(size)
    connection._next_seq_id = (connection._next_seq_id + packets) % 256


def _column_count(buffered: bytes, sequence: int) -> tuple[int, int]:
    """Return how many columns a result has that begins here, and the size of the packet; 0 if it is not as usual."""
    head, number = buffered[:_HEADER], buffered[_HEADER : _HEADER + 3]
    if head == bytes((1, 0, 0, sequence)) and number and number[0] < _NULL:
        return number[0], _HEADER + 1
    if head == bytes((3, 0, 0, sequence)) and len(number) == 3 and number[0] == _TWO_BYTES:
        return int.from_bytes(number[1:], "little"), _HEADER + 3
    return 0, 0


def _is_end(buffered: bytes, position: int, sequence: int) -> bool:
    """Tell whether here stands, as usual, what ends column definitions or rows."""
    body = position + _HEADER
    return (
        len(buffered) >= body + _END
        and buffered[position:body] == bytes((_END, 0, 0, sequence))
        and buffered[body] == _EOF
    )


def _packets(buffered: bytes, number: int, sequence: int) -> bytes:
    """Return the bytes of the next packets; nothing if they are not all there or not as usual."""
    position = 0
    for _ in range(number):
        header = buffered[position : position + _HEADER + 1]
        if len(header) <= _HEADER or header[3] != sequence or header[_HEADER] == _ERROR:
            return b""
        sequence = (sequence + 1) % 256
        position += _HEADER + int.from_bytes(header[:3], "little")
    return buffered[:position] if position <= len(buffered) else b""


def _whole_rows(connection: Any, columns: Columns, rows: Rows, most: int) -> bytes | None:
    """Decode the rows that are whole in the reader's buffer, and take them out of it.

    A row that is not as usual is left to PyMySQL, and so is one with a value that cannot be decoded. Converters of the
    user's are called once for each value, as PyMySQL does, and their errors pass.

    :param most: how many rows to decode
    :return: the body, after its first byte, of the packet that ends the rows, if it stands there next
    """
    buffered = _peek(connection)
    available = len(buffered)
    sequence = connection._next_seq_id
    decoders, own = columns.decoders, columns.own
    start = 0
    try:
        for _ in range(most):
            position = start + _HEADER
            if position >= available:
                return None
            length = buffered[start] | buffered[start + 1] << 8 | buffered[start + 2] << 16
            end = position + length
            kind = buffered[position]
            if (
                end > available
                or buffered[start + 3] != sequence
                or (kind >= _EOF and (kind == _ERROR or length < 9))
                or not 0 < length < _WHOLE
            ):
                return buffered[position + 1 : end] if _is_end(buffered, start, sequence) else None
            if own:
                values = _values(buffered, position, end, len(decoders))
                if values is None:
                    return None
                start, sequence = end, (sequence + 1) % 256  # PyMySQL has taken the packet before it converts
                pairs = zip(decoders, values, strict=True)
                rows.append(tuple([None if value is None else decode(value) for decode, value in pairs]))
                continue
            row: list[Any] = []
            try:
                for decode in decoders:  # a value that ends beyond the row is found out after the last
                    size = buffered[position]
                    begin = position + 1
                    if size >= _NULL:
                        if size == _NULL:
                            row.append(None)
                            position = begin
                            continue
                        size, begin = _long(buffered, begin, size)
                    position = begin + size
                    row.append(decode(buffered[begin:position]))
            except Exception:  # a value that is not as usual, or the end of the buffer before the last column
                return None
            if position != end:
                return None  # more columns than announced, or fewer
            rows.append(tuple(row))
            start = end
            sequence = (sequence + 1) % 256
        return None
    finally:
        connection._rfile.read(start)
        connection._next_seq_id = sequence


def _long(buffered: bytes, position: int, kind: int) -> tuple[int, int]:
    """Return the length of a value that takes more than a byte to say, and where the value begins.

    :raises IndexError: if it is none
    """
    end = position + (2, 3, 8)[kind - _TWO_BYTES]
    return int.from_bytes(buffered[position:end], "little"), end


def _values(buffered: bytes, position: int, end: int, number: int) -> list[bytes | None] | None:
    """Return the values of a row of so many columns, None if it is not as usual."""
    values: list[bytes | None] = []
    for _ in range(number):
        if position >= end:
            return None
        size = buffered[position]
        position += 1
        if size == _NULL:
            values.append(None)
            continue
        if size == _ERROR:
            return None
        if size > _NULL:
            size, position = _long(buffered, position, size)
        values.append(buffered[position : position + size])
        position += size
    return values if position == end else None
