"""What is left of an answer of PyMySQL's, which nobody is going to fetch.

Owns how it is read to its end without converting a value, and how far.
"""

from __future__ import annotations

import select
import socket
from typing import Any

import pymysql
from pymysql.constants import ER

from . import pymysql_connection
from .base import DrainBudget, pymysql_code


def skip(result: Any, connection: Any, allowance: DrainBudget) -> bool:
    """Read the rest of a result as far as it is allowed; False if there is more."""
    while result.unbuffered_active:
        if not allowance.rows or not _arrives(connection, allowance.seconds):
            return False
        skip_row(result, connection)
        allowance.rows -= 1
    return True


def skip_few(connection: Any, allowance: DrainBudget) -> bool:
    """Read what is left of an answer, the results that follow as well, as far as it is allowed; False if there is more.

    :raises pymysql.err.MySQLError: what the server says in the place of a result
    """
    while (result := connection._result) is not None:
        if not skip(result, connection, allowance):
            return False
        if not result.has_next:
            break
        if not _arrives(connection, allowance.seconds):
            return False
        connection.next_result(unbuffered=True)
    return True


def read_out(connection: Any, most: float) -> bool:
    """Read all that is left of an answer, the results that follow as well; False if that is more than *most* bytes.

    :raises pymysql.err.MySQLError: what the server says in the place of a result
    """
    first = connection._result
    while (result := connection._result) is not None:
        while result.unbuffered_active:
            most -= _skip_whole(connection) or skip_row(result, connection)
            if most < 0:
                return False
        if not result.has_next:
            break
        connection.next_result(unbuffered=True)
    if first is not None:
        first.reader = None  # not before: the cursor's finaliser would read on here
    return True


def _skip_whole(connection: Any) -> int:
    """Take the rows that have arrived whole out of the reader's buffer; returns their bytes."""
    if not getattr(connection, "looks_ahead", False) or getattr(connection, "_compression", None):
        return 0
    rows, size = whole_rows(pymysql_connection.arrived(connection))
    if rows:
        connection._rfile.read(size)
        connection._next_seq_id = (connection._next_seq_id + rows) % 256
    return size


def whole_rows(buffered: bytes) -> tuple[int, int]:
    """Return how many rows are whole in there, and their bytes; what ends a result, and an error, is none."""
    rows = start = 0
    while start + 4 < len(buffered):
        length, kind = int.from_bytes(buffered[start : start + 3], "little"), buffered[start + 4]
        end = start + 4 + length
        if end > len(buffered) or kind == 0xFF or (kind == 0xFE and length < 9) or length in (0, 0xFFFFFF):
            break
        rows, start = rows + 1, end
    return rows, start


def skip_row(result: Any, connection: Any) -> int:
    """Read one row without converting it, and end an unbuffered result at its end; returns its bytes."""
    try:
        packet = connection._read_packet()
    except pymysql.err.OperationalError as error:
        if pymysql_code(error) not in (
            ER.QUERY_TIMEOUT,
            ER.STATEMENT_TIMEOUT,
            ER.QUERY_INTERRUPTED,
        ):  # an end like any other
            raise
        result.unbuffered_active, result.connection = False, None
        return 0
    if result._check_packet_is_eof(packet):
        result.unbuffered_active, result.connection = False, None
    return len(packet.get_all_data())


def _arrives(connection: Any, seconds: float) -> bool:
    """Tell whether something to read arrives within the seconds."""
    if seconds <= 0:
        return False
    return bool(pymysql_connection.arrived(connection)) or readable(connection._sock, seconds)


def readable(sock: socket.socket, seconds: float) -> bool:
    """Tell whether a socket has something to read within the seconds."""
    try:
        poll = select.poll()
    except AttributeError:  # Windows
        return bool(select.select([sock], [], [], seconds)[0])
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
