"""What a project has that this library is about: the calls that make pools, engines and connections."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from . import libraries
from .annotations import external_names
from .bindings import walk
from .context import Context
from .wording import shown

# kind of what is made -> how people call it
_KINDS = {
    "pool": "pool",
    "engine": "engine",
    "flask_db": "engine",
    "peewee_db": "engine",
    "connection": "connect",
}
_OURS = "offload_db"


@dataclass(frozen=True, slots=True)
class Made:
    """A call that makes a pool, an engine or a connection, or something of this library's."""

    kind: str
    call: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.call}() in {self.file}:{self.line}"


def inventory(context: Context) -> list[Made]:
    """Return these calls by file and line; what is this library's already has the kind ``offload_db``."""
    return sorted(_calls(context), key=lambda one: (one.file, one.line))


def _calls(context: Context) -> Iterator[Made]:
    assignments = context.advisor.ownership.origins.assignments
    for module in context.project.modules:
        if module.libraries.isdisjoint(libraries.SYNC_DRIVERS | {_OURS}):
            continue
        for scope in module.scopes.values():
            for node in walk(scope):
                if not isinstance(node, ast.Call) or not isinstance(node.func, (ast.Name, ast.Attribute)):
                    continue
                for name in sorted(external_names(assignments.values(node.func, scope))):
                    made = libraries.maker(name)
                    kind = _KINDS.get(made[0]) if made is not None else None
                    if name.startswith(f"{_OURS}.") and made is not None:
                        kind = _OURS
                    if kind is not None:
                        yield Made(kind, shown(node.func), module.shown, node.lineno)
                        break


def other_drivers(context: Context) -> list[str]:
    """Return the drivers that a project imports and that the audit does not follow."""
    found = {name for module in context.project.modules for name in module.libraries}
    return sorted(found & libraries.OTHER_DRIVERS)
