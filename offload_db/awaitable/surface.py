"""What the awaitable half of the pool takes from this package.

Owns nothing: it puts together what the other files make.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Any

from ..pool.pool import OffloadPool
from .connection import AsyncConnection
from .pending import Pending
from .streams import stream
from .transactions import outer_transaction, pool_transaction


class _Surface:
    """The functions of :class:`offload_db.pool.operations.Surface`."""

    def acquire(self, pool: OffloadPool, lane: str | None) -> Pending[AsyncConnection]:
        return Pending(lambda: AsyncConnection(pool.connection(lane=lane)))

    def transaction(
        self, pool: OffloadPool, lane: str | None, isolation_level: str | None, read_only: bool
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        return pool_transaction(pool, lane, isolation_level, read_only)

    def stream(
        self, pool: OffloadPool, sql: str, args: Any, *, chunk_size: int, lane: str | None, cursor: Any
    ) -> AsyncGenerator[Any, None]:
        return stream(pool, sql, args, chunk_size=chunk_size, lane=lane, cursor=cursor)

    def nested(self, pool: OffloadPool) -> bool:
        return outer_transaction(pool) is not None


OffloadPool._awaitable = _Surface()
