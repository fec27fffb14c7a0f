"""What is asked of the servers of MySQL and MariaDB, whatever driver asks.

Owns how a session is identified, how what it runs is killed, and what the server's error codes say of the link. How the
driver sends it and reads the answer stands in the driver's own file.
"""
# ruff: noqa: D102  # an override does what the method that it overrides says

from __future__ import annotations

import abc
from contextlib import closing
from typing import Any

from pymysql.constants import CR, ER

from .base import Driver, Identity
from .server_errors import COMMIT_FAILED, IDLE_TOO_LONG, ROLLED_BACK_AT_COMMIT, says_unfit

# Errors that the server sends as its last word on a link: shutdown, connection killed, idle for too long.
FAREWELLS = frozenset({1053, 1927, IDLE_TOO_LONG})

_LOST = FAREWELLS | {CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, CR.CR_SERVER_LOST_EXTENDED}

# The settings of servers that are clones of each other may all be the same, and a server that was restarted gives its
# session ids again. UUID_SHORT() contains the second of the server's start, and the last two groups of UUID() its
# network card and a number that the server has drawn when it was first asked, by a clock of 100 ns. MariaDB takes the
# last setting for a comment, and has no such one.
_IDENTIFY = (
    "SELECT CONNECTION_ID(), VERSION(), COALESCE(DATABASE(), ''), UUID_SHORT() >> 24, SUBSTRING(UUID(), 20), "
    "@@hostname, @@port, @@server_id, @@datadir /*!50700 , @@server_uuid */"
)

# How servers write that a setting is off.
_OFF = frozenset({"0", "OFF"})

# No such thread, no such query: what was to be killed is gone.
_NOTHING_TO_KILL = frozenset({ER.NO_SUCH_THREAD, 1957})


class MySQLServerDriver(Driver, abc.ABC):
    """A driver of MySQL's protocol, by what the server answers."""

    is_mysqls = True

    @abc.abstractmethod
    def plain_cursor(self, raw: Any) -> Any:
        """Make a cursor that returns tuples and has read its rows."""

    def lost(self, error: BaseException) -> bool:
        return self.code(error) in _LOST

    def unfit(self, error: BaseException) -> bool:
        return says_unfit(self.code(error), error)

    def is_fit(self, raw: Any) -> bool:
        with closing(self.plain_cursor(raw)) as cursor:
            cursor.execute("SELECT @@GLOBAL.read_only, @@GLOBAL.innodb_read_only")
            if any(_as_text(value) not in _OFF for value in cursor.fetchone() or ()):
                return False
            cursor.execute("SHOW GLOBAL STATUS LIKE 'wsrep_ready'")
            row = cursor.fetchone()
        # A server of no cluster is never ready for one.
        return row is None or _as_text(row[1]) not in _OFF or not self._in_cluster(raw)

    def rolled_back(self, raw: Any, error: BaseException) -> bool:
        code = self.code(error)
        return code in ROLLED_BACK_AT_COMMIT or (code == COMMIT_FAILED and self._in_cluster(raw))

    def _in_cluster(self, raw: Any) -> bool:
        """Ask whether the server is a node of a Galera cluster. Waits for the server."""
        with closing(self.plain_cursor(raw)) as cursor:
            cursor.execute("SHOW GLOBAL VARIABLES LIKE 'wsrep_on'")
            row = cursor.fetchone()
        return row is not None and _as_text(row[1]) not in _OFF

    def identity(self, raw: Any) -> Identity | None:
        with closing(self.plain_cursor(raw)) as cursor:
            cursor.execute(_IDENTIFY)
            session, version, raw._home, *server = map(_as_text, cursor.fetchone() or ())
        if session != str(self.session(raw)):
            return None  # a proxy stands between and has ids of its own
        return Identity(int(session), tuple(server), "mariadb" in version.lower())

    def kill(self, admin: Any, identity: Identity) -> bool:
        with closing(self.plain_cursor(admin)) as cursor:
            try:
                if not identity.by_query:
                    cursor.execute(f"KILL QUERY {identity.session:d}")
                    return True
                cursor.execute(
                    f"SELECT query_id, command FROM information_schema.processlist WHERE id = {identity.session:d}"
                )
                row = cursor.fetchone()
                if row is None or _as_text(row[1]) == "Sleep":
                    return False
                cursor.execute(f"KILL QUERY ID {int(row[0]):d}")
            except Exception as error:
                if self.code(error) in _NOTHING_TO_KILL:
                    return False
                raise
        return True

    def end_session(self, admin: Any, identity: Identity) -> None:
        with closing(self.plain_cursor(admin)) as cursor:
            try:
                cursor.execute(f"KILL {identity.session:d}")
            except Exception as error:
                if self.code(error) not in _NOTHING_TO_KILL:
                    raise

    def absorb(self, raw: Any) -> None:
        with closing(self.plain_cursor(raw)) as cursor:
            try:
                cursor.execute("DO 0")
            except Exception as error:
                if self.code(error) != ER.QUERY_INTERRUPTED:
                    raise


def _as_text(value: Any) -> str:
    """Return as text what may have come as bytes."""
    return bytes(value).decode() if isinstance(value, (bytes, bytearray)) else str(value)
