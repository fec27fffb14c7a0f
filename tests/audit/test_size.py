"""What the audit costs: it grows with the code and not faster, and what only tests run is not followed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import pytest

from offload_db.audit import audit, interpret
from offload_db.audit.model import Scope

AUDIT = str(Path(interpret.__file__).parent)

# Classes with bases in other files, calls through each other, attributes that nobody knows, and a handler.
PART = """
import pymysql

from part{before} import Base{before}, ask{before}
from common import Thing


class Base{number}(Base{before}):
    def __init__(self, inner, other=None):
        super().__init__(inner)
        self.kept{number} = inner
        self.other = other or Thing(self)

    def method{number}(self, value):
        for one in value.items:
            self.other.run(one, self.kept{number}, value.missing{number})
        return self.kept{number}.run(value) if value else self.method{before}(value)


def ask{number}(connection, value):
    thing = Base{number}(value, connection)
    if value:
        return ask{before}(connection, thing.method{number}(value))
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s", (value,))
        return cursor.fetchone()


async def handler{number}(value):
    return ask{number}(pymysql.connect(host="db"), Base{number}(value))
"""
COMMON = """
class Base0:
    def __init__(self, inner):
        self.inner = inner

    def method0(self, value):
        return self.inner


class Thing:
    def __init__(self, owner):
        self.owner = owner

    def run(self, *values):
        return self.owner


def ask0(connection, value):
    return value
"""


def tree(directory: Path, count: int) -> Path:
    """Write an application of so many files, each of which uses the one before it; every fourth begins anew."""
    directory.mkdir()
    (directory / "common.py").write_text(COMMON, encoding="utf-8")
    for number in range(1, count + 1):
        source = PART.format(number=number, before=number - 1)
        if number % 4 == 1:
            source = source.replace(f"part{number - 1}", "common")
            for name in ("Base", "ask", "method"):
                source = source.replace(f"{name}{number - 1}", f"{name}0")
        (directory / f"part{number}.py").write_text(source, encoding="utf-8")
    return directory


def test_work_grows_with_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the code is looked at twice as often, in twice as many calls: no less, and not more by a tenth."""
    visits: list[Scope] = []
    guarded = interpret.Interpreter.guarded

    def counting(self: interpret.Interpreter, scope: Scope) -> None:
        visits.append(scope)
        guarded(self, scope)

    monkeypatch.setattr(interpret.Interpreter, "guarded", counting)
    per_line = []
    for count in (16, 32):
        calls = 0

        def count_calls(frame: FrameType, event: str, arg: object) -> None:
            nonlocal calls
            calls += event == "call" and frame.f_code.co_filename.startswith(AUDIT)

        visits.clear()
        directory = tree(tmp_path / str(count), count)
        before = sys.getprofile()
        sys.setprofile(count_calls)
        try:
            report = audit([directory])
        finally:
            sys.setprofile(before)
        assert len([handler for handler in report.handlers if handler.blocking]) == count
        per_line.append((len(visits) / report.lines, calls / report.lines))
    (visits_before, calls_before), (visits_after, calls_after) = per_line
    assert visits_after < visits_before * 1.1
    assert calls_after < calls_before * 1.1


TESTS = """
import pymysql
import pytest


def test_plain():
    conn.query("SELECT 1")


class TestThings:
    def test_method(self):
        pass

    def helper(self):
        pass


def test_with_a_handler():
    async def handler():
        pymysql.connect(host="db")  # expected

    return handler


async def test_coroutine():
    pymysql.connect(host="db")  # expected
"""


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("tests/test_things.py", True),
        ("things_test.py", True),
        ("test/test_things.py", True),
        ("things.py", False),
        ("testing.py", False),
    ],
)
def test_what_only_a_runner_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, left_out: bool) -> None:
    """Plain tests are not followed, in files that test runners look for; coroutines in them are, wherever they are."""
    followed: set[str] = set()
    guarded = interpret.Interpreter.guarded

    def noting(self: interpret.Interpreter, scope: Scope) -> None:
        followed.add(scope.name)
        guarded(self, scope)

    monkeypatch.setattr(interpret.Interpreter, "guarded", noting)
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(TESTS, encoding="utf-8")
    report = audit([tmp_path])
    expected = [number for number, line in enumerate(TESTS.splitlines(), 1) if "# expected" in line]
    assert sorted({finding.line for finding in report.findings}) == expected
    assert {"helper", "handler", "test_with_a_handler", "test_coroutine"} <= followed
    assert left_out == followed.isdisjoint({"test_plain", "test_method"})


def test_helpers_that_are_called_tests(tmp_path: Path) -> None:
    """An application's own module is no test, whatever it and its functions are called."""
    helper = "import pymysql\n\n\ndef test_connection():\n    pymysql.connect(host='db').ping()\n"
    (tmp_path / "test_db.py").write_text(helper, encoding="utf-8")
    handler = "from test_db import test_connection\n\n\nasync def health():\n    test_connection()\n"
    (tmp_path / "main.py").write_text(handler, encoding="utf-8")
    assert [(finding.rule, finding.function) for finding in audit([tmp_path]).findings] == [("ODB104", "health")]
