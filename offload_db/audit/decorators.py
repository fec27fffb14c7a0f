"""What decorators make of functions: flags that they set, and wrappers that are called besides the function.

Stands on ``imports.py``; ``interpret.py`` runs the statements.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from .calling import Arguments, Outcome
from .imports import Imports
from .model import NOTHING, Decorating, External, FunctionRef, Scope, Value, Values
from .project import Project

_DEFINITE = {
    "builtins.staticmethod": "staticmethod", "builtins.classmethod": "classmethod", "builtins.property": "property",
    "functools.cached_property": "property", "abc.abstractmethod": "abstract",
    "contextlib.contextmanager": "contextmanager", "contextlib.asynccontextmanager": "contextmanager",
}  # fmt: skip
_HANDS = frozenset(
    {"sync_to_async", "threadpool", "run_in_threadpool", "in_thread", "to_thread", "asyncify", "async_wrap"}
)


@dataclass(frozen=True, slots=True)
class Decorated:
    """One decorator of a function or class, as it stands in the source."""

    scope: Scope
    node: ast.expr
    values: Values


class Decorators(Imports):
    """Applies decorators."""

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.decorated: list[Decorated] = []

    def _decorate(self, node: ast.expr, made: Scope, values: Values) -> Values:
        found = self.evaluate(node)
        if self.recording:
            self.decorated.append(Decorated(made, node, found))
        wrappers: set[Value] = set()
        for value in found:
            if isinstance(value, External):
                if flag := _DEFINITE.get(value.name):
                    made.decorators |= {flag}
                    if value.name == "functools.cached_property":
                        made.decorators |= {"cached"}
                elif value.name.rpartition(".")[2] in _HANDS:
                    made.decorators |= {"hands"}
                elif value.name.startswith("offload_db."):
                    self._call(value, _call_of(node), Arguments([values], {}), Outcome(set(), [], []))
                else:
                    made.decorators |= {"unknown"}
            elif isinstance(value, FunctionRef):
                wrappers |= self._wrapped(value, values)
            elif isinstance(value, Decorating):
                self._call(value, _call_of(node), Arguments([values], {}), Outcome(set(), [], []))
            else:
                made.decorators |= {"unknown"}
        if isinstance(node, ast.Attribute) and node.attr in ("setter", "deleter", "getter"):
            return NOTHING
        if not found:
            made.decorators |= {"unknown"}
        return values | wrappers

    def _wrapped(self, decorator: FunctionRef, values: Values) -> Values:
        """Apply a decorator of the audited files: its wrapper is called besides, or instead of, the function."""
        outcome = Outcome(set(), [], [])
        self._enter(decorator, Arguments([values], {}), outcome)
        wrappers = {v for v in outcome.values if isinstance(v, FunctionRef) and v not in values}
        if any(wrapper.scope.is_async for wrapper in wrappers) and not decorator.scope.called_parameters:
            for value in values:
                if isinstance(value, FunctionRef) and not value.scope.is_async:
                    value.scope.decorators |= {"hands"}  # the wrapper has it run by somebody else
        for wrapper in wrappers if decorator.scope.called_parameters else ():
            wrapper.scope.passes_on = True
        return frozenset(wrappers)


def _call_of(node: ast.expr) -> ast.Call:
    """Return the call that a decorator stands for."""
    if isinstance(node, ast.Call):
        return node
    return ast.copy_location(ast.Call(func=node, args=[node], keywords=[]), node)
