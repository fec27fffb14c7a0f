"""The claim that SQLAlchemy's own dialect tests pass on the pool as they do on SQLAlchemy's own engines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MySQL

pytest.importorskip("sqlalchemy")

ROOT = Path(__file__).parents[2]
SETTINGS = """
[sqla_testing]
requirement_cls = tests.dialect.plugin:Requirements
profile_file = profiles.txt
"""
LINE = re.compile(r"^(PASSED|FAILED|ERROR) (\S*::\S.*?)(?: - .*)?$", re.MULTILINE)
# The dialect's and the server's versions in the names of the test classes.
VARIANT = re.compile(r"_\w+\+\w+?_[\d_]+(?=::)")


@pytest.fixture
def schema(mysql: MySQL, database: dict[str, Any]) -> Iterator[None]:
    """Make the second database that some of the tests use, by the name that SQLAlchemy gives it."""
    with mysql.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE IF NOT EXISTS test_schema")
    yield
    mysql.drop_database("test_schema")


def verdicts(directory: Path, database: dict[str, Any], engines: str) -> dict[str, set[str]]:
    """Run the tests with engines of one kind; return their names by verdict."""
    (directory / "setup.cfg").write_text(SETTINGS, encoding="utf-8")
    (directory / "pytest.ini").write_text("[pytest]\npython_files = suite.py\n", encoding="utf-8")
    url = "mysql+pymysql://{user}:{password}@{host}:{port}/{database}".format(**database)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-c", "pytest.ini", "-p", "tests.dialect.plugin", "-p", "no:anyio"),
            *("-p", "no:cacheprovider", "-p", "no:warnings", "-p", "no:randomly", "-q", "-rpfE", "--tb=line"),
            *("--disable-asyncio", "--dburi", url, str(ROOT / "tests" / "dialect" / "suite.py")),
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "ENGINES": engines},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    found: dict[str, set[str]] = {"PASSED": set(), "FAILED": set(), "ERROR": set()}
    for verdict, name in LINE.findall(done.stdout):
        found[verdict].add(VARIANT.sub("", name))
    assert found["PASSED"], done.stdout[-3000:] + done.stderr[-3000:]
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("schema")
def test_the_dialects_own_tests(tmp_path: Path, database: dict[str, Any]) -> None:
    """What passes on plain `mysql+pymysql` passes on the pool, in threads and in bridged tasks, and nothing fails more.

    Some fail everywhere: SQLAlchemy keeps to itself what of them MariaDB cannot do.
    """
    plain = verdicts(tmp_path, database, "plain")
    for engines in ("thread", "bridge"):
        ours = verdicts(tmp_path, database, engines)
        assert sorted(plain["PASSED"] - ours["PASSED"]) == []
        assert sorted(ours["FAILED"] - plain["FAILED"]) == []
        assert ours["ERROR"] == plain["ERROR"]
        print(f"{engines}: {len(ours['PASSED'])} passed, {len(ours['FAILED'])} failed")
    print(f"plain: {len(plain['PASSED'])} passed, {len(plain['FAILED'])} failed")
    assert len(plain["PASSED"]) > 500
