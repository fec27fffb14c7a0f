"""Claims about a pool's settings: which there are, where they come from, and how a bad one is named."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pymysql
import pytest
from dbutils.pooled_db import PooledDB

from offload_db import ConfigurationError, Lane, OffloadPool
from offload_db.settings import TLS_FILES, TLS_FLAGS, read_environment, shown
from tests.conftest import MySQL
from tests.faults.scripted import Scripted, usual
from tests.inside import core
from tests.support import PATIENCE, QUICK, in_thread, pool_of, value
from tests.tls import certify

SECRET = "swordfish-1906"


def server_connections(mysql: MySQL, database: str) -> int:
    return len(mysql.process_list(database))


def test_size_defaults(mysql: MySQL) -> None:
    """The size is the wrapped pool's maxconnections, 20 where that is unlimited."""
    for maximum, size in ((7, 7), (0, 20), (None, 20)):
        assert OffloadPool(PooledDB(pymysql, maxconnections=maximum, **mysql.settings())).statistics().size == size


def test_setsession_creator_and_arguments(mysql: MySQL) -> None:
    """Session statements are run on each new connection; a creator function and its arguments are honoured."""
    calls: list[dict[str, Any]] = []

    def creator(**kwargs: Any) -> Any:
        calls.append(kwargs)
        return mysql.connect()

    original = PooledDB(creator, maxconnections=2, setsession=["SET @tenant = 7"], extra=2)
    pool = OffloadPool(original)
    with pool.connection() as one, pool.connection() as two:
        assert value(one, "SELECT @tenant") == value(two, "SELECT @tenant") == 7
    assert [call["extra"] for call in calls] == [2, 2]
    pool.close()


def test_create_opens_nothing_and_takes_all_options(mysql: MySQL, database: dict[str, Any]) -> None:
    """`create` opens no connection before one is needed, and passes what is not its own to the driver."""
    with pool_of(3, database, init_command="SET @tenant = 9", setsession=["SET @more = 1"], maxusage=1) as pool:
        assert server_connections(mysql, database["database"]) == 0
        assert pool.statistics().size == 3
        with pool.connection() as connection:
            assert value(connection, "SELECT @tenant + @more") == 10
        assert pool.statistics().discards == {"maxusage": 1}


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: OffloadPool(pymysql), ("pool=pymysql", "PooledDB")),
        (lambda: OffloadPool(None), ("pool=", "NoneType")),
        (lambda: OffloadPool({"password": SECRET}), ("pool=", "dict")),
        (lambda: OffloadPool(_unconnected(), size=-1), ("size=-1", "from 1")),
        (lambda: OffloadPool(_unconnected(), size=cast("Any", 2.0)), ("size=2.0", "whole numbers")),
        (lambda: OffloadPool(_unconnected(), checkout_timeout=0), ("checkout_timeout=0", "above 0")),
        (lambda: OffloadPool(_unconnected(), checkout_timeout=float("inf")), ("checkout_timeout=inf",)),
        (lambda: OffloadPool(_unconnected(), max_waiting=-1), ("max_waiting=-1", "from 0")),
        (lambda: OffloadPool(_unconnected(), statement_timeout=-5), ("statement_timeout=-5",)),
        (lambda: OffloadPool(_unconnected(), max_age=cast("Any", "old")), ("max_age=<builtins.str object>",)),
        (lambda: OffloadPool(_unconnected(), leak_warning=True), ("leak_warning=True",)),
        (
            lambda: OffloadPool(_unconnected(), on_loop_call=cast("Any", "shout")),
            ("on_loop_call=<builtins.str object>", "'warn'", "'raise'"),
        ),
        (lambda: OffloadPool(_unconnected(), checkout_timeout=10**400), ("checkout_timeout=a huge number", "above 0")),
        (lambda: OffloadPool(_unconnected(), statement_timeout=1e300), ("statement_timeout=1e+300", "above 0")),
        (lambda: OffloadPool(_unconnected(), lanes=cast("Any", 3)), ("lanes=<builtins.int object>", "Lane objects")),
        (lambda: OffloadPool.create(max_size=-1), ("max_size=-1",)),
        (lambda: OffloadPool.create(min_size=-1), ("min_size=-1",)),
        (lambda: OffloadPool.create(min_size=6, max_size=5), ("min_size=6", "max_size=5")),
        (lambda: OffloadPool.create(min_size=5, max_size=3), ("min_size=5", "max_size=3")),
        (lambda: OffloadPool.create(size=5), ("size", "max_size")),
        (lambda: OffloadPool.create(maxusage=-1), ("maxusage=-1", "from 0")),
        (lambda: OffloadPool.create(setsession=cast("Any", "SET @a = 1")), ("setsession=", "str", "lists")),
        (lambda: OffloadPool.create(setsession=cast("Any", [b"SET @a = 1"])), ("setsession=", "lists")),
        (lambda: OffloadPool.create(checkout_timeuot=5, password=SECRET), ("checkout_timeuot", "checkout_timeout?")),
        (lambda: OffloadPool.create(hots="db", password=SECRET), ("hots", "host?", "pymysql.connect")),
        (lambda: OffloadPool.create("pymysql", password=SECRET), ("creator=",)),
        (lambda: OffloadPool.create(mincached="x", password=SECRET), ("OffloadPool.create",)),
    ],
)
def test_bad_settings_are_named(make: Callable[[], Any], named: tuple[str, ...]) -> None:
    """A bad setting raises an error that names it, what was given and what is accepted, and shows no password."""
    with pytest.raises(ConfigurationError) as caught:
        make()
    for words in named:
        assert words in str(caught.value)
    assert SECRET not in repr(caught.value)


