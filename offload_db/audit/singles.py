"""Functions and classes that may give several callers the same object: caches, singletons, decorators in general."""

from __future__ import annotations

import ast

from . import libraries
from .bindings import Assignments
from .interpret import Interpreter
from .lookup import last_name
from .model import ClassRef, External, FunctionRef, ModuleRef, Scope

_PLAIN_DECORATORS = frozenset(
    {"property", "staticmethod", "classmethod", "contextmanager", "asynccontextmanager", "abstractmethod", "wraps",
     "offload", "override", "overload", "cached_property", "dataclass"}
)  # fmt: skip
_PLAIN_BASES = ("builtins.", "abc.", "typing.", "typing_extensions.", "contextlib.")


class Singles:
    """Answers for the files that *interpreter* has read."""

    def __init__(self, interpreter: Interpreter, assignments: Assignments) -> None:
        self.interpreter = interpreter
        self.assignments = assignments
        self._decorated: dict[Scope, list[ast.expr]] = {}
        for one in interpreter.decorated:
            self._decorated.setdefault(one.scope, []).append(one.node)

    def is_cached(self, scope: Scope) -> bool:
        """Tell whether a cache keeps what a function returns."""
        names = [last_name(node) for node in self._decorated.get(scope, ())]
        return any("cache" in name and name != "cached_property" for name in names)

    def keeps(self, scope: Scope) -> str | None:
        """Say why a function may give several callers the same."""
        if self.is_cached(scope):
            return f"{scope.qualname} is cached, and gives every caller the same"
        if is_wrapped(scope.parent, scope.name):
            return f"{scope.qualname} is given to something that may give every caller the same"
        for node in self._decorated.get(scope, ()):
            name = last_name(node)
            if name not in _PLAIN_DECORATORS and name not in libraries.ROUTE_METHODS:
                return f"{scope.qualname} is decorated with {name}, and may give every caller the same"
        return None

    def seems_single(self, scope: Scope) -> bool:
        """Tell whether a class is known to have one object alone: a metaclass or a decorator sees to it."""
        assert isinstance(scope.node, ast.ClassDef)
        for keyword in scope.node.keywords:
            if keyword.arg == "metaclass":
                values = (
                    scope.module.scope.cells[name].values
                    if (name := last_name(keyword.value)) in scope.module.scope.cells
                    else ()
                )
                if "singleton" in name.lower() or any(
                    isinstance(value, ClassRef) and "__call__" in value.scope.bound_names for value in values
                ):
                    return True
        return any("singleton" in last_name(node).lower() for node in self._decorated.get(scope, ()))

    def is_single(self, scope: Scope) -> str | None:
        """Say why a class may give several callers the same object."""
        for one in self.interpreter.classes(scope):
            assert isinstance(one.node, ast.ClassDef)
            if is_wrapped(one.parent, one.name):
                return f"{one.name} is given to something that may give every caller the same object"
            if "__new__" in one.bound_names:
                return f"{one.name} has a __new__, and may give every caller the same object"
            for keyword in one.node.keywords:
                if keyword.arg == "metaclass" and last_name(keyword.value) != "ABCMeta":
                    name = last_name(keyword.value)
                    return f"{one.name} has the metaclass {name}, and may give every caller the same object"
            for node in self._decorated.get(one, ()):
                if last_name(node) not in _PLAIN_DECORATORS:
                    name = last_name(node)
                    return f"{one.name} is decorated with {name}, and may give every caller the same object"
            for base in one.bases.values:
                if (
                    isinstance(base, External)
                    and not base.name.startswith(_PLAIN_BASES)
                    and not libraries.maker(base.name)
                ):
                    return f"{one.name} is derived from {base.name}, and may give every caller the same object"
        return None

    def is_renamed(self, func: ast.expr, scope: Scope) -> bool:
        """Tell whether a function is called by the name of what something has made of it, such as a cache."""
        if not any(isinstance(value, (FunctionRef, ClassRef)) for value in self.assignments.values(func, scope)):
            return False
        if isinstance(func, ast.Attribute):
            modules = [v.module for v in self.assignments.values(func.value, scope) if isinstance(v, ModuleRef)]
            return any(is_wrapped(module.scope, func.attr) for module in modules)
        self.interpreter.scope = scope
        where = self.interpreter.binding(func.id) if isinstance(func, ast.Name) else None
        if where is None or not isinstance(func, ast.Name):
            return False
        sources = self.assignments.imported(where, func.id)
        return is_wrapped(where, func.id) or any(is_wrapped(source.scope, name) for source, name in sources)


def is_wrapped(scope: Scope | None, name: str) -> bool:
    """Tell whether a name is given what a call returns: ``get_db = lru_cache(get_db)``."""
    return scope is not None and any(isinstance(value, ast.Call) for value in scope.assigned.get(name, ()))
