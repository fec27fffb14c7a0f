"""The evaluation files: each line says which rules find something there, and nothing else is found.

``# expect: ODB101 ODB103`` is a claim about open findings of that line, ``# route: GET /x`` about a handler's routes.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from offload_db.audit import CODES, RULES, Context, audit, examine
from offload_db.audit.plan import make

HERE = Path(__file__).parent
CASES = sorted((HERE / "cases").glob("*.py"))
MODES = sorted((HERE / "modes").glob("*.py"))
ROUTES = sorted((HERE / "routes").glob("*.py"))
PROJECTS = sorted(path for path in (HERE / "projects").iterdir() if path.is_dir())

Expected = dict[tuple[str, int], set[str]]


def expected(root: Path) -> Expected:
    """Return the rules that the comments of a file, or of all files of a directory, claim."""
    found: Expected = {}
    for file in [root] if root.is_file() else sorted(root.rglob("*.py")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if match := re.search(r"# expect: (.*)", line):
                found[file.name, number] = set(match[1].split())
    return found


@pytest.mark.parametrize("path", [*CASES, *PROJECTS], ids=lambda path: path.stem)
def test_findings(path: Path) -> None:
    """The findings are those that the comments claim, line for line."""
    found: Expected = {}
    for finding in audit([path]).open:
        found.setdefault((Path(finding.file).name, finding.line), set()).add(finding.rule)
    assert found == expected(path)


def test_order() -> None:
    """The report is the same each time, whatever order sets have."""
    path = HERE / "projects" / "alternatives"
    kept: list[object] = []
    for number in range(6):
        found = audit([path]).findings
        kept.append([object() for _ in range(number * 997)])  # other addresses, and so other hashes
        assert [finding.via for finding in found] == [("First.query",)]


@pytest.mark.parametrize("path", ROUTES, ids=lambda path: path.stem)
def test_routes(path: Path) -> None:
    """Each framework's routes are found, with their prefixes."""
    found = {handler.line: {str(endpoint) for endpoint in handler.endpoints} for handler in audit([path]).handlers}
    assert found == expected_routes(path)


def expected_routes(path: Path) -> dict[int, set[str]]:
    """Return the routes that the comments of a file claim, by line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    matches = [(number, re.search(r"# route: (.*)", line)) for number, line in enumerate(lines, 1)]
    return {number: set(match[1].split(", ")) for number, match in matches if match}


def test_names_are_found_as_python_finds_them() -> None:
    """A package comes before a module of its name: its routes have their prefix; a router may be imported in a try."""
    handlers = audit([HERE / "projects" / "names"]).handlers
    assert {handler.function: [str(one) for one in handler.endpoints] for handler in handlers} == {
        "more": ["GET /extra/more"],
        "run": ["POST /clean"],
        "answer": ["GET /v1/health"],
    }


@pytest.mark.parametrize("code", CODES)
def test_each_rule_has_a_file(code: str) -> None:
    """Each rule is claimed in an evaluation file of its own name, and stands in a source file of its own."""
    files = [path for path in CASES if path.stem.startswith(code.lower())]
    assert files
    assert any(code in codes for file in files for codes in expected(file).values())
    rule = next(rule for rule in RULES if rule.code == code)
    assert rule.check.__module__ == f"offload_db.audit.rules.{code.lower()}"
    assert rule.summary
    assert rule.explanation


@pytest.mark.parametrize("locks", [True, False])
def test_cached_properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool) -> None:
    """A cached property that queries is found where it holds a lock meanwhile, which it does up to Python 3.11."""
    monkeypatch.setattr("offload_db.audit.rules.odb301.CACHED_PROPERTY_LOCKS", locks)
    (tmp_path / "main.py").write_text(
        """
from functools import cached_property
import offload_db

pool = offload_db.OffloadPool.from_env()

class Settings:
    @cached_property
    def theme(self):
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("SELECT theme FROM settings WHERE id = 1")
            return cursor.fetchone()

    @cached_property
    def unused(self):
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("SELECT 1 FROM settings WHERE id = 1")

    @property
    def language(self):
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("SELECT language FROM settings WHERE id = 1")
            return cursor.fetchone()

settings = Settings()

@offload_db.offload
async def handler():
    return settings.theme, settings.language
""",
        encoding="utf-8",
    )
    found = [(finding.rule, finding.function) for finding in audit([tmp_path]).open]
    assert found == ([("ODB301", "Settings.theme")] if locks else [])


def marked(path: Path, pattern: str) -> dict[int, str]:
    """Return the lines of a file with a comment of some kind."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {number: match[1] for number, line in enumerate(lines, 1) if (match := re.search(pattern, line))}


