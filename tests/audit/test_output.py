"""What a person sees: one thing for each function, the next command, colours and width where they belong."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest

from examples.fuel_copilot import steps
from offload_db.__main__ import main
from offload_db.audit import CODES, RULES, Context, audit, examine, report_table
from offload_db.audit.converting import convertible
from offload_db.audit.guidance import guides
from offload_db.audit.plan import make
from offload_db.audit.terminal import Terminal, terminal

HERE = Path(__file__).parent
APPLICATIONS = [
    *sorted((HERE / "live").glob("*.py")),
    *sorted((HERE / "modes").glob("*.py")),
    *sorted((HERE / "cases").glob("*.py")),
    *sorted(path for path in (HERE / "projects").iterdir() if path.is_dir()),
    steps.LEGACY,
]
# Where the source says only after the conversion that a bridge frees them.
BETTER_THAN_TOLD = {("odb103_bots.py", "start"), ("odb103_stored.py", "found")}
ROW = re.compile(r"^  (critical|high|medium|low) +(\w\S+)  ", re.MULTILINE)

# Functions of each kind: freed by a bridge, by a thread, by nobody yet, and decorated where it has no effect.
KINDS = """\
import asyncio
import time

import MySQLdb
import offload_db
import pymysql
from dbutils.pooled_db import PooledDB
from fastapi import FastAPI

app = FastAPI()
pool = PooledDB(pymysql, host="db")
kept = MySQLdb.connect(host="db")


def load():
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT number FROM trucks WHERE depot = 3 LIMIT 1")
        return cursor.fetchone()


def pings(conn):
    conn.ping()


@app.get("/live")
async def bridged():
    conn = pool.connection()
    conn.begin()
    conn.close()
    return load()


@app.get("/own")
async def threaded():
    conn = pymysql.connect(host="db")
    pings(conn)
    conn.close()


@app.get("/kept")
async def neither():
    pings(kept)
    await asyncio.sleep(0)


@offload_db.offload
@app.get("/above")
async def misplaced():
    return load()


async def poll():
    load()


async def starts():
    asyncio.create_task(poll())
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").write_text(KINDS, encoding="utf-8")
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    main(["audit", *arguments])
    return capsys.readouterr().out


