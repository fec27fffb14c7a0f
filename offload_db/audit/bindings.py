"""What a function, class or module gives to names and attributes, and what it returns: as it stands in the source."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .interpret import Interpreter
from .lookup import holder
from .model import NOTHING, ClassRef, Instance, Module, Scope, Values
from .texts import source_of

Imported = tuple[ast.Import | ast.ImportFrom, ast.alias]


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """A place where a name, an attribute or an item is given a value."""

    scope: Scope
    how: str  # is, part, entered, element, other
    target: ast.expr | None
    value: ast.expr | None
    index: int = 0


def bindings(scope: Scope) -> Iterator[Binding]:
    """Yield where a function, class or module gives values to names and attributes."""
    for node in walk(scope):
        yield from _bound(node, scope)


def walk(scope: Scope) -> Iterator[ast.AST]:
    """Yield the nodes of a function, class or module without those of the functions and classes in it."""
    stack: list[ast.AST] = [scope.node.body] if isinstance(scope.node, ast.Lambda) else list(reversed(scope.body))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            stack.extend(reversed(list(ast.iter_child_nodes(node))))


def items_set(body: list[ast.stmt]) -> Iterator[tuple[ast.Subscript, ast.expr]]:
    """Yield the items that statements set: ``app["db"] = …``. Looks at no expressions, which are most of the nodes."""
    for statement in body:
        if isinstance(statement, ast.Assign):
            yield from ((one, statement.value) for one in statement.targets if isinstance(one, ast.Subscript))
        elif not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for block in ("body", "orelse", "finalbody"):
                yield from items_set(getattr(statement, block, []))
            for part in (*getattr(statement, "handlers", []), *getattr(statement, "cases", [])):
                yield from items_set(part.body)


def results(scope: Scope) -> Iterator[ast.expr]:
    """Yield what a function returns; what it yields if it is a generator."""
    if isinstance(scope.node, ast.Lambda):
        yield scope.node.body
        return
    for node in walk(scope):
        given = (ast.Yield, ast.YieldFrom) if scope.is_generator else (ast.Return,)
        if isinstance(node, given) and node.value is not None:
            yield node.value


def argument(call: ast.expr, scope: Scope, name: str) -> ast.expr | None:
    """Return what a call gives to a parameter of the function that it enters."""
    if not isinstance(call, ast.Call):
        return None
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    names = [parameter.name for parameter in scope.parameters]
    if name not in names:
        return None
    offset = 1 if scope.owner is not None and "staticmethod" not in scope.decorators else 0
    number = names.index(name) - offset
    given = call.args[: number + 1]
    if any(isinstance(one, ast.Starred) for one in given):
        return None
    return call.args[number] if 0 <= number < len(call.args) else None


def alternatives(node: ast.BoolOp | ast.IfExp | ast.Tuple | ast.List) -> list[ast.expr]:
    """Return what an expression is one of, or has as its items."""
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    return node.values if isinstance(node, ast.BoolOp) else node.elts


def is_name(node: ast.expr | None, name: str) -> bool:
    """Tell whether an expression is a certain name."""
    return isinstance(node, ast.Name) and node.id == name


def spreads(call: ast.expr) -> bool:
    """Tell whether a call gives arguments that do not stand in the source: ``f(*args, **kwargs)``."""
    return isinstance(call, ast.Call) and (
        any(isinstance(one, ast.Starred) for one in call.args) or any(one.arg is None for one in call.keywords)
    )


def _bound(node: ast.AST, scope: Scope) -> Iterator[Binding]:
    """Yield what a node gives to names, attributes and items."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _targets(target, node.value, "is", scope)
    elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
        yield from _targets(node.target, node.value, "is", scope)
    elif isinstance(node, (ast.With, ast.AsyncWith)):
        for item in node.items:
            if item.optional_vars is not None:
                yield from _targets(item.optional_vars, item.context_expr, "entered", scope)
    elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
        yield from _targets(node.target, node.iter, "element", scope)


def _targets(target: ast.expr, value: ast.expr, how: str, scope: Scope) -> Iterator[Binding]:
    if isinstance(target, (ast.Tuple, ast.List)):
        for number, part in enumerate(target.elts):
            is_part = how == "is"
            yield Binding(scope, "part" if is_part else "other", part, value if is_part else None, number)
    else:
        yield Binding(scope, how, target, value)