def _unconnected() -> PooledDB:
    return PooledDB(pymysql, maxconnections=2, password=SECRET)


GOOD = {"MYSQL_HOST": "db", "MYSQL_USER": "app", "MYSQL_PASSWORD": SECRET, "MYSQL_DATABASE": "fleet"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        *[({name: None}, (f"{name} is not set",)) for name in GOOD],
        *[({name: " "}, (f"{name} is empty",)) for name in GOOD if name != "MYSQL_PASSWORD"],
        *[
            ({name: wrong}, (f"{name}={shown(wrong)}", "whole numbers"))
            for name, wrongs in {
                "MYSQL_PORT": ("0", "65536", "3306x", "-1", "", "٣"),
                "DB_POOL_MIN_SIZE": ("-1", "few", "1.5"),
                "DB_POOL_MAX_SIZE": ("0", "-3", "", "1e3"),
            }.items()
            for wrong in wrongs
        ],
        ({"DB_POOL_MIN_SIZE": "9", "DB_POOL_MAX_SIZE": "3"}, ("DB_POOL_MIN_SIZE=9", "DB_POOL_MAX_SIZE=3")),
        *[({name: SECRET}, (f"{name} does not name a file",)) for name in TLS_FILES],
        *[({name: SECRET}, (f"{name}=<builtins.str object>", "yes")) for name in TLS_FLAGS],
        ({"MYSQL_SSL_DISABLED": "1", "MYSQL_SSL_CA": __file__}, ("MYSQL_SSL_DISABLED is on",)),
        ({"MYSQL_SSL_KEY": __file__}, ("MYSQL_SSL_CERT is not",)),
        ({"MYSQL_SSL_VERIFY_IDENTITY": "1", "MYSQL_SSL_VERIFY_CERT": "0"}, ("MYSQL_SSL_VERIFY_CERT is off",)),
        (
            {"MYSQL_HOST": None, "MYSQL_USER": "", "MYSQL_PORT": "x", "DB_POOL_MAX_SIZE": "none"},
            (
                "MYSQL_HOST is not set",
                "MYSQL_USER is empty",
                "MYSQL_PORT=<builtins.str object>",
                "DB_POOL_MAX_SIZE=<builtins.str object>",
            ),
        ),
        (
            {"MYSQL_HOST": None, "DB_POOL_MIN_SIZE": "9", "DB_POOL_MAX_SIZE": "3"},
            ("MYSQL_HOST is not set", "DB_POOL_MIN_SIZE=9", "DB_POOL_MAX_SIZE=3"),
        ),
    ],
)
def test_from_env_names_every_problem(changes: dict[str, str | None], named: tuple[str, ...]) -> None:
    """Each variable that is missing or wrong is named, all in one message, and the password is never shown."""
    environ = {name: text for name, text in {**GOOD, **changes}.items() if text is not None}
    with pytest.raises(ConfigurationError) as caught:
        OffloadPool.from_env(environ)
    for words in named:
        assert words in str(caught.value)
    assert SECRET not in repr(caught.value)


def test_tls_from_env() -> None:
    """The variables of TLS are PyMySQL's arguments of the same names; a CA is there to verify by."""

    def read(**given: str) -> dict[str, Any]:
        _, _, settings = read_environment({**GOOD, **given, "MYSQL_SSL_CERT": "", "MYSQL_SSL_DISABLED": " "})
        return {name: value for name, value in settings.items() if name.startswith("ssl")}

    assert read() == {}
    assert read(MYSQL_SSL_CA=__file__) == {"ssl_ca": __file__, "ssl_verify_cert": True}
    assert read(MYSQL_SSL_CA=__file__, MYSQL_SSL_VERIFY_CERT="0") == {"ssl_ca": __file__, "ssl_verify_cert": False}
    assert read(MYSQL_SSL_VERIFY_IDENTITY="On") == {"ssl_verify_identity": True, "ssl_verify_cert": True}


