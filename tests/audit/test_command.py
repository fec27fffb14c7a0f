"""The command: exit status, formats, baselines, comments that switch rules off, files that cannot be read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import offload_db
from examples.fuel_copilot import steps
from offload_db.__main__ import main
from offload_db.audit import CODES, RULES, Finding
from offload_db.audit.run_rules import LIMITS
from tests.evidence import GUIDE

BLOCKS = """\
import pymysql


async def handler():
    conn = pymysql.connect(host="db")
    try:
        conn.cursor().execute("SELECT 1")
    finally:
        conn.close()
"""
KEYS = {"rule", "file", "line", "column", "function", "endpoint", "call", "severity", "via", "migrated"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").write_text(BLOCKS, encoding="utf-8")
    return tmp_path


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    status = main(["audit", *arguments, "--format", "json"])
    return status, json.loads(capsys.readouterr().out)


def test_status(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 nothing is open, 1 open findings, 2 a usage error or a file that could not be read."""
    assert main(["audit", "."]) == 1
    (project / "app.py").write_text("x = 1\n", encoding="utf-8")
    assert main(["audit", "."]) == 0
    assert main(["audit", "nowhere"]) == 2
    assert "nowhere is not there" in capsys.readouterr().err
    assert main(["audit", ".", "--select", "ODB999"]) == 2
    assert "accepted are ODB101" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["audit", ".", "--format", "xml"])
    assert caught.value.code == 2


