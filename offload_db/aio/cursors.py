"""The awaitable surface: cursors.

Owns no behaviour of its own: each awaitable method runs its synchronous sibling of ``cursor.py`` under a bridge.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..bridge import bridged
from ..cursor import OffloadCursor

if TYPE_CHECKING:  # connection.py makes the cursors, and stands below this file
    from .connection import AsyncConnection


class AsyncCursor:
    """An awaitable cursor; the methods are PyMySQL's, the attributes are plain properties.

    Cancelling the task kills the statement that runs; the cursor and its connection can be used afterwards.
    """

    def __init__(self, connection: AsyncConnection, cursor: OffloadCursor) -> None:
        self._connection = connection
        self._cursor = cursor

    def __repr__(self) -> str:
        return f"<AsyncCursor {'closed' if self.closed else 'open'}>"

    @property
    def connection(self) -> AsyncConnection | None:
        """The connection, None after closing."""
        return None if self.closed else self._connection

    @property
    def closed(self) -> bool:
        """Whether the cursor was closed."""
        return self._cursor.connection is None

    @property
    def rowcount(self) -> int:
        """The number of rows that the last statement returned or changed, -1 before the first."""
        return int(self._cursor.rowcount)

    @property
    def rownumber(self) -> int:
        """The number of rows fetched so far."""
        return int(self._cursor.rownumber)

    @property
    def lastrowid(self) -> Any:
        """The id that the server gave to the last inserted row."""
        return self._cursor.lastrowid

    @property
    def description(self) -> Any:
        """The columns of the result, None where there is none."""
        return self._cursor.description

    @property
    def arraysize(self) -> int:
        """How many rows :meth:`fetchmany` fetches by default."""
        return int(self._cursor.arraysize)

    @arraysize.setter
    def arraysize(self, value: int) -> None:
        self._cursor.arraysize = value

    def mogrify(self, query: str, args: Any = None) -> str:
        """Return the statement as it would be sent."""
        return str(self._cursor.mogrify(query, args))

    async def execute(self, query: str, args: Any = None) -> int:
        """Execute a statement, once, and return the number of rows.

        :raises StatementTimeout: if it ran past its timeout; it was killed
        :raises ConnectionLost: if the link broke; it says whether the statement may have run
        """
        return int(await bridged(partial(self._cursor.execute, query, args)))

    async def executemany(self, query: str, args: Sequence[Any]) -> int:
        """Execute a statement for each item of *args*, in one trip, and return the number of rows."""
        return int(await bridged(partial(self._cursor.executemany, query, args)) or 0)

    async def callproc(self, procname: str, args: Sequence[Any] = ()) -> Any:
        """Call a stored procedure; its results are read with ``fetch…`` and :meth:`nextset`."""
        return await bridged(partial(self._cursor.callproc, procname, args))

    async def nextset(self) -> bool | None:
        """Go to the next result; True if there is one."""
        more: bool | None = await bridged(self._cursor.nextset)
        return more

    async def fetchone(self) -> Any:
        """Fetch the next row, None after the last."""
        return await bridged(self._cursor.fetchone)

    async def fetchmany(self, size: int | None = None) -> Any:
        """Fetch the next *size* rows, by default ``arraysize``."""
        return await bridged(partial(self._cursor.fetchmany, size))

    async def fetchall(self) -> Any:
        """Fetch all rows that are left."""
        return await bridged(self._cursor.fetchall)

    async def scroll(self, value: int, mode: str = "relative") -> None:
        """Move to another row; an unbuffered cursor only goes forward."""
        await bridged(partial(self._cursor.scroll, value, mode))

    async def close(self) -> None:
        """Close the cursor; the rows it has fetched stay. Closing twice is fine."""
        link = self._cursor._link
        try:
            await bridged(self._cursor.close)
        except Exception:
            # What is left of a link that was lost can't be read; that it was lost has been raised where it happened.
            if link.driver.is_open(link.raw):
                raise

    async def __aenter__(self) -> AsyncCursor:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncCursor:
        return self

    async def __anext__(self) -> Any:
        row = await self.fetchone()
        if row is None:
            raise StopAsyncIteration
        return row

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    async def _give_up(self) -> None:
        await self.close()
