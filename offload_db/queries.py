"""A default pool from the environment, and functions that run a query on it.

Owns the one pool that they share. Settings are :meth:`OffloadPool.from_env`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from .pool.pool import OffloadPool
from .statistics import PoolStatistics

_lock = threading.Lock()
_pool: OffloadPool | None = None


def _default_pool() -> OffloadPool:
    # Making a pool connects to nothing, so the lock is never held for long.
    global _pool
    with _lock:
        if _pool is None:
            _pool = OffloadPool.from_env()
        return _pool


async def get_async_pool() -> OffloadPool:
    """Return the default pool, made from the environment when it is first asked for.

    It may be used from several event loops and threads. Nothing is waited for, so nothing is there to be cancelled.

    :raises ConfigurationError: naming every environment variable that is missing or wrong
    """
    return _default_pool()


async def close_async_pool(drain_timeout: float = 10.0) -> None:
    """Close the default pool, if there is one; the next query makes a new one.

    If the task is cancelled, the pool is closed without waiting longer.

    :param drain_timeout: seconds to let callers finish that hold a connection
    """
    global _pool
    with _lock:
        pool, _pool = _pool, None
    if pool is not None:
        await pool.aclose(drain_timeout)


async def execute_query(query: str, params: Any = None, *, timeout: float | None = None) -> list[dict[str, Any]]:
    """Execute a query and return all its rows.

    If the task is cancelled, the statement is killed.

    :param query: the statement, with PyMySQL's placeholders
    :param params: its parameters: a tuple, list or mapping, a single value, or None
    :param timeout: seconds for all of it: waiting, connecting, executing and fetching
    """
    return await _default_pool().fetch_all(query, params, timeout=timeout)


async def execute_query_one(query: str, params: Any = None, *, timeout: float | None = None) -> dict[str, Any] | None:
    """Execute a query and return its first row, None if there is none.

    If the task is cancelled, the statement is killed.

    :param query: the statement, with PyMySQL's placeholders
    :param params: its parameters: a tuple, list or mapping, a single value, or None
    :param timeout: seconds for all of it: waiting, connecting, executing and fetching
    :return: the row as a dictionary, or None
    """
    row: dict[str, Any] | None = await _default_pool().fetch_one(query, params, timeout=timeout)
    return row


async def execute_insert(query: str, params: Any = None, *, timeout: float | None = None) -> int:
    """Execute an INSERT and return the id that the server gave.

    If the task is cancelled, the statement is killed, unless its commit has begun, and rolled back.

    :param query: the statement, with PyMySQL's placeholders
    :param params: its parameters: a tuple, list or mapping, a single value, or None
    :param timeout: seconds for all of it: waiting, connecting, executing and fetching
    :return: the id, 0 where the table gives none
    """
    return await _default_pool().insert(query, params, timeout=timeout)


async def execute_update(query: str, params: Any = None, *, timeout: float | None = None) -> int:
    """Execute an UPDATE and return the number of affected rows.

    If the task is cancelled, the statement is killed, unless its commit has begun, and rolled back.

    :param query: the statement, with PyMySQL's placeholders
    :param params: its parameters: a tuple, list or mapping, a single value, or None
    :param timeout: seconds for all of it: waiting, connecting, executing and fetching
    :return: the number of rows that were changed
    """
    return await _default_pool().execute(query, params, timeout=timeout)


async def execute_delete(query: str, params: Any = None, *, timeout: float | None = None) -> int:
    """Execute a DELETE and return the number of affected rows.

    If the task is cancelled, the statement is killed, unless its commit has begun, and rolled back.

    :param query: the statement, with PyMySQL's placeholders
    :param params: its parameters: a tuple, list or mapping, a single value, or None
    :param timeout: seconds for all of it: waiting, connecting, executing and fetching
    :return: the number of rows that were deleted
    """
    return await _default_pool().execute(query, params, timeout=timeout)


async def execute_many(query: str, rows: Iterable[Any], *, timeout: float | None = None) -> int:
    """Execute a statement for each of *rows*, all in one transaction, and return the number of affected rows.

    If the task is cancelled, the statement is killed, unless the commit has begun, and all is rolled back.

    :param query: the statement, with PyMySQL's placeholders
    :param rows: the parameters of each statement
    :param timeout: seconds for all of it: waiting, connecting, executing and fetching
    :return: the number of affected rows of all
    """
    return await _default_pool().execute_many(query, rows, timeout=timeout)


def get_pool_stats() -> PoolStatistics | None:
    """Return the default pool's statistics, None if there is no pool yet."""
    with _lock:
        pool = _pool
    return None if pool is None else pool.statistics()


async def health_check(timeout: float = 5.0) -> dict[str, Any]:
    """Ask the database for a sign of life; never raises, but for a cancellation.

    :param timeout: seconds after which the database counts as not healthy
    :return: ``healthy``, and with it ``error``: None, or what is wrong in a sentence without passwords
    """
    try:
        await _default_pool().fetch_value("SELECT 1", timeout=timeout)
    except Exception as error:
        return {"healthy": False, "error": f"{type(error).__name__}: {error}"}
    return {"healthy": True, "error": None}
