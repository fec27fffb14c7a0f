"""What is left of an unbuffered result of PyMySQL's, which nobody is going to fetch.

Owns how it is read to its end without converting a value, and how far.
"""

from __future__ import annotations

import select
import socket
from typing import Any

import pymysql
from pymysql.constants import ER

from . import fast
from .driver_base import Allowance, pymysql_code


def skip(result: Any, connection: Any, allowance: Allowance) -> bool:
    """Read the rest of a result as far as it is allowed; False if there is more."""
    while result.unbuffered_active:
        if not allowance.rows or not _arrives(connection, allowance.seconds):
            return False
        skip_row(result, connection)
        allowance.rows -= 1
    return True


def skip_row(result: Any, connection: Any) -> None:
    """Read one row without converting it, and end an unbuffered result at its end."""
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
        return
    if result._check_packet_is_eof(packet):
        result.unbuffered_active, result.connection = False, None


def _arrives(connection: Any, seconds: float) -> bool:
    """Tell whether something to read arrives within the seconds."""
    if seconds <= 0:
        return False
    return bool(fast.arrived(connection)) or readable(connection._sock, seconds)


def readable(sock: socket.socket, seconds: float) -> bool:
    """Tell whether a socket has something to read within the seconds."""
    try:
        poll = select.poll()
    except AttributeError:  # Windows
        return bool(select.select([sock], [], [], seconds)[0])
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