class Assignments:
    """Where in the files that *interpreter* has read something is given a value."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.interpreter = interpreter
        self._by_scope: dict[Scope, list[Binding]] = {}
        self._by_module: dict[Module, dict[str, list[Binding]]] = {}
        self._by_class: dict[str, dict[Scope, dict[int, Binding]]] = {}
        self._imports: dict[Scope, dict[str, list[Imported]]] = {}

    @functools.cached_property
    def _attributes(self) -> dict[str, list[Binding]]:
        """By attribute. It is made when it is first asked for: that reads every function."""
        found: dict[str, list[Binding]] = {}
        for module in self.interpreter.project.modules:
            for scope in module.scopes.values():
                for binding in self.of_scope(scope):
                    if isinstance(binding.target, ast.Attribute):
                        found.setdefault(binding.target.attr, []).append(binding)
        return found

    def _names_of(self, module: Module) -> dict[str, list[Binding]]:
        """Return where the names of a module are given values: that reads the functions of this module alone."""
        found = self._by_module.get(module)
        if found is None:
            found = self._by_module[module] = {}
            for scope in module.scopes.values():
                for binding in self.of_scope(scope):
                    name = binding.target.id if isinstance(binding.target, ast.Name) else None
                    if name is not None and (scope.kind == "module" or name in scope.outer_names):
                        found.setdefault(name, []).append(binding)
        return found

    def of_scope(self, scope: Scope) -> list[Binding]:
        """Return what a function, class or module gives values to."""
        found = self._by_scope.get(scope)
        if found is None:
            found = self._by_scope[scope] = list(bindings(scope))
        return found

    def of_global(self, module: Module, name: str) -> Sequence[Binding]:
        """Return where a name of a module is given a value, in functions too."""
        return self._names_of(module).get(name, ())

    def imported(self, scope: Scope, name: str) -> Iterator[tuple[Module, str]]:
        """Yield the audited modules that a name is imported from, and what it is called there."""
        for node, alias in self.imports(scope, name):
            if isinstance(node, ast.ImportFrom):
                source = source_of(node, scope.module, self.interpreter.project)
                if source is not None and source is not scope.module:
                    yield source, alias.name

    def imports(self, scope: Scope, name: str) -> Sequence[Imported]:
        """Return where a function or module imports a name."""
        found = self._imports.get(scope)
        if found is None:
            found = self._imports[scope] = {}
            for node in walk(scope):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    for one in node.names:
                        found.setdefault(one.asname or one.name.partition(".")[0], []).append((node, one))
        return found.get(name, ())

    def of_any(self, name: str) -> Sequence[Binding]:
        """Return where an attribute of whatever object is given a value."""
        return self._attributes.get(name, ())

    def of_alike(self, node: ast.Attribute) -> Sequence[Binding]:
        """Return where an attribute of an object of that name is given a value; of any object if there is none."""
        return self._alike.get((node.attr, holder(node.value))) or self.of_any(node.attr)

    @functools.cached_property
    def _alike(self) -> dict[tuple[str, str], list[Binding]]:
        found: dict[tuple[str, str], list[Binding]] = {}
        for name, given in self._attributes.items():
            for binding in given:
                assert isinstance(binding.target, ast.Attribute)
                found.setdefault((name, holder(binding.target.value)), []).append(binding)
        return found

    def of_item(self, node: ast.Subscript) -> Sequence[Binding]:
        """Return where an item of that key is set, such as ``app["db"]``."""
        return self._items.get((ast.dump(node.slice), holder(node.value)), ())

    @functools.cached_property
    def _items(self) -> dict[tuple[str, str], list[Binding]]:
        found: dict[tuple[str, str], list[Binding]] = {}
        for module in self.interpreter.project.modules:
            for scope in module.scopes.values():
                for one in self.of_scope(scope):
                    if isinstance(one.target, ast.Subscript):
                        found.setdefault((ast.dump(one.target.slice), holder(one.target.value)), []).append(one)
        return found

    def of_attribute(self, name: str, family: set[Scope]) -> Iterator[Binding]:
        """Yield where an attribute of an object of a class is set."""
        for one in family:
            for binding in self.of_scope(one):
                if is_name(binding.target, name):
                    yield binding
        by_class = self._owned(name)
        of_family = {number: one for scope in family for number, one in by_class.get(scope, {}).items()}
        yield from (of_family[number] for number in sorted(of_family))

    def _owned(self, name: str) -> dict[Scope, dict[int, Binding]]:
        """Return where an attribute is set, by the classes whose objects it may be set on, and by its number."""
        found = self._by_class.get(name)
        if found is None:
            found = self._by_class[name] = {}
            for number, binding in enumerate(self.of_any(name)):
                assert isinstance(binding.target, ast.Attribute)
                for value in self.values(binding.target.value, binding.scope):
                    if isinstance(value, (Instance, ClassRef)):
                        found.setdefault(value.scope, {})[number] = binding
        return found

    def is_of_thread(self, node: ast.expr, scope: Scope) -> bool:
        """Tell whether each thread has attributes of its own of an object."""
        owners = self.values(node, scope)
        return bool(owners) and all(map(self.interpreter.is_of_thread, owners))

    def values(self, node: ast.expr | None, scope: Scope) -> Values:
        """Return what an expression of a function may be."""
        interpreter = self.interpreter
        interpreter.scope, interpreter.recording = scope, False
        return NOTHING if scope in interpreter.too_deep else interpreter.evaluate(node)
