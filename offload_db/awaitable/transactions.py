"""Transactions: begin, commit, roll back, and savepoints inside one.

Owns which transaction a task is in. The statements are sent over the synchronous connection.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol, TypeVar

from ..bridge.caller_identity import Caller, caller
from ..bridge.portal import bridged
from ..connection.sync_connection import OffloadConnection, physical_of, undo
from ..errors import ConfigurationError
from ..settings import shown


class _Connection(Protocol):
    """What a transaction needs of the connection that it runs on."""

    _connection: OffloadConnection
    _depth: int


C = TypeVar("C", bound=_Connection)
C_co = TypeVar("C_co", bound=_Connection, covariant=True)


class Source(Protocol[C_co]):
    """What gives connections: a pool."""

    def acquire(self, lane: str | None = None) -> AbstractAsyncContextManager[C_co]:
        """Check one out for the block."""


ISOLATION_LEVELS = ("READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")

_current: ContextVar[tuple[Source[Any], Caller, Any] | None] = ContextVar("offload_db_transaction", default=None)


def outer_transaction(pool: Source[C]) -> C | None:
    """Return the connection whose transaction on *pool* the calling task is in."""
    current = _current.get()
    if current is None or current[0] is not pool or current[1] != caller() or not current[2]._depth:
        return None
    connection: C = current[2]
    return connection


@asynccontextmanager
async def transaction(connection: C, isolation_level: str | None, read_only: bool) -> AsyncGenerator[C, None]:
    """Run the block in a transaction of the connection; see :meth:`AsyncConnection.transaction`."""
    inner = connection._depth > 0
    check_isolation_level(isolation_level)
    if inner and (isolation_level is not None or read_only):
        raise ConfigurationError(
            "transaction: isolation_level or read_only inside another transaction, where it is a savepoint; accepted "
            "are both in the outermost one"
        )
    savepoint = f"offload_db_{connection._depth}" if inner else None
    if savepoint is not None:
        begin = [f"SAVEPOINT {savepoint}"]
    else:
        begin = [f"SET TRANSACTION ISOLATION LEVEL {isolation_level.upper()}"] if isolation_level else []
        begin.append(f"START TRANSACTION READ {'ONLY' if read_only else 'WRITE'}")
    sync = connection._connection
    try:
        await bridged(partial(_send, sync, begin))
    except BaseException as error:
        # Cancelled or late: it may have begun all the same, or its isolation level may be there for what comes next.
        if savepoint is None and (not isinstance(error, Exception) or getattr(error, "may_have_run", False)):
            await bridged(partial(undo, sync, None))
        raise
    connection._depth += 1
    try:
        yield connection
    except BaseException:
        connection._depth -= 1
        await bridged(partial(undo, sync, savepoint))
        raise
    connection._depth -= 1
    end = sync.commit if savepoint is None else partial(_send, sync, [f"RELEASE SAVEPOINT {savepoint}"])
    await bridged(end)


def check_isolation_level(level: object) -> None:
    """Raise :class:`ConfigurationError` unless *level* is the name of an isolation level, or None."""
    if level is not None and not (isinstance(level, str) and level.upper() in ISOLATION_LEVELS):
        given, accepted = shown(level, ISOLATION_LEVELS), ", ".join(ISOLATION_LEVELS)
        raise ConfigurationError(f"transaction: isolation_level={given}; accepted are {accepted} and None")


def _send(connection: OffloadConnection, statements: list[str]) -> None:
    link = physical_of(connection)
    args, kwargs = link.driver.cursor_arguments(link.raw, tuple)
    with connection.cursor(*args, **kwargs) as cursor:
        for statement in statements:
            cursor.execute(statement)


@asynccontextmanager
async def pool_transaction(
    pool: Source[C], lane: str | None, isolation_level: str | None, read_only: bool
) -> AsyncGenerator[C, None]:
    """Check out a connection for a transaction; inside one of the same task and pool, make a savepoint of it."""
    check_isolation_level(isolation_level)  # before a connection is opened for nothing
    outer = outer_transaction(pool)
    if outer is not None:
        async with transaction(outer, isolation_level, read_only):
            yield outer
        return
    async with pool.acquire(lane) as connection:
        token = _current.set((pool, caller(), connection))
        try:
            async with transaction(connection, isolation_level, read_only):
                yield connection
        finally:
            with suppress(ValueError):  # left by another context than it was entered in
                _current.reset(token)
