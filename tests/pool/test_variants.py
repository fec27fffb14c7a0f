"""Claims about connections of several kinds in one pool, and `pool.connect` in the place of `pymysql.connect`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pymysql
import pytest
from dbutils.pooled_db import PooledDB
from pymysql.converters import conversions
from pymysql.cursors import DictCursor

import offload_db
from offload_db import ConfigurationError, OffloadPool, offload
from tests.conftest import MySQL
from tests.pool.inside import kinds_kept
from tests.support import PLACES, attempt, pool_of, run_at, together, value

pytestmark = pytest.mark.anyio


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    with pool_of(2, database, cursorclass=DictCursor) as pool:
        yield pool


def row(connection: Any) -> Any:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@autocommit AS auto, CONNECTION_ID() AS id")
        return cursor.fetchone()


@pytest.mark.parametrize("place", PLACES)
async def test_connections_as_they_are_asked_for(place: str, pool: OffloadPool, database: dict[str, Any]) -> None:
    """`pool.connect` gives what `pymysql.connect` gives with the same arguments, and opens nothing the second time."""

    def use() -> None:
        first = row(pool.connect(**database, ssl_disabled=True))
        assert first[0] == 0
        assert row(pool.connect(**database, ssl_disabled=True)) == first
        renamed = {**database, "passwd": database["password"], "db": database["database"]}
        del renamed["password"], renamed["database"]
        assert row(pool.connect(**renamed, ssl_disabled=True)) == first
        other = row(pool.connect(**database, ssl_disabled=True, autocommit=True, cursorclass=DictCursor))
        assert other["auto"] == 1
        assert row(pool.connection()) == other, "these are the pool's own settings"

    await run_at(place, use)
    assert pool.statistics().open == 2
    assert dict(pool.statistics().discards) == {}


async def test_many_requests_share_few_connections(pool: OffloadPool, database: dict[str, Any], mysql: MySQL) -> None:
    """Handlers that connect for each request, and those that use the pool, stay within its size."""

    @offload
    async def connecting(number: int) -> Any:
        with pool.connect(**database, ssl_disabled=True) as connection:
            return value(connection, "SELECT SLEEP(0.005) + %s", number)

    @offload
    async def pooled(number: int) -> Any:
        with pool.connection() as connection:
            return value(connection, "SELECT SLEEP(0.005) + %s", number)

    calls = [partial(connecting if number % 2 else pooled, number) for number in range(30)]
    assert await together(*calls) == list(range(30))
    assert pool.statistics().open <= 2
    assert len(mysql.process_list(database["database"])) <= 2


@pytest.mark.parametrize(
    ("difference", "shown"),
    [
        ({"host": "elsewhere"}, "host"),
        ({"port": 1}, "port"),
        ({"user": "somebody"}, "user"),
        ({"database": "other"}, "database"),
        ({"db": "other"}, "database"),
        ({"password": "wrong-secret"}, "password"),
        ({"read_default_file": "~/.my.cnf"}, "read_default_file"),
        ({"defer_connect": True}, "defer_connect"),
    ],
)
def test_what_leads_elsewhere_is_refused(
    pool: OffloadPool, database: dict[str, Any], difference: dict[str, Any], shown: str
) -> None:
    """Another server, user, password or database is an error that names it, shows no password, and says what to do."""
    settings = {name: given for name, given in database.items() if not (name == "database" and "db" in difference)}
    with pytest.raises(ConfigurationError, match=r"offload_db\.connect") as caught:
        pool.connect(**{**settings, **difference})
    assert shown in str(caught.value)
    assert "secret" not in str(caught.value)
    assert database["password"] not in str(caught.value)
    assert pool.statistics().checkouts == 0


def test_bad_arguments_raise_what_pymysql_raises(pool: OffloadPool, database: dict[str, Any]) -> None:
    """An argument that PyMySQL refuses gives its own error, and nothing stays behind."""
    wrong = {**database, "no_such_argument": 1}
    assert attempt(pool.connect, **wrong) == attempt(pymysql.connect, **wrong)
    assert pool.statistics().in_use == 0


def test_a_pool_by_a_function_is_refused(database: dict[str, Any]) -> None:
    """Where a function connects, nobody knows where to."""
    pool = OffloadPool(PooledDB(creator=lambda: pymysql.connect(**database)))
    with pytest.raises(ConfigurationError, match="function"):
        pool.connect(**database)


def test_new_objects_for_each_call(pool: OffloadPool, database: dict[str, Any]) -> None:
    """Settings that are never the same twice give connections all the same, and do not pile up."""
    for _ in range(20):
        assert row(pool.connect(**database, ssl_disabled=True, conv={**conversions, 9999: lambda text: text}))
    assert pool.statistics().open <= 2
    assert kinds_kept(pool) <= 8


async def test_variants(pool: OffloadPool) -> None:
    """A variant's connections differ in what was asked for, and go back to it alone."""
    variant = pool.variant(autocommit=False)

    def use() -> Any:
        first, own = row(variant.connection()), row(pool.connection())
        assert (first["auto"], own["auto"]) == (0, 1)
        assert (row(variant.connection()), row(pool.connection())) == (first, own)
        variant.close_idle()
        assert row(pool.connection()) == own

    await run_at("bridge", use)
    assert pool.statistics().open == 1


@pytest.mark.parametrize("place", PLACES)
async def test_discarding(place: str, pool: OffloadPool) -> None:
    """A discarded connection is not used again; discarding twice, and after closing, does nothing."""

    def use() -> None:
        connection = pool.connection()
        session = value(connection, "SELECT CONNECTION_ID()")
        connection.discard()
        connection.discard()
        with pool.connection() as other:
            assert value(other, "SELECT CONNECTION_ID()") != session
        other.discard()

    await run_at(place, use)
    assert dict(pool.statistics().discards) == {"discarded": 1}


def test_connect_of_no_pool_takes_an_option_file(database: dict[str, Any], tmp_path: Path) -> None:
    """`offload_db.connect` has PyMySQL's signature, and reads the option files that PyMySQL reads."""
    assert inspect.signature(offload_db.connect) == inspect.signature(pymysql.connect)
    file = tmp_path / "my.cnf"
    lines = "".join(f"{name} = {database[name]}\n" for name in ("host", "port", "user", "password", "database"))
    file.write_text(f"[mine]\n{lines}", encoding="utf-8")
    options: dict[str, Any] = {"read_default_file": str(file), "read_default_group": "mine", "ssl_disabled": True}
    for connect in (pymysql.connect, offload_db.connect):
        with connect(**options) as connection:
            assert value(connection, "SELECT DATABASE()") == database["database"]
    with OffloadPool.create(min_size=0, max_size=1, **options).connect(**options) as connection:
        assert value(connection, "SELECT DATABASE()") == database["database"]
