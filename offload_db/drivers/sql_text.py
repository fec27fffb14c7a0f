"""What a statement does to its session, told from its text.

Owns the reading of statements before they are sent: what one may leave to whoever uses the session next. The text is
read as a server reads it where that is quick, and taken for worse than it is elsewhere: a word that stands in a literal
costs a round trip at checkin, a statement that is overlooked costs somebody else's rows. Does not know databases, and
what of a text may be shown is ``statement_digest.py``'s.
"""

from __future__ import annotations

import re
from enum import Enum


class Trace(Enum):
    """What a statement may leave behind on its session."""

    TRANSACTION = "an open transaction, which the server tells of"
    UNSHOWN = "what only a rollback ends, and no server tells of: how the next transaction is to be, above all"
    LOCKS = "locked tables"
    DATABASE = "another selected database"
    SESSION = "what only the end of the session undoes"


Traces = frozenset[Trace]

NOTHING: Traces = frozenset()
BEGUN: Traces = frozenset({Trace.TRANSACTION})
UNSEEN: Traces = BEGUN | {Trace.UNSHOWN, Trace.LOCKS, Trace.DATABASE}
"""What is done where no text shows it: by a procedure, a prepared statement, a method of the driver's."""

# The first keyword of an everyday statement is looked for in that many characters, and of other texts no longer ones
# are read at all: this is done on the event loop's thread, for every statement.
LONGEST = 20_000

# With autocommit on each of these is a transaction of its own, whatever functions and triggers it calls: the server
# allows those none. Comments before it are skipped, but for /*! … */ and /*M! … */, which servers execute.
_EVERYDAY = r"""
    [\s(]*
    (?: (?: /\*(?!M?!)[^*]*\*+(?:[^/*][^*]*\*+)*/ | \#[^\n]*\n | --(?:[ \t\r\f\v][^\n]*)?\n ) [\s(]* )*
    (?:SELECT|INSERT|REPLACE|UPDATE|DELETE|SHOW)\b
"""
_FLAGS = re.IGNORECASE | re.ASCII | re.VERBOSE
_EVERYDAY_TEXT, _EVERYDAY_BYTES = re.compile(_EVERYDAY, _FLAGS), re.compile(_EVERYDAY.encode(), _FLAGS)
# Two statements in one text have a semicolon between them.
_LAST_TEXT, _LAST_BYTES = re.compile(r"[\s;]*\Z", re.ASCII), re.compile(rb"[\s;]*\Z")

_CHARACTERISTICS = (
    "TRANSACTION",
    "TRANSACTION_ISOLATION",
    "TRANSACTION_READ_ONLY",
    "TX_ISOLATION",
    "TX_READ_ONLY",
)
_TELLING = frozenset({"BACKUP", "BEGIN", "CALL", "EXECUTE", "EXPORT", "HANDLER", "LOCK", "SET", "USE"})
# Digits are none of it: /*!50000USE fleet*/.
_WORD = re.compile(r"[A-Z_$]+")


def traces(statement: object) -> Traces:
    """Tell what a statement may leave to whoever uses its session next.

    :param statement: what is executed, text or bytes, before or after parameters are put into it
    """
    if isinstance(statement, str):
        if _EVERYDAY_TEXT.match(statement, 0, LONGEST) is not None:
            end = statement.find(";")
            if end < 0 or (len(statement) - end <= LONGEST and _LAST_TEXT.match(statement, end) is not None):
                return NOTHING
    elif isinstance(statement, (bytes, bytearray)):
        if _EVERYDAY_BYTES.match(statement, 0, LONGEST) is not None:
            end = statement.find(b";")
            if end < 0 or (len(statement) - end <= LONGEST and _LAST_BYTES.match(statement, end) is not None):
                return NOTHING
    else:
        return UNSEEN
    if len(statement) > LONGEST:
        return UNSEEN
    text = statement if isinstance(statement, str) else statement.decode("latin-1")
    return _traces(set(_WORD.findall(text.upper())))


def _traces(words: set[str]) -> Traces:
    """Tell what a text with these words may leave behind, wherever in it they stand."""
    if words.isdisjoint(_TELLING):
        return BEGUN
    # In MariaDB's Oracle mode a block calls procedures by their bare names.
    calls = words & {"CALL", "EXECUTE"} or words >= {"BEGIN", "END"}
    found = set(UNSEEN if calls else BEGUN)
    if "SET" in words and not words.isdisjoint(_CHARACTERISTICS):
        found.add(Trace.UNSHOWN)
    if words & {"LOCK", "EXPORT"}:  # LOCK TABLES, FLUSH TABLES WITH READ LOCK or FOR EXPORT
        found.add(Trace.LOCKS)
    if "USE" in words:
        found.add(Trace.DATABASE)
    # Locks of backups, which UNLOCK TABLES does not undo, and tables opened by HANDLER, which nobody can drop.
    if ("LOCK" in words and words & {"BACKUP", "BINLOG", "INSTANCE"}) or words >= {"BACKUP", "STAGE"}:
        found.add(Trace.SESSION)
    if words >= {"HANDLER", "OPEN"}:
        found.add(Trace.SESSION)
    return frozenset(found)


def rolls_back(statement: object) -> bool:
    """Tell whether a statement is a bare ``ROLLBACK``."""
    return isinstance(statement, str) and len(statement) < 20 and statement.strip(" \t\r\n;").upper() == "ROLLBACK"
