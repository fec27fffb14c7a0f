"""Owns what every test may ask for: the event loops, and a real database server."""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import os
import secrets
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.cursors import DictCursor

from examples.support.mariadb import Endpoint, ServerMissing, server
from offload_db.bridge import arms
from tests import timing
from tests.rollout.inside import forget_everything as forget_rollout

# What OffloadPool.from_env reads. run.sh sets the first four to its servers; no test may depend on that.
DATABASE_VARIABLES = (
    "MYSQL_HOST",
    "MYSQL_PORT",
    "MYSQL_USER",
    "MYSQL_PASSWORD",
    "MYSQL_DATABASE",
    "DB_POOL_MIN_SIZE",
    "DB_POOL_MAX_SIZE",
)


def needs(module: str) -> pytest.MarkDecorator:
    """Skip where *module* is not installed, or the package that it would be in."""
    try:
        missing = importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        missing = True
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


# anyio 3 needs a trio so old that it replaces the interpreter's traceback machinery.
OLD_TRIO = pytest.mark.skipif(
    importlib.metadata.version("anyio").startswith("3.") and sys.version_info[:2] not in {(3, 11), (3, 12)},
    reason="the trio that works with anyio 3 does not work on this Python",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give further chances to tests that are marked as timing-bound, and leave out what says nothing new."""
    timing.grant_chances(items)
    left_out = [item for item in items if _says_nothing_new(item)]
    items[:] = [item for item in items if not _says_nothing_new(item)]
    config.hook.pytest_deselected(items=left_out)


def _says_nothing_new(item: pytest.Item) -> bool:
    """Tell whether a test makes its calls in threads on a second event loop: they take the same way under each.

    The tests of the bridge are about how such a thread is begun and waited for, and run on all loops.
    """
    chosen = getattr(getattr(item, "callspec", None), "params", {})
    in_threads = {chosen.get("place"), chosen.get("way")} & {"def", "plain", "thread"}
    return bool(
        in_threads
        and chosen.get("anyio_backend") not in (None, "asyncio", ("asyncio", {}))
        and Path(__file__).parent / "bridge" not in item.path.parents
    )


def pytest_collection_finish() -> None:
    """Leave what importing all tests has made out of later garbage collections, of which tests ask for hundreds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def tracebacks_as_they_were() -> None:
    """Take back what an old trio does on import: its way to format a traceback fails on Python's exception groups."""
    with suppress(ImportError):
        from trio._core import _multierror  # type: ignore[attr-defined,unused-ignore]  # of trio before 0.22

        traceback.TracebackException.format = _multierror.traceback_exception_original_format  # type: ignore[method-assign]


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=needs("uvloop")),
        pytest.param(("trio", {}), id="trio", marks=[needs("trio"), OLD_TRIO]),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each asynchronous test on the three event loops that the library supports."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


class MySQL:
    """The server, seen from outside the library: plain connections that observe and disturb."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.host = endpoint.host
        self.port = endpoint.port
        self.user = endpoint.user
        self.password = endpoint.password

    def settings(self, database: str | None = None) -> dict[str, Any]:
        """Return the keyword arguments of `pymysql.connect`; *database* is left out when it is None."""
        return self.endpoint.settings(database)

    def connect(self, **overrides: Any) -> pymysql.connections.Connection[Any]:
        """Open a plain autocommit connection."""
        # Loopback needs no TLS, and PyMySQL spends 20 ms per connection on preparing it.
        return pymysql.connect(**{**self.settings(), "autocommit": True, "ssl_disabled": True, **overrides})

    def fresh_database(self) -> str:
        """Create an empty database with a name that no other test, process or run uses."""
        name = f"test_{secrets.token_hex(6)}"
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, and end the connections that a failed test left in it: their locks would block this."""
        for process in self.process_list(name):
            self.kill_connection(process["ID"])
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SET lock_wait_timeout = 10")
            cursor.execute(f"DROP DATABASE IF EXISTS `{name}`")

    def process_list(self, database: str | None = None) -> list[dict[str, Any]]:
        """Return the rows of information_schema.processlist, all or those in *database*, but for its own."""
        query = "SELECT * FROM information_schema.processlist WHERE id <> CONNECTION_ID()"
        arguments: tuple[str, ...] = ()
        if database is not None:
            query += " AND db = %s"
            arguments = (database,)
        with self.connect(cursorclass=DictCursor) as connection, connection.cursor() as cursor:
            cursor.execute(query, arguments)
            return list(cursor.fetchall())

    def kill_connection(self, connection_id: int) -> None:
        """End a connection from the server's side; one that is gone already is fine."""
        with (
            self.connect() as connection,
            connection.cursor() as cursor,
            suppress(pymysql.err.OperationalError, pymysql.err.InternalError),
        ):
            cursor.execute("KILL CONNECTION %s", (connection_id,))


@pytest.fixture(scope="session")
def mysql() -> Iterator[MySQL]:
    """Give a real server: the one that MYSQL_HOST names, or a private one for this run, or for this worker of it."""
    if ports := os.environ.get("WORKERS_MYSQL_PORTS", "").split():
        worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
        os.environ["MYSQL_PORT"] = ports[int(worker) % len(ports)]
    try:
        with server() as endpoint:
            yield MySQL(endpoint)
    except ServerMissing as error:
        pytest.exit(str(error), returncode=1)


@pytest.fixture
def database(mysql: MySQL) -> Iterator[dict[str, Any]]:
    """Give the settings of a fresh database, which is dropped afterwards."""
    name = mysql.fresh_database()
    yield mysql.settings(name)
    mysql.drop_database(name)


@pytest.fixture(autouse=True)
def nothing_rolled_out() -> Iterator[None]:
    """Take away what a test has set of the rollout: it holds for the whole process."""
    yield
    if arms.choose is not None:
        forget_rollout()


@pytest.fixture(autouse=True)
def no_database_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the variables that name the shared server from the code under test."""
    for variable in DATABASE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