def test_unreadable_files(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that does not parse is reported, and the rest goes on."""
    (project / "broken.py").write_text("def f(:\n", encoding="utf-8")
    (project / "bytes.py").write_bytes(b"x = '\xff'\n")
    (project / "null.py").write_bytes(b"x = 1\0\n")
    status, report = run_json(capsys, ".")
    assert status == 1
    assert {error["file"] for error in report["errors"]} == {"broken.py", "bytes.py", "null.py"}
    assert report["findings"]
    (project / "app.py").unlink()
    status, report = run_json(capsys, ".")
    assert (status, report["findings"], report["summary"]["errors"]) == (2, [], 3)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The keys are those that are documented, and lines and columns count from 1."""
    status, report = run_json(capsys, str(steps.LEGACY))
    assert status == 1
    assert set(report) == {"version", "places", "findings", "handlers", "errors", "summary"}
    for finding in report["findings"]:
        assert set(finding) >= KEYS
        assert finding["severity"] in ("critical", "high", "medium", "low")
        assert finding["endpoint"] is None or set(finding["endpoint"]) == {"method", "path"}
    [deep] = [f for f in report["findings"] if f["function"] == "get_fleet_summary"]
    assert deep["via"] == ["build_fleet_summary", "_consumption", "_query"]
    assert deep["chain"][-1].endswith("fleet_service.py:12 cursor.execute")
    handlers = {handler["function"]: handler for handler in report["handlers"]}
    assert handlers["get_truck_location"]["mode"] == "bridge"
    assert handlers["get_truck_location"]["awaits"] is True
    assert handlers["list_terminals"]["mode"] == "either"
    assert handlers["list_terminals"]["connection"] == {
        "obtained": "truck_repository.terminals -> cursor.execute",
        "closed": None,
        "shared": True,
    }
    assert handlers["get_truck_specs"]["connection"]["closed"] is False
    assert handlers["record_service"]["connection"]["closed"] is True
    assert handlers["get_components"]["connection"]["obtained"] == "the parameter conn"
    summary = report["summary"]
    assert summary["findings"] == len(report["findings"]) == sum(summary["by_rule"].values())
    assert (summary["handlers_blocking"], summary["handlers_migrated"], summary["migrated_share"]) == (36, 0, 0)


def test_sarif(capsys: pytest.CaptureFixture[str]) -> None:
    """A SARIF log has one run with every rule, and a result for each open finding."""
    assert main(["audit", str(steps.LEGACY), "--format", "sarif"]) == 1
    log = json.loads(capsys.readouterr().out)
    assert log["version"] == "2.1.0"
    [run] = log["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == list(CODES)
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        assert result["locations"][0]["physicalLocation"]["region"]["startLine"] > 0


def test_places(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns count characters, and the addresses of SARIF are valid for any file name."""
    (project / "app.py").write_text("import pymysql\nasync def f():\n    'ñ…'; pymysql.connect()\n", encoding="utf-8")
    (project / "app.py").rename(project / "a b:ñ.py")
    _, report = run_json(capsys, ".")
    assert [(finding["line"], finding["column"]) for finding in report["findings"]] == [(3, 11)]
    for path, address in ((".", "a%20b%3A%C3%B1.py"), (str(project), "a%20b%3A%C3%B1.py")):
        assert main(["audit", path, "--format", "sarif"]) == 1
        [result] = json.loads(capsys.readouterr().out)["runs"][0]["results"]
        place = result["locations"][0]["physicalLocation"]
        assert (place["artifactLocation"]["uri"], place["region"]) == (address, {"startLine": 3, "startColumn": 11})


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type statements came with Python 3.12")
def test_type_statement(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A type statement gives a name to a connection's type."""
    source = "import pymysql\ntype Conn = pymysql.Connection\nasync def f[T](conn: Conn, x: T):\n    conn.ping()\n"
    (project / "app.py").write_text(source, encoding="utf-8")
    _, report = run_json(capsys, ".")
    assert [finding["line"] for finding in report["findings"]] == [4]


@pytest.mark.slow
def test_beside_the_library(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy of the library among the files changes nothing of what its decorator and its pool mean."""
    # All but the parts that no application calls: the audit alone is a third of the lines.
    left_out = shutil.ignore_patterns("audit", "doctor", "monitor")
    shutil.copytree(Path(offload_db.__file__).parent, project / "offload_db", ignore=left_out)
    source = """
import offload_db

pool = offload_db.OffloadPool.from_env()


@offload_db.offload
async def done():
    pool.connection().close()


async def left():
    pool.connection().close()
"""
    (project / "app.py").write_text(source, encoding="utf-8")
    _, report = run_json(capsys, ".")
    found = [finding for finding in report["findings"] if finding["file"] == "app.py"]
    assert [(finding["function"], finding["via"]) for finding in found if finding["open"]] == [("left", [])] * 2


def test_pipes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A named pipe is no source file; a link that leads nowhere is reported."""
    os.mkfifo(project / "pipe.py")
    (project / "link.py").symlink_to("nowhere.py")
    _, report = run_json(capsys, ".")
    assert [error["file"] for error in report["errors"]] == ["link.py"]


def test_github(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Annotations name the file, the line and the rule, and escape what would end them."""
    (project / "a,b.py").write_text(BLOCKS, encoding="utf-8")
    assert main(["audit", ".", "--format", "github", "--select", "ODB102"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("::warning file=a%2Cb.py,line=5,col=12,title=ODB102::handler: pymysql.connect()")
    assert len(lines) == 2


def test_markdown(tmp_path: Path) -> None:
    """The checklist ticks what is migrated, and says what share that is."""
    steps.apply(2, tmp_path / "after")
    out = tmp_path / "audit.md"
    assert main(["audit", str(tmp_path / "after"), "--format", "markdown", "--output", str(out)]) == 1
    text = out.read_text(encoding="utf-8")
    assert "**Migrated:** 1 of 36 (3 %)" in text
    assert "- [x] `get_sensors_cache()`" in text
    assert text.count("- [ ] ") == 35
    assert "#### 1. Line " in text


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    """With --verbose each call has its line, its route and its chain; progress is not mixed into it."""
    assert main(["audit", str(steps.LEGACY), "--verbose"]) == 1
    shown = capsys.readouterr()
    assert "[....................] 0 of 36 blocking functions migrated" in shown.out
    assert "get_fleet_summary  (GET /api/fleet/summary, mode either)" in shown.out
    assert "via build_fleet_summary > _consumption > _query" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize("format", ["table", "markdown"])
def test_first_page(project: Path, capsys: pytest.CaptureFixture[str], format: str) -> None:  # noqa: A002  # its name
    """A report begins with the places that open connections, and says what to change where neither mode fits."""
    source = """
import asyncio
import MySQLdb

kept = MySQLdb.connect(passwd="secret")

async def handler():
    kept.ping()
    await asyncio.sleep(0)
"""
    (project / "app.py").write_text(source, encoding="utf-8")
    assert main(["audit", ".", "--verbose", "--format", format]) == 1
    shown = capsys.readouterr().out
    first = shown.index("Places that open connections: 1, for 1 of the functions below.")
    assert first < shown.index("app.py:5") < shown.index("handler")
    assert "offload_db.OffloadPool.create(MySQLdb, max_size=1, …).connection()" in shown
    assert 'it awaits, so that mode="thread" does not fit: in app.py:5 write' in shown
    assert "secret" not in shown


def test_comments(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A comment switches off the rules that it names, on its line or on the next."""
    text = BLOCKS.replace('"SELECT 1")', '"SELECT 1")  # offload: ignore[ODB101, ODB103] a script')
    text = text.replace("    conn = pym", "    # offload: ignore[ODB102] once\n    conn = pym")
    text = text.replace("conn.close()", "conn.close()  # offload: ignore[ODB101] another rule")
    (project / "app.py").write_text(text, encoding="utf-8")
    status, report = run_json(capsys, ".")
    assert (status, [finding["call"] for finding in report["findings"]]) == (1, ["conn.close"])
    assert report["summary"]["suppressed"] == 3


def test_baseline(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what the baseline does not list fails, also after lines have moved."""
    assert main(["audit", ".", "--write-baseline", "known.json"]) == 0
    assert main(["audit", ".", "--baseline", "known.json"]) == 0
    (project / "app.py").write_text("# moved\n\n" + BLOCKS, encoding="utf-8")
    assert main(["audit", ".", "--baseline", "known.json"]) == 0
    (project / "app.py").write_text(BLOCKS + "\n\nasync def fresh():\n    pymysql.connect()\n", encoding="utf-8")
    status, report = run_json(capsys, ".", "--baseline", "known.json")
    assert status == 1
    assert [finding["function"] for finding in report["findings"] if finding["open"]] == ["fresh"]
    (project / "app.py").write_text("x = 1\n", encoding="utf-8")
    assert main(["audit", ".", "--baseline", "known.json"]) == 0
    assert "findings of the baseline are gone" in capsys.readouterr().out
    (project / "known.json").write_text("[]", encoding="utf-8")
    assert main(["audit", ".", "--baseline", "known.json"]) == 2
    assert "--write-baseline" in capsys.readouterr().err


def test_rules(capsys: pytest.CaptureFixture[str]) -> None:
    """The rules are listed and explained, with what the audit cannot see."""
    assert main(["rules"]) == 0
    text = capsys.readouterr().out
    for rule in RULES:
        assert f"{rule.code} {rule.name}: {rule.summary}" in text
    assert text.count("\n  - ") == len(LIMITS)
    assert main(["rules", "odb301"]) == 0
    assert "ODB101" not in capsys.readouterr().out
    assert main(["rules", "ODB9"]) == 2


def offload(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the functions with an open finding in an application that is written so."""
    head = (
        "import offload_db\nfrom fastapi import APIRouter, Depends, FastAPI\npool = offload_db.OffloadPool.from_env()\n"
    )
    (tmp_path / "app.py").write_text(head + source, encoding="utf-8")
    _, report = run_json(capsys, str(tmp_path / "app.py"))
    return sorted({finding["function"] for finding in report["findings"] if finding["open"]})


BRIDGED = """
async def check():
    pool.connection()

@router.get("/x")
async def handler(checked=Depends(check)):
    await helper()

async def helper():
    pool.connection()
"""


@pytest.mark.parametrize(
    ("before", "after", "blocked"),
    [
        ("app = router = FastAPI()", "", ["check", "helper"]),
        (
            """
from offload_db.contrib.asgi import OffloadMiddleware
app = router = FastAPI()
app.add_middleware(OffloadMiddleware)""",
            "",
            [],
        ),
        (
            "router = APIRouter()",
            "app = FastAPI()\napp.include_router(router)\napp = offload_db.contrib.asgi.OffloadMiddleware(app)",
            [],
        ),
        (
            """
from starlette.middleware import Middleware
from offload_db.contrib.asgi import OffloadMiddleware as OM
app = router = FastAPI(middleware=[Middleware(OM)])""",
            "",
            [],
        ),
        ("from offload_db.contrib.fastapi import OffloadRoute\nrouter = APIRouter(route_class=OffloadRoute)", "", []),
        (
            """
from offload_db.contrib import fastapi as odb
app = router = FastAPI()
app.router.route_class = odb.OffloadRoute""",
            "",
            [],
        ),
        (
            "app = router = FastAPI()",
            "@app.get('/y')\n@offload_db.offload\nasync def other():\n    await helper()",
            ["check", "helper"],
        ),
    ],
)
def test_bridged_applications(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: str, after: str, blocked: list[str]
) -> None:
    """What the application, the router or every caller bridges is migrated."""
    assert offload(f"{before}\n{BRIDGED}\n{after}\n", tmp_path, capsys) == blocked


def test_missing_extra() -> None:
    """Without LibCST the audit works, and the migration names the extra."""
    code = (
        "import sys; sys.modules['libcst'] = None; from offload_db.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    for command, expected in (("migrate", 2), ("audit", 1)):
        done = subprocess.run(
            [sys.executable, "-c", code, command, str(steps.LEGACY)],
            cwd=Path(offload_db.__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == expected
        assert ("pip install 'offload-db[audit]'" in done.stderr) == (command == "migrate")


def test_module(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m offload_db` is the command; it names its sub-commands."""
    done = subprocess.run(
        [sys.executable, "-m", "offload_db", "--help"],
        cwd=Path(offload_db.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0
    for command in ("audit", "migrate", "rules", "doctor"):
        assert command in done.stdout
    with pytest.raises(SystemExit):
        main([])
    assert "COMMAND" in capsys.readouterr().err


def test_documentation() -> None:
    """The guide lists each rule, each key of a finding and each limit."""
    chapter = (GUIDE / "audit.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(ODB\d+)` \| (.*) \|$", chapter, re.MULTILINE)
    assert listed == [(rule.code, rule.summary) for rule in RULES]
    finding = Finding("ODB101", "a.py", 1, 1, "f", "c", "low", "m")
    keys = {
        key
        for cells in re.findall(r"^\| (`[a-z_`, ]+`) \|", chapter, re.MULTILINE)
        for key in re.findall(r"\w+", cells)
    }
    assert keys == set(finding.as_dict())
    limits = chapter.partition("\n## What the audit cannot see\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^- (.*(?:\n  .*)*)", limits, re.MULTILINE)
    assert [" ".join(limit.split()) for limit in listed] == list(LIMITS)


def test_deep_nesting(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Code that is nested too deeply to follow is reported, and the rest goes on."""
    (project / "deep.py").write_text(f"{BLOCKS}\n\nasync def deep(a):\n    return {'a.' * 900}b\n", encoding="utf-8")
    status, report = run_json(capsys, "deep.py")
    assert status == 1
    assert [error["message"] for error in report["errors"]] == ["it is nested too deeply"]
    calls = {finding["call"] for finding in report["findings"]}
    assert calls == {"pymysql.connect", "conn.cursor", "conn.cursor().execute", "conn.close"}