@pytest.mark.parametrize("path", MODES, ids=lambda path: path.stem)
def test_modes(path: Path) -> None:
    """Each function is given the mode that its comment claims, and sharing is told where the comments claim it.

    Where neither mode fits, the advice says what to change.
    """
    report = audit([path])
    modes = {handler.line: handler.mode for handler in report.handlers if handler.blocking}
    assert modes == marked(path, r"# mode: (\w+)")
    assert [h.line for h in report.handlers if (h.advice is not None) != (h.mode == "neither")] == []
    shared = {finding.line for finding in report.findings if finding.rule == "ODB304"}
    assert shared == set(marked(path, r"# (shared)"))


@pytest.mark.parametrize("path", [*MODES, *CASES, *PROJECTS], ids=lambda path: path.stem)
def test_audit_and_migration_agree(path: Path) -> None:
    """The migration decorates what the audit says, with the mode that it says, and leaves alone what neither fits."""
    context = examine([path])
    assert isinstance(context, Context)
    planned = make(context)
    decorated = {decorate.scope: decorate.mode for decorate in planned.decorate}
    for scope in context.asynchronous:
        if scope in decorated:
            expected = {"thread": {"thread"}, "bridge": {"bridge", "either"}}[decorated[scope]]
            assert context.advice(scope).mode in expected, scope
        elif context.sites_of(scope) and scope not in context.covered and scope not in context.ineffective:
            assert context.advice(scope).mode == "neither", scope


def test_costliest_chain(tmp_path: Path) -> None:
    """A query in a loop two calls down counts, however short another way to the driver is."""
    (tmp_path / "main.py").write_text(
        """
import offload_db

pool = offload_db.OffloadPool.from_env()

def one(number):
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT name FROM trucks WHERE id = %s LIMIT 1", (number,))

def all_of_them(numbers):
    for number in numbers:
        one(number)

def page(numbers):
    one(numbers[0])
    all_of_them(numbers)

async def looped(numbers):
    page(numbers)

async def once(numbers):
    one(numbers[0])
""",
        encoding="utf-8",
    )
    found = {finding.function: finding for finding in audit([tmp_path]).open}
    assert (found["looped"].severity, found["looped"].reasons) == ("critical", ("in a loop",))
    assert found["looped"].via == ("page", "all_of_them", "one")
    assert found["once"].severity == "medium"


def test_places(tmp_path: Path) -> None:
    """The places that open connections are named with what to write there, and who uses them."""
    (tmp_path / "main.py").write_text(
        """
import pymysql
from sqlalchemy import create_engine

engine = create_engine("mysql+pymysql://fleet:secret@db", pool_size=4, max_overflow=2)
kept = pymysql.connect(host="db", password="secret")

def fresh():
    return pymysql.connect(host="db", password="secret")

async def first():
    engine.connect().close()

async def second():
    fresh().close()
    kept.ping()
""",
        encoding="utf-8",
    )
    places = audit([tmp_path]).places
    assert [(p.line, p.call, [name for _, _, name in p.functions]) for p in places] == [
        (5, "create_engine", ["first"]),
        (6, "pymysql.connect", ["second"]),
        (9, "pymysql.connect", ["second"]),
    ]
    assert "create_engine(offload_db.OffloadPool.create(max_size=6, …))" in places[0].write
    assert places[1].write.startswith("offload_db.connect(…)")
    assert "OffloadPool.create" in places[2].write
    assert not any("secret" in place.write for place in places)


def test_names(tmp_path: Path) -> None:
    """A property and a loop are no calls in a message, a key of an application is named; fingerprints stay."""
    source = """
import pymysql
app = {}
app["db"] = pymysql.connect()

class Truck:
    @property
    def rpm(self):
        cursor = app["db"].cursor()
        cursor.execute("SELECT 1")
        return cursor

async def handler():
    app["db"].ping()
    return Truck().rpm
"""
    (tmp_path / "app.py").write_text(source, encoding="utf-8")
    report = audit([tmp_path])
    found = {finding.line: finding for finding in report.findings if finding.function == "handler"}
    assert found[14].message.startswith("app['db'].ping() is a call of the driver")
    assert found[15].message.startswith("Truck().rpm leads to cursor.execute() and")
    assert (found[14].call, found[15].call) == ("app[].ping", "Truck().rpm")
