"""Trees that are odd, and users who do not wait: the audit says what is the matter, and goes on with the rest."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from offload_db.__main__ import main
from offload_db.audit import Report, audit, bindings, project as reading, run_audit, texts
from offload_db.audit.interpret import Interpreter
from offload_db.audit.model import Scope

BLOCKS = "import pymysql\n\n\nasync def handler():\n    pymysql.connect(host='db')\n"
FORMATS = ("table", "json", "sarif", "github", "markdown")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").write_text(BLOCKS, encoding="utf-8")
    return tmp_path


def messages(report: Report) -> list[str]:
    return [error["message"] for error in report.errors]


@pytest.mark.parametrize("form", FORMATS)
def test_file_names_that_are_no_text(project: Path, capfd: pytest.CaptureFixture[str], form: str) -> None:
    """A file whose name is not UTF-8 is audited, and one such that does not parse is reported, in each format."""
    try:
        os.rename(project / "app.py", os.fsencode(project) + b"/caf\xe9.py")
        Path(os.fsdecode(os.fsencode(project) + b"/bad\xe9.py")).write_text("def f(:\n", encoding="utf-8")
    except OSError:
        pytest.skip("this file system has no such names")
    assert main(["audit", ".", "--format", form]) == 1
    shown = capfd.readouterr()
    assert "caf" in shown.out
    assert "bad\ufffd.py" in shown.out + shown.err


@pytest.mark.parametrize("command", ["audit", "migrate"])
def test_directories_without_files(project: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """A directory without a Python file is an error, beside others too: it is a mistyped path."""
    (project / "empty").mkdir()
    assert main([command, "empty"]) == 2
    shown = capsys.readouterr()
    assert "empty" in shown.out + shown.err
    assert "there is no Python file in it" in shown.out + shown.err
    assert "Summary" not in shown.out
    assert main(["audit", "empty", "app.py"]) == 1
    assert "there is no Python file in it" in capsys.readouterr().out


def test_the_version_that_reads(project: Path) -> None:
    """A file that does not parse is reported with the version of Python that has read it."""
    (project / "newer.py").write_text("def f(:\n", encoding="utf-8")
    [message] = messages(audit([project]))
    assert f"read by Python {sys.version_info.major}.{sys.version_info.minor};" in message


def test_directories_that_cannot_be_listed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory whose files cannot be listed is reported, and the rest goes on."""
    (project / "closed").mkdir()
    scandir = os.scandir

    def refusing(path: Any = ".") -> Any:
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    report = audit([project])
    assert [(error["file"], error["message"]) for error in report.errors] == [
        ("closed", "its files cannot be listed: Permission denied")
    ]
    assert report.findings


@pytest.mark.parametrize("option", ["--output", "--write-baseline", "--baseline"])
def test_files_are_checked_first(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """A file that cannot be written or read is noticed before the audit."""

    def never(*arguments: object, **named: object) -> Report:
        raise AssertionError("the audit has begun")

    monkeypatch.setattr(run_audit, "audit", never)
    assert main(["audit", ".", option, "missing/file"]) == 2
    assert f"error: {option} missing/file: there is no" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["reading", "following"])
def test_interrupts(project: Path, capsys: pytest.CaptureFixture[str], stage: str) -> None:
    """Ctrl-C ends with what is known by then, a message and status 130; the function itself raises it."""
    for number in range(5):
        (project / f"module_{number}.py").write_text(BLOCKS, encoding="utf-8")
    with interrupted(stage), pytest.raises(KeyboardInterrupt):
        audit([project])
    with interrupted(stage):
        assert main(["audit", ".", "--format", "json"]) == run_audit.INTERRUPTED
    shown = capsys.readouterr()
    assert "interrupted: the report says what was known by then" in shown.err
    assert "Traceback" not in shown.err
    report = json.loads(shown.out)
    assert report["findings"]
    [error] = report["errors"]
    assert error["message"].startswith("interrupted: ")


@contextlib.contextmanager
def interrupted(stage: str) -> Iterator[None]:
    """Press Ctrl-C at the fourth file or function."""
    where, name = (reading, "scan") if stage == "reading" else (Interpreter, "next")
    inner = getattr(where, name)
    counting = itertools.count()

    def interrupting(*arguments: Any) -> Any:
        if next(counting) == 3:
            raise KeyboardInterrupt
        return inner(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, interrupting)
        yield


