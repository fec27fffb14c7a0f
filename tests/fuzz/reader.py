"""Feeds the same bytes to PyMySQL's reader and to the faster one, and compares all that a program can see.

    python -m tests.fuzz.reader [--minutes 480] [--seed 1]

runs for so long, from the case of that number on, and prints each case that is read differently, made as small as it
gets. ``--seed N --minutes 0`` runs that one case.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
import warnings
from collections.abc import Callable
from contextvars import Context
from dataclasses import replace
from typing import Any

import pymysql.cursors
from pymysql.connections import Connection

from offload_db.bridge.reactor import Reactor
from offload_db.drivers import pymysql_columns
from offload_db.drivers.pymysql_connection import FastConnection

from .cases import CONVERSIONS, Case, Packet, case_of, smaller
from .wire import PATIENCE, Wire, connect

# Of PyMySQL 1.1.0 and 1.1.1: a result that fails while it is begun unbuffered goes on reading when it is collected.
READS_ON = pymysql.VERSION[:2] < (1, 2)

_LAST = (Packet(b"\1"), Packet(b"\3def\2db\1t\1t\1c\1c\x0c\x2d\0\x28\0\0\0\3\0\0\0\0\0"), Packet(b"\xfe\0\0\2\0"))
FOLLOWING = (*_LAST, Packet(b"\x017"), Packet(b"\xfe\0\0\2\0"))
"""What answers the statement that comes after a case."""


class _Shut(socket.SocketIO):
    """Reads nothing, so that a look into a buffered reader finds what is in it."""

    def readinto(self, buffer: Any) -> None:
        """Read nothing."""


def unread(connection: Any, wire: Wire) -> int:
    """Return how many of the bytes that were said the connection has not used."""
    raw = connection._rfile.raw
    kind, raw.__class__ = raw.__class__, _Shut
    try:
        buffered = len(connection._rfile.peek())
    finally:
        raw.__class__ = kind
    return wire.said - wire.received + buffered


def play(case: Case, kind: Any) -> list[Any]:
    """Read a case by a kind of connection; returns all that can be seen of it."""
    seen: list[Any] = []
    said = [*case.said(), *replace(case, answers=(FOLLOWING,), cut=None).said()]
    limits = {"read_timeout": PATIENCE} if case.shared else {}
    with Wire(said, case.pieces, ends=case.ends and not case.shared) as wire:
        connection = connect(
            kind,
            wire,
            charset=case.charset,
            use_unicode=case.use_unicode,
            conv=CONVERSIONS[case.conversion](),
            **limits,
        )
        cursors: list[Any] = []
        try:
            for number in range(len(said)):
                if number != 1:
                    cursors.append(connection.cursor(getattr(pymysql.cursors, case.cursor)))
                cursor = cursors[-1]
                broken = _read(cursor, f"statement {number}", case.fetches, seen)
                seen.append([connection.open, connection.server_status, connection._affected_rows])
                if broken and READS_ON and "SS" in case.cursor:
                    break
                if not connection.open:
                    break
                seen.append(_finish(connection))
                seen.append(("unread", left := unread(connection, wire) if connection.open else 0))
                if left:
                    break  # out of step: the faster reader sends nothing more, see test_leftover_bytes
        finally:
            abandon(connection, cursors)
    return [repr(item) for item in seen]


def _finish(connection: Any) -> Any:
    """Read what is left of results, as the next statement does before it is sent; returns the error."""
    try:
        if connection._result is not None and connection._result.unbuffered_active:
            connection._result._finish_unbuffered_query()
        while connection._result is not None and connection._result.has_next:
            connection.next_result()
    except Exception as error:
        return _told(error)
    return None


def abandon(connection: Any, cursors: list[Any]) -> None:
    """Let nothing read on when it is collected."""
    for cursor in cursors:
        cursor.connection = None
    for result in (connection._result, *(cursor._result for cursor in cursors)):
        if result is not None:
            result.unbuffered_active = False
    connection._result = None
    connection._force_close()


def _read(cursor: Any, statement: str, fetches: tuple[int, ...], seen: list[Any]) -> bool:
    """Run one statement to its end, and note what is to be seen; tells whether it failed."""
    try:
        seen.append(("execute", cursor.execute(statement)))
        more: bool | None = True
        while more:
            seen.append((cursor.description, cursor.rowcount, cursor.lastrowid))
            for size in (*fetches, 0):
                seen.append(_fetch(cursor, size))
                seen.append((cursor.rownumber, cursor.rowcount, cursor.warning_count))
            more = cursor.nextset()
    except Exception as error:
        seen.append(_told(error))
        if cursor._result is not None and cursor._result.unbuffered_active and cursor.connection.open:
            # The rows after one that cannot be converted.
            for _ in range(3):
                try:
                    seen.append(cursor.fetchone())
                except Exception as another:
                    seen.append(_told(another))
                    if not cursor.connection.open:
                        break
        return True
    return False


def _told(error: Exception) -> tuple[Any, ...]:
    # A converter's own error, or PyMySQL's: the class and the arguments are what a program sees.
    return type(error), error.args


def _fetch(cursor: Any, size: int) -> Any:
    if size == 1:
        return cursor.fetchone()
    return cursor.fetchmany(size) if size else cursor.fetchall()


class _InHub:
    """A call in a shared thread."""

    context: Context | None = None

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.result: Any = None

    def __call__(self) -> None:
        try:
            self.result = self._function()
        except BaseException as error:
            self.result = error


def _shared(function: Callable[[], Any]) -> Any:
    call, hub = _InHub(function), Reactor()
    hub.add([call])
    hub.run(lambda: None)
    if isinstance(call.result, BaseException):
        raise call.result
    return call.result


def difference(case: Case) -> str | None:
    """Return where the two readers tell different things of a case, None if they do not."""
    expected = play(case, Connection)
    for known in ("new", "known"):
        if known == "new":
            pymysql_columns.known.clear()
        ours = _shared(lambda: play(case, FastConnection)) if case.shared else play(case, FastConnection)
        for number in range(max(len(expected), len(ours))):
            theirs, mine = (seen[number] if number < len(seen) else "nothing" for seen in (expected, ours))
            if theirs != mine:
                return f"{known} columns, item {number}\n  PyMySQL: {theirs[:600]}\n  here:    {mine[:600]}"
    return None


def shrunk(case: Case, seconds: float = 20.0) -> Case:
    """Return a simpler case that the readers tell different things of as well."""
    until = time.monotonic() + seconds
    again = True
    while again and time.monotonic() < until:
        again = False
        for simpler in smaller(case):
            if time.monotonic() < until and difference(simpler):
                case, again = simpler, True
                break
    return case


def run(first: int, seconds: float, at_most: int = 10, tell: Callable[[str], Any] = print) -> int:
    """Run cases from the one of a number on, for some seconds; returns the number after the last.

    :raises AssertionError: if *at_most* cases were read differently, or fewer when the time is over
    """
    until = time.monotonic() + seconds
    seed = first
    failed: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while len(failed) < at_most and (seed == first or time.monotonic() < until):
            if difference(case_of(seed)):
                failed.append(seed)
                case = shrunk(case_of(seed))
                tell(f"seed {seed}: {difference(case)}\n  {case}")
            seed += 1
    assert not failed, f"python -m tests.fuzz.reader --minutes 0 --seed {failed[0]}"
    return seed


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=480.0)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    try:
        end = run(chosen.seed, chosen.minutes * 60)
    except AssertionError as error:
        sys.exit(str(error))
    print(f"cases {chosen.seed} to {end - 1}: the same")


if __name__ == "__main__":
    main()
