"""How physical connections are made.

Owns the settings that a connection is made with, the time that making one may take, and the pace of attempts while the
server can't be reached. Does not count connections and keeps none.
"""

from __future__ import annotations

import copy
import inspect
import threading
import time
from functools import partial
from typing import Any

from dbutils.pooled_db import PooledDB
from pymysql.connections import Connection

from .drivers import PYMYSQL, Driver, driver_of
from .fast import faster

# Attempts to connect at the same time. Each costs the interpreter's lock some 20 ms with PyMySQL 1.2 and TLS, so more
# at once would only make the event loop wait.
AT_ONCE = 4
# Seconds between attempts while the server can't be reached: doubled after each, from the first to the second.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
# Seconds that connecting may always take: drivers refuse 0.
SHORTEST_PATIENCE = 0.01
# PyMySQL's own default for connect_timeout.
DEFAULT_CONNECT_TIMEOUT = 10.0


class Connector:
    """Makes the connections of one pool, with the settings of the DBUtils pool it is given.

    :param fast: let PyMySQL's connections read results faster
    """

    def __init__(self, pool: PooledDB, *, fast: bool) -> None:
        # DBUtils' connection() holds a lock while it connects; steady_connection() is its public way without one.
        # A copy of the pool lets the settings be changed without touching the user's.
        self._factory = _bare_copy(pool)
        if fast:
            self._factory._creator = faster(pool._creator)
        self._admins = _bare_copy(self._factory)
        self._admins._setsession = None
        self._kwargs: dict[str, Any] = pool._kwargs
        self.patience = DEFAULT_CONNECT_TIMEOUT
        """Seconds that a new connection may take to say anything, where the driver can limit it."""
        self._driver: Driver | None = PYMYSQL if _is_pymysql(pool._creator) else None
        if self._driver is not None:
            # connect_timeout covers the TCP connect alone: a server that accepts and says nothing would be waited
            # for without end.
            self.patience = (
                self._kwargs.get("read_timeout") or self._kwargs.get("connect_timeout") or DEFAULT_CONNECT_TIMEOUT
            )
            self._factory._kwargs = {**self._kwargs, "read_timeout": self.patience}
        self._gate = _Gate()

    def connect(self, seconds: float | None = None) -> Any:
        """Open a connection; waits for the server.

        :param seconds: how long any one answer may be waited for, where that is less than the settings allow
        :raises Exception: as the driver raises it. While the server can't be reached, attempts are paced, and between
            two of them the last error is raised again
        """
        return self._gate.attempt(partial(self._connect, seconds))

    def connect_admin(self, seconds: float) -> Any:
        """Open a connection to kill with, within *seconds* where the driver can limit it; waits for the server."""
        if self._driver is None:
            return _stripped(self._admins.steady_connection())
        factory = copy.copy(self._admins)
        factory._kwargs = self._driver.bounded(self._kwargs, seconds)
        return _stripped(factory.steady_connection())

    def after_fork(self) -> None:
        """Begin anew in a child process: threads of the parent may have been in the middle of attempts."""
        self._gate = _Gate()

    def _connect(self, seconds: float | None) -> Any:
        factory = self._factory
        if self._driver is not None and seconds is not None and seconds < self.patience:
            factory = copy.copy(factory)
            shorter = max(seconds, SHORTEST_PATIENCE)
            factory._kwargs = {**factory._kwargs, "connect_timeout": shorter, "read_timeout": shorter}
        raw = _stripped(factory.steady_connection())
        if self._driver is not None:
            driver_of(raw).set_read_timeout(raw, self._kwargs.get("read_timeout"))
        return raw


class _Gate:
    """Lets few attempts through at once, and while the server can't be reached one after the other with pauses."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._failures = 0
        self._not_before = 0.0
        self._probing = False

    def attempt(self, connect: Any) -> Any:
        with self._places:
            probe = self._enter()
            try:
                raw = connect()
            except Exception as error:
                self._failed(error, probe)
                raise
            except BaseException:
                self._failed(None, probe)
                raise
            with self._lock:
                self._error, self._failures = None, 0
                self._probing = self._probing and not probe
            return raw

    def _enter(self) -> bool:
        with self._lock:
            error = self._error
            if error is None:
                return False
            if not self._probing and time.monotonic() >= self._not_before:
                self._probing = True
                return True
        raise _like(error)

    def _failed(self, error: Exception | None, probe: bool) -> None:
        with self._lock:
            self._probing = self._probing and not probe
            if error is None:
                return
            if probe or self._error is None:
                self._not_before = time.monotonic() + min(SHORTEST_PAUSE * 2**self._failures, LONGEST_PAUSE)
                self._failures = min(self._failures + 1, 10)
            self._error = _like(error)


def _like(error: Exception) -> Exception:
    """Make the same error without its history, which would keep alive what its callers held."""
    like = type(error).__new__(type(error))
    like.args = error.args
    return like


def take_idle(pool: PooledDB) -> list[Any]:
    """Take the driver's connections that the pool holds idle, which it will not close or hand out any more."""
    with pool._lock:
        steady = list(pool._idle_cache)
        pool._idle_cache.clear()
    return [_stripped(connection) for connection in steady]


def _bare_copy(pool: PooledDB) -> PooledDB:
    bare = copy.copy(pool)
    bare._idle_cache = []  # the copy closes what it holds when it is collected
    bare._lock = threading.Condition()
    return bare


def _is_pymysql(creator: Any) -> bool:
    connect = getattr(creator, "connect", creator)
    if inspect.isclass(connect):
        return issubclass(connect, Connection)
    return bool(getattr(connect, "__module__", "") == "pymysql")


def _stripped(steady: Any) -> Any:
    """Take the driver's connection out of DBUtils' steady one.

    Its cursors execute a statement again after an OperationalError, and it closes its connection when it is collected.
    """
    raw = steady._con
    steady._con, steady._closed = None, True
    return raw
