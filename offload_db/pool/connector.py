"""How the physical connections of a pool are made.

Owns the settings that a connection is made with. Does not count connections and keeps none; ``throttle.py`` has the
pace of attempts.
"""

from __future__ import annotations

import copy
import inspect
import math
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import closing, suppress
from functools import partial
from typing import Any

import pymysql
from dbutils.pooled_db import PooledDB
from pymysql.connections import Connection
from pymysql.converters import decoders, encoders

from ..connection.opening import (
    DEFAULT_CONNECT_TIMEOUT,
    patience_of,
    remedies_named,
    restore_timeouts,
    shortened_timeouts,
)
from ..connection.physical import PhysicalConnection
from ..drivers.base import Driver
from ..drivers.pymysql import PYMYSQL
from ..drivers.pymysql_connection import fast_creator
from ..drivers.registry import driver_from
from ..errors import ConfigurationError
from .throttle import ConnectThrottle

# What of the settings says to where, from where and as whom a connection is made: who can't get there says nothing to
# those who go elsewhere.
_WHERE: dict[str, object] = {
    "host": "localhost",
    "port": 3306,
    "user": pymysql.connections.DEFAULT_USER,
    **dict.fromkeys(("unix_socket", "bind_address", "read_default_file", "read_default_group")),
}

# The names that PyMySQL knows some settings by as well.
ALIASES = {"db": "database", "passwd": "password"}
_DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(Connection).parameters.items()}
# What of the settings only PyMySQL knows of, and the attributes of its connections that they become.
_CLIENT_SIDE: dict[str, tuple[str, ...]] = {
    "conv": ("encoders", "decoders"),
    "connect_timeout": ("connect_timeout",),
    "cursorclass": ("cursorclass",),
    "max_allowed_packet": ("max_allowed_packet",),
    "read_timeout": ("_read_timeout",),
    "use_unicode": ("use_unicode",),
    "write_timeout": ("_write_timeout",),
}
# How many kinds of connections a pool knows again.
_KINDS = 32


class Kind:
    """What connections are like for the server.

    Connections of one kind take each other's place; what else a connector asks for is set when one is taken.

    :param session: the settings that say so
    """

    __slots__ = ("checkouts", "session")

    def __init__(self, session: object) -> None:
        self.session = session
        self.checkouts = 0
        """How often one was asked for of late."""


class Connector:
    """Makes the connections of one pool, with the settings of the DBUtils pool it is given.

    :param fast: let PyMySQL's connections read results faster, and mysqlclient's share a thread
    """

    def __init__(self, pool: PooledDB, *, fast: bool) -> None:
        self._fast = fast
        self._create = remedies_named()(_creating(pool, fast_creator(pool._creator) if fast else pool._creator))
        self._statements: Any = pool._setsession
        self._driver: Driver | None = PYMYSQL if _is_pymysql(pool._creator) else None
        self._other = driver_from(_module(pool._creator))
        self._changes: dict[str, Any] = {}
        self._gates: dict[Hashable, ConnectThrottle] = {}
        self._kinds: list[Kind] = []
        self._plain = getattr(pool._creator, "connect", pool._creator) is Connection and _makes_its_own_way(pool)
        self._settle(pool._kwargs)

    def _settle(self, kwargs: dict[str, Any]) -> None:
        # What holds converters and what TLS asks for may be changed by its owner, for the next connections.
        kwargs = {name: value.copy() if type(value) is dict else value for name, value in kwargs.items()}
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
        apart = _CLIENT_SIDE if self._plain else {}
        told = {name: value for name, value in plain(kwargs).items() if name not in apart}
        given = {name: value for name, value in told.items() if value != _DEFAULTS.get(name, told)}
        session = given, self._changes, list(self._statements or ())
        self.kind = next((kind for kind in self._kinds if kind.session == session), None) or Kind(session)
        """What its connections are like."""
        self._kinds[:] = [self.kind, *(kind for kind in self._kinds if kind is not self.kind)][:_KINDS]
        self._looks: dict[str, Any] | None = None

    @property
    def by_function(self) -> bool:
        """Whether a function of the user's opens the connections, so that their settings are not known here."""
        return self._driver is None

    @property
    def prepares(self) -> bool:
        """Whether statements of the user's are run on each new connection."""
        return bool(self._statements)

    def keep_apart(self) -> None:
        """Let this connector's connections be of a kind of their own, whatever they are like."""
        self.kind = Kind(None)

    def looks(self) -> dict[str, Any]:
        """Return the attributes of a connection that only the client knows of.

        :raises Exception: as PyMySQL raises it of a bad argument
        """
        if self._looks is None:
            own = {name: value for name, value in self.settings.items() if name in _CLIENT_SIDE}
            model = Connection(**own, defer_connect=True, ssl_disabled=True)
            self._looks = {name: getattr(model, name) for names in _CLIENT_SIDE.values() for name in names}
        return self._looks

    def adopt(self, link: PhysicalConnection) -> None:
        """Make another connector's connection, of the same kind, one of this one's; sends nothing."""
        for name, value in self.looks().items():
            setattr(link.raw, name, value.copy() if isinstance(value, dict) else value)
        link.connector = self

    @property
    def server_away(self) -> bool:
        """Whether the last attempt to connect found that the server can't be reached."""
        return self._gate.paced

    def variant(self, changes: dict[str, Any]) -> Connector:
        """Make a connector for connections to the same server with other settings.

        :param changes: arguments of :func:`pymysql.connect`; the bits of ``client_flag`` are added
        """
        other = copy.copy(self)
        if self._driver is None:
            other._changes = changes
            other._settle(self.settings)
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

    def connect(self, seconds: float | None = None, *, came: float | None = None, turn_until: float = math.inf) -> Any:
        """Open a connection; waits for the server.

        :param seconds: how long the turn and any one answer may be waited for, where that is less than the settings
            allow
        :param came: since when the caller waits; None for one that does not wait for a server that can't be reached
        :param turn_until: until when it waits for its turn to connect
        :raises Exception: as the driver raises it, with ``may_have_run = False``. While the server can't be reached,
            attempts are paced, and who waits gets what the next ones come to
        """
        until = math.inf if seconds is None else time.monotonic() + seconds
        connect = partial(self._connect, until)
        return self._gate.attempt(connect, until, self.patience, came=came, turn_until=turn_until)

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
            if self._fast and self._driver is None:
                self._other.upgrade(raw, self.settings)
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


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under one name each."""
    return {ALIASES.get(name, name): value for name, value in settings.items()}


def _makes_its_own_way(pool: PooledDB) -> bool:
    """Tell whether the pool opens its connections as DBUtils does, by no method of the user's."""
    return getattr(pool.steady_connection, "__func__", None) is PooledDB.steady_connection


def _creating(pool: PooledDB, creator: Any) -> Callable[[dict[str, Any]], Any]:
    """Return what opens a connection, given the settings, in the way of the pool but without its statements."""
    if _makes_its_own_way(pool):
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
