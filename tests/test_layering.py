"""Claims about who imports whom: one direction only, and nothing that is an extra."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import offload_db

PACKAGE = Path(offload_db.__file__).parent

# The order in which the house is built: each file may import, directly or not, from those before it alone. Files that
# are not here (parts that were split off) may stand anywhere where this still holds.
ORDER = (
    "errors",
    "statistics",
    "drivers",
    "bridge",
    "handlers",
    "lanes",
    "statements",
    "pool",
    "connection",
    "aio",
    "queries",
    "monitor_report",
    "monitor",
    "doctor",
    "contrib",
    "__main__",
)
AUDIT_ORDER = (
    "model",
    "libraries",
    "scan",
    "project",
    "lookup",
    "calling",
    "outside",
    "annotations",
    "expressions",
    "imports",
    "interpret",
    "texts",
    "route_tables",
    "routes",
    "graph",
    "coverage",
    "findings",
    "closing",
    "context",
    "rules",
    "__init__",
    "baseline",
    "plan",
    "edits",
    "migrate",
    "report_table",
    "report_json",
    "report_sarif",
    "report_github",
    "report_markdown",
    "run_audit",
    "run_migrate",
    "run_rules",
)

# The same for the files of the awaitable surface among themselves.
AIO_ORDER = (
    "pending",
    "cursors",
    "settings",
    "transactions",
    "connection",
    "streams",
    "surface",
    "pool",
    "__init__",
)


def own_imports(source: str, *, depth: int = 1, at_run_time: bool = True) -> set[str]:
    """Return the modules of the package, by their first name, that a source file imports.

    :param depth: how many dots lead to the package itself
    :param at_run_time: leave out what stands under ``if TYPE_CHECKING``
    """
    tree = ast.parse(source)
    hidden: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            hidden.update(inner for statement in node.body for inner in ast.walk(statement))
    found: set[str] = set()
    for node in ast.walk(tree):
        if at_run_time and node in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [alias.name for alias in node.names] if node.module is None else [node.module]
            found.update(name.split(".")[0] for name in names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "offload_db":
            found.update((node.module or "").split(".")[1:2] or [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            found.update(
                (alias.name.split(".")[1:2] or ["__init__"])[0]
                for alias in node.names
                if alias.name.split(".")[0] == "offload_db"
            )
    return found


def subpackage(name: str) -> list[Path]:
    return sorted((PACKAGE / name).rglob("*.py"))


def graph() -> dict[str, set[str]]:
    """Return the imports of each file of the package itself, the awaitable surface taken as one."""
    imports = {path.stem: own_imports(path.read_text(encoding="utf-8")) for path in PACKAGE.glob("*.py")}
    files = subpackage("aio")
    imports["aio"] = set().union(*(own_imports(path.read_text(encoding="utf-8"), depth=2) for path in files))
    return imports


def reachable(module: str, imports: dict[str, set[str]]) -> set[str]:
    """Return everything that importing *module* imports."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for name in imports.get(waiting.pop(), set()) - found:
            found.add(name)
            waiting.append(name)
    return found


@pytest.mark.parametrize("module", sorted(set(graph()) - {"__init__"}))
def test_a_file_imports_from_above_only(module: str) -> None:
    """No file reaches itself, the package's surface, or a file that stands below it."""
    imports = graph()
    below = reachable(module, imports)
    assert module not in below, "there is a circle"
    assert "__init__" not in below
    assert not below - set(imports) - {"contrib", "audit", "py"}, "a module that is not there"
    if module in ORDER:
        wrong = below & set(ORDER[ORDER.index(module) :])
        assert not wrong


def test_the_order_names_what_there_is() -> None:
    """The foundations are where the order says, so that the test above is about them."""
    assert set(ORDER[:9]) <= set(graph())


def test_the_awaitable_surface_has_an_order_of_its_own() -> None:
    """Each file of it imports from those before it alone."""
    found = {path.stem: own_imports(path.read_text(encoding="utf-8")) for path in subpackage("aio")}
    assert set(found) == set(AIO_ORDER)
    for place, name in enumerate(AIO_ORDER):
        assert found[name] <= set(AIO_ORDER[:place]), name


@pytest.mark.parametrize("module", ["errors", "statistics"])
def test_foundations(module: str) -> None:
    """Errors and counters stand on nothing."""
    assert graph()[module] == set()


@pytest.mark.parametrize("module", ["bridge", "handlers"])
def test_the_bridge_knows_no_database(module: str) -> None:
    """Neither the bridge nor the decorator imports a driver or a pool, directly or not."""
    below = reachable(module, graph())
    assert below <= {
        *("background", "errors", "bridge", "cancellation", "handled_errors", "outcomes", "scopes", "settings"),
        *("strands", "thread_mode", "trips"),
    }
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and node.level == 0
            else []
        )
    }
    assert not names & {"pymysql", "dbutils"}


def test_contrib_stands_on_the_public_names() -> None:
    """What is for a framework uses nothing of the package that begins with an underscore."""
    for path in subpackage("contrib"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("offload_db")):
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], path


# What a file there imports besides Python's own library and the package; others import what they are named after.
FRAMEWORKS = {
    "__init__": set[str](),
    "asgi": {"greenback"},
    "fastapi": {"fastapi", "starlette"},
    "prometheus": {"prometheus_client"},
    "pytest_plugin": {"pymysql", "pytest"},
    "sqlalchemy": {"anyio", "pymysql", "sqlalchemy"},
}


@pytest.mark.parametrize("path", subpackage("contrib"), ids=lambda path: str(path.stem))
def test_contrib_imports_its_framework_alone(path: Path) -> None:
    """Each file for a framework can be imported where none of the others is installed."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    assert found - set(sys.stdlib_module_names) <= FRAMEWORKS.get(path.stem, {path.stem, "pymysql"})


def test_the_static_audit_stands_alone() -> None:
    """The static audit imports nothing of the rest, so that it runs where no driver is installed."""
    for path in subpackage("audit"):
        depth = len(path.relative_to(PACKAGE).parts)
        assert own_imports(path.read_text(encoding="utf-8"), depth=depth) <= {"audit"}, path


def test_the_static_audit_is_built_in_layers() -> None:
    """Each file of the audit imports from those before it alone."""
    for path in subpackage("audit"):
        name = "rules" if path.parent.name == "rules" else path.stem
        depth = len(path.relative_to(PACKAGE / "audit").parts)
        imports = own_imports(path.read_text(encoding="utf-8"), depth=depth)
        if name == "rules" and path.stem == "__init__":
            imports = {one for one in imports if not one.startswith("odb")}
        assert name in AUDIT_ORDER, f"{path} has no place in the order"
        assert imports & set(AUDIT_ORDER[AUDIT_ORDER.index(name) :]) <= {name}, path


def test_the_reader_of_imports() -> None:
    """The function that these tests stand on sees every form of an import."""
    source = """
from . import pool, lanes
from .errors import X
from .contrib.asgi import Y
import offload_db.connection.physical as s
from offload_db.bridge.portal import Z
from offload_db import drivers
import os
if TYPE_CHECKING:
    from .connection import W
def late():
    from .queries import V
"""
    found = {"pool", "lanes", "errors", "contrib", "statements", "bridge", "drivers", "queries"}
    assert own_imports(source) == found
    assert own_imports(source, at_run_time=False) == {*found, "connection"}
    assert reachable("a", {"a": {"b"}, "b": {"c"}, "c": {"a"}}) == {"a", "b", "c"}
