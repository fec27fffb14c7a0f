"""Streams: the rows of an unbuffered result, one chunk per hop to a worker thread.

Owns reading ahead, and how a stream ends that is left early. The connection is checked out and given back by the pool.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any

import anyio.lowlevel

from ..bridge.background import start_thread
from ..bridge.hops import Hop
from ..bridge.place import Place, place
from ..bridge.portal import bridged
from ..connection.physical import Lease
from ..connection.sync_connection import OffloadConnection, abandon_result, physical_of, read_further_results
from ..connection.sync_cursor import OffloadCursor, driver_cursor, fetch_chunk, physical_under, raise_later_error
from ..drivers.only_reads import only_reads
from ..errors import ThreadUnavailable
from .connection import AsyncConnection, make_cursor, synchronous
from .cursors import synchronous_cursor
from .one_shot import row_shape
from .pending import Pending
from .transactions import Source


def stream(
    pool: Source[AsyncConnection], sql: str, args: Any, *, chunk_size: int, lane: str | None, cursor: Any
) -> AsyncGenerator[Any, None]:
    """Iterate over the rows of a statement; see :meth:`OffloadPool.stream`."""
    # Whoever drops a stream in the middle goes on at once, while the event loop has yet to close it. From then on its
    # connection is nobody's who might be waiting for another one.
    checkouts: list[Lease] = []
    watch: list[object] = []
    rows = _rows(pool, sql, args, chunk_size=chunk_size, lane=lane, cursor=cursor, checkouts=checkouts, watch=watch)
    watch.append(weakref.ref(rows, partial(_dropped, checkouts)))
    return rows


def _dropped(checkouts: list[Lease], _: object) -> None:
    for checkout in checkouts:
        checkout.disown()


async def _rows(
    pool: Source[AsyncConnection],
    sql: str,
    args: Any,
    *,
    chunk_size: int,
    lane: str | None,
    cursor: Any,
    checkouts: list[Lease],
    watch: list[object],
) -> AsyncGenerator[Any, None]:
    """Give the rows, and take note of the checkout; *watch* lives as long as this does."""
    make, kind = row_shape(cursor)
    async with (
        pool.acquire(lane) as connection,
        Pending(partial(make_cursor, connection, kind, buffered=False)) as rows,
    ):
        sync = synchronous(connection)
        if (checkout := physical_of(sync).lease()) is not None:
            checkouts.append(checkout)
        chunks = _Chunks(synchronous_cursor(rows), chunk_size, make)
        try:
            if not only_reads(sql):
                await bridged(partial(_begin, sync))
            await rows.execute(sql, args)
            async for chunk in chunks:
                for row in chunk:
                    yield row
            if not physical_of(sync).clean:
                await bridged(partial(_commit, sync))
        except BaseException:
            abandon_result(sync)  # and it is rolled back when the connection is given back
            raise
        finally:
            await chunks.stop()


def _begin(connection: OffloadConnection) -> None:
    """Begin a transaction, so that all or nothing stays of what the statement does."""
    if physical_of(connection).autocommit is not False:  # not every driver tells
        connection.begin()


def _commit(connection: OffloadConnection) -> None:
    """Read the statement's further results, then commit."""
    read_further_results(connection)
    connection.commit()


class _Chunks:
    """Reads the chunks of an unbuffered result, one ahead of the consumer."""

    def __init__(self, cursor: OffloadCursor, size: int, make: Callable[..., Any] | None) -> None:
        self._cursor = cursor
        self._size = size
        self._make = make
        self._next: Hop[list[Any]] | None = None
        # Errors whose rows before them were given out first: of the link, and of the row factory.
        self._late: Exception | None = None
        self._refused: Exception | None = None

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> list[Any]:
        if place() is Place.THREAD:
            chunk = self._read()
            if not chunk:
                raise StopAsyncIteration
            return chunk
        hop = self._next or self._start()
        self._next = None
        try:
            # A chunk that was read ahead need not be waited for: others are to have their turn all the same, and a
            # cancellation is to come through.
            await anyio.lowlevel.checkpoint()
            chunk = await hop.join()
        except BaseException:
            if not hop.back:
                self._next = hop
            raise
        if not chunk:
            raise StopAsyncIteration
        if len(chunk) == self._size:
            with suppress(ThreadUnavailable):  # who asks for the next chunk tries again
                self._next = self._start()
        return chunk

    async def stop(self) -> None:
        """Bring back the reader that is under way."""
        hop, self._next = self._next, None
        if hop is not None:
            await hop.wait_until_over(partial(self._interrupt, hop))

    def _interrupt(self, hop: Hop[list[Any]]) -> None:
        while not hop.back:  # it may be on its way to the wire still
            physical_under(self._cursor).interrupt()
            time.sleep(0.001)

    def _start(self) -> Hop[list[Any]]:
        link = physical_under(self._cursor)
        hop = Hop(partial(copy_context().run, self._read), partial(link.take_back, link.call_lock))
        start_thread(hop.run, "stream")
        return hop

    def _read(self) -> list[Any]:
        """Read a chunk, on a thread; rows before an error come first, and the error comes with the next chunk."""
        cursor, make = self._cursor, self._make
        late, self._late = self._late, None
        refused, self._refused = self._refused, None
        try:
            if refused is not None:
                raise refused
            if late is not None:
                raise_later_error(cursor, late)
        finally:
            del late, refused
        rows = fetch_chunk(cursor, self._some, self._size)
        if make is None:
            return list(rows)
        made: list[Any] = []
        try:
            for row in rows:
                made.append(make(**row))  # noqa: PERF401  # what was made before an error is given out
        except Exception as error:
            if not made:
                raise
            self._refused = error
        return made

    def _some(self) -> list[Any]:
        raw = driver_cursor(self._cursor)
        rows: list[Any] = []
        try:
            while len(rows) < self._size and (row := raw.fetchone()) is not None:
                rows.append(row)
        except Exception as error:
            if not rows:
                raise
            self._late = error
        return rows
