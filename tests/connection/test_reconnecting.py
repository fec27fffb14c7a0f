"""Claims about a pool's connections that the driver connects anew: they are as those that the pool opens."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any

import pymysql
import pytest

from offload_db import OffloadPool
from tests.conftest import MySQL
from tests.drivers.test_other_drivers import make_pool
from tests.support import PLACES, pool_of, run_at, value

pytestmark = [
    pytest.mark.anyio,
    # PyMySQL 1.2 calls ping(reconnect=True) deprecated; legacy code uses it all the same.
    pytest.mark.filterwarnings("ignore:The 'reconnect' argument:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning"),
]

SESSION = ["SET @tag = 7", "SET SESSION group_concat_max_len = 4321"]
SHOW = "SELECT CONCAT(@tag, '-', @@group_concat_max_len)"


def lose(mysql: MySQL, connection: Any) -> None:
    """Kill the connection, and let it find out."""
    mysql.kill_connection(connection.thread_id())
    with suppress(pymysql.MySQLError):
        value(connection, "SELECT 1")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", ["ping", "connect"])
async def test_the_session_is_prepared_again(how: str, place: str, mysql: MySQL) -> None:
    """After ``ping(reconnect=True)`` and ``connect()`` the user and who comes next have the session of the pool."""
    with pool_of(1, mysql.settings("mysql"), setsession=SESSION) as pool:

        def use() -> tuple[Any, Any]:
            with pool.connection() as connection:
                before = connection.thread_id()
                lose(mysql, connection)
                if how == "ping":
                    connection.ping(reconnect=True)
                else:
                    connection.connect()
                assert connection.thread_id() != before
                mine = value(connection, SHOW)
            with pool.connection() as connection:
                return mine, value(connection, SHOW)

        assert await run_at(place, use) == ("7-4321", "7-4321")
        assert dict(pool.statistics().discards) == {}


async def test_the_awaitable_ping(mysql: MySQL) -> None:
    """So it is after the awaitable ``ping()``, which connects anew by itself."""
    with pool_of(1, mysql.settings("mysql"), setsession=SESSION) as pool:
        async with pool.acquire() as connection:
            mysql.kill_connection(await pool_thread_id(connection))
            await connection.ping()
        assert await pool.fetch_value(SHOW) == "7-4321"


async def pool_thread_id(connection: Any) -> int:
    return int(connection.thread_id())


async def test_a_session_that_cannot_be_prepared(mysql: MySQL, database: dict[str, Any]) -> None:
    """Where that fails the user gets the error, and the connection is thrown out when it comes back."""
    with mysql.connect(**database) as plain, plain.cursor() as cursor:
        cursor.execute("CREATE TABLE tag (n INT)")
        with pool_of(1, database, setsession=["SET @tag = (SELECT MAX(n) FROM tag)"]) as pool:

            def use() -> None:
                with pool.connection() as connection:
                    lose(mysql, connection)
                    cursor.execute("DROP TABLE tag")
                    with pytest.raises(pymysql.err.ProgrammingError):
                        connection.ping(reconnect=True)

            await run_at("bridge", use)
            assert dict(pool.statistics().discards) == {"lost": 1}


async def test_mysql_connector(mysql: MySQL, database: dict[str, Any]) -> None:
    """mysql-connector's ``ping(reconnect=True)`` and ``reconnect()`` are followed by the same."""
    try:
        driver = importlib.import_module("mysql.connector")
    except ImportError as error:
        pytest.skip(f"{error}")
    pool: OffloadPool = make_pool(driver, database, max_size=1, setsession=SESSION)

    def use(how: str) -> str:
        with pool.connection() as connection:
            if how == "ping":
                mysql.kill_connection(connection.connection_id)
                connection.ping(reconnect=True)
            else:
                connection.reconnect()
            shown = value(connection, SHOW)
            return bytes(shown).decode() if isinstance(shown, (bytes, bytearray)) else str(shown)

    assert await run_at("bridge", lambda: [use("ping"), use("reconnect")]) == ["7-4321", "7-4321"]
    pool.close()
