"""Connections of one pool that are opened with other settings than the rest.

Owns what such a view of a pool offers, and what tells one server and user from another. Connections of every kind share
the pool's limits; ``idle.py`` decides which is thrown out to make room.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pymysql

from ..connection.sync_connection import OffloadConnection
from ..errors import ConfigurationError
from .checkout import PoolCore
from .connector import Connector

# Sets of arguments to connect() that a pool remembers. Code that has more of them, or makes new objects for each call,
# gets connections that nobody else can use.
KEPT = 8

# What says where a connection leads and as whom, by the name that it goes by here.
_ALIASES = {"db": "database", "passwd": "password"}
_DEFAULTS: dict[str, Any] = {
    "host": "localhost",
    "port": 3306,
    "unix_socket": None,
    "user": pymysql.connections.DEFAULT_USER,
    "password": "",
    "database": None,
    "read_default_file": None,
    "read_default_group": None,
}
_SHOWN = ("host", "port", "unix_socket", "user", "database")


class Variant:
    """A view of a pool: connections opened with other settings, within the same limits, lanes and statistics.

    They are used for nothing else. An idle one makes room where another kind needs it, and the other way round.
    """

    def __init__(self, core: PoolCore, connector: Connector) -> None:
        self._core = core
        self._connector = connector

    def __repr__(self) -> str:
        return f"<Variant of {self._core!r}>"

    def connection(self, *, lane: str | None = None) -> OffloadConnection:
        """Check out a connection; see :meth:`offload_db.OffloadPool.connection`."""
        return OffloadConnection(self._core.checkout(lane, self._connector))

    def close_idle(self) -> None:
        """Close the connections of this view that are idle; the pool stays open."""
        self._core.idle.close_kind(self._connector)

    @property
    def size(self) -> int:
        """The most connections of the whole pool at once."""
        return self._core.admission.size

    def counts(self) -> tuple[int, int]:
        """Return how many connections of this view are idle, and how many in use."""
        return self._core.idle.count_kind(self._connector)

    def checkout_timeout(self, lane: str | None) -> float | None:
        """Return the seconds that a connection is waited for, None for ever."""
        return self._core.admission.checkout_timeout(lane)

    @property
    def address(self) -> dict[str, Any]:
        """Where the connections lead and as whom, as far as it is known without asking: with the password."""
        if self._connector.by_function:
            return {}
        where = target(self._connector.settings)
        return {name: where[name] for name in (*_SHOWN, "password") if where[name] is not None}


class Kinds:
    """The kinds of connections that ``pool.connect(...)`` was asked for.

    :param own: what makes the pool's own connections
    """

    def __init__(self, own: Connector) -> None:
        self._own = own
        self._kept: list[Connector] = []

    def of(self, settings: dict[str, Any]) -> Connector:
        """Return what makes connections with these settings and no others.

        :raises ConfigurationError: if they lead elsewhere than the pool's do
        """
        self._check(settings)
        wanted = _plain(settings)
        if wanted == _plain(self._own.settings) and not self._own.prepares:
            return self._own
        for connector in self._kept:
            if _plain(connector.settings) == wanted:
                return connector
        connector = self._own.exact(settings)
        self._kept = [connector, *self._kept[: KEPT - 1]]
        return connector

    def _check(self, settings: dict[str, Any]) -> None:
        if self._own.by_function:
            raise ConfigurationError(
                "connect: a function opens this pool's connections, so it is not known where they lead; accepted are "
                "pools whose creator is pymysql (give the pool pymysql and its settings, or use offload_db.connect)"
            )
        if settings.get("defer_connect"):
            raise ConfigurationError(
                "connect: defer_connect=True; accepted is False: a pool gives open connections alone "
                "(offload_db.connect takes it)"
            )
        mine, wanted = target(self._own.settings), target(settings)
        different = [name for name in _DEFAULTS if mine[name] != wanted[name]]
        if different:
            raise ConfigurationError(
                f"connect: {', '.join(different)} differs from the pool's; accepted is what that connects with itself "
                "(offload_db.connect opens a connection of no pool, and another pool serves another database)"
            )


def target(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what in the arguments of :func:`pymysql.connect` says where it leads and as whom."""
    named = _plain(settings)
    return {name: named.get(name) or default for name, default in _DEFAULTS.items()}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under one name each."""
    return {_ALIASES.get(name, name): value for name, value in settings.items()}
