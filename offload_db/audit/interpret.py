"""Runs over every scope until nothing new is learnt, then once more to note the calls that each makes.

Owns the statements and the order of work; what expressions mean is ``expressions.py``'s, what imports bring
``imports.py``'s.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .calling import Outcome, unbound
from .decorators import Decorated, Decorators
from .libraries import CONNECTIONS
from .lookup import holder, last_name
from .model import (
    LOCK,
    OPAQUE,
    App,
    Cell,
    ClassRef,
    Database,
    FunctionRef,
    Generated,
    Instance,
    LockUse,
    Opened,
    Scope,
    Value,
    Values,
    class_ref,
    functions,
    instance,
)
from .project import Progress, Project
from .trees import slim
from .wording import dotted


@dataclass(frozen=True, slots=True)
class Shared:
    """A place where a connection or cursor is put where several callers find it."""

    scope: Scope
    node: ast.AST
    name: str
    cell: Cell
    kind: str


class Interpreter(Decorators):
    """Knows what names may be, and what each function calls."""

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.route_classes: list[tuple[App, Values]] = []
        self.shared: list[Shared] = []
        self.too_deep: set[Scope] = set()

    def run(self, progress: Progress | None = None, *, partial: bool = False) -> None:
        """Interpret all modules.

        :param progress: is told how many scopes are done, how many there are by now, and which is next
        :param partial: whether an interrupt ends the work and leaves what is known, instead of being raised
        """
        everything = sorted(functions(self.project.modules), key=lambda scope: scope.kind != "module")
        for scope in everything:
            self.enqueue(scope)
        done = 0
        try:
            while (following := self.next()) is not None:
                self.guarded(following)
                done += 1
                if progress is not None and done % 256 == 0:
                    progress(done, done + self.left() + len(everything), following.module.shown)
        except KeyboardInterrupt:
            if not partial:
                raise
            self.project.interrupted = True
            first = self.project.modules[0].shown
            self.project.fail(first, f"interrupted: {self.left()} of {len(everything)} functions are not followed")
        self.recording = True
        self.forget_passed()
        for number, scope in enumerate(everything):
            self.guarded(scope)
            if progress is not None and number % 256 == 0:
                progress(done + number, done + len(everything), scope.module.shown)

    def guarded(self, scope: Scope) -> None:
        """Interpret a scope; one that is nested too deeply is reported, and the rest goes on."""
        if scope in self.too_deep:
            return
        try:
            self._scope(scope)
        except RecursionError:
            self.too_deep.add(scope)
            self.project.fail(scope.module.shown, "it is nested too deeply", scope.line)

    def _scope(self, scope: Scope) -> None:
        self.scope = scope
        self.loops = 0
        self.locks = []
        self.spawner = self.awaited = None
        if scope.kind == "lambda":
            assert isinstance(scope.node, ast.Lambda)
            self.grow(scope.returns, self.evaluate(scope.node.body))
            return
        if scope.kind == "class":
            self._class_body(scope)
            return
        if scope.kind == "function":
            self._parameters(scope)
        self.statements(scope.body)

    def _parameters(self, scope: Scope) -> None:
        owner = scope.owner
        for number, parameter in enumerate(scope.parameters):
            values = self.annotation(parameter.annotation)
            if number == 0 and owner is not None and "staticmethod" not in scope.decorators:
                make = class_ref if scope.name == "__new__" or "classmethod" in scope.decorators else instance
                values = frozenset((make(owner),))
            elif parameter.default is not None:
                given = self.dependency(parameter.default, parameter.annotation)
                values = values if given is None else (values - {OPAQUE} if given else values) | given
            elif scope.is_async and "aiogram" in scope.module.libraries:
                values |= self.item("aiogram", parameter.name)
            self.grow(scope.cell(parameter.name), values)
        assert isinstance(scope.node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if scope.node.returns is not None:
            self.grow(scope.yields if scope.is_generator else scope.returns, self.annotation(scope.node.returns))

    # --- statements

    def statements(self, body: Iterable[ast.stmt]) -> None:
        """Run over statements in their order, both sides of every branch."""
        for statement in body:
            handler = _HANDLERS_OF_FORMS.get(type(statement))
            if handler is not None:
                handler(self, statement)
            else:
                self._other(statement)

    def _other(self, statement: ast.AST) -> None:
        for child in ast.iter_child_nodes(statement):
            if isinstance(child, ast.expr):
                self.evaluate(child)
            elif isinstance(child, ast.stmt):
                self.statements([child])
            elif isinstance(child, (ast.ExceptHandler, ast.match_case)):
                self._other(child)

    def _expression(self, statement: ast.Expr) -> None:
        self.evaluate(statement.value)

    def _assign(self, statement: ast.Assign) -> None:
        values = self.evaluate(statement.value)
        for target in statement.targets:
            self.bind_target(target, values)
        if self.recording:
            self._note(statement, values)

    def _note(self, statement: ast.Assign, values: Values) -> None:
        """Note where connections are kept, pools are made and route classes are set."""
        target = statement.targets[0]
        if isinstance(target, ast.Attribute) and target.attr == "route_class":
            for value in self.evaluate(target.value):
                if isinstance(value, App):
                    self.route_classes.append((value, values))
        kinds = sorted(
            value.kind for value in values if isinstance(value, Database) and value.kind in (*CONNECTIONS, "cursor")
        )
        if not kinds:
            return
        scope = self.scope
        if isinstance(target, ast.Name):
            where = self.binding(target.id)
            if where is not None and where.kind in ("module", "class"):
                self.shared.append(Shared(scope, statement, target.id, where.cell(target.id), kinds[0]))
            elif where is scope and isinstance(statement.value, ast.Call):
                made = next((call for call in reversed(scope.calls) if call.node is statement.value), None)
                targets = made.targets if made is not None else ()
                opens = made is not None and (made.effect is not None or targets)
                if kinds[0] != "cursor" and opens and last_name(statement.value.func) != "enter_context":
                    scope.opened.append(Opened(target.id, statement, dotted(statement.value.func), targets))
        elif isinstance(target, ast.Attribute):
            keys = [f"{holder(target.value)}.{target.attr}"]
            bases = self.evaluate(target.value)
            if any(map(self.is_of_thread, bases)):
                return
            for base in bases:
                if isinstance(base, (Instance, ClassRef)):
                    cell = base.scope.attribute(target.attr)
                    self.shared.append(Shared(scope, statement, f"{base.scope.name}.{target.attr}", cell, kinds[0]))
                    if (kept_as := self.known_as(base.scope)) is not None:
                        keys.append(f"{kept_as}.{target.attr}")
            for key in keys:
                if (kept := self.loose.get(key)) is not None and kept.values:
                    self.shared.append(Shared(scope, statement, dotted(target), kept, kinds[0]))

    def _ann_assign(self, statement: ast.AnnAssign) -> None:
        values = self.evaluate(statement.value) or self.annotation(statement.annotation)
        if self.scope.kind != "class":
            self.bind_target(statement.target, values)

    def _type_alias(self, statement: ast.stmt) -> None:
        """``type Conn = pymysql.Connection``, which Python 3.12 has brought."""
        name, value = getattr(statement, "name", None), getattr(statement, "value", None)
        if name is not None:
            self.bind_target(name, self.evaluate(value))

    def _aug_assign(self, statement: ast.AugAssign) -> None:
        self.evaluate(statement.value)

    def _return(self, statement: ast.Return) -> None:
        self.grow(self.scope.returns, self.evaluate(statement.value))

    def _for(self, statement: ast.For | ast.AsyncFor) -> None:
        values = self.iterate(statement.iter, awaited=isinstance(statement, ast.AsyncFor))
        self.bind_target(statement.target, values)
        self.loops += 1
        self.statements(statement.body)
        self.loops -= 1
        self.statements(statement.orelse)

    def _while(self, statement: ast.While) -> None:
        self.loops += 1
        self.evaluate(statement.test)
        self.statements(statement.body)
        self.loops -= 1
        self.statements(statement.orelse)

    def _with(self, statement: ast.With | ast.AsyncWith) -> None:
        is_async = isinstance(statement, ast.AsyncWith)
        held = len(self.locks)
        for item in statement.items:
            node = item.context_expr
            before, self.awaited = self.awaited, node if is_async else self.awaited
            values = self.evaluate(node)
            self.awaited = before
            if LOCK in values and not is_async:
                self.locks.append(LockUse(self.scope, node, dotted(node)))
            if self.recording:
                self._enters(node, values, is_async=is_async)
            if item.optional_vars is not None:
                # What a library hands out by `async with` is awaited, and no blocking connection.
                foreign = {value for value in values if is_async and isinstance(value, Database)}
                entered: set[Value] = {inner for value in values - foreign for inner in self.entered(value)}
                if foreign:
                    entered.add(OPAQUE)
                self.bind_target(item.optional_vars, frozenset(entered))
        self.statements(statement.body)
        del self.locks[held:]

    def _enters(self, node: ast.expr, values: Values, *, is_async: bool) -> None:
        """Note what entering and leaving an object of an audited class calls."""
        outcome = Outcome(set(), [], [])
        names = ("__aenter__", "__aexit__") if is_async else ("__enter__", "__exit__")
        for value in values:
            if isinstance(value, Instance):
                for name in names:
                    for inner in self.member(value, name) or ():
                        if isinstance(inner, FunctionRef):
                            outcome.targets.append(inner.scope)
            elif isinstance(value, Generated) and value.scope.is_lazy:
                outcome.iterated.append(value.scope)
        if outcome.targets or outcome.iterated:
            self.record(node, outcome, awaited=is_async)

    # --- definitions

    def _function(self, statement: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        made = self.scope.module.scopes[id(statement)]
        values = unbound(made)
        for decorator in reversed(statement.decorator_list):
            values = self._decorate(decorator, made, values)
        where = self.binding(statement.name)
        if where is not None:
            self.grow(where.cell(statement.name), values)
        for parameter in made.parameters:
            if parameter.default is not None:
                self.evaluate(parameter.default)

    def _class(self, statement: ast.ClassDef) -> None:
        made = self.scope.module.scopes[id(statement)]
        outer = self.scope
        for base in statement.bases:
            bases = self.evaluate(base)
            self.grow_bases(made, bases)
            for value in bases:
                if isinstance(value, ClassRef):
                    self.grow(self.subclasses.setdefault(value.scope, Cell()), frozenset((class_ref(made),)))
        for decorator in statement.decorator_list:
            found = self.evaluate(decorator)
            if self.recording:
                self.decorated.append(Decorated(made, decorator, found))
        where = self.binding(statement.name)
        if where is not None:
            self.grow(where.cell(statement.name), frozenset((class_ref(made),)))
        self.scope = made
        self._class_body(made)
        self.scope = outer

    def _class_body(self, made: Scope) -> None:
        self.statements(made.body)
        for inner in made.body:
            if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                values = self.evaluate(inner.value) or self.annotation(inner.annotation)
                if inner.value is not None:  # a class-based view: `db: Session = Depends(get_db)`
                    values = self.dependency(inner.value, inner.annotation) or values
                self.grow(made.attribute(inner.target.id), values)


_HANDLERS: dict[type[ast.stmt], Callable[..., None]] = {
    ast.Expr: Interpreter._expression,
    ast.Assign: Interpreter._assign,
    ast.AnnAssign: Interpreter._ann_assign,
    ast.AugAssign: Interpreter._aug_assign,
    ast.Return: Interpreter._return,
    ast.For: Interpreter._for,
    ast.AsyncFor: Interpreter._for,
    ast.While: Interpreter._while,
    ast.With: Interpreter._with,
    ast.AsyncWith: Interpreter._with,
    ast.FunctionDef: Interpreter._function,
    ast.AsyncFunctionDef: Interpreter._function,
    ast.ClassDef: Interpreter._class,
    ast.Import: Interpreter._import,
    ast.ImportFrom: Interpreter._import_from,
}
if sys.version_info >= (3, 12):
    _HANDLERS[ast.TypeAlias] = Interpreter._type_alias
_HANDLERS_OF_FORMS: dict[type[ast.AST], Callable[..., None]] = {
    form: handler for kind, handler in _HANDLERS.items() for form in (kind, slim(kind))
}
