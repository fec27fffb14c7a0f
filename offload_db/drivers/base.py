"""What the library asks of a database driver, and careful answers for one of which nothing is known.

Owns the questions that every driver answers. The answers of drivers that are known are in ``mysql_server.py``,
``pymysql.py`` and ``mysql_family.py``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import GeneratorType
from typing import Any

import pymysql

from ..bridge.background import Timer
from ..errors import OffloadError
from .cursor_classes import OWN, CursorArguments, form, refusal

# Codes below 2000 and from 3000 on are the server's, 2000 to 2999 the client's (MySQL and MariaDB error references).
CLIENT_CODES = range(2000, 3000)

# Rows and seconds that finishing an unbuffered result may cost before the link is closed instead.
DRAIN_ROWS = 256
DRAIN_SECONDS = 0.02

# Seconds and bytes that may be read when a connection comes back whose last statement may still write, as a procedure's
# call may: to kill it would undo what it does, or do half of it.
READ_OUT_SECONDS = 30.0
READ_OUT_BYTES = 64 * 2**20


# Packages whose connections are of other drivers that are known.
OTHER_PACKAGES = frozenset({"MySQLdb", "mysql"})


@dataclass(frozen=True, slots=True)
class Identity:
    """Which session on which server a connection leads to."""

    session: int
    server: tuple[str, ...]
    """What tells one server from another."""
    by_query: bool
    """Whether the server can kill a query by its own id, which cannot hit the next one."""


class Driver:
    """A DB-API 2 driver of which nothing more is known: careful answers."""

    def module(self, raw: Any) -> Any:
        """Return the driver's module, with its errors and its thread safety level."""
        return sys.modules[type(raw).__module__.partition(".")[0]]

    def blocks(self, name: str) -> bool:
        """Tell whether calling the connection's method *name* may wait for the server."""
        return True

    def cursor_blocks(self, name: str) -> bool:
        """Tell whether calling the cursor's method *name* may wait for the server."""
        return True

    def upgrade(self, raw: Any, settings: dict[str, Any]) -> None:
        """Make a connection faster that was opened with *settings*, with the same behaviour, where that can be done."""

    def shares(self, raw: Any) -> bool:
        """Tell whether calls on the connection may share a thread with others; see ``reactor.py``."""
        return False

    def reads_as_usual(self, raw: Any) -> bool:
        """Tell whether nothing of the user's reads or converts, now, on a connection whose calls may share a thread."""
        return False

    def cursor_shares(self, kind: type) -> bool:
        """Tell whether those of this class of cursors may, where their connection's may."""
        return False

    def cursor_arguments(self, raw: Any, kind: Any, buffered: bool | None = None) -> CursorArguments:
        """Return what the connection's ``cursor()`` is to be given, without asking the server.

        :param kind: a class of cursors, ``tuple`` or ``dict`` for what the rows are to be, None for the connection's
        :param buffered: whether the rows are read at once; None leaves it to the class, True need not change one
        :raises ConfigurationError: if the driver has no such cursors
        """
        kind, buffered = form(kind, buffered)
        if kind not in (None, tuple) or buffered is False:
            accepted = "None, and fetch_all() in the place of stream(); or use a driver that is known, such as PyMySQL"
            raise refusal(kind, buffered, type(raw).__module__, accepted)
        return OWN

    def begin(self, raw: Any) -> None:
        """Begin a transaction; waits for the server."""
        if hasattr(raw, "begin"):
            raw.begin()

    def code(self, error: BaseException) -> int | None:
        """Return the server's or the client's code of an error of this driver."""
        return None

    def alive_at_rest(self, raw: Any) -> bool:
        """Tell whether the link of an idle connection stands, without a round trip."""
        return True

    def sees_rest(self, raw: Any) -> bool:
        """Tell whether :meth:`alive_at_rest` can see anything; where it can't, a known driver is asked to ping."""
        return True

    def lazy(self, raw: Any, name: str, result: Any) -> Any:
        """Return what is to be read step by step of what the connection's method *name* returned, None if nothing."""
        return result if type(result) is GeneratorType else None

    def out_of_step(self, raw: Any) -> bool:
        """Tell whether bytes have arrived that no statement asked for, before one is sent; does not wait."""
        return False

    def unread(self, raw: Any) -> bool:
        """Tell whether the server's answer has not been read to its end."""
        return False

    def streams(self, cursor: Any) -> bool:
        """Tell whether fetching from the cursor may wait for the server."""
        return True

    def unfinished(self, cursor: Any) -> bool:
        """Tell whether closing the cursor, or going to its next result, may wait for the server."""
        return True

    def arrived(self, cursor: Any) -> int:
        """Return how many rows can be fetched, one by one, without waiting for the server."""
        return 0

    def hold(self, cursor: Any) -> bool:
        """Keep a cursor that has rows to read from being collected before its connection is.

        :return: whether it has another result than when it was last held
        """
        return True

    def close_cursor(self, cursor: Any) -> None:
        """Close a cursor that is not :meth:`unfinished`."""
        cursor.close()

    def leave(self, cursor: Any) -> None:
        """Note that nobody will read the cursor's rows, without I/O."""

    def forget(self, raw: Any) -> None:
        """Let go of the rows that the connection was the last to read, as it comes to rest."""

    def skip_rest(self, raw: Any) -> None:
        """Read what a cursor has left that was closed or dropped; waits for the server."""

    def skip_few(self, raw: Any) -> bool:
        """Read what is left of a result if it is little, and tell whether that was all; waits for the server."""
        return True

    def skip_killed(self, raw: Any) -> None:
        """Read what is left of a result whose statement was killed, or has ended; waits for the server."""

    def read_out(self, raw: Any, most: float) -> bool:
        """Read what is left of an answer, the results that follow as well, without keeping it; waits for the server.

        :return: whether that was all; False if there is more than about *most* bytes
        :raises Exception: as the driver raises what the server says in the place of a result
        """
        return True

    def clean(self, raw: Any) -> bool:
        """Tell whether it is certain that no transaction is open and no lock held by one."""
        return False

    def autocommit(self, raw: Any) -> bool | None:
        """Return the connection's autocommit setting, None where it cannot be seen."""
        return None

    cursors_ask = False
    """Whether making a cursor waits for the server."""

    def property_blocks(self, name: str) -> bool:
        """Tell whether reading or setting the connection's attribute *name* waits for the server."""
        return False

    def ping(self, raw: Any) -> None:
        """Ask the server for a sign of life, without connecting anew. Waits for the server."""
        raw.ping(False)

    is_mysqls = False
    """Whether the server is one of MySQL's kind: another one's sessions keep nothing that a rollback does not end."""

    def home(self, raw: Any) -> Any:
        """Return the database that was selected when the session began, as far as it is known; None if none was."""
        return getattr(raw, "_home", None) or getattr(raw, "db", None) or None

    def select_database(self, raw: Any, name: Any) -> None:
        """Select a database. Waits for the server."""
        raw.select_db(name)

    def disguised(self, error: OffloadError) -> OffloadError:
        """Return the error as one that code written for the driver catches, too."""
        return error

    def opening(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return connection settings with which connecting takes no time without end."""
        return kwargs

    def is_open(self, raw: Any) -> bool:
        """Tell whether the driver still holds its link open."""
        return True

    def in_step(self, error: BaseException) -> bool:
        """Tell whether the link can be used after the error: the server's own answer, or nothing was sent."""
        names = {cls.__name__ for cls in type(error).__mro__}
        return bool(names & {"IntegrityError", "ProgrammingError", "DataError", "NotSupportedError"})

    def refused(self, raw: Any, error: BaseException) -> bool:
        """Tell whether the call came to nothing before anything was sent, so that the link is as it was."""
        return False

    def lost(self, error: BaseException) -> bool:
        """Tell whether the error says that the link is broken."""
        return False

    def may_have_sent(self, error: BaseException) -> bool:
        """Tell whether the server may have got the whole statement before the link broke."""
        return True

    def unfit(self, error: BaseException) -> bool:
        """Tell whether the error says that the server is not the one to talk to any more."""
        return False

    def is_fit(self, raw: Any) -> bool:
        """Ask the server whether it is the one to talk to: it takes writes, and its cluster has it. Waits for it."""
        self.ping(raw)
        return True

    def rolled_back(self, raw: Any, error: BaseException) -> bool:
        """Tell whether the error of a COMMIT says that nothing was committed; may ask the server, and wait for it."""
        return False

    def session(self, raw: Any) -> int | None:
        """Return the server's number for the connection, without asking."""
        return None

    def identity(self, raw: Any) -> Identity | None:
        """Ask the server for the connection's identity; None where it cannot be relied on. Waits for the server."""
        return None

    def kill(self, admin: Any, identity: Identity) -> bool:
        """Kill what the session is running, over another connection; False if it runs nothing. Waits for the server."""
        return False

    def end_session(self, admin: Any, identity: Identity) -> None:
        """End a session with all that it does, over another connection. Waits for the server."""

    def absorb(self, raw: Any) -> None:
        """Run a statement that takes a late kill upon itself. Waits for the server."""

    def cut(self, raw: Any) -> None:
        """Break the link under a call that another thread is making, so that it returns."""

    def bounded(self, kwargs: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return connection settings with which no answer is waited for longer than *seconds*."""
        return kwargs

    def set_read_timeout(self, raw: Any, seconds: float | None) -> float | None:
        """Limit the seconds that any answer may take; returns the limit before."""
        return None

    @contextmanager
    def limited(self, raw: Any, seconds: float) -> Iterator[None]:
        """Limit the seconds that the calls of the block may wait for the server."""
        # Nothing is known of how to tell the driver, so the link is cut under the call.
        timer = Timer(seconds, partial(self.cut, raw), "limit")
        try:
            timer.start()
            yield
        finally:
            timer.end()

    def finish(self, cursor: Any) -> None:
        """Close a cursor that is not finished, leaving rows unread if they are many; waits for the server."""
        with suppress(Exception):  # as DBUtils does
            cursor.close()

    def disown(self, raw: Any) -> None:
        """Let go of the link in a forked child, without a lock: a thread of the parent may have been reading."""

    def close(self, raw: Any) -> None:
        """Say goodbye and close; waits for the link at most to take the goodbye."""
        with suppress(Exception):
            raw.close()

    def abandon(self, raw: Any) -> None:
        """Close the link without reading or writing anything."""
        self.close(raw)


GENERIC = Driver()


class DrainBudget:
    """How much may be read that nobody wants."""

    def __init__(self) -> None:
        self.rows = DRAIN_ROWS
        self._ends = time.monotonic() + DRAIN_SECONDS

    @property
    def seconds(self) -> float:
        """The time that is left."""
        return self._ends - time.monotonic()


def pymysql_code(error: BaseException) -> int | None:
    """Return the server's or the client's code of an error of PyMySQL's, None of any other."""
    if isinstance(error, pymysql.MySQLError) and error.args and isinstance(error.args[0], int):
        return error.args[0]
    return None