def test_an_interrupt_before_anything_is_known(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is nothing to report, the command says so, without a traceback."""

    def at_once(*arguments: object, **named: object) -> Report:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_audit, "audit", at_once)
    assert main(["audit", "."]) == run_audit.INTERRUPTED
    assert capsys.readouterr().err == "interrupted: there is nothing to report yet\n"


def test_progress(project: Path) -> None:
    """Progress moves: what is done grows, and is never more than there is."""
    (project / "many.py").write_text("".join(f"def f{n}(): return f{n + 1}()\n" for n in range(900)), encoding="utf-8")
    seen: list[tuple[str, int, int]] = []
    audit([project], progress=lambda stage, done, total, what: seen.append((stage, done, total)))
    assert {stage for stage, _, _ in seen} == {"reading", "following"}
    for stage in ("reading", "following"):
        done = [count for one, count, _ in seen if one == stage]
        assert done == sorted(done)
        assert len(set(done)) > 1
    assert all(done <= total for _, done, total in seen)


NESTED = """
class P{n}:
    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

"""


def nested(count: int) -> str:
    """Return an application of proxies that are put into each other."""
    puts = "".join(f"    P{n}(P{m}(None))\n" for n in range(count) for m in (n - 1, (n + 1) % count, 0))
    source = "import pymysql\n" + "".join(NESTED.format(n=n) for n in range(count))
    source += f"def build():\n{puts.replace('P-1', f'P{count - 1}')}"
    return source + "async def handler():\n    P1(P2(pymysql.connect(host='db'))).cursor().execute('SELECT 1')\n"


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count what is found of classes."""
    found: list[str] = []
    for name in ("_find_member", "_find_passed"):
        inner = getattr(Interpreter, name)

        def counting(self: Interpreter, value: Any, wanted: str, inner: Any = inner) -> Any:
            found.append(wanted)
            return inner(self, value, wanted)

        monkeypatch.setattr(Interpreter, name, counting)
    return found


def test_proxies_around_each_other(tmp_path: Path, finds: list[str]) -> None:
    """What proxies pass on to each other is found in a number of steps that grows with their number, not faster."""
    steps = {}
    for count in (5, 6, 8, 10, 12, 24):
        (tmp_path / "app.py").write_text(nested(count), encoding="utf-8")
        finds.clear()
        report = audit([tmp_path])
        assert {finding.rule for finding in report.findings} == {"ODB101", "ODB102", "ODB103"}
        steps[count] = len(finds)
    assert steps[12] < steps[6] * 3
    assert steps[24] < steps[12] * 3


def test_names_that_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attribute that is stored anew has those looked at again who ask for it, and not everybody."""
    runs: list[object] = []
    guarded = Interpreter.guarded

    def counting(self: Interpreter, scope: Any) -> None:
        runs.append(scope)
        guarded(self, scope)

    monkeypatch.setattr(Interpreter, "guarded", counting)
    counts = []
    for count in (20, 80):
        source = "class Thing:\n    pass\n"
        source += "".join(f"def f{n}(x, y):\n    x.kept{n} = Thing()\n    return y.kept{n}\n" for n in range(count))
        (tmp_path / "app.py").write_text(source, encoding="utf-8")
        runs.clear()
        audit([tmp_path])
        counts.append(len(runs))
    assert counts[1] < counts[0] * 5


@pytest.mark.parametrize(
    ("first", "line"),
    [
        ("query = 'SELECT * FROM trucks'", "query = query + ' AND {n}'"),
        ("query = other = 'SELECT * FROM trucks'", "query = other + other\n    other = query + query"),
    ],
)
def test_texts_of_names(tmp_path: Path, first: str, line: str) -> None:
    """The text of names that are given values made of themselves, or of each other, is found in bounded time."""
    steps = {}
    for count in (20, 80):
        lines = "".join(f"    {line.format(n=n)}\n" for n in range(count))
        source = f"import pymysql\n\n\nasync def handler(connection: pymysql.Connection):\n    {first}\n{lines}"
        (tmp_path / "app.py").write_text(f"{source}    connection.cursor().execute(query)\n", encoding="utf-8")
        calls: list[str] = []

        def count_calls(frame: FrameType, event: str, arg: object, calls: list[str] = calls) -> None:
            if event == "call" and frame.f_code.co_filename == texts.__file__:
                calls.append(frame.f_code.co_name)

        before = sys.getprofile()
        sys.setprofile(count_calls)
        try:
            report = audit([tmp_path])
        finally:
            sys.setprofile(before)
        assert "ODB101" in {finding.rule for finding in report.findings}
        steps[count] = len(calls)
    assert 0 < steps[80] < 50_000
    assert steps[20] < 50_000


def test_names_of_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a name of a module is given values is looked for in that module alone, however many others there are."""
    read: list[Scope] = []

    def counting(scope: Scope) -> Iterator[bindings.Binding]:
        read.append(scope)
        return found(scope)

    found = bindings.bindings
    monkeypatch.setattr(bindings, "bindings", counting)
    source = "import pymysql\n\nkept = pymysql.connect(host='db')\n\n\nasync def handler():\n    kept.ping()\n"
    (tmp_path / "app.py").write_text(source, encoding="utf-8")
    for number in range(20):
        other = "def f():\n    x = 1\n    return x\n"
        (tmp_path / f"other{number}.py").write_text(other, encoding="utf-8")
    [handler] = [one for one in audit([tmp_path]).handlers if one.blocking]
    assert handler.mode == "neither"
    assert {scope.module.path.name for scope in read} == {"app.py"}
