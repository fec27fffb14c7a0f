"""Connections that belong to no pool.

Owns :func:`offload_db.connect`. What such a connection does is ``connection.py``'s.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, ClassVar

import pymysql

from .connection import OffloadConnection
from .connector import DEFAULT_CONNECT_TIMEOUT
from .drivers import driver_of
from .fast import faster
from .kills import Killer
from .statements import Link
from .statistics import Counters
from .workers import Leaving, Workers


class _Unpooled:
    """The lease of a connection that belongs to no pool."""

    __slots__ = ("link",)

    # What is open, so that no garbage collector gets at an unbuffered cursor before drop() has made it harmless.
    _open: ClassVar[set[_Unpooled]] = set()

    def __init__(self, link: Link) -> None:
        self.link = link
        self._open.add(self)

    def give_back(self) -> None:
        self._open.discard(self)
        _unpooled.run("close", self.link.close, shield=True)

    def drop(self) -> None:
        self.link.driver.abandon(self.link.raw)
        self._open.discard(self)

    def reopen(self) -> Link:
        """Return the link after it was closed: PyMySQL's connect() and ping(reconnect=True) connect it anew."""
        self._open.add(self)
        self.link.renew()
        self.link.fault = None
        return self.link


# Each connection runs one call at a time, so the connections that there are bound the threads.
_unpooled = Workers(math.inf, Counters())


def unpooled_counters() -> Counters:
    """Return what the connections that belong to no pool have counted."""
    return _unpooled.counters


def connect(**kwargs: Any) -> OffloadConnection:
    """Open a connection that belongs to no pool; it behaves like PyMySQL's and suspends bridged tasks.

    It takes what :func:`pymysql.connect` takes. A connection that several handlers share, in a module global, belongs
    to the outermost bridged call that uses it, until that call ends.

    If the task is cancelled, no connection is left open.

    :raises pymysql.err.OperationalError: if the server can't be reached, as PyMySQL raises it
    """
    opened: list[Link] = []

    def settle() -> None:
        for link in opened:
            link.driver.abandon(link.raw)

    leaving = Leaving(settle)
    try:
        _unpooled.run("connect", lambda: opened.append(_open(kwargs)), leaving=leaving)
    except BaseException:
        if not leaving.left:
            settle()
        raise
    return OffloadConnection(_Unpooled(opened[0]))


def _open(kwargs: dict[str, Any]) -> Link:
    # connect_timeout covers the TCP connect alone: a server that accepts and says nothing would be waited for without
    # end.
    patience = kwargs.get("read_timeout") or kwargs.get("connect_timeout") or DEFAULT_CONNECT_TIMEOUT
    raw = _connect(**{**kwargs, "read_timeout": patience})
    driver = driver_of(raw)
    killer = Killer(lambda seconds: _connect(**driver.bounded(kwargs, seconds)), _unpooled.counters)
    identity = driver.identity(raw) if raw.open else None
    driver.set_read_timeout(raw, kwargs.get("read_timeout"))
    return Link(raw, driver, identity, _unpooled, killer)


def _connect(**kwargs: Any) -> Any:
    # pymysql.connect may be wrapped, for tracing; a program may also have put our connect in its place.
    current: Any = pymysql.connect
    return faster(pymysql.connections.Connection if current is connect else current)(**kwargs)


connect.__signature__ = inspect.signature(pymysql.connections.Connection)  # type: ignore[attr-defined]  # for help()
