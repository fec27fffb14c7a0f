"""Claims about streams whose statement writes: committed at their end, rolled back where they are left."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from offload_db import OffloadPool
from tests.awaitable.test_streams import accounted
from tests.conftest import MySQL
from tests.support import pool_of, settled, value


@pytest.fixture
def table(mysql: MySQL, database: dict[str, Any]) -> dict[str, Any]:
    with mysql.connect(**database) as plain, plain.cursor() as cursor:
        cursor.execute("CREATE TABLE t (a INT)")
        cursor.execute("INSERT INTO t SELECT seq FROM mysql.seq_1_to_1000")
        cursor.execute("CREATE FUNCTION dropped(n INT) RETURNS INT BEGIN DELETE FROM t WHERE a = n; RETURN n; END")
        cursor.execute(
            "CREATE PROCEDURE drop_all() BEGIN DELETE FROM t WHERE a <= 500; SELECT seq FROM mysql.seq_1_to_500; "
            "DO SLEEP(0.05); SELECT 1; DELETE FROM t; END"
        )
    return database


def count(mysql: MySQL, table: dict[str, Any]) -> int:
    with mysql.connect(**table) as plain:
        return int(value(plain, "SELECT COUNT(*) FROM t"))


WRITES = {
    "returning": "DELETE FROM t RETURNING a",
    "function": "SELECT dropped(seq) FROM mysql.seq_1_to_1000",
    "procedure": "CALL drop_all()",
    "no rows": "DELETE FROM t",
    "after a comment": "/* why */ DELETE FROM t RETURNING a",
}


@pytest.mark.anyio
@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("write", WRITES)
async def test_what_a_stream_writes_is_committed_at_its_end(
    write: str, autocommit: bool, mysql: MySQL, table: dict[str, Any]
) -> None:
    """A stream is a transaction of its own, as the other operations are: read to its end, it is committed."""
    with pool_of(1, table, autocommit=autocommit) as pool:
        rows = [row async for row in pool.stream(WRITES[write], chunk_size=100)]
        assert len(rows) == {"procedure": 500, "no rows": 0}.get(write, 1000)
        assert count(mysql, table) == 0
        assert pool.statistics().discards == {}
        accounted(pool)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("how", "write", "autocommit"),
    [
        *((how, "returning", True) for how in ("break", "last row", "error", "cancelled", "factory")),
        *((how, "procedure", True) for how in ("break", "last row", "cancelled")),
        ("break", "function", True),
        ("break", "returning", False),
    ],
)
async def test_what_a_stream_writes_is_rolled_back_where_it_is_left(
    how: str, write: str, autocommit: bool, mysql: MySQL, table: dict[str, Any]
) -> None:
    """A stream of a write that is left before its end, in whichever way, has done nothing, though all was sent."""
    scope = anyio.CancelScope()
    last = 500 if write == "procedure" else 1000

    def refuse(**row: int) -> int:
        (number,) = row.values()
        if number == 15:
            raise LookupError
        return number

    async def leave(pool: OffloadPool) -> None:
        cursor = refuse if how == "factory" else None
        async with aclosing(pool.stream(WRITES[write], chunk_size=10, cursor=cursor)) as rows:
            read = 0
            async for _ in rows:
                read += 1
                if read == (last if how == "last row" else 15):
                    if how == "error":
                        raise LookupError
                    if how == "cancelled":
                        scope.cancel()
                        await anyio.sleep_forever()
                    break

    with pool_of(1, table, autocommit=autocommit) as pool:
        with scope:
            try:
                await leave(pool)
            except LookupError:
                assert how in ("error", "factory")
        await settled(lambda: pool.statistics().in_use == 0)
        assert count(mysql, table) == 1000
        assert await pool.fetch_value("SELECT 'mine'") == "mine"
        accounted(pool)


@pytest.mark.anyio
async def test_reading_begins_no_transaction(mysql: MySQL, table: dict[str, Any]) -> None:
    """With autocommit on, a stream that only reads sends nothing but its statement."""
    with pool_of(1, table) as pool:
        session = await pool.fetch_value("SELECT CONNECTION_ID()")
        before = await pool.fetch_all("SHOW SESSION STATUS WHERE Variable_name IN ('Com_begin', 'Com_commit')")
        assert len([row async for row in pool.stream("SELECT a FROM t")]) == 1000
        assert session == await pool.fetch_value("SELECT CONNECTION_ID()")
        after = await pool.fetch_all("SHOW SESSION STATUS WHERE Variable_name IN ('Com_begin', 'Com_commit')")
        assert before == after
