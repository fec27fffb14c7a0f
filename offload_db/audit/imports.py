"""What names that are imported stand for.

Owns the import statements, and under which names a module's globals are known elsewhere.
"""

from __future__ import annotations

import ast

from .expressions import Expressions
from .model import NOTHING, UNSEEN, Cell, Module, Scope, Value, Values, external, module_ref
from .project import Project


class Imports(Expressions):
    """Binds what import statements name."""

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.imported: dict[Cell, set[Cell]] = {}  # a global, and the names under which others import it

    def readers(self, cell: Cell) -> set[Scope]:
        """Return who reads a cell, also under a name that it is imported as."""
        found: set[Scope] = set()
        seen = {cell}
        waiting = [cell]
        while waiting:
            one = waiting.pop()
            readers = one.readers()
            found.update(reader for reader in readers if isinstance(reader, Scope))
            derived = {reader for reader in readers if isinstance(reader, Cell)}
            further = (derived | self.imported.get(one, set())) - seen
            seen |= further
            waiting += further
        return found

    def _import(self, statement: ast.Import) -> None:
        module = self.scope.module
        for alias in statement.names:
            wanted = alias.name if alias.asname else alias.name.partition(".")[0]
            found = self.project.find(wanted, module)
            if found is not None and found is not module:
                value: Value = module_ref(found)
            else:
                value = external(wanted)
            self._bind_import(alias.asname or wanted, value)

    def _bind_import(self, name: str, value: Value) -> None:
        where = self.binding(name)
        if where is not None:
            self.grow(where.cell(name), frozenset((value,)))

    def _import_from(self, statement: ast.ImportFrom) -> None:
        module = self.scope.module
        if statement.level:
            base = self.project.relative(statement.module, statement.level, module)
            found = self.project.at(base)
        else:
            base = statement.module or ""
            found = self.project.find(base, module)
        for alias in statement.names:
            if alias.name == "*":
                if found is None and not statement.level and base not in module.outer_stars:
                    module.outer_stars.append(base)
                    self._enqueue_all(module)
                if found is not None and found not in module.stars:
                    module.stars.append(found)
                    self._enqueue_all(module)
                continue
            values: Values = NOTHING
            if found is not None and found is not module:
                values = self.module_attribute(found, alias.name)
            if not values:
                inner = (
                    self.project.at(f"{base}\0{alias.name}")
                    if statement.level
                    else self.project.find(f"{base}.{alias.name}", module)
                )
                if inner is not None:
                    values = frozenset((module_ref(inner),))
                elif found is None:
                    values = frozenset((UNSEEN if statement.level else external(f"{base}.{alias.name}"),))
            where = self.binding(alias.asname or alias.name)
            if where is not None:
                cell = where.cell(alias.asname or alias.name)
                if found is not None and alias.name in found.scope.bound_names:
                    self.imported.setdefault(found.scope.cell(alias.name), set()).add(cell)
                self.grow(cell, values)

    def _enqueue_all(self, module: Module) -> None:
        for scope in module.scopes.values():
            if scope.kind != "class":
                self.enqueue(scope)
