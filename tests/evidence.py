"""Owns what the tables have in common that say which tests show a claim: a test's name, and a section of a document."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "examples" / "guide"


@functools.cache
def tests_of(file: str) -> frozenset[str]:
    """Return the names of the functions in a file of the tests, of which *file* is the path below their folder."""
    path = ROOT / "tests" / file
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


def missing(tests: Iterable[str]) -> list[str]:
    """Return those of the tests, named as pytest does below their folder, that are not there."""
    apart = (test.partition("::") for test in sorted(set(tests)))
    return [f"{file}::{name}" for file, _, name in apart if name not in tests_of(file)]


def tables_below(document: str, heading: str) -> list[str]:
    """Return the tables that stand first below each heading which matches, as text without head and rule."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^#+ (?:{heading})\n\n(?:[^|#].*\n|\n)*\|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)


def first_column(table: str) -> list[str]:
    """Return what stands in the first column of a table."""
    return [line.split("|")[1].strip() for line in table.splitlines()]
