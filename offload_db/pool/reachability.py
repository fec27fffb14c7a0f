"""Whether an error of connecting says that the server can't be reached, or concerns one caller alone.

Owns the telling of such errors from those that concern one caller's settings, or this machine, alone; and how an error
is raised once more. Paces nobody: that is ``throttle.py``'s.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import TypeVar

from pymysql.constants import CR, ER

from ..drivers.base import CLIENT_CODES
from ..drivers.registry import code_of

E = TypeVar("E", bound=BaseException)

# The server answered, and has no room or no time for anybody of this user or this machine: too many connections, no
# memory or thread for one more, the machine blocked or not allowed in, the user's limits, shutting down.
_TURNED_AWAY = frozenset(
    {ER.CON_COUNT_ERROR, ER.OUT_OF_RESOURCES, ER.CANT_CREATE_THREAD, ER.HOST_IS_BLOCKED, ER.HOST_NOT_PRIVILEGED}
    | {ER.TOO_MANY_USER_CONNECTIONS, ER.USER_LIMIT_REACHED, ER.SERVER_SHUTDOWN}
)
_NOT_CONNECTED = frozenset({CR.CR_CONNECTION_ERROR, CR.CR_CONN_HOST_ERROR, CR.CR_UNKNOWN_HOST})
_LOST = frozenset({CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, CR.CR_SERVER_LOST_EXTENDED})

_FIRST = 1000  # the least number that a server gives to an error

# Errors of sockets that this machine makes by itself: of descriptors, memory, ports, and rights.
_OURS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRINUSE, errno.EADDRNOTAVAIL}
    | {errno.EACCES, errno.EPERM, errno.EINVAL}
)

# Where the drivers read what a server says first, before anything of the caller's settings has been sent; and where
# they send those: the login, and statements. C libraries tell the first in words.
_GREETING = frozenset({"_get_server_information", "_do_handshake"})
_LOGIN = frozenset({"_request_authentication", "_do_auth"})
_STATEMENTS = frozenset({"query", "cmd_query", "_setsession"})
_WORDS = "initial communication packet"


def reached(error: BaseException) -> bool | None:
    """Tell from an error of connecting whether the server can be reached; None if it says nothing of that.

    False means that others with the same address and user can't connect now either.
    """
    code, chain = code_of(error), list(_chain(error))
    functions = {name for each in chain for name in _functions(each)}
    if functions & _STATEMENTS:
        return True  # though it may just have been lost
    if code in _TURNED_AWAY:
        return False
    if code is not None and code >= _FIRST and code not in CLIENT_CODES:
        return True
    if functions & _LOGIN or any(
        isinstance(each, ssl.SSLError) or (isinstance(each, OSError) and each.errno in _OURS) for each in chain
    ):
        return None
    if code in _LOST:
        lost_early = functions & _GREETING or any(_WORDS in str(text) for text in error.args)
        return False if lost_early else None
    # A function of the user's may connect to what it likes; its bare error is a socket's.
    if code in _NOT_CONNECTED or isinstance(error, (ConnectionError, TimeoutError, socket.gaierror)):
        return False
    return None


def timed_out(error: BaseException) -> bool:
    """Tell whether connecting took longer than it was given, which says nothing to those who give it longer."""
    return any(isinstance(each, TimeoutError) or "timed out" in str(each) for each in _chain(error))


def like(error: E) -> E:
    """Make the same error without its history, which would keep alive what its callers held."""
    kind = type(error)
    try:
        new = kind.__new__(kind, *error.args)  # an OSError takes its number from here
    except TypeError:
        new = kind.__new__(kind)
    new.args = error.args
    # Drivers keep more in it, such as the SQLSTATE, or the error that it came of.
    for name, value in vars(error).items():
        vars(new)[name] = like(value) if isinstance(value, BaseException) else value
    return new


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Give an error and those that it came of."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        origin = getattr(current, "original_exception", None)  # PyMySQL's
        current = origin if isinstance(origin, BaseException) else current.__cause__


def _functions(error: BaseException) -> Iterator[str]:
    trail = error.__traceback__
    while trail is not None:
        yield trail.tb_frame.f_code.co_name
        trail = trail.tb_next
