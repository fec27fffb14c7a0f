"""How the physical connections of a pool are made.

Owns the settings that a connection is made with, and the pace of attempts while the server can't be reached. Does not
count connections and keeps none.
"""

from __future__ import annotations

import copy
import inspect
import math
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import closing, suppress
from functools import partial
from typing import Any

import pymysql
from dbutils.pooled_db import PooledDB
from pymysql.connections import Connection
from pymysql.converters import decoders, encoders

from ..connection.opening import DEFAULT_CONNECT_TIMEOUT, patience_of, restore_timeouts, shortened_timeouts
from ..drivers.base import Driver
from ..drivers.pymysql import PYMYSQL
from ..drivers.pymysql_connection import fast_creator
from ..drivers.registry import driver_from
from ..errors import CheckoutTimeout, ConfigurationError
from .reachability import like, reached, timed_out

# Attempts to connect at the same time. Each costs the interpreter's lock some 20 ms with PyMySQL 1.2 and TLS, so more
# at once would only make the event loop wait.
AT_ONCE = 4
# Seconds between attempts while the server can't be reached: doubled after each, from the first to the second.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
# What of the settings says to where, from where and as whom a connection is made: who can't get there says nothing to
# those who go elsewhere.
_WHERE: dict[str, object] = {
    "host": "localhost",
    "port": 3306,
    "user": pymysql.connections.DEFAULT_USER,
    **dict.fromkeys(("unix_socket", "bind_address", "read_default_file", "read_default_group")),
}


class Connector:
    """Makes the connections of one pool, with the settings of the DBUtils pool it is given.

    :param fast: let PyMySQL's connections read results faster
    """

    def __init__(self, pool: PooledDB, *, fast: bool) -> None:
        self._create = _creating(pool, fast_creator(pool._creator) if fast else pool._creator)
        self._statements: Any = pool._setsession
        self._driver: Driver | None = PYMYSQL if _is_pymysql(pool._creator) else None
        self._other = driver_from(_module(pool._creator))
        self._changes: dict[str, Any] = {}
        self._gates: dict[Hashable, ConnectThrottle] = {}
        self._settle(pool._kwargs)

    def _settle(self, kwargs: dict[str, Any]) -> None:
        self.settings = kwargs
        """What connections are opened with."""
        self.patience = DEFAULT_CONNECT_TIMEOUT
        """Seconds that a new connection may take to say anything."""
        if self._driver is None:
            self._opening = self._other.opening(kwargs)
        else:
            self.patience = patience_of(kwargs)
            self._opening = {**kwargs, "read_timeout": self.patience}
        self._gate = self._gates.setdefault(
            tuple(str(kwargs.get(name) or _WHERE[name]) for name in _WHERE), ConnectThrottle()
        )

    @property
    def by_function(self) -> bool:
        """Whether a function of the user's opens the connections, so that their settings are not known here."""
        return self._driver is None

    @property
    def prepares(self) -> bool:
        """Whether statements of the user's are run on each new connection."""
        return bool(self._statements)

    @property
    def server_away(self) -> bool:
        """Whether the last attempt to connect found that the server can't be reached."""
        return self._gate.closed

    def variant(self, changes: dict[str, Any]) -> Connector:
        """Make a connector for connections to the same server with other settings.

        :param changes: arguments of :func:`pymysql.connect`; the bits of ``client_flag`` are added
        """
        other = copy.copy(self)
        if self._driver is None:
            other._changes = changes
            return other
        flags = self.settings.get("client_flag", 0) | changes.get("client_flag", 0)
        other._settle({**self.settings, **changes, "client_flag": flags})
        return other

    def exact(self, settings: dict[str, Any]) -> Connector:
        """Make a connector for connections to the same server with these settings alone."""
        other = copy.copy(self)
        other._statements = None
        other._settle(settings)
        return other

    def connect(self, seconds: float | None = None) -> Any:
        """Open a connection; waits for the server.

        :param seconds: how long the turn and any one answer may be waited for, where that is less than the settings
            allow
        :raises Exception: as the driver raises it. While the server can't be reached, attempts are paced, and between
            two of them the last error is raised again
        """
        until = math.inf if seconds is None else time.monotonic() + seconds
        return self._gate.attempt(partial(self._connect, until), until, self.patience)

    def prepare(self, raw: Any) -> None:
        """Run the user's statements on a connection that has connected just now; waits for the server."""
        if self.prepares:
            with closing(raw.cursor()) as cursor:
                for statement in self._statements:
                    cursor.execute(statement)

    def connect_admin(self, seconds: float) -> Any:
        """Open a connection to kill with, within *seconds* where the driver can limit it; waits for the server."""
        driver = self._driver or self._other
        return self._create(driver.bounded(self.settings, seconds))

    def after_fork(self) -> None:
        """Begin anew in a child process: threads of the parent may have been in the middle of attempts."""
        for gate in list(self._gates.values()):
            gate.renew()

    def _connect(self, until: float) -> Any:
        opening = self._opening
        seconds = until - time.monotonic()
        if self._driver is not None and seconds < self.patience:
            opening = shortened_timeouts(opening, seconds)
        raw = self._create(opening)
        try:
            if self._changes:
                _reopen(raw, self._changes)
            self.prepare(raw)
        except BaseException:
            with suppress(Exception):
                raw.close()
            raise
        if self._driver is not None:
            restore_timeouts(raw, self.settings)
        return raw


