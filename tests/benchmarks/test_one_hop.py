"""How many trips to a worker thread things cost: counted, not timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pymysql
import pytest

from offload_db import OffloadPool, offload

from ..conftest import MySQL
from ..support import pool_of


@pytest.fixture
def settings(mysql: MySQL, database: dict[str, Any]) -> dict[str, Any]:
    with mysql.connect(**database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE sensors_cache (truck_id VARCHAR(20) PRIMARY KEY, rpm INT)")
        cursor.execute("INSERT INTO sensors_cache VALUES ('T7', 1400)")
    return database


async def trips(pool: OffloadPool, call: Callable[[], Any]) -> int:
    """Return how many trips one call costs on a pool that has its connection open."""

    @offload
    async def bridged() -> None:
        call()

    with_connect = pool.statistics().hops
    await bridged()
    before = pool.statistics().hops
    assert before - with_connect >= 1
    await bridged()
    return pool.statistics().hops - before


@pytest.mark.anyio
async def test_the_whole_handler_costs_one_trip(settings: dict[str, Any]) -> None:
    """Checkout, cursor, execute, fetch, close and close of a legacy handler are one trip to a worker."""
    with pool_of(1, settings) as pool:

        def get_db_connection() -> Any:
            return pool.connection()

        @offload
        async def get_sensors_cache(truck_id: str) -> Any:
            conn = get_db_connection()
            cursor = conn.cursor(pymysql.cursors.DictCursor)
            cursor.execute("SELECT * FROM sensors_cache WHERE truck_id = %s", (truck_id,))
            row = cursor.fetchone()
            cursor.close()
            conn.close()
            return row

        row = {"truck_id": "T7", "rpm": 1400}
        assert await get_sensors_cache("T7") == row
        before = pool.statistics()
        for _ in range(10):
            assert await get_sensors_cache("T7") == row
        after = pool.statistics()
        assert after.hops - before.hops == 10
        assert after.statements - before.statements == 10
        assert after.open == 1


@pytest.mark.anyio
async def test_trips_of_other_shapes(settings: dict[str, Any]) -> None:
    """Each statement is one trip, and so is giving back what is in doubt; fetching, iterating and closing are none."""

    def reads(connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM sensors_cache")
            assert list(cursor) == [("T7", 1400)]
            assert cursor.fetchall() == ()
            assert (cursor.rowcount, cursor.description[0][0]) == (1, "truck_id")

    with pool_of(1, settings) as pool:

        def two_reads() -> None:
            with pool.connection() as connection:
                reads(connection)
                reads(connection)

        def transaction() -> None:
            with pool.connection() as connection:
                connection.begin()
                reads(connection)
                connection.commit()

        def forgotten() -> None:
            with pool.connection() as connection:
                connection.begin()
                reads(connection)

        assert await trips(pool, two_reads) == 2
        assert await trips(pool, transaction) == 3
        assert await trips(pool, forgotten) == 3

    with pool_of(1, settings, autocommit=False) as pool:

        def committed() -> None:
            with pool.connection() as connection:
                reads(connection)
                connection.commit()

        def doubtful() -> None:
            with pool.connection() as connection:
                reads(connection)

        assert await trips(pool, committed) == 2
        assert await trips(pool, doubtful) == 2


@pytest.mark.anyio
async def test_a_thread_costs_one_trip_however_many_statements(settings: dict[str, Any]) -> None:
    """In mode="thread" the driver calls run inline on the one worker: the pool makes no trip of its own."""
    with pool_of(1, settings) as pool:

        @offload(mode="thread")
        async def many() -> None:
            with pool.connection() as connection, connection.cursor() as cursor:
                for _ in range(10):
                    cursor.execute("SELECT * FROM sensors_cache")
                    assert cursor.fetchall() == (("T7", 1400),)

        await many()
        assert pool.statistics().hops == 0
        assert pool.statistics().statements == 10


@pytest.mark.anyio
async def test_an_unbuffered_result_costs_few_trips(mysql: MySQL) -> None:
    """Reading a thousand rows one by one from an unbuffered cursor takes far fewer trips than rows."""
    with pool_of(1, mysql.settings("mysql")) as pool:

        def stream() -> None:
            with pool.connection() as connection, connection.cursor(pymysql.cursors.SSCursor) as cursor:
                cursor.execute("SELECT seq FROM seq_1_to_1000")
                assert sum(row[0] for row in cursor) == 500_500

        assert await trips(pool, stream) <= 100
