"""Claims about results that mysqlclient and mysql-connector-python leave unread when a connection comes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from offload_db import OffloadPool

from .conftest import MySQL
from .support import PLACES, run_at
from .test_other_drivers import driver, make_pool  # noqa: F401  # a fixture
from .test_unread_results import WRITTEN, settings, written  # noqa: F401  # a fixture

pytestmark = [
    pytest.mark.anyio,
    # mysql-connector-python says so of the old ciphers of its own list.
    pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning"),
]


@pytest.fixture
def others(driver: Any, settings: dict[str, Any]) -> Iterator[OffloadPool]:  # noqa: F811
    pool = make_pool(driver, settings, max_size=1)
    yield pool
    pool.close()


def options(driver: Any, unbuffered: bool) -> dict[str, Any]:  # noqa: F811
    if driver.__name__ == "MySQLdb":
        import MySQLdb.cursors

        return {"cursorclass": MySQLdb.cursors.SSCursor if unbuffered else MySQLdb.cursors.Cursor}
    return {"buffered": not unbuffered}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("how", ["untouched", "fetched", "cursor closed"])
async def test_a_procedure_comes_to_its_end(
    how: str, unbuffered: bool, place: str, driver: Any, others: OffloadPool, mysql: MySQL, settings: dict[str, Any]  # noqa: F811
) -> None:
    """A procedure of which the first result alone was fetched, or nothing, has done everything after close()."""

    def use() -> None:
        connection = others.connection()
        cursor = connection.cursor(**options(driver, unbuffered))
        cursor.execute("CALL talkative()")
        if how == "fetched":
            assert [tuple(row) for row in cursor.fetchall()] == [("started",)]
        elif how == "cursor closed":
            cursor.close()
        connection.close()

    await run_at(place, use)
    assert written(mysql, settings) == WRITTEN["talkative"]
    assert (others.statistics().kills, dict(others.statistics().discards)) == (0, {})
    assert await others.fetch_value("SELECT 'mine'") == "mine"


async def test_an_operation(others: OffloadPool, mysql: MySQL, settings: dict[str, Any]) -> None:  # noqa: F811
    """`fetch_all` of a procedure runs all of it, and the next user gets an answer of their own."""
    assert [tuple(row) for row in await others.fetch_all("CALL talkative()")] == [("started",)]
    assert written(mysql, settings) == WRITTEN["talkative"]
    assert await others.fetch_value("SELECT 'mine'") == "mine"
    assert (others.statistics().kills, dict(others.statistics().discards)) == (0, {})


async def test_calls_cost_nothing(driver: Any, others: OffloadPool) -> None:  # noqa: F811
    """Calls whose cursor is never closed need one connection, and no other to kill with."""

    def use() -> None:
        for _ in range(20):
            connection = others.connection()
            cursor = connection.cursor(**options(driver, False))
            cursor.execute("CALL short()")
            assert [tuple(row) for row in cursor.fetchall()] == [(1,)]
            connection.close()

    await run_at("bridge", use)
    assert (others.statistics().kills, dict(others.statistics().discards), others.statistics().checkins) == (0, {}, 20)
