"""Where connections, sessions and cursors are put that several callers share."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from .advice import Advisor
from .bindings import items_set
from .graph import Graph
from .interpret import Interpreter, Shared
from .libraries import CONNECTIONS
from .lookup import holder, item_key
from .makers import OWNED
from .model import App, Cell, ClassRef, Container, Database, Instance, Scope

_APPLICATION = re.compile(r"(^|\.|_)(app|application)(\.(state|ctx))?$")


class Sharing:
    """Looks through the functions that requests run.

    :param in_requests: what runs on the event loop, and the dependencies of what does
    """

    def __init__(self, interpreter: Interpreter, graph: Graph, advisor: Advisor, in_requests: set[Scope]) -> None:
        self.interpreter = interpreter
        self.graph = graph
        self.in_requests = in_requests
        self.singles = advisor.ownership.origins.singles
        self.assignments = advisor.ownership.origins.assignments

    def find(self) -> list[Shared]:
        """Return where connections and cursors are put that several callers share."""
        kept = self._kept_classes()
        found: dict[Cell, Shared] = {}
        for shared in [*self.interpreter.shared, *self._cached(), *self._items()]:
            readers = {
                reader for reader in self.interpreter.readers(shared.cell) if reader.kind in ("function", "lambda")
            }
            if shared.cell in found or not readers & self.in_requests:
                continue
            if "." in shared.name and not self._is_kept(shared, kept):
                continue
            found[shared.cell] = shared
        return list(found.values())

    def _cached(self) -> Iterator[Shared]:
        """Yield the functions that give everybody the same connection, because a cache keeps what they return."""
        for scope in self.graph.scopes:
            kinds = sorted(v.kind for v in scope.returns.values if isinstance(v, Database) and v.kind in CONNECTIONS)
            if kinds and scope.kind == "function" and self.singles.is_cached(scope):
                yield Shared(scope, scope.node, f"{scope.name}()", scope.returns, kinds[0])

    def _items(self) -> Iterator[Shared]:
        """Yield where connections are put in an application, or in a dictionary of a module or class."""
        modules = [module.scope for module in self.interpreter.project.modules]
        for scope in sorted({*modules, *self.in_requests}, key=Scope.place):
            for target, value in items_set(scope.body):
                values = self.assignments.values(value, scope)
                kinds = sorted(v.kind for v in values if isinstance(v, Database) and v.kind in OWNED)
                for cell in self._cells_of(target, scope) if kinds else ():
                    yield Shared(scope, value, ast.unparse(target), cell, kinds[0])

    def _kept_classes(self) -> set[Scope]:
        """Return the classes of which an object is kept for good."""
        cells = [*self.interpreter.loose.values()]
        found: set[Scope] = set()
        for module in self.interpreter.project.modules:
            for scope in module.scopes.values():
                if scope.kind == "module":
                    cells += scope.cells.values()
                elif scope.kind == "class":
                    cells += [scope.attributes[name] for name in scope.bound_names & scope.attributes.keys()]
                    found |= {scope} if self.singles.seems_single(scope) else set()
                elif scope.kind == "function" and self.singles.is_cached(scope):
                    cells.append(scope.returns)
        return found | {value.scope for cell in cells for value in cell.values if isinstance(value, Instance)}

    def _is_kept(self, shared: Shared, kept: set[Scope]) -> bool:
        node = shared.node.targets[0] if isinstance(shared.node, ast.Assign) else None
        if isinstance(shared.node, ast.expr):
            return True  # an item, which is seen to be an application's
        if isinstance(node, ast.Attribute):
            owners = self.assignments.values(node.value, shared.scope)
            if _APPLICATION.search(ast.unparse(node.value)) or any(isinstance(one, ClassRef) for one in owners):
                return True
        owner = shared.scope.owner
        if owner is not None and any(isinstance(base, App) for base in self.interpreter.outside_bases(owner)):
            return True  # an attribute of an application
        if shared.scope.name == "initialize" and isinstance(getattr(shared.node, "value", None), ast.Name):
            return True  # Tornado gives every request's handler the same
        return any(
            shared.cell is one.attributes.get(shared.name.rpartition(".")[2])
            for scope in kept
            for one in self.interpreter.classes(scope)
        )

    def _cells_of(self, target: ast.Subscript, scope: Scope) -> list[Cell]:
        """Return the cells of an item of an application, or of a dictionary of a module or class."""
        self.interpreter.scope = scope
        where = self.interpreter.binding(target.value.id) if isinstance(target.value, ast.Name) else None
        if holder(target.value) != "app" and (where is None or where.kind not in ("module", "class")):
            return []
        cell = self.interpreter.loose.get(f"{holder(target.value)}[{item_key(target)}]")
        cells = [value.rest for value in self.assignments.values(target.value, scope) if isinstance(value, Container)]
        return cells if cell is None else [cell, *cells]
