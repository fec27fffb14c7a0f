"""What annotations and dependencies say that parameters and results are.

Stands on ``outside.py``; ``expressions.py`` evaluates the names in them.
"""

from __future__ import annotations

import abc
import ast
from collections.abc import Sequence

from .lookup import last_name
from .model import (
    NOTHING,
    OPAQUE,
    Annotated,
    ClassRef,
    External,
    FunctionRef,
    Instance,
    Scope,
    Value,
    Values,
    instance,
)
from .outside import Outside
from .project import Project

DEPENDS = frozenset(
    {"fastapi.Depends", "fastapi.Security", "fastapi.params.Depends", "fastapi.param_functions.Depends"}
)
_UNIONS = frozenset({"Optional", "Union", "ClassVar", "Final", "Required", "NotRequired"})
_YIELDING = frozenset(
    {"Generator", "Iterator", "Iterable", "AsyncGenerator", "AsyncIterator", "AsyncIterable", "ContextManager",
     "AbstractContextManager"}
)  # fmt: skip
_SEQUENCES = frozenset({"list", "List", "Sequence", "tuple", "Tuple", "set", "Set", "deque"})


class Annotations(Outside, abc.ABC):
    """Reads annotations and ``Depends(…)``."""

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.aliases: dict[int, Annotated] = {}
        self.parsed: dict[str, ast.expr | None] = {}

    @abc.abstractmethod
    def evaluate(self, node: ast.expr | None) -> Values:
        """Return what an expression may be."""

    def annotation(self, node: ast.expr | None) -> Values:
        """Return what an annotation says that a value is; nothing if it says nothing."""
        if node is None:
            return NOTHING
        if isinstance(node, ast.Constant):
            return self.annotation(self._parse(node.value)) if isinstance(node.value, str) else NOTHING
        if isinstance(node, ast.BinOp):
            return self.annotation(node.left) | self.annotation(node.right)
        if isinstance(node, ast.Subscript):
            name = last_name(node.value)
            parts: Sequence[ast.expr] = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if name == "Annotated":
                return self._annotated_parts(parts)
            if name in _UNIONS:
                return frozenset(value for part in parts for value in self.annotation(part))
            if not parts:
                return NOTHING  # tuple[()]
            if name in _YIELDING:
                return self.annotation(parts[0])
            if name in _SEQUENCES or name in ("dict", "Dict", "Mapping"):
                made = self.containers(node)
                self.grow(made.rest, self.annotation(parts[-1] if name in ("dict", "Dict", "Mapping") else parts[0]))
                return frozenset((made,))
            if name in ("type", "Type", "Callable", "Literal"):
                return NOTHING
            return self.annotation(node.value)
        found: set[Value] = set()
        if isinstance(node, (ast.Name, ast.Attribute)):
            for value in self.evaluate(node):
                found |= self.read(value.cell) if isinstance(value, Annotated) else self.object_of(value)
        return frozenset(found)

    def _parse(self, text: str) -> ast.expr | None:
        if text not in self.parsed:
            try:
                self.parsed[text] = ast.parse(text, mode="eval").body
            except SyntaxError:
                self.parsed[text] = None
        return self.parsed[text]

    def _annotated(self, node: ast.Subscript) -> Values:
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        made = self.containers(node)
        self.grow(made.rest, self._annotated_parts(parts))
        alias = self.aliases.get(id(node))
        if alias is None:
            alias = self.aliases[id(node)] = Annotated(made.rest)
        return frozenset((alias,))

    def _annotated_parts(self, parts: Sequence[ast.expr]) -> Values:
        found = self.annotation(parts[0])
        for part in parts[1:]:
            if (given := self.dependency(part, parts[0])) is not None:
                return found - {OPAQUE} | given if given else found
        return found

    def dependency(self, node: ast.expr, annotation: ast.expr | None) -> Values | None:
        """Return what ``Depends(…)`` gives to a parameter; None if the expression is something else."""
        if not isinstance(node, ast.Call):
            return None
        if not external_names(self.evaluate(node.func)) & DEPENDS:
            return None
        wanted = node.args[0] if node.args else next((k.value for k in node.keywords if k.arg == "dependency"), None)
        if wanted is None:
            return self.annotation(annotation)
        found, scopes = self.depended(wanted)
        for scope in scopes:
            if scope not in self.scope.dependencies:
                self.scope.dependencies.append(scope)
        return found

    def depended(self, wanted: ast.expr) -> tuple[Values, list[Scope]]:
        """Return what ``Depends(wanted)`` gives, and the functions that it has called."""
        found: set[Value] = set()
        scopes: list[Scope] = []
        for value in self.evaluate(wanted):
            if isinstance(value, FunctionRef):
                scopes.append(value.scope)
                found |= self.read(value.scope.yields if value.scope.is_generator else value.scope.returns)
            elif isinstance(value, Instance):
                for inner in self.member(value, "__call__") or ():
                    if isinstance(inner, FunctionRef):
                        scopes.append(inner.scope)
                        found |= self.read(inner.scope.returns)
            elif isinstance(value, ClassRef):
                inits = self.member(instance(value.scope), "__init__") or ()
                scopes += [inner.scope for inner in inits if isinstance(inner, FunctionRef)]
                found |= self.object_of(value)
            else:
                found |= self.handed_out(value)  # Depends(pool.connection)
        return frozenset(found), sorted(scopes, key=Scope.place)


def external_names(values: Values) -> set[str]:
    """Return the dotted names of what comes from outside."""
    return {value.name for value in values if isinstance(value, External)}
