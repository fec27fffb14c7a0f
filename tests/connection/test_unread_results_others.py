"""Claims about results that mysqlclient and mysql-connector-python leave unread when a connection comes back."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import aclosing, closing
from typing import Any

import pytest

from offload_db import OffloadPool, StatementTimeout
from offload_db.drivers.base import Identity
from offload_db.drivers.mysql_server import MySQLServerDriver
from tests.conftest import MySQL
from tests.drivers.test_other_drivers import NAMES, make_pool
from tests.procedures import WRITTEN, with_procedures, written
from tests.support import run_at

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    # mysql-connector-python says so of the old ciphers of its own list.
    pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning"),
]


@pytest.fixture(params=NAMES)
def driver(request: pytest.FixtureRequest) -> Any:
    try:
        return importlib.import_module(request.param)
    except ImportError as error:
        pytest.skip(f"{request.param} is not installed: {error}")


@pytest.fixture
def settings(mysql: MySQL, database: dict[str, Any]) -> dict[str, Any]:
    return with_procedures(mysql, database)


@pytest.fixture
def others(driver: Any, settings: dict[str, Any]) -> Iterator[OffloadPool]:
    pool = make_pool(driver, settings, max_size=1)
    yield pool
    pool.close()


def options(driver: Any, unbuffered: bool) -> dict[str, Any]:
    if driver.__name__ == "MySQLdb":
        import MySQLdb.cursors

        return {"cursorclass": MySQLdb.cursors.SSCursor if unbuffered else MySQLdb.cursors.Cursor}
    return {"buffered": not unbuffered}


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize(
    ("how", "place"),
    [("untouched", "bridge"), ("fetched", "thread"), ("fetched", "plain"), ("cursor closed", "bridge")],
)
async def test_a_procedure_comes_to_its_end(
    how: str, unbuffered: bool, place: str, others: OffloadPool, settings: dict[str, Any]
) -> None:
    """A procedure of which the first result alone was fetched, or nothing, has done everything after close()."""

    def use() -> None:
        connection = others.connection()
        cursor = connection.cursor(**options(connection.dbapi(), unbuffered))
        cursor.execute("CALL talkative()")
        if how == "fetched":
            assert [tuple(row) for row in cursor.fetchall()] == [("started",)]
        elif how == "cursor closed":
            cursor.close()
        connection.close()

    await run_at(place, use)
    assert written(settings) == WRITTEN["talkative"]
    assert (others.statistics().kills, dict(others.statistics().discards)) == (0, {})
    assert await others.fetch_value("SELECT 'mine'") == "mine"


async def test_an_operation(others: OffloadPool, settings: dict[str, Any]) -> None:
    """`fetch_all` of a procedure runs all of it, and the next user gets an answer of their own."""
    assert [tuple(row) for row in await others.fetch_all("CALL talkative()")] == [("started",)]
    assert written(settings) == WRITTEN["talkative"]
    assert await others.fetch_value("SELECT 'mine'") == "mine"
    assert (others.statistics().kills, dict(others.statistics().discards)) == (0, {})


async def test_calls_cost_nothing(others: OffloadPool) -> None:
    """Calls whose cursor is never closed need one connection, and no other to kill with."""

    def use() -> None:
        for _ in range(20):
            connection = others.connection()
            cursor = connection.cursor(**options(connection.dbapi(), False))
            cursor.execute("CALL short()")
            assert [tuple(row) for row in cursor.fetchall()] == [(1,)]
            connection.close()

    await run_at("bridge", use)
    assert (others.statistics().kills, dict(others.statistics().discards), others.statistics().checkins) == (0, {}, 20)


@pytest.mark.parametrize("how", ["to the end", "left"])
async def test_a_stream_of_a_write(how: str, others: OffloadPool, settings: dict[str, Any]) -> None:
    """A stream of a write is committed at its end, and rolled back where it is left before; a procedure likewise."""
    for text in (
        "INSERT INTO t SELECT IF(seq = 2000, -1, seq) FROM mysql.seq_1_to_2000 RETURNING a",
        "CALL talkative()",
    ):
        async with aclosing(others.stream(text, chunk_size=10)) as rows:
            async for _ in rows:
                if how == "left":
                    break
    assert written(settings) == ((4001, 2) if how == "to the end" else (0, 0))
    assert await others.fetch_value("SELECT 'mine'") == "mine"
    assert others.statistics().in_use == 0


@pytest.mark.parametrize("after", ["at once", "after a rollback"])
async def test_what_a_kill_has_ended(
    after: str, driver: Any, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a statement that was killed nothing is killed once more, though its answer is unread: one kill is counted."""
    original = MySQLServerDriver.kill
    hits: list[bool] = []

    def kill(self: MySQLServerDriver, admin: Any, identity: Identity) -> bool:
        hits.append(original(self, admin, identity))
        return any(hits)  # so it looks as long as the session has sent its answer, and has not come to rest

    monkeypatch.setattr(MySQLServerDriver, "kill", kill)

    def use() -> None:
        with pool.connection() as connection:
            cursor = connection.cursor(**options(driver, unbuffered=True))
            with pytest.raises(StatementTimeout):
                cursor.execute("SELECT SLEEP(60)")
            if after == "after a rollback":
                connection.rollback()

    with closing(make_pool(driver, database, max_size=1, statement_timeout=0.2)) as pool:
        await run_at("bridge", use)
        assert pool.statistics().kills == 1
        assert await pool.fetch_value("SELECT 'mine'") == "mine"
