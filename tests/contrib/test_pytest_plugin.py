"""Claims about the pytest plugin: the test that blocks an event loop fails, with file and line, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MySQL

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "offload_db.contrib.pytest_plugin"

CODE = """
import asyncio
import warnings

import pymysql
import pytest
from dbutils.pooled_db import PooledDB

import offload_db

pool = offload_db.OffloadPool.from_env()
strict = offload_db.OffloadPool.create(on_loop_call="raise", host="127.0.0.1")
settings = SETTINGS
plain = PooledDB(pymysql, **settings)
warnings.simplefilter("ignore", offload_db.BlockingCallWarning)


def query(pool=pool):
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT 'a secret', %s", ("another secret",))  # the pool line
        return cursor.fetchone()


async def handler():
    return query()


def raw():
    conn = pymysql.connect(**settings)  # the raw line
    conn.close()


async def raw_handler():
    raw()


@pytest.fixture
def blocks_in_setup():
    asyncio.run(handler())


@pytest.fixture
def blocks_in_teardown():
    yield
    asyncio.run(handler())


def test_fixture(no_blocking_db):
    asyncio.run(handler())


@pytest.mark.no_blocking_db
def test_marker():
    asyncio.run(handler())


@pytest.mark.no_blocking_db
def test_raw():
    asyncio.run(raw_handler())


@pytest.mark.no_blocking_db
def test_raw_in_a_bridge():
    asyncio.run(offload_db.offload(raw_handler)())


@pytest.mark.no_blocking_db
def test_a_pool_that_is_not_wrapped():
    async def unwrapped():
        plain.connection().close()  # the DBUtils line

    asyncio.run(unwrapped())


@pytest.mark.no_blocking_db
def test_setup(blocks_in_setup):
    pass


@pytest.mark.no_blocking_db
def test_teardown(blocks_in_teardown):
    pass


@pytest.mark.no_blocking_db
def test_swallowed():
    async def swallowing():
        try:
            strict.connection()  # the refused line
        except offload_db.BlockingCallError:
            pass

    asyncio.run(swallowing())


@pytest.mark.no_blocking_db
def test_other_error():
    asyncio.run(handler())
    raise ZeroDivisionError


def test_unused():
    asyncio.run(handler())
    asyncio.run(raw_handler())


def test_passes(no_blocking_db):
    query()
    raw()
    assert asyncio.run(offload_db.offload(handler)()) == {"a secret": "a secret", "another secret": "another secret"}
    assert asyncio.run(offload_db.offload(mode="thread")(raw_handler)()) is None
    assert no_blocking_db == []


@pytest.mark.no_blocking_db
def test_passes_too():
    query()


def test_end():
    pool.close()
    plain.close()
"""


def outcomes(result: pytest.RunResult) -> dict[str, int]:
    return {name: number for name, number in result.parseoutcomes().items() if name != "warnings"}


def test_what_blocks_fails(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    mysql: MySQL,
    database: dict[str, Any],
) -> None:
    """Each test that blocks a loop fails, naming its line; the others pass, and nothing of a statement is shown."""
    for variable, text in mysql.endpoint.environment(database["database"]).items():
        monkeypatch.setenv(variable, text)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    settings = {"ssl_disabled": True, "autocommit": True, **database}
    test = pytester.makepyfile(CODE.replace("SETTINGS", repr(settings)))
    result = pytester.runpytest_subprocess("-p", PLUGIN, "-p", "no:cacheprovider", "--strict-markers", "-rA")
    assert outcomes(result) == {"failed": 8, "passed": 5, "errors": 1}
    text = result.stdout.str()
    lines = {
        name: number
        for number, line in enumerate(test.read_text(encoding="utf-8").splitlines(), start=1)
        for name in ("pool", "raw", "DBUtils", "refused")
        if line.endswith(f"# the {name} line")
    }
    sections = {
        name: text.partition(f"_ {name} _")[2].partition("\n__")[0]
        for name in (
            "test_fixture",
            "test_marker",
            "test_raw",
            "test_raw_in_a_bridge",
            "test_a_pool_that_is_not_wrapped",
            "test_setup",
            "ERROR at teardown of test_teardown",
            "test_swallowed",
            "test_other_error",
        )
    }
    expected = {
        "test_fixture": ("pool", "execute() in query"),
        "test_marker": ("pool", "execute() in query"),
        "test_raw": ("raw", "connect() in raw"),
        "test_raw_in_a_bridge": ("raw", "connect() in raw"),
        "test_a_pool_that_is_not_wrapped": ("DBUtils", "connect() in unwrapped"),
        "test_setup": ("pool", "execute() in query"),
        "ERROR at teardown of test_teardown": ("pool", "execute() in query"),
        "test_swallowed": ("refused", "connect() in swallowing"),
        "test_other_error": ("pool", "execute() in query"),
    }
    for name, (line, said) in expected.items():
        assert f"{test}:{lines[line]}: " in sections[name], name
        assert said in sections[name], name
        assert "put @offload_db.offload on the async def that leads there" in sections[name]
    assert "ZeroDivisionError" in sections["test_other_error"]
    reports = "\n".join(line for line in text.splitlines() if ": execute() in" in line)
    assert "secret" not in reports


def test_no_effect_where_unused(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test does not ask, the driver is as it is without the plugin."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(
        """
        import pymysql

        from offload_db.connection.executor import on_loop_observers

        def test_nothing():
            assert on_loop_observers == []
            assert pymysql.connections.Connection.connect.__module__ == "pymysql.connections"
        """
    )
    result = pytester.runpytest_subprocess("-p", PLUGIN, "-p", "no:cacheprovider")
    assert outcomes(result) == {"passed": 1}
    result = pytester.runpytest_subprocess("-p", PLUGIN, "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.no_blocking_db: fail the test if a driver call blocks an event loop*"])


def test_pytest_finds_it() -> None:
    """The package names the plugin to pytest by the module's own name, so that ``-p`` does no harm."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    entries = text.partition("[project.entry-points.pytest11]")[2].partition("\n[")[0]
    assert f'"{PLUGIN}" = "{PLUGIN}"' in entries
