"""What README.md and the guide say is so: their code runs, their tables match the library, their links lead.

The documents are the README, the guide's contents and every chapter in ``examples/guide``. Each ``python`` fence is
executed as a module of its own, against the test server. One that begins with ``# name.py`` can be imported by the
others of its document, and those of the chapter on migrating by every chapter. A ``diff`` fence may only add lines; it
is executed without and with them. Where a fence makes a FastAPI ``app``, each of its GET routes is asked.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pymysql
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

import offload_db
from tests.conftest import DATABASE_VARIABLES, MySQL
from tests.evidence import GUIDE, ROOT

README = ROOT / "README.md"
CONTENTS = ROOT / "examples" / "README.md"
CHAPTERS = tuple(sorted(GUIDE.glob("*.md")))
MIGRATION = GUIDE / "migration.md"
DOCUMENTS = (README, CONTENTS, *CHAPTERS)
BESIDE = (ROOT / "examples" / "fuel_copilot" / "README.md", *sorted((ROOT / ".github").glob("*.md")))
PICTURES = GUIDE / "pictures"

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"# (\w+)\.py\n")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OLD_ANCHOR = re.compile(r'<a id="([^"]+)"></a>')
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

BEFORE, AFTER = "before", "after"

SCHEMA = (
    "CREATE TABLE trucks (truck_id VARCHAR(20) PRIMARY KEY)",
    "INSERT INTO trucks VALUES ('FL-0208'), ('FL-0209')",
    "CREATE TABLE truck_sensors_cache (truck_id VARCHAR(20) PRIMARY KEY, rpm INT)",
    "INSERT INTO truck_sensors_cache VALUES ('FL-0208', 1250)",
    "CREATE TABLE audit_log (id INT PRIMARY KEY AUTO_INCREMENT, text VARCHAR(100))",
)


@dataclass(frozen=True)
class Fence:
    """A fenced block of a document."""

    document: Path
    line: int
    language: str
    text: str

    @property
    def label(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    def source(self, stage: str) -> str:
        """Return the code, at the given stage if it is a diff."""
        if self.language != "diff":
            return self.text
        lines = self.text.splitlines()
        assert not [line for line in lines if line[:1] not in ("+", " ", "")], "a migration only adds lines"
        return "".join(f"{line[1:]}\n" for line in lines if stage == AFTER or not line.startswith("+"))

    def module(self) -> str:
        """Return the name under which the code is imported."""
        named = NAME.match(self.source(AFTER))
        return named[1] if named else f"line_{self.line}"


def fences(document: Path) -> list[Fence]:
    text = document.read_text(encoding="utf-8")
    return [
        Fence(document, text.count("\n", 0, match.start()) + 2, match[2], textwrap.dedent(match[3]))
        for match in FENCE.finditer(text)
    ]


def named(document: Path) -> list[Fence]:
    """Return the fences of a document that others can import."""
    found = [fence for fence in fences(document) if NAME.match(fence.source(AFTER))]
    assert len(found) == len({fence.module() for fence in found}), "two fences have the same name"
    return found


ALL = [fence for document in DOCUMENTS for fence in fences(document)]
RUNS = [
    pytest.param(fence, stage, id=f"{fence.label}-{stage}")
    for fence in ALL
    for stage in (BEFORE, AFTER)
    if fence.language == "diff" or (fence.language == "python" and stage == AFTER)
]


@pytest.fixture
def workshop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mysql: MySQL, database: dict[str, Any]
) -> Iterator[Callable[[Fence, str], ModuleType]]:
    """Execute a fence where its document's named modules can be imported and the server is known by the environment."""
    with mysql.connect(database=database["database"]) as connection, connection.cursor() as cursor:
        for statement in SCHEMA:
            cursor.execute(statement)
    for variable, value in mysql.endpoint.environment(database["database"]).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)  # where a fence may leave files

    def execute(fence: Fence, stage: str) -> ModuleType:
        general = named(MIGRATION) if fence.document in CHAPTERS else []
        for other in (*general, *named(fence.document), fence):
            (tmp_path / f"{other.module()}.py").write_text(other.source(stage), encoding="utf-8")
        importlib.invalidate_caches()
        return importlib.import_module(fence.module())

    yield execute
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
            for value in vars(module).values():
                if isinstance(value, offload_db.OffloadPool):
                    value.close()


