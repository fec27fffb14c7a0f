"""The pool as its users see it: settings, connections, statistics, opening and closing.

Owns the public names. ``checkout.py`` checks connections out and in, ``admission_queue.py`` admits callers,
``operations.py`` has the awaitable operations.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import anyio
import pymysql
from dbutils.pooled_db import PooledDB
from pymysql.connections import Connection

from ..bridge.hops import run_in_thread
from ..bridge.portal import bridged
from ..connection.executor import OnLoopCall
from ..connection.sync_connection import OffloadConnection
from ..errors import ConfigurationError
from ..settings import (
    DEFAULT_MIN_SIZE,
    DEFAULT_SIZE,
    check_count,
    check_flag,
    check_known,
    check_seconds,
    check_statements,
    kind_of,
    read_environment,
)
from ..statistics import BlockingCall, PoolStatistics
from .checkout import PoolCore
from .connector import unused_options
from .lanes import Lane
from .operations import Operations
from .variants import Kinds, Variant

logger = logging.getLogger("offload_db")

# Seconds that callers have to give back their connections when aclose() has broken off what they waited for.
BREAK_OFF_TIMEOUT = 1.0

OPTIONS = (
    "lanes",
    "checkout_timeout",
    "max_waiting",
    "statement_timeout",
    "max_age",
    "on_loop_call",
    "leak_warning",
    "fast",
)


class OffloadPool(Operations):
    """A pool of connections whose every driver call leaves the event loop free.

    It takes the place of the DBUtils pool that it wraps: ``pool.connection()`` returns a connection that behaves like
    DBUtils' and PyMySQL's, and whose calls suspend the task where one is bridged (see :func:`offload_db.offload`).
    In plain threads it works as before. No connection is opened before it is needed, except by ``async with pool:``.

    :param pool: the :class:`dbutils.pooled_db.PooledDB` to wrap; connections that it holds idle are taken over. A
        caller waits for a free connection whatever the pool's ``blocking`` says
    :param size: the most connections at once; by default the pool's ``maxconnections``, 20 where that is unlimited
    :param lanes: the :class:`Lane` objects that ``lane=`` can name
    :param checkout_timeout: seconds to wait for a connection; None waits for ever
    :param max_waiting: how many callers may queue for a connection; None sets no limit
    :param statement_timeout: seconds that a statement may take before it is killed; None sets no limit
    :param max_age: seconds after which a connection is replaced, spread over the last tenth so that they do not all
        go at once; None keeps them
    :param on_loop_call: what to do where a driver call would block the event loop's thread: ``"warn"`` runs it, counts
        it and warns once per call site, ``"raise"`` raises :class:`BlockingCallError`, ``"allow"`` runs and counts it
    :param leak_warning: seconds after which a connection that is still out is reported to the ``offload_db`` logger
        with the stack of its checkout; None never does
    :param fast: read the results of PyMySQL's connections in a faster way, and let statements of mysqlclient's share a
        thread, with the same outcome; False leaves both to the drivers. Other drivers, subclasses of their connections
        and versions of PyMySQL outside 1.1 and 1.2 are left alone anyway
    :raises ConfigurationError: if a setting is bad; nothing has been sent to the server then
    """

    def __init__(
        self,
        pool: PooledDB,
        *,
        size: int | None = None,
        lanes: Iterable[Lane] = (),
        checkout_timeout: float | None = 30.0,
        max_waiting: int | None = None,
        statement_timeout: float | None = None,
        max_age: float | None = None,
        on_loop_call: OnLoopCall = "warn",
        leak_warning: float | None = None,
        fast: bool = True,
    ) -> None:
        if not isinstance(pool, PooledDB):
            raise ConfigurationError(
                f"pool={kind_of(pool)}; accepted is a dbutils.pooled_db.PooledDB"
                " (OffloadPool.create makes one from connection settings)"
            )
        if size is None:
            size = pool._maxconnections or DEFAULT_SIZE
        check_count("OffloadPool", "size", size, minimum=1)
        for name, seconds in (
            ("checkout_timeout", checkout_timeout),
            ("statement_timeout", statement_timeout),
            ("max_age", max_age),
            ("leak_warning", leak_warning),
        ):
            check_seconds("OffloadPool", name, seconds)
        if max_waiting is not None:
            check_count("OffloadPool", "max_waiting", max_waiting, minimum=0)
        check_flag("OffloadPool", "fast", fast)
        common = Lane(
            "the pool",
            size,
            max_waiting=max_waiting,
            checkout_timeout=checkout_timeout,
            statement_timeout=statement_timeout,
        )
        self._core = PoolCore(
            pool,
            common,
            _as_lanes(lanes),
            max_age=max_age,
            on_loop_call=on_loop_call,
            leak_warning=leak_warning,
            fast=fast,
        )
        self._kinds = Kinds(self._core.connector)
        if unused := unused_options(pool):
            logger.info("of the PooledDB that is wrapped, these settings change nothing here: %s", ", ".join(unused))

    def __repr__(self) -> str:
        return repr(self._core)

    @classmethod
    def create(
        cls,
        creator: Any = pymysql,
        *,
        min_size: int = DEFAULT_MIN_SIZE,
        max_size: int = DEFAULT_SIZE,
        setsession: list[str] | None = None,
        maxusage: int | None = None,
        **options: Any,
    ) -> OffloadPool:
        """Make a pool from connection settings.

        :param creator: the driver module, or a function that connects
        :param min_size: connections that ``async with pool:`` opens ahead of need, not more than *max_size*; if it is
            not given, and *max_size* is less, as many as that
        :param max_size: the most connections at once
        :param setsession: statements that prepare each new connection
        :param maxusage: statements after which a connection is replaced; None and 0 set no limit
        :param options: any other option of :class:`OffloadPool`; everything else goes to the driver's ``connect``
        :raises ConfigurationError: if a setting is bad
        """
        check_count("OffloadPool.create", "max_size", max_size, minimum=1)
        if min_size is DEFAULT_MIN_SIZE:
            min_size = min(DEFAULT_MIN_SIZE, max_size)
        check_count("OffloadPool.create", "min_size", min_size, minimum=0)
        if min_size > max_size:
            raise ConfigurationError(
                f"OffloadPool.create: min_size={min_size}; accepted is at most max_size={max_size}"
            )
        for name in ("size", "maxsize"):  # as OffloadPool calls it, and as aiomysql does
            if name in options:
                raise ConfigurationError(f"OffloadPool.create: {name} is not an argument here; max_size is")
        if not callable(getattr(creator, "connect", creator)):
            raise ConfigurationError(
                f"OffloadPool.create: creator={kind_of(creator)}; accepted are driver modules and connecting functions"
            )
        if maxusage is not None:
            check_count("OffloadPool.create", "maxusage", maxusage, minimum=0)
        check_statements("OffloadPool.create", "setsession", setsession)
        if creator in (pymysql, Connection):  # another creator's arguments are not known
            check_known("OffloadPool.create", options, _known_settings(), "OffloadPool's and those of pymysql.connect")
        chosen = {name: options.pop(name) for name in OPTIONS if name in options}
        try:
            dbutils = PooledDB(
                creator, maxconnections=max_size, blocking=True, maxusage=maxusage, setsession=setsession, **options
            )
        except Exception as error:
            raise ConfigurationError(
                f"OffloadPool.create: creator={kind_of(creator)} is not accepted: {error}"
            ) from error
        pool = cls(dbutils, **chosen)
        pool._core.min_size = min_size
        return pool

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> OffloadPool:
        """Make a pool of PyMySQL connections from environment variables.

        ``MYSQL_HOST``, ``MYSQL_USER``, ``MYSQL_PASSWORD`` (which may be empty) and ``MYSQL_DATABASE`` must be there;
        ``MYSQL_PORT`` (3306), ``DB_POOL_MIN_SIZE`` (5) and ``DB_POOL_MAX_SIZE`` (20) may be, and for TLS
        ``MYSQL_SSL_CA``, ``MYSQL_SSL_CERT`` and ``MYSQL_SSL_KEY`` (files), ``MYSQL_SSL_VERIFY_CERT``,
        ``MYSQL_SSL_VERIFY_IDENTITY`` and ``MYSQL_SSL_DISABLED`` (1 or 0), which mean what :func:`pymysql.connect`'s
        arguments of these names do; with a CA the server's certificate is verified unless that is switched off. The
        connections are in autocommit mode, speak utf8mb4 and return rows as dictionaries.

        :param environ: where to read; None takes :data:`os.environ`
        :raises ConfigurationError: naming every variable that is missing or wrong
        """
        # Not as the default itself: help() and documentation show defaults, and the environment has passwords.
        smallest, largest, settings = read_environment(os.environ if environ is None else environ)
        return cls.create(
            pymysql,
            min_size=smallest,
            max_size=largest,
            charset="utf8mb4",
            autocommit=True,
            cursorclass=pymysql.cursors.DictCursor,
            **settings,
        )

    def connection(self, shareable: bool = True, *, lane: str | None = None) -> OffloadConnection:
        """Check out a connection.

        If the task is cancelled while it waits for one or opens one, it holds none afterwards.

        :param shareable: accepted for DBUtils' sake; a connection belongs to its caller alone
        :param lane: name of the lane that it counts against; by default the lane of the bridged call
        :raises CheckoutTimeout: if none became free in time, or if none ever can
        :raises LaneFull: if ``max_waiting`` callers are queued already
        :raises PoolClosed: if the pool is closed
        :raises ConfigurationError: if there is no such lane, or a name was given in the place of *shareable*
        :raises pymysql.err.OperationalError: if the server can't be reached, as the driver raises it
        """
        if isinstance(shareable, str):
            raise ConfigurationError(
                "connection: the first argument is DBUtils' shareable, and a str; accepted are True and False (a lane "
                "is named by keyword: connection(lane=…))"
            )
        return OffloadConnection(self._core.checkout(lane))

    def dedicated_connection(self, *, lane: str | None = None) -> OffloadConnection:
        """Check out a connection; the same as :meth:`connection`, under DBUtils' other name.

        :param lane: name of the lane to count against, instead of the decorated handler's
        :return: the connection
        """
        return self.connection(lane=lane)

    def connect(self, **settings: Any) -> OffloadConnection:
        """Check out a connection in the place of :func:`pymysql.connect`, for code that connects anew each time.

        ``pymysql.connect(...)`` becomes ``pool.connect(...)``. The connection is as one that was opened with just these
        settings: its cursor class, autocommit mode and converters are those that are asked for, not the pool's. Closing
        it gives it back. What else a session keeps, such as variables that were set, stays for its next user.

        :param settings: what :func:`pymysql.connect` takes; server, user, password and database must be the pool's
        :raises ConfigurationError: if they are not, or a function of the user's opens the pool's connections
        :raises CheckoutTimeout: as :meth:`connection` does, and everything else that it raises
        """
        return OffloadConnection(self._core.checkout(None, self._kinds.of(settings)))

    def variant(self, **changes: Any) -> Variant:
        """Give a view of this pool whose connections are opened with other settings, within the same limits.

        :param changes: arguments of :func:`pymysql.connect` that differ from the pool's; the bits of ``client_flag``
            are added to its own
        """
        return Variant(self._core, self._core.connector.variant(changes))

    @property
    def minsize(self) -> int:
        """How many connections the pool opens ahead of need, when it is entered."""
        return self._core.min_size

    @property
    def maxsize(self) -> int | None:
        """The most connections at once; None only where :func:`offload_db.aio.create_pool` was given no limit."""
        return self._core.admission.size

    def statistics(self) -> PoolStatistics:
        """Return what the pool holds now and has counted so far."""
        return self._core.statistics()

    def blocking_calls(self) -> list[BlockingCall]:
        """List the places in the source that blocked the event loop, the costliest first."""
        return self._core.counters.blocked.places()

    async def __aenter__(self) -> OffloadPool:
        """Open ``min_size`` connections ahead of need."""
        await bridged(self._core.fill)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self, drain_timeout: float = 10.0) -> None:
        """Close the pool: refuse who comes and who waits, let the others finish, then close every connection.

        What still runs after the drain is killed, and its caller gets the error. Closing twice is fine. If the task is
        cancelled, the drain ends at once and everything is closed all the same.

        :param drain_timeout: seconds to let callers finish that hold a connection; 0 does not wait
        """
        if drain_timeout != 0:
            check_seconds("OffloadPool.aclose", "drain_timeout", drain_timeout)
        self._core.refuse()
        try:
            with anyio.move_on_after(drain_timeout):
                await self._core.admission.wait_until_idle()
        finally:
            with anyio.CancelScope(shield=True):
                # Not in one of the executor's own threads, which are what has to be freed.
                try:
                    try:
                        await run_in_thread(self._core.break_off, anyio.CapacityLimiter(1))
                    except RuntimeError:  # no further thread can be had: the interpreter exits
                        self._core.break_off()
                    with anyio.move_on_after(BREAK_OFF_TIMEOUT):
                        await self._core.admission.wait_until_idle()
                finally:  # asyncio's own task.cancel() passes through a shield
                    for link in self._core.out():
                        link.break_link()
                    await bridged(self._core.idle.close_all)

    def close(self) -> None:
        """Close the pool: refuse who comes and who waits, and close the idle connections.

        A connection that is out is closed when it comes back; :meth:`aclose` waits for that. Closing twice is fine.
        """
        self._core.refuse()
        self._core.idle.close_all()


def _as_lanes(lanes: Iterable[Lane]) -> tuple[Lane, ...]:
    try:
        return tuple(lanes)
    except TypeError:
        raise ConfigurationError(f"OffloadPool: lanes={kind_of(lanes)}; accepted are lists of Lane objects") from None


def _known_settings() -> set[str]:
    """Return what may be given to make a pool of PyMySQL's connections."""
    return {*OPTIONS, *inspect.signature(PooledDB).parameters, *inspect.signature(Connection).parameters}
