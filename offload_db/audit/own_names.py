"""By what names a file knows this library already."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from .lookup import last_name
from .model import External, Module


def offload_name(module: Module) -> str | None:
    """Return how a module calls the decorator already; None if it does not import it."""
    for name in sorted(module.scope.bound_names - _for_types(module)):
        for value in module.scope.cell(name).values:
            if isinstance(value, External) and value.name == "offload_db.offload":
                return name
    package = package_name(module)
    return f"{package}.offload" if package is not None else None


def package_name(module: Module) -> str | None:
    """Return the name under which a module imports the package; None if it does not."""
    for name in sorted(module.scope.bound_names - _for_types(module)):
        for value in module.scope.cell(name).values:
            if isinstance(value, External) and value.name == "offload_db":
                return name
    return None


def can_import(module: Module) -> bool:
    """Tell whether the library can be imported under its own name."""
    return (
        offload_name(module) is not None
        or "offload_db" not in module.scope.bound_names
        or "offload_db" in _for_types(module)
    )


def is_imported(module: Module, name: str) -> bool:
    """Tell whether a file imports a module under its own name."""
    return any(
        isinstance(statement, ast.Import) and any(alias.name == name and not alias.asname for alias in statement.names)
        for statement in module.tree.body
    )


def _for_types(module: Module) -> set[str]:
    """Return the names that are imported for type checkers alone: they are not there when the code runs."""
    for_types: set[str] = set()
    others: set[str] = set()
    for statement in module.tree.body:
        only = isinstance(statement, ast.If) and last_name(statement.test) == "TYPE_CHECKING"
        inner = statement.body if isinstance(statement, ast.If) and only else [statement]
        (for_types if only else others).update(_imported(inner))
        if isinstance(statement, ast.If) and only:
            others.update(_imported(statement.orelse))
    return for_types - others


def _imported(statements: Iterable[ast.stmt]) -> Iterator[str]:
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