def test_one_thing_for_each_function(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each function has its severity, its route or task, the worst call and the first, and what to do."""
    text = shown(capsys, ".")
    assert ROW.findall(text) == [
        ("critical", "bridged"),
        ("medium", "poll"),
        ("medium", "threaded"),
        ("medium", "misplaced"),
        ("low", "neither"),
        ("low", "ODB303"),
        ("medium", "ODB304"),
    ]
    assert (
        "2 functions: put @offload_db.offload directly above the def, once [1] is changed\n  app.py\n"
        "  critical  bridged  GET /live\n"
        "            line 30 load() > cursor.execute() in line 17 (polled), first 27 pool.connection()\n"
        "  medium    poll  task\n" in text
    )
    thread = '1 function: put @offload_db.offload(mode="thread") directly above the def, '
    assert f"{thread}or change [3] and leave the mode out\n" in text
    assert "2 functions that no decorator frees until the place in brackets is changed" in text
    assert "low       neither  GET /kept  [2]\n" in text
    assert 'a bridge does not free pings(), and mode="thread" does not fit: it awaits\n' in text
    assert "@offload has no effect on misplaced: it stands above the route decorator" in text


def test_summary(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The end says how many functions block, who is freed by what, what needs a hand, and the next command."""
    summary = shown(capsys, ".", "--exclude", "a b*").partition("\nSummary\n")[2]
    first = "Change [2] and [3] by hand first, and fewer need a thread"
    assert summary.splitlines()[:6] == [
        "  block the event loop  5 of 5 async functions (1 critical, 3 medium, 1 low)",
        "  a decorator frees     3, once [1] is changed",
        "  need a hand           2: misplaced, neither",
        "  to be looked at       2 ODB303, 1 ODB304",
        "  next                  offload-db migrate . --exclude 'a b*'",
        f"{'':24}shows the changes as a diff; with --write it makes them. {first}",
    ]
    assert "[....................] 0 of 5 blocking functions migrated; " in summary
    assert "(--verbose lists them)" in summary


def test_places_that_hands_change(capsys: pytest.CaptureFixture[str]) -> None:
    """Where functions need a hand at a few places, the summary names these places instead of the functions."""
    text = shown(capsys, str(HERE / "modes" / "loop_below.py"))
    assert "\n  need a hand           9, at [1] and [2]\n" in text


def test_fits_on_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """Eleven handlers with 77 findings take a screen of 80 columns, and none of its lines is longer."""
    report = audit([steps.LEGACY / "api_v2.py", steps.LEGACY / "database_mysql.py"])
    lines = report_table.render(report, Terminal(80)).splitlines()
    assert len(guides(report)) == 11
    assert len(lines) < 55
    assert max(map(len, lines)) <= 80
    wide = report_table.render(report, Terminal(120)).splitlines()
    assert len(wide) < len(lines)
    assert 80 < max(map(len, wide)) <= 120


@pytest.mark.parametrize("path", APPLICATIONS, ids=lambda path: path.stem)
def test_told_and_done(path: Path) -> None:
    """What the audit says that a decorator frees, and in which mode, the migration decorates so; and nothing else."""
    told = {(Path(one.handler.file).name, one.handler.function): one.do for one in guides(audit([path]))}
    context = examine([path])
    assert isinstance(context, Context)
    converted = convertible(context)
    again = examine([path], converted=converted) if converted else context
    assert isinstance(again, Context)
    plan = make(again)
    done = {(one.scope.module.path.name, one.scope.qualname): one.mode for one in plan.decorate}
    assert {key: mode for key, mode in done.items() if key not in BETTER_THAN_TOLD} == {
        key: do for key, do in told.items() if do != "hand"
    }
    assert set(done) <= set(told)


@pytest.mark.parametrize("upto", [0, 2, len(steps.names())])
def test_next(upto: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The next command is one that runs and brings the audit further, until nothing is left."""
    steps.apply(upto, tmp_path / "after")
    text = shown(capsys, str(tmp_path / "after"))
    [command] = re.findall(r"^  next +(offload-db .*)$", text, re.MULTILINE)
    assert command.split()[1] == ("doctor" if upto == len(steps.names()) else "migrate")
    if upto == 0:
        assert main([*shlex.split(command)[1:], "--write", "--quiet"]) == 0
        after = shown(capsys, str(tmp_path / "after"))
        assert "  block the event loop  0 of " in after
        assert "  next                  offload-db doctor\n" in after


def test_nothing_to_do(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing blocks the summary says so, and names no command."""
    (project / "app.py").write_text("async def f():\n    pass\n", encoding="utf-8")
    text = shown(capsys, ".")
    assert text.startswith("Summary\n  block the event loop  0 of 0 async functions\n[####")
    assert "next" not in text


def test_left_to_look_at(capsys: pytest.CaptureFixture[str]) -> None:
    """Where only other findings are open the next command explains them, and it runs."""
    text = shown(capsys, str(HERE / "cases" / "odb301_locks.py"))
    assert "\n  to be looked at       3 ODB301\n" in text
    [command] = re.findall(r"^  next +(offload-db .*)$", text, re.MULTILINE)
    assert command == "offload-db audit --explain ODB301"
    assert main(shlex.split(command)[1:]) == 0


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "colour"),
    [
        (Screen, {}, True),
        (Screen, {"NO_COLOR": "1"}, False),
        (Screen, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        (Screen, {"NO_COLOR": ""}, True),
        (Screen, {"TERM": "dumb"}, False),
        (io.StringIO, {}, False),
        (io.StringIO, {"FORCE_COLOR": "1"}, True),
    ],
)
def test_colours(stream: type[io.StringIO], environ: dict[str, str], colour: bool) -> None:
    """A terminal has colours, a pipe has none; NO_COLOR and FORCE_COLOR decide where they are set."""
    look = terminal(stream(), environ)
    assert look.colour == colour
    assert (look.width is None) == (stream is io.StringIO)
    assert ("\x1b[" in look.paint("worst", "bold red")) == colour


def test_colours_change_no_words(project: Path) -> None:
    """Without its escapes the coloured report is the plain one, and lines are broken at the same places."""
    report = audit([project])
    for verbose in (False, True):
        plain = report_table.render(report, Terminal(72), verbose=verbose)
        coloured = report_table.render(report, Terminal(72, colour=True), verbose=verbose)
        assert "\x1b[1;31mcritical\x1b[0m" in coloured
        assert re.sub("\x1b\\[[0-9;]*m", "", coloured) == plain


def test_files_are_plain(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that goes to a file has neither colours nor a width."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["audit", ".", "--output", "out.txt"]) == 1
    text = (project / "out.txt").read_text(encoding="utf-8")
    assert text == report_table.render(audit([project]), target=".")
    assert "\x1b" not in text


def test_markdown_by_function(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The document has one section for each function with what to do; with --verbose one for each call."""
    text = shown(capsys, ".", "--format", "markdown")
    assert re.findall(r"^#### \d+\. Line \d+ - `(\w+)", text, re.MULTILINE) == [
        "bridged", "threaded", "neither", "misplaced", "poll",
    ] or len(re.findall(r"^#### ", text, re.MULTILINE)) == 5  # fmt: skip
    assert "**Do:** put @offload_db.offload directly above the def, once place 1 is changed\n" in text
    assert "**By hand:** pings() uses what a bridge does not free" in text
    assert "- ODB303 (low): app.py:27: conn = pool.connection(): an exception before its close()" in text
    verbose = shown(capsys, ".", "--format", "markdown", "--verbose")
    assert len(re.findall(r"^#### ", verbose, re.MULTILINE)) == len(audit([project]).findings)


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    """Each rule has one line that says what it finds, and a remedy."""
    assert main(["audit", "--explain", "odb104"]) == 0
    assert capsys.readouterr().out == (
        "ODB104  blocking-helper: an `async def` calls a helper that reaches the driver\n"
        "        put @offload_db.offload on the async def alone; the helper stays as it is\n"
    )
    assert main(["audit", "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == list(CODES)
    assert [line.strip() for line in lines[1::2]] == [rule.remedy for rule in RULES]
    assert main(["audit", "--explain", "ODB301", "ODB101,ODB303"]) == 0
    assert re.findall(r"^ODB\d+", capsys.readouterr().out, re.MULTILINE) == ["ODB101", "ODB301", "ODB303"]
    assert main(["audit", "--explain", "ODB104,ODB9"]) == 2
    assert "error: --explain: there is no rule ODB9; accepted are ODB101, " in capsys.readouterr().err
    assert main(["audit"]) == 2
    assert "error: PATH is missing" in capsys.readouterr().err
