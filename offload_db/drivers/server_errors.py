"""What the errors of MySQL's and MariaDB's servers mean for a connection, and for what was to be done on it.

Owns the codes, whatever driver brings them. What a driver's own errors mean stands in the driver's file.
"""

from __future__ import annotations

import re

from pymysql.constants import ER

# The server has closed the connection at rest: the error lay ready before the statement was sent.
IDLE_TOO_LONG = 4031

# Deadlock, and lock wait timeout: the server has undone the transaction or the statement, and asks to try again.
RETRYABLE = frozenset({ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT})

# What clusters say of a COMMIT after which nothing is committed: a Galera node without quorum refuses it (1047), and so
# does a member of MySQL's group replication (3100), in which another one's transaction may also have come first (3101).
_NO_QUORUM, _GROUP_CANNOT, _GROUP_CONFLICT = ER.UNKNOWN_COM_ERROR, 3100, 3101
ROLLED_BACK_AT_COMMIT = frozenset({ER.LOCK_DEADLOCK, _NO_QUORUM, _GROUP_CANNOT, _GROUP_CONFLICT})

# The commit failed. In a Galera cluster the transaction is rolled back then; on a server by itself a storage engine may
# have committed its part.
COMMIT_FAILED = ER.ERROR_DURING_COMMIT

# Nodes that lost their right to write or their cluster: 1792 read-only transaction, 1836 read-only mode, and those
# above. Another connection may lead to a healthy one.
_UNFIT = frozenset({1792, 1836, _NO_QUORUM, _GROUP_CANNOT})
# What the server's options forbid: many of them say nothing of its fitness. Whatever the language, the text names it.
_OPTION, _READ_ONLY = ER.OPTION_PREVENTS_STATEMENT, re.compile("read[-_]only", re.IGNORECASE)
# A table can't be locked, which has its reason as a number in the text: 165 is a storage engine that is read-only.
_CANNOT_LOCK, _ENGINE_READ_ONLY = ER.CANT_LOCK, re.compile(r"\b165\b")


def says_unfit(code: int | None, error: BaseException) -> bool:
    """Tell whether an error says that the server is not the one to talk to any more."""
    if code == _OPTION:
        return _READ_ONLY.search(str(error)) is not None
    if code == _CANNOT_LOCK:
        return _ENGINE_READ_ONLY.search(str(error)) is not None
    return code in _UNFIT
