"""SQLAlchemy on the pool: a synchronous engine whose statements leave the event loop free.

Owns what SQLAlchemy sees of the pool: its engine, its dialect and its own idea of a pool, which keeps nothing. How
statements run, are killed and are limited is the pool's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from typing import Any, cast
from weakref import WeakKeyDictionary

import anyio
from pymysql.constants import CLIENT, CR
from pymysql.cursors import Cursor
from pymysql.err import OperationalError

try:
    import sqlalchemy
    from sqlalchemy import event
    from sqlalchemy.dialects import registry
    from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
    from sqlalchemy.engine import URL, Engine, ExceptionContext
    from sqlalchemy.pool import Pool
    from sqlalchemy.pool.base import _ConnectionRecord
except ImportError as error:
    raise ImportError(
        "offload_db.contrib.sqlalchemy needs SQLAlchemy 2: pip install 'offload-db[sqlalchemy]'"
    ) from error

from .. import (
    ConfigurationError,
    ConnectionClosed,
    ConnectionLost,
    OffloadConnection,
    OffloadPool,
    StatementTimeout,
    blocking,
)
from ..bridge.call_scope import current_bridged_call
from ..bridge.place import Place, place
from ..connection.sync_connection import physical_of
from ..pool.variants import Variant
from ..settings import kind_of

# Seconds that a rollback may take which nobody can cancel.
ROLLBACK_TIMEOUT = 10.0

# Arguments of SQLAlchemy's create_engine that say what is the pool's to say, and what says it there.
_INSTEAD = {
    "pool": "the OffloadPool is the pool",
    "poolclass": "the OffloadPool is the pool",
    "pool_size": "the OffloadPool's size (of the PooledDB: maxconnections)",
    "max_overflow": "the OffloadPool's size, which is never exceeded",
    "pool_timeout": "the OffloadPool's checkout_timeout",
    "pool_recycle": "the OffloadPool's max_age",
    "pool_use_lifo": "nothing: the connection used last is always taken first",
    "pool_reset_on_return": "nothing: what is open is always rolled back",
    "creator": "the settings that the OffloadPool was made with",
    "connect_args": "the settings that the OffloadPool was made with",
    "module": "nothing: the driver is PyMySQL",
    "url": "the settings that the OffloadPool was made with",
}


def create_engine(pool: OffloadPool, *, lane: str | None = None, **options: Any) -> Engine:
    """Make a synchronous SQLAlchemy engine whose connections come from the pool.

    Where SQLAlchemy's own ``create_engine(url, …)`` stood, this gives an engine that works the same, with the ORM as
    with Core. Its statements suspend a bridged task and run inline in threads and scripts. Nothing is sent before the
    engine is used. Its connections count against the pool's limits, but are opened for it alone: in transactions
    instead of autocommit mode, with rows as tuples, and counting the rows that an UPDATE found (``FOUND_ROWS``), as
    SQLAlchemy expects; those of other code stay as they are.

    A cancelled task's statement is killed, and SQLAlchemy's connection invalidated.

    :param pool: a pool of PyMySQL's connections
    :param lane: name of the lane that its connections count against; by default the lane of the bridged call
    :param options: what SQLAlchemy's ``create_engine`` takes, but for what the pool decides: its size, its timeouts,
        its connection settings
    :raises ConfigurationError: if the pool is none, or an option is the pool's to decide; it names what to use instead
    """
    if not isinstance(pool, OffloadPool):
        raise ConfigurationError(f"create_engine: pool={kind_of(pool)}; accepted is an OffloadPool")
    if refused := [name for name in options if name in _INSTEAD]:
        texts = (f"{name} is not accepted; use instead: {_INSTEAD[name]}" for name in refused)
        raise ConfigurationError(f"create_engine: {'. '.join(texts)}")
    logging = {"echo": options.pop("echo_pool", None), "logging_name": options.pop("pool_logging_name", None)}
    variant = pool.variant(
        client_flag=CLIENT.FOUND_ROWS,
        autocommit=options.get("isolation_level") == "AUTOCOMMIT",
        cursorclass=Cursor,
        conv=None,
    )
    address = variant.address
    url = URL.create(
        "mysql+offload_db",
        username=address.get("user"),
        password=address.get("password") or None,
        host=address.get("host"),
        port=address.get("port"),
        database=address.get("database"),
    )
    events = options.pop("pool_events", None)
    view = EnginePool(
        variant, lane, events=events, pre_ping=options.pop("pool_pre_ping", False), reset_on_return=None, **logging
    )
    engine = sqlalchemy.create_engine(url, pool=view, **options)
    event.listen(engine, "handle_error", _look_at_timeout)
    engine.url = url.set(drivername="mysql+pymysql")  # which tells other tools what they know how to handle
    return engine


def current_call() -> Hashable:
    """Identify the bridged call or, outside of any, the thread: the ``scopefunc`` for a ``scoped_session``.

    Tasks share the event loop's thread, so a session for each thread would be everybody's.
    """
    return current_bridged_call() or threading.get_ident()


def _look_at_timeout(context: ExceptionContext) -> None:
    # From Python 3.11 on SQLAlchemy takes every TimeoutError for asyncio's, after which a connection can't be used.
    error, connection = context.original_exception, context.connection
    if isinstance(error, StatementTimeout) and connection is not None and not connection.invalidated:
        context.is_disconnect = context.dialect.is_disconnect(cast("Any", error), connection.connection, None)


class EnginePool(Pool):
    """A pool for SQLAlchemy that keeps no connection: each checkout and checkin is the OffloadPool's.

    :param source: where connections come from
    :param lane: name of the lane that they count against
    """

    def __init__(self, source: Variant, lane: str | None, **options: Any) -> None:
        super().__init__(cast("Any", self._open), **options)
        self._source = source
        self._lane = lane
        self._ready = False
        self._first = threading.Lock()
        # For each connection of the driver's what SQLAlchemy's users keep with it.
        self._known: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()

    def _open(self) -> OffloadConnection:
        return self._source.connection(lane=self._lane)

    def _do_get(self) -> _Entry:
        return _Entry(self)

    def _do_return_conn(self, record: Any) -> None:
        record.give_back()

    def _welcome(self, connection: OffloadConnection, entry: _Entry) -> None:
        """Tell those who listen to ``connect`` of a new connection: SQLAlchemy's own dialect among them."""
        if self._ready:
            self.dispatch.connect(connection, entry)
        else:
            # The dialect asks the server what it is, once for the engine, and nobody may go on before it knows. In a
            # worker, because who waits for a lock in a bridged task would stop the one who has it.
            blocking(self._welcome_first)(connection, entry)

    def _welcome_first(self, connection: OffloadConnection, entry: _Entry) -> None:
        with self._first:
            self.dispatch.connect(connection, entry)
            self._ready = True

    def recreate(self) -> EnginePool:
        """Return this very pool, for ``Engine.dispose()``: there is nothing in it to leave behind."""
        return self

    def dispose(self) -> None:
        """Close the engine's idle connections."""
        self._source.close_idle()

    def size(self) -> int:
        """Return the most connections at once, which the engine shares with the pool's other users."""
        return self._source.size

    def checkedin(self) -> int:
        """Return how many of the engine's connections nobody uses."""
        return self._source.counts()[0]

    def checkedout(self) -> int:
        """Return how many of the engine's connections are in use."""
        return self._source.counts()[1]

    def overflow(self) -> int:
        """Return by how many the engine's connections exceed the size: never above 0, as in a pool without overflow."""
        return sum(self._source.counts()) - self.size()

    def timeout(self) -> float | None:
        """Return the seconds that a connection is waited for, None for ever."""
        return self._source.checkout_timeout(self._lane)

    def status(self) -> str:
        """Return the numbers of the engine's connections, worded as SQLAlchemy's own pool does."""
        return (
            f"Pool size: {self.size()}  Connections in pool: {self.checkedin()} "
            f"Current Overflow: {self.overflow()} Current Checked out connections: {self.checkedout()}"
        )


