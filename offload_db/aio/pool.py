"""The pool as aiomysql's users know it.

Owns aiomysql's names and the order of its shutdown; everything else is :class:`offload_db.OffloadPool`'s.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from types import TracebackType
from typing import Any

import pymysql

from ..awaitable.connection import AsyncConnection
from ..awaitable.pending import Pending
from ..bridge.background import start_thread
from ..bridge.portal import bridged
from ..errors import ConfigurationError, ThreadUnavailable
from ..pool.pool import OPTIONS, OffloadPool
from ..settings import check_count
from .settings import connection_settings

# aiomysql's maxsize=0 sets no limit; a pool here has one, and each connection under way takes a thread.
UNLIMITED = 1000


class Pool(OffloadPool):
    """A pool with aiomysql's methods, besides those of :class:`offload_db.OffloadPool`; see :func:`create_pool`."""

    _echo = False
    _maxsize: int | None = None
    _terminated = False
    _shut = False

    @property
    def maxsize(self) -> int | None:
        """The most connections at once, None where no limit was asked for."""
        return self._maxsize

    @property
    def size(self) -> int:
        """How many connections are open."""
        return len(self._core.links)

    @property
    def freesize(self) -> int:
        """How many connections nobody uses."""
        return len(self._core.idle)

    @property
    def echo(self) -> bool:
        """Whether the statements of cursors are logged, without values."""
        return self._echo

    @property
    def closed(self) -> bool:
        """Whether :meth:`wait_closed` has come to its end."""
        return self._shut

    def acquire(self, lane: str | None = None) -> Pending[AsyncConnection]:
        """Check out an awaitable connection; see :meth:`OffloadPool.acquire`. Waits without limit by default.

        :param lane: the lane that it counts against; None takes that of the decorated handler, if any
        """
        return Pending(lambda: AsyncConnection(self.connection(lane=lane), echo=self._echo))

    def release(self, connection: AsyncConnection) -> Awaitable[None]:
        """Give a connection back; one with an open transaction is thrown out, and so rolled back by the server."""
        if not connection.closed and connection.get_transaction_status():
            connection.close()
        return super().release(connection)

    async def clear(self) -> None:
        """Close the connections that nobody uses.

        If the task is cancelled, those that are left are closed without saying goodbye to the server.
        """
        await bridged(self._core.idle.close_all)

    def close(self) -> None:
        """Refuse who comes and who waits; :meth:`wait_closed` closes the connections."""
        self._core.refuse()

    def terminate(self) -> None:
        """Close the pool, and break off what its connections are used for."""
        self.close()
        self._terminated = True
        # A kill waits for the server, and this may be the event loop's thread.
        try:
            start_thread(self._core.break_off, "terminate")
        except ThreadUnavailable:
            kills = False
        else:
            kills = True
        for link in self._core.out():
            if not (kills and link.busy):
                link.break_link()

    async def wait_closed(self) -> None:
        """Wait until all connections are given back and closed; to be called after :meth:`close`.

        After :meth:`terminate` nobody is waited for. If the task is cancelled, the pool stays as it is.

        :raises RuntimeError: if the pool was not closed
        """
        if not self._core.closed:
            raise RuntimeError("wait_closed() of a pool that is open; call close() or terminate() before it")
        if self._terminated:
            await self.aclose(0)
        else:
            await bridged(self._core.idle.close_all)
            await self._core.admission.wait_until_idle()
        self._shut = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        await self._end_block()

    async def _end_block(self) -> None:
        self.close()
        await self.wait_closed()


def create_pool(
    minsize: int = 1,
    maxsize: int = 10,
    echo: bool = False,
    pool_recycle: float = -1,
    loop: object = None,
    **settings: Any,
) -> Pending[Pool]:
    """Make a pool with aiomysql's arguments; awaited, or entered with ``async with``, which closes it.

    :param minsize: connections that are opened at once
    :param maxsize: the most connections at once; 0 allows 1000
    :param echo: log each statement of a cursor to the ``offload_db`` logger, with ``?`` in the place of values
    :param pool_recycle: seconds after which a connection is replaced, counted from when it was opened; -1 keeps it
    :param loop: accepted, and not needed: the event loop that awaits is the one
    :param settings: aiomysql's connection settings, such as ``db``, ``autocommit`` (False by default) and
        ``cursorclass``; those of :func:`pymysql.connect`; and the options of :class:`offload_db.OffloadPool`, of which
        ``checkout_timeout`` is None by default: ``acquire()`` waits without limit
    :raises ConfigurationError: if a setting is bad
    """
    check_count("create_pool", "minsize", minsize, minimum=0)
    check_count("create_pool", "maxsize", maxsize, minimum=0)
    if 0 < maxsize < minsize:
        raise ConfigurationError(f"create_pool: minsize={minsize}; accepted is at most maxsize={maxsize}")
    options = {name: settings.pop(name) for name in OPTIONS if name in settings}
    options.setdefault("checkout_timeout", None)
    if pool_recycle >= 0:
        options.setdefault("max_age", max(pool_recycle, 0.001))
    wanted = connection_settings("create_pool", settings)
    return Pending(partial(_create, minsize, maxsize, echo, {**options, **wanted}))


def _create(minsize: int, maxsize: int, echo: bool, options: dict[str, Any]) -> Pool:
    largest = maxsize or max(UNLIMITED, minsize)
    pool = Pool.create(pymysql, min_size=minsize, max_size=largest, **options)
    assert isinstance(pool, Pool)
    pool._echo, pool._maxsize = echo, maxsize or None
    try:
        pool._core.fill()
    except BaseException:
        pool._core.refuse()
        pool._core.idle.close_all()
        raise
    return pool