class ConnectThrottle:
    """Lets few attempts through at once, and while the server can't be reached one after the other with pauses."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew."""
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._given = math.inf
        self._failures = 0
        self._not_before = 0.0
        self._probing = False

    @property
    def closed(self) -> bool:
        """Whether attempts are paced now, as the server could not be reached."""
        return self._error is not None

    def attempt(self, connect: Callable[[], Any], until: float, patience: float) -> Any:
        """Call *connect* when it is its turn.

        :param until: when the caller's own time is over: what fails then says nothing of the server
        :param patience: seconds that the server is given to answer
        """
        left = min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX)
        places = self._places
        if not places.acquire(timeout=left):
            raise CheckoutTimeout.because(
                "no connection was opened in time: others were being opened before it; offload-db doctor tells how "
                "long one takes, and checkout_timeout or the call's timeout how long it may take"
            )
        try:
            probe = self._enter(patience)
            try:
                raw = connect()
            except BaseException as error:
                says = reached(error) if isinstance(error, Exception) and time.monotonic() < until else None
                if says:
                    self._stands(probe)
                else:
                    self._failed(None if says is None else error, probe, patience)
                raise
            self._stands(probe)
            return raw
        finally:
            places.release()

    def _enter(self, patience: float) -> bool:
        with self._lock:
            error = self._error
            if error is None or patience > self._given:
                return False
            if not self._probing and time.monotonic() >= self._not_before:
                self._probing = True
                return True
        raise like(error)

    def _stands(self, probe: bool) -> None:
        with self._lock:
            self._error, self._failures = None, 0
            self._probing = self._probing and not probe

    def _failed(self, error: BaseException | None, probe: bool, patience: float) -> None:
        with self._lock:
            self._probing = self._probing and not probe
            if error is None:
                return
            if probe or self._error is None:
                self._not_before = time.monotonic() + min(SHORTEST_PAUSE * 2**self._failures, LONGEST_PAUSE)
                self._failures = min(self._failures + 1, 10)
            self._error = like(error)
            # Who gives the server more time than it was given here is told nothing by its not answering.
            self._given = patience if timed_out(error) else math.inf


def take_idle(pool: PooledDB) -> list[Any]:
    """Take the driver's connections that the pool holds idle, which it will not close or hand out any more."""
    with pool._lock:
        steady = list(pool._idle_cache)
        pool._idle_cache.clear()
    return [_stripped(connection) for connection in steady]


def unused_options(pool: PooledDB) -> list[str]:
    """Name what was asked of the DBUtils pool and has no meaning here.

    Connections are tried before each use in a way of our own, no statement is repeated, whatever its error, and each
    connection belongs to its caller alone.
    """
    defaults = {"ping": 1, "failures": None, "isfatal": None, "maxshared": 0}
    return [name for name, default in defaults.items() if getattr(pool, f"_{name}", default) != default]


def _creating(pool: PooledDB, creator: Any) -> Callable[[dict[str, Any]], Any]:
    """Return what opens a connection, given the settings, in the way of the pool but without its statements."""
    if getattr(pool.steady_connection, "__func__", None) is PooledDB.steady_connection:
        args = pool._args
        return lambda kwargs: getattr(creator, "connect", creator)(*args, **kwargs)

    def by_the_users_method(kwargs: dict[str, Any]) -> Any:
        bare = copy.copy(pool)
        bare._idle_cache, bare._lock = [], threading.Condition()  # a pool closes what it holds when it is collected
        bare._creator, bare._kwargs, bare._setsession = creator, kwargs, None
        return _stripped(bare.steady_connection())

    return by_the_users_method


def _is_pymysql(creator: Any) -> bool:
    connect = getattr(creator, "connect", creator)
    if inspect.isclass(connect):
        return issubclass(connect, Connection)
    return bool(getattr(connect, "__module__", "") == "pymysql")


def _reopen(raw: Any, changes: dict[str, Any]) -> None:
    """Connect again with other settings, which the function that connected was not told."""
    if not isinstance(raw, Connection):
        kind = type(raw)
        raise ConfigurationError(
            f"the pool's connections are {kind.__module__}.{kind.__qualname__} objects; accepted are PyMySQL's where "
            f"they are to be opened with other settings ({', '.join(changes)})"
        )
    raw.close()
    raw.client_flag |= changes.get("client_flag", 0)
    raw.autocommit_mode = changes.get("autocommit", raw.autocommit_mode)
    raw.cursorclass = changes.get("cursorclass", raw.cursorclass)
    if "conv" in changes:
        raw.decoders, raw.encoders = {**decoders}, {**encoders}
    raw.connect()


def _module(creator: Any) -> str:
    """Name the module that a pool's creator is, or that it comes from."""
    if inspect.ismodule(creator):
        return creator.__name__
    return getattr(creator, "__module__", None) or ""


def _stripped(steady: Any) -> Any:
    """Take the driver's connection out of DBUtils' steady one.

    Its cursors execute a statement again after an OperationalError, and it closes its connection when it is collected.
    """
    raw = steady._con
    steady._con, steady._closed = None, True
    return raw
