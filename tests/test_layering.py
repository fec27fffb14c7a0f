"""Claims about who imports whom: one direction only, and nothing that is an extra."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import offload_db

PACKAGE = Path(offload_db.__file__).parent

# The house from the ground up: each folder imports from those above it in this list alone. "." is what stands in the
# root and everybody needs.
FOLDERS = (
    "root",
    "bridge",
    "drivers",
    "connection",
    "awaitable",
    "pool",
    "aio",
    "rollout",
    "monitor",
    "doctor",
    "contrib",
)
# Files of the root that stand on the folders: the default pool, the command, the package's own face.
ABOVE = ("queries", "__main__", "__init__")
ROOT = ("errors", "settings", "statistics")
# What the frameworks' files need of the inside, each with its reason.
INNER = {
    ("contrib.asgi", "bridge.place"): "a lifespan is bridged where it is not yet",
    ("contrib.asgi", "bridge.portal"): "as above",
    ("contrib.asgi", "connection.call_sites"): "it names the call by its route",
    ("contrib.asgi", "bridge.call_scope"): "a stream of messages pauses the call it belongs to",
    ("contrib.prometheus", "monitor"): "a public module: what is collected",
    ("contrib.prometheus", "rollout"): "a public module: what is collected",
    ("contrib.pytest_plugin", "bridge.place"): "it asks where a call is made",
    ("contrib.pytest_plugin", "bridge.stack"): "it names the line of the code under test",
    ("contrib.pytest_plugin", "connection.executor"): "it is told of calls that would block",
    ("contrib.sqlalchemy", "bridge.call_scope"): "a scoped session belongs to the bridged call",
    ("contrib.sqlalchemy", "connection.sync_connection"): "it recognises a physical connection again",
    ("contrib.sqlalchemy", "pool.variants"): "an engine's connections are of a kind of their own",
    ("contrib.status.changes", "rollout"): "a public module: what is changed",
    ("contrib.status.figures", "monitor"): "a public module: what is shown",
    ("contrib.status.figures", "monitor.report_command"): "it reads the same files as the report",
    ("contrib.status.shared", "bridge.background"): "it looks for other processes' changes once a second",
    ("contrib.status.tables", "monitor.report_command"): "what blocks is joined with the audit as in the report",
}
AUDIT_ORDER = (
    "model",
    "libraries",
    "trees",
    "scan",
    "project",
    "worklist",
    "lookup",
    "wording",
    "calling",
    "outside",
    "annotations",
    "expressions",
    "imports",
    "decorators",
    "interpret",
    "texts",
    "route_tables",
    "routes",
    "graph",
    "coverage",
    "findings",
    "closing",
    "bindings",
    "makers",
    "singles",
    "origins",
    "ownership",
    "advice",
    "sharing",
    "remedies",
    "context",
    "places",
    "own_names",
    "pool_file",
    "wrapping",
    "converting",
    "rules",
    "__init__",
    "baseline",
    "plan",
    "engines",
    "edits",
    "migrate",
    "guidance",
    "terminal",
    "report_table",
    "report_json",
    "report_sarif",
    "report_github",
    "report_markdown",
    "run_audit",
    "run_migrate",
    "inventory",
    "run_init",
    "run_rules",
)


def name_of(path: Path) -> str:
    """Return a file's dotted name below the package; a package's own file has the package's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@functools.cache
def files() -> dict[str, Path]:
    """Return every file of the package but the audit's, by name."""
    found = {name_of(path): path for path in PACKAGE.rglob("*.py")}
    return {name: path for name, path in found.items() if name.partition(".")[0] != "audit"}