class _Entry(_ConnectionRecord):
    """One checkout, which SQLAlchemy takes for a place in its pool."""

    def __init__(self, pool: EnginePool) -> None:
        super().__init__(pool, connect=False)
        self._engine_pool = pool

    def get_connection(self) -> Any:
        """Return the connection; check one out at the beginning, and where it was invalidated since."""
        if self.dbapi_connection is not None:
            return self.dbapi_connection
        pool = self._engine_pool
        connection = pool._open()
        raw = physical_of(connection).raw  # which is only to be recognised again
        self.fresh = raw not in pool._known
        self.starttime = time.time()
        info = vars(self)["info"] = pool._known.get(raw, {})  # what SQLAlchemy remembers it by
        try:
            if self.fresh:
                pool._welcome(connection, self)
                pool._known[raw] = info
        except BaseException:
            connection.discard()
            raise
        self.dbapi_connection = cast("Any", connection)
        return connection

    def checkin(self, _fairy_was_created: bool = True) -> None:
        """Give the connection back; one that was dropped is left to the OffloadPool, which does no I/O then."""
        if self.fairy_ref is not None and self.fairy_ref() is None:
            dropped = cast("OffloadConnection | None", self.dbapi_connection)
            self.dbapi_connection = None
            if self.finalize_callback and dropped is not None:
                dropped.discard_later()  # its isolation level is not the pool's, and only I/O would restore it
            self.finalize_callback.clear()
        try:
            super().checkin(_fairy_was_created)
        except BaseException:
            if self.dbapi_connection is not None:
                cast("OffloadConnection", self.dbapi_connection).discard()
            raise

    def give_back(self) -> None:
        connection, self.dbapi_connection = self.dbapi_connection, None
        if connection is not None:
            connection.close()


class OffloadDialect(MySQLDialect_pymysql):
    """SQLAlchemy's dialect for PyMySQL, on connections of an OffloadPool."""

    supports_statement_cache = True

    def on_connect(self) -> None:  # type: ignore[override]  # SQLAlchemy accepts None; PyMySQL has set the names
        """Leave a new connection as it is: its character set and collation are what the pool's settings say."""

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Roll back, also in a cancelled scope: SQLAlchemy gives up a session whose rollback is interrupted."""
        if place() is not Place.BRIDGED:
            dbapi_connection.rollback()
            return
        with anyio.move_on_after(ROLLBACK_TIMEOUT, shield=True):  # noqa: ASYNC100  # the call suspends the task
            dbapi_connection.rollback()
            return
        # An error of the driver's, of which SQLAlchemy knows what it means: the connection is lost.
        reason = f"the rollback took longer than {ROLLBACK_TIMEOUT:.0f} s and was given up; take a new session"
        raise OperationalError(CR.CR_SERVER_LOST, reason)

    def do_close(self, dbapi_connection: Any) -> None:
        """Throw out a connection that was invalidated, or detached from the pool."""
        dbapi_connection.discard()

    do_terminate = do_close

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        """Tell whether the connection is lost."""
        if isinstance(e, (ConnectionLost, ConnectionClosed)):
            return True
        raw = getattr(connection, "dbapi_connection", connection)
        return (raw is not None and not raw.open) or super().is_disconnect(e, connection, cursor)


registry.register("mysql.offload_db", __name__, OffloadDialect.__name__)