def test_tls_from_env_verifies_the_server(tmp_path: Path) -> None:
    """A pool from the environment accepts the server that its CA vouches for, and no other."""
    with Scripted(usual, tmp_path) as server:
        where = {name: str(server.address[name.lower()]) for name in ("HOST", "PORT", "USER")}
        environ = {**GOOD, **{f"MYSQL_{name}": text for name, text in where.items()}, "MYSQL_PASSWORD": ""}
        pool = OffloadPool.from_env({**environ, "MYSQL_SSL_CA": str(tmp_path / "server.pem")})
        with pool.connection() as connection:
            assert value(connection, "SELECT 1") == "1"
        pool.close()
        stranger = OffloadPool.from_env({**environ, "MYSQL_SSL_CA": str(certify(tmp_path))})
        with pytest.raises(pymysql.err.OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
            stranger.connection().cursor()


@pytest.mark.parametrize("environ", [3, SECRET, [("MYSQL_HOST", "localhost")]])
def test_from_env_of_something_else(environ: Any) -> None:
    """What is no mapping is refused by name, and not shown."""
    with pytest.raises(ConfigurationError, match=r"environ=.*accepted are mappings") as caught:
        OffloadPool.from_env(environ)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", GOOD)
def test_from_env_with_values_that_are_no_text(name: str) -> None:
    """A mapping with something else than text in it is refused by the variable's name."""
    with pytest.raises(ConfigurationError, match=name):
        OffloadPool.from_env({**GOOD, name: None})  # type: ignore[dict-item]


def test_from_env_with_one_size_alone() -> None:
    """A pool that is to be smaller than five needs no DB_POOL_MIN_SIZE, no more than create() needs min_size."""
    pool = OffloadPool.from_env({**GOOD, "DB_POOL_MAX_SIZE": "3"})
    assert (core(pool).min_size, pool.statistics().size) == (3, 3)


def test_help_shows_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No default argument is the environment itself: whoever shows the signature would show its passwords."""
    monkeypatch.setenv("MYSQL_PASSWORD", SECRET)
    assert SECRET not in str(inspect.signature(OffloadPool.from_env))


def test_from_env(mysql: MySQL, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables make a pool of autocommit utf8mb4 connections that give dictionaries."""
    for name, text in mysql.endpoint.environment(database["database"]).items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("DB_POOL_MIN_SIZE", " 0 ")
    monkeypatch.setenv("DB_POOL_MAX_SIZE", "2")
    pool = OffloadPool.from_env()
    assert pool.statistics().size == 2
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@autocommit AS a, @@character_set_connection AS c, DATABASE() AS d")
        assert cursor.fetchone() == {"a": 1, "c": "utf8mb4", "d": database["database"]}
    pool.close()


def test_secrets_are_never_shown(mysql: MySQL, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the password nor a statement's parameters appear in a repr, an error, a warning or a log line."""
    caplog.set_level(logging.DEBUG)
    shown: list[Any] = []
    settings = {**mysql.settings(), "password": SECRET, "user": "nobody-here"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pool_of(1, settings, checkout_timeout=0.05, leak_warning=0.05) as pool:
            with pytest.raises(pymysql.err.OperationalError) as denied:
                pool.connection()
            shown += [pool, pool.statistics(), denied.value]
        with pool_of(1, mysql.settings(), checkout_timeout=0.05, leak_warning=0.01) as pool:
            connection = pool.connection()
            cursor = connection.cursor()
            with pytest.raises(pymysql.err.ProgrammingError) as wrong:
                cursor.execute("SELECT * FROM nowhere.nothing WHERE a = %s", ("parameter-4711",))
            cursor.execute("SELECT %s", ("parameter-4711",))
            shown += [connection, cursor, wrong.value, pool, pool.statistics(), pool.blocking_calls()]
            with pytest.raises(TimeoutError) as full:
                in_thread(pool.connection).result(PATIENCE)
            mysql.kill_connection(connection.thread_id())
            with pytest.raises(pymysql.err.OperationalError) as lost:
                cursor.execute("SELECT %s", ("parameter-4711",))
            shown += [full.value, lost.value]
            connection.close()
    shown += [str(warning.message) for warning in caught] + [record.getMessage() for record in caplog.records]
    text = "\n".join(f"{item!r} {item}" for item in shown)
    for secret in (SECRET, mysql.password, "parameter-4711"):
        assert secret not in text


@pytest.mark.anyio
@pytest.mark.parametrize(("max_size", "opened"), [(2, 2), (8, 5)])
async def test_a_pool_without_min_size(max_size: int, opened: int, database: dict[str, Any]) -> None:
    """Five connections are opened ahead of need, or as many as there may be."""
    async with OffloadPool.create(max_size=max_size, **QUICK, **database) as pool:
        assert pool.statistics().open == opened


def test_a_lane_in_the_place_of_shareable(mysql: MySQL) -> None:
    """A lane's name in the place of DBUtils' first argument is refused, and the error says how a lane is named."""
    with pool_of(1, mysql.settings(), lanes=[Lane("reports", 1)]) as pool:
        for shareable in (True, False):
            pool.connection(shareable).close()
        with pytest.raises(ConfigurationError, match="connection\\(lane="):
            pool.connection("reports")  # type: ignore[arg-type]
        assert pool.statistics().in_use == 0
