"""aiomysql's connection, and how one is opened that belongs to no pool.

Owns aiomysql's names; what a connection does is ``awaitable/connection.py``'s.
"""

from __future__ import annotations

from typing import Any

from ..awaitable.connection import AsyncConnection, Connection
from ..awaitable.pending import Pending
from ..connection.unpooled import connect as connect_unpooled
from .settings import connection_settings

__all__ = ["AsyncConnection", "Connection", "connect"]


def connect(
    host: str = "localhost",
    user: str | None = None,
    password: str = "",
    db: str | None = None,
    port: int = 3306,
    *,
    echo: bool = False,
    **settings: Any,
) -> Pending[AsyncConnection]:
    """Open a connection that belongs to no pool; awaited, or entered with ``async with``, which closes it.

    The keywords are :func:`aiomysql.connect`'s, see :func:`create_pool`. If the task is cancelled, no connection is
    left open.

    :raises pymysql.err.OperationalError: if the server can't be reached
    """
    given = {"host": host, "user": user, "password": password, "db": db, "port": port, **settings}
    wanted = connection_settings("connect", given)
    return Pending(lambda: AsyncConnection(connect_unpooled(**wanted), echo=echo))