def imports_of(name: str, source: str, known: set[str], *, package: bool = False) -> set[str]:
    """Return the files of the package that a source imports, wherever the import stands.

    :param name: the file's dotted name
    :param known: the names of all files
    :param package: whether it is a package's own file
    """
    base = name.split(".") if package else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        wanted: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level:
            above = base[: len(base) - (node.level - 1)]
            start = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            wanted = [f"{start}.{alias.name}".strip(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "offload_db":
            start = (node.module or "").partition(".")[2]
            wanted = [f"{start}.{alias.name}".strip(".") for alias in node.names]
        elif isinstance(node, ast.Import):
            wanted = [
                a.name.partition(".")[2] or "__init__" for a in node.names if a.name.split(".")[0] == "offload_db"
            ]
        for each in wanted:
            parent = each.rpartition(".")[0]
            found.add(each if each in known else parent if parent in known else "__init__")
    return found - {name}


@functools.cache
def graph() -> dict[str, set[str]]:
    """Return what each file imports, type-checking imports included."""
    known = set(files())
    return {
        name: imports_of(name, path.read_text(encoding="utf-8"), known, package=path.name == "__init__.py")
        for name, path in files().items()
    }


def folder_of(name: str) -> str:
    """Return the folder of a file, "root" for those that everybody needs."""
    first, dot, _ = name.partition(".")
    return first if dot or first in FOLDERS else "root"


def reachable(name: str, imports: dict[str, set[str]]) -> set[str]:
    """Return everything that importing *name* imports."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for each in imports.get(waiting.pop(), set()) - found:
            found.add(each)
            waiting.append(each)
    return found


@pytest.mark.parametrize("name", sorted(files()))
def test_each_file_stands_in_a_folder_of_the_list(name: str) -> None:
    """A file that is in no folder of the list, or a new one in the root, has to be given its place first."""
    if "." in name or name in FOLDERS:
        assert name.partition(".")[0] in FOLDERS
    else:
        assert name in (*ROOT, *ABOVE)


@pytest.mark.parametrize("name", sorted(files()))
def test_a_file_imports_from_above_only(name: str) -> None:
    """No file imports from a folder below its own, not for types either."""
    if name in ABOVE:
        return
    mine = FOLDERS.index(folder_of(name))
    for other in graph()[name]:
        if folder_of(name) == "contrib" and other in ("__init__", "contrib.asgi"):
            continue  # a framework's file stands on the public names
        assert other not in ABOVE, other
        assert FOLDERS.index(folder_of(other)) <= mine, other


def test_there_is_no_circle() -> None:
    """No file reaches itself, by whatever way; the package's own file is reached by none but what is for frameworks."""
    imports = graph()
    for name in imports:
        others = {each: found - {"__init__"} for each, found in imports.items()}
        assert name not in reachable(name, others), name


def test_no_two_folders_import_each_other() -> None:
    """Between two folders imports go one way."""
    pairs = {(folder_of(name), folder_of(other)) for name, found in graph().items() for other in found}
    assert not [
        (one, other) for one, other in pairs if one < other and (other, one) in pairs and "root" not in (one, other)
    ]


def test_packages_have_no_face_but_where_users_import_them() -> None:
    """The file of a package is empty but for a docstring, unless users import names from the package itself."""
    for path in PACKAGE.glob("*/__init__.py"):
        if path.parent.name in ("aio", "audit", "monitor", "rollout"):
            continue
        (only,) = ast.parse(path.read_text(encoding="utf-8")).body
        assert isinstance(only, ast.Expr), path


def test_foundations() -> None:
    """Errors and counters stand on nothing, and the settings on the errors alone."""
    assert {name: graph()[name] for name in ROOT} == {"errors": set(), "statistics": set(), "settings": {"errors"}}


def outside_imports(source: str) -> set[str]:
    """Return the packages that a source imports from elsewhere."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


def test_the_bridge_knows_no_database() -> None:
    """No file of the bridge imports a driver or a pool of connections."""
    for name, path in files().items():
        if folder_of(name) == "bridge":
            assert not outside_imports(path.read_text(encoding="utf-8")) & {"pymysql", "dbutils"}, name


def private_uses(source: str) -> Iterator[str]:
    """Give each private name that a source takes from an object or a module, and does not define itself."""
    tree = ast.parse(source)
    own: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            own.add(node.value)  # slots, and what is set by name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr[0] == "_" != node.attr[1:2] and node.attr not in own:
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "offload_db"):
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))


@functools.cache
def defined_here() -> set[str]:
    """Return the private names that the package defines."""
    found: set[str] = set()
    for path in files().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and ast.unparse(node.value) == "self"
            ):
                found.add(node.attr)
    return found


# One class in several files: what a base class or the pool's core gives to those that are made of it.
SHARED_PRIVATES = {"_core", "_entrust", "_settle"}
# Names of PyMySQL's connections that those that read faster set as well.
PYMYSQLS = {"_read_timeout", "_result", "_rfile", "_sock", "_write_timeout", "_limit", "_current_timeout"}
# Private names of mysqlclient's cursors, which files of other folders have for something of their own.
MYSQLCLIENTS = {"_discard", "_fetch_row"}


@pytest.mark.parametrize("name", sorted(files()))
def test_no_file_reaches_into_anothers_privates(name: str) -> None:
    """A private name of the package is used in the file that defines it, and nowhere else."""
    used = set(private_uses(files()[name].read_text(encoding="utf-8")))
    assert not (used & defined_here()) - SHARED_PRIVATES - PYMYSQLS - MYSQLCLIENTS


@pytest.mark.parametrize("name", sorted(name for name in files() if folder_of(name) == "contrib"))
def test_contrib_stands_on_the_public_names(name: str) -> None:
    """What is for a framework imports public names, and a short list of inner ones."""
    inner = {other for other in graph()[name] if other not in ("__init__", *ROOT) and folder_of(other) != "contrib"}
    assert inner == {other for mine, other in INNER if mine == name}


# What a file there imports besides Python's own library and the package; others import what they are named after.
FRAMEWORKS = {
    "__init__": set[str](),
    "asgi": set[str](),
    "fastapi": {"fastapi", "starlette"},
    "prometheus": {"prometheus_client"},
    "pytest_plugin": {"pymysql", "pytest"},
    "sqlalchemy": {"anyio", "pymysql", "sqlalchemy"},
    "page": {"anyio"},  # of the live page, which no framework is needed for
}


@pytest.mark.parametrize("path", sorted((PACKAGE / "contrib").rglob("*.py")), ids=lambda path: str(path.stem))
def test_contrib_imports_its_framework_alone(path: Path) -> None:
    """Each file for a framework can be imported where none of the others is installed."""
    found = outside_imports(path.read_text(encoding="utf-8"))
    assert found - set(sys.stdlib_module_names) <= FRAMEWORKS.get(path.stem, {path.stem, "pymysql"})


def audit_imports(path: Path) -> set[str]:
    """Return the files of the audit, by their first name, that one of them imports."""
    depth = len(path.relative_to(PACKAGE / "audit").parts)
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [alias.name for alias in node.names] if node.module is None else [node.module]
            found.update(name.split(".")[0] for name in names)
    return found


def test_the_static_audit_stands_alone() -> None:
    """The static audit imports nothing of the rest, so that it runs where no driver is installed."""
    for path in sorted((PACKAGE / "audit").rglob("*.py")):
        most = len(path.relative_to(PACKAGE / "audit").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= most, path
                assert (node.module or "").split(".")[0] != "offload_db" or node.module == "offload_db.audit", path


def test_the_static_audit_is_built_in_layers() -> None:
    """Each file of the audit imports from those before it alone."""
    for path in sorted((PACKAGE / "audit").rglob("*.py")):
        name = "rules" if path.parent.name == "rules" else path.stem
        imports = audit_imports(path)
        if name == "rules" and path.stem == "__init__":
            imports = {one for one in imports if not one.startswith("odb")}
        assert name in AUDIT_ORDER, f"{path} has no place in the order"
        assert imports & set(AUDIT_ORDER[AUDIT_ORDER.index(name) :]) <= {name}, path


def test_the_reader_of_imports() -> None:
    """The function that these tests stand on sees every form of an import."""
    source = """
from . import lanes
from .connector import X
from ..contrib.asgi import Y
from .. import OffloadPool
import offload_db.connection.physical as s
from offload_db.bridge import portal
from offload_db import queries
import os
if TYPE_CHECKING:
    from ..awaitable.connection import W
def late():
    from ..errors import V
"""
    known = {
        *("pool.lanes", "pool.connector", "contrib.asgi", "connection.physical", "bridge.portal", "queries"),
        *("awaitable.connection", "errors", "__init__"),
    }
    assert imports_of("pool.pool", source, known) == known
    assert imports_of("pool", "from .lanes import X", known, package=True) == {"pool.lanes"}
    assert reachable("a", {"a": {"b"}, "b": {"c"}, "c": {"a"}}) == {"a", "b", "c"}


def test_the_reader_of_private_names() -> None:
    """It sees a private name that comes from elsewhere, and none that the file itself has."""
    source = "class A:\n    def _mine(self): return self._mine() + other._theirs\nfrom .b import _also\n"
    assert sorted(private_uses(source)) == ["_also", "_theirs"]
