"""Claims about the tests themselves: they reach into the library's privates through one module per folder alone."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evidence import ROOT
from tests.test_layering import defined_here, files as package_files

TESTS = ROOT / "tests"
# What the audit is tried on is the code of others.
OTHERS = ("audit/cases", "audit/projects", "audit/routes")
# Private names of the drivers that the library has as well: tests look at both, to compare them.
DRIVERS = {
    "_connection",  # aiomysql's
    "_last_executed",
    "_read_query_result",  # PyMySQL's from here on
    "_read_rowdata_packet",
    "_read_rowdata_packet_unbuffered",
    "_result",
    "_rfile",
    "_write_bytes",
    "_current_timeout",
}


@functools.cache
def librarys() -> frozenset[str]:
    """Return the private names of the library: of functions, classes and attributes, and of its modules' variables."""
    variables = {
        node.id
        for path in package_files().values()
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(statement, (ast.Assign, ast.AnnAssign))
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    return frozenset(name for name in variables | defined_here() if name.startswith("_"))


def files() -> list[Path]:
    """Return the tests' files, but for what is tried on and for the modules that may look inside."""
    found = [path for path in sorted(TESTS.rglob("*.py")) if path.name != "inside.py"]
    return [path for path in found if not path.relative_to(TESTS).as_posix().startswith(OTHERS)]


def privates(source: str) -> Iterator[str]:
    """Give each private name that a source takes from elsewhere, by attribute, by import or by its text."""
    tree = ast.parse(source)
    own = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            own.add(node.attr)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "offload_db":
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("setattr", "getattr", "delattr"):
            names = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        else:
            continue
        yield from (name for name in names if name[:1] == "_" != name[1:2] and name not in own)


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(TESTS).as_posix())
def test_no_file_reaches_inside(path: Path) -> None:
    """A private name of the library stands in a module ``inside`` alone."""
    assert set(privates(path.read_text(encoding="utf-8"))) & librarys() <= DRIVERS


def test_the_list_of_the_drivers_names_is_short() -> None:
    """Each name on the list is used, so that none stays there for nothing."""
    used = {name for path in files() for name in privates(path.read_text(encoding="utf-8"))}
    assert used >= DRIVERS


def test_the_reader_of_private_names() -> None:
    """It sees the three ways to a private name, and none that the file itself has."""
    source = """
from offload_db.pool.lanes import _one
class A:
    def _mine(self): self._own = self._mine()
patch.setattr(thing, "_two", 1)
thing._three, thing._own, thing.__dict__
"""
    assert sorted(privates(source)) == ["_one", "_three", "_two"]