def test_there_is_code() -> None:
    """The code of the documents is found: the README's diffs, and the code of nearly every chapter."""
    languages = {document: {fence.language for fence in fences(document)} for document in DOCUMENTS}
    assert languages[README] >= {"diff", "sh"}
    assert languages[MIGRATION] >= {"python", "diff", "sh"}
    assert sum("python" in languages[chapter] for chapter in CHAPTERS) >= 7


@pytest.mark.parametrize(("fence", "stage"), RUNS)
def test_code_runs(fence: Fence, stage: str, workshop: Callable[[Fence, str], ModuleType]) -> None:
    """The code of the documents runs, and what is decorated does not block."""
    module = workshop(fence, stage)
    app = getattr(module, "app", None)
    if app is None:
        return
    assert isinstance(app, FastAPI)
    with TestClient(app) as client:
        for route in app.routes:
            if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
                answer = client.get(route.path.format(truck_id="FL-0208"))
                assert (route.path, answer.status_code) == (route.path, 200)
    pool = getattr(sys.modules.get("database_mysql"), "pool", None)
    if stage == AFTER and pool is not None:
        assert pool.blocking_calls() == []
        assert pool.statistics().in_use == 0


@pytest.mark.parametrize("document", [*DOCUMENTS, *BESIDE], ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(document: Path) -> None:
    """What a reader is told to run is there."""
    text = document.read_text(encoding="utf-8")
    for script in re.findall(r"(?<![\w/.])\./[\w./]+", text):
        assert os.access(ROOT / script, os.X_OK), f"{script} is not an executable file"
    for module in re.findall(r"python -m (examples[\w.]*)", text):
        assert importlib.util.find_spec(module) is not None, f"{module} is not there"


@pytest.mark.parametrize("document", [*DOCUMENTS, *BESIDE], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Each link leads to a file that is there, and to a heading of it."""
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = here((document.parent / path).resolve()) if path else document
        assert target.exists(), f"{link}: there is no {target}"
        if anchor:
            assert anchor in anchors(target), f"{link}: there is no such heading"


def here(path: Path) -> Path:
    """Return where a file of the repository is: the library may be an installed one."""
    library = ROOT / "offload_db"
    return Path(offload_db.__file__).parent / path.relative_to(library) if path.is_relative_to(library) else path


def anchors(document: Path) -> set[str]:
    """Return what a link can name in a document: its headings, and the places of headings that moved away."""
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    return {_anchor(heading) for heading in HEADING.findall(text)} | set(OLD_ANCHOR.findall(text))


@pytest.mark.parametrize(("document", "few"), [(README, 22), (CONTENTS, 24)], ids=["README", "contents"])
def test_old_links_lead_on(document: Path, few: int) -> None:
    """Where a section stood that is in a chapter now, a link leads there."""
    found = [line for line in document.read_text(encoding="utf-8").splitlines() if OLD_ANCHOR.search(line)]
    assert len(OLD_ANCHOR.findall("".join(found))) >= few
    for line in found:
        assert "guide/" in line or "where-to-go-on" in line, line


def test_every_chapter_is_in_the_contents() -> None:
    """The guide's contents lead to each chapter, which says first what its reader wants."""
    contents = CONTENTS.read_text(encoding="utf-8")
    for chapter in CHAPTERS:
        assert f"](guide/{chapter.name})" in contents, f"examples/README.md does not lead to {chapter.name}"
        title, _, first = chapter.read_text(encoding="utf-8").partition("\n\n")
        assert title.startswith("# ")
        assert first.startswith("You "), f"{chapter.name} does not begin with what its reader wants to do"


def test_the_readme_is_read_to_its_end() -> None:
    """It is short."""
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


def test_the_picture_is_of_the_table() -> None:
    """Both pictures are there, drawn from one run, which is the run that the table is of."""
    shown = re.findall(r'(?:srcset|src)="([^"]+)"', README.read_text(encoding="utf-8"))
    drawn = [(ROOT / path).read_text(encoding="utf-8") for path in shown]
    assert len(drawn) == len(list(PICTURES.glob("*.svg"))) == 2
    table = {(cells[0], cells[1]): cells[2:] for cells in rows("Measured")}
    before, after = (round(float(table["10", backend][0])) for backend in ("before", "after"))
    for picture in drawn:
        assert f"{before} → {after} requests/s" in picture
        assert picture.count("p99 ") == drawn[0].count("p99 ") == 2


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_public_name_is_explained() -> None:
    text = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    names = {
        name
        for name, value in vars(offload_db).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert names >= {"OffloadPool", "offload", "OffloadError"}
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()


def section(title: str) -> str:
    """Return what stands below a heading, which one document has, up to the next one."""
    heading = re.compile(rf"^##+ {re.escape(title)}\n", re.MULTILINE)
    parts = [heading.split(document.read_text(encoding="utf-8")) for document in DOCUMENTS]
    ((_, rest),) = [part for part in parts if len(part) > 1]
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(title: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(
    ("title", "function"),
    [
        ("OffloadPool", offload_db.OffloadPool),
        ("OffloadPool.create", offload_db.OffloadPool.create),
        ("Lane", offload_db.Lane),
        ("offload", offload_db.offload),
    ],
)
def test_settings_are_the_librarys(title: str, function: Callable[..., Any]) -> None:
    """The guide lists each argument in its order, with its default."""
    parameters = inspect.signature(function).parameters
    table = {cells[0].strip("`"): cells[1].strip("`") for cells in rows(title)}
    assert list(table) == list(parameters)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty:
            assert table[name] == ""
        elif parameter.default is pymysql:
            assert table[name] == "pymysql"
        else:
            assert ast.literal_eval(table[name]) == parameter.default


def test_environment_variables_are_the_librarys() -> None:
    table = {cells[0].strip("`"): cells[1].strip("`") for cells in rows("OffloadPool.from_env")}
    assert set(table) == set(DATABASE_VARIABLES)
    with pytest.raises(offload_db.ConfigurationError) as caught:
        offload_db.OffloadPool.from_env({})
    for variable, default in table.items():
        assert (f"{variable} is not set" in str(caught.value)) == (default == "")


def test_statistics_are_the_librarys() -> None:
    text = section("Statistics")
    for snapshot in (
        offload_db.PoolStatistics,
        offload_db.LaneStatistics,
        offload_db.Histogram,
        offload_db.BlockingCall,
    ):
        for field in dataclasses.fields(snapshot):
            assert f"`{field.name}`" in text, f"{snapshot.__name__}.{field.name} is not explained"


def test_errors_are_the_librarys() -> None:
    """The guide lists each error once, and what else it is an instance of."""
    errors = {
        name: value
        for name, value in vars(offload_db).items()
        if isinstance(value, type) and issubclass(value, offload_db.OffloadError)
    }
    table = {cells[0].rstrip("\\*").strip("`"): cells for cells in rows("Errors")}
    assert set(table) == set(errors)
    for name, error in errors.items():
        marked = table[name][0].endswith("*")
        assert marked == (not issubclass(error, pymysql.err.OperationalError)), name
        bases = {base.__name__ for base in error.__mro__}
        said = set(re.findall(r"(\w+)`", table[name][2]))
        assert said <= bases, name
        assert said >= bases & {"TimeoutError", "TooManyConnectionsError", "InvalidConnectionError", "InterfaceError"}


def test_messages_are_the_librarys() -> None:
    """Each message in the guide's troubleshooting is one that the library gives, or the server's own."""
    texts: set[str] = {"Too many connections"}
    for file in Path(offload_db.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    troubleshooting = (GUIDE / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", troubleshooting, re.MULTILINE)
    assert len(messages) > 10
    for message in messages:
        assert any(message in text for text in texts), f"nothing says {message!r}"
