"""What expressions may evaluate to, and the calls that are made on the way.

Stands on ``annotations.py``; ``interpret.py`` runs the statements.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

from . import libraries
from .annotations import DEPENDS, Annotations, external_names
from .calling import Arguments, FrameworkCall, Outcome, enters, unbound
from .lookup import holder, item_key, last_name
from .model import (
    FOREIGN,
    LOCK,
    NOTHING,
    OPAQUE,
    App,
    AppMethod,
    Call,
    ClassRef,
    Container,
    Database,
    Effect,
    External,
    FunctionRef,
    Generated,
    Instance,
    LockUse,
    Method,
    ModuleRef,
    Scope,
    Value,
    Values,
    instance,
)
from .outside import sends_later
from .project import Project
from .trees import slim
from .wording import dotted


class Expressions(Annotations):
    """Evaluates expressions in the current scope."""

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.loops = 0
        self.locks: list[LockUse] = []
        self.spawner: ast.Call | None = None
        self.awaited: ast.expr | None = None  # the expression whose value is awaited
        self.framework_calls: dict[int, FrameworkCall] = {}
        kinds: dict[type[ast.expr], Callable[..., Values]] = {
            ast.Name: self._name, ast.Attribute: self._attribute, ast.Call: self._call_node, ast.Await: self._await,
            ast.Constant: self._nothing, ast.Tuple: self._tuple, ast.List: self._list, ast.Set: self._list,
            ast.Dict: self._dictionary, ast.Subscript: self._subscript, ast.BoolOp: self._bool_op,
            ast.IfExp: self._if_exp, ast.NamedExpr: self._named, ast.Starred: self._starred,
            ast.Lambda: self._lambda, ast.ListComp: self._comprehension, ast.SetComp: self._comprehension,
            ast.GeneratorExp: self._comprehension, ast.DictComp: self._comprehension, ast.Yield: self._yield,
            ast.YieldFrom: self._yield,
        }  # fmt: skip
        self._dispatch: dict[type[ast.AST], Callable[..., Values]] = {
            form: evaluate for kind, evaluate in kinds.items() for form in (kind, slim(kind))
        }

    def evaluate(self, node: ast.expr | None) -> Values:
        """Return what an expression may be."""
        if node is None:
            return NOTHING
        found = self._dispatch.get(type(node))
        if found is not None:
            return found(node)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.evaluate(child)
        return NOTHING

    def _nothing(self, node: ast.expr) -> Values:
        return frozenset((OPAQUE,)) if getattr(node, "value", None) is not None else NOTHING

    def _name(self, node: ast.Name) -> Values:
        return self.name(node.id)

    def _attribute(self, node: ast.Attribute) -> Values:
        found = set(self.attributes(self.evaluate(node.value), node.attr, node.value))
        if not found:
            return self.loosely(node.value, node.attr)
        properties = [v for v in found if isinstance(v, FunctionRef) and v.bound and "property" in v.scope.decorators]
        if properties:
            outcome = Outcome(set(), [], [])
            for value in properties:
                found.discard(value)
                self._enter(value, Arguments((), {}), outcome)
            self.record(node, outcome)
            found |= outcome.values
        return frozenset(found)

    def _await(self, node: ast.Await) -> Values:
        before, self.awaited = self.awaited, node.value
        values = self.evaluate(node.value)
        self.awaited = before
        return values

    def _call_node(self, node: ast.Call) -> Values:
        awaited = self.awaited is node
        inside: Values = NOTHING
        if isinstance(node.func, ast.Attribute):
            inside = self.evaluate(node.func.value)
            callee = self.attributes(inside, node.func.attr, node.func.value)
            if not callee and inside:
                callee = self.loosely(node.func.value, node.func.attr)
        else:
            callee = self.evaluate(node.func)
        spawner = self.spawner
        if last_name(node.func) in libraries.SPAWNERS:
            self.spawner = spawner or node
            if self.recording:
                self.scope.spawners.append(node)
        elif spawner is not None and not isinstance(node.func, ast.Name | ast.Attribute):
            self.spawner = None
        positional = [self._given(argument, node) for argument in node.args]
        if self.scope.passes_on and self._is_parameter(node.func):
            # A wrapper gives on what all of its functions are given, which they are given by themselves, too.
            pairs = zip(node.args, positional, strict=True)
            positional = [NOTHING if isinstance(one, ast.Starred) else values for one, values in pairs]
        named = {keyword.arg or "": self._given(keyword.value, node) for keyword in node.keywords}
        here, self.spawner = self.spawner, spawner
        arguments = Arguments(positional, named)
        if LOCK in inside:
            self._lock_method(node)
        outcome = self.apply(node, callee, arguments, inside)
        if awaited and callee and all(isinstance(value, Method) or value is FOREIGN for value in callee):
            # Who awaits `session.execute(…)` has a session of the asyncio extension, and its result is here already.
            outcome.values = {FOREIGN if isinstance(value, Database) else value for value in outcome.values}
        if len(node.args) > 2 and external_names(callee) & libraries.TORNADO_RULES:
            self._initialize(positional[1], node.args[2])
        if self.recording:
            if self._is_parameter(node.func) and not any(isinstance(value, Instance) for value in callee):
                outcome.targets.clear()  # who is called depends on the caller: see Calling._called_back
            self.record(node, outcome, awaited=awaited, sql=node.args[0] if node.args else None)
            if sends_later(node):
                self._streams(node, arguments)
            self._references(node, callee, outcome, arguments, here if here is node else None)
            if self._concerns_frameworks(node, callee) or id(node.func) in self.framework_calls:
                self.framework_calls[id(node)] = FrameworkCall(self.scope, node, callee, arguments)
        return frozenset(outcome.values)

    def _given(self, argument: ast.expr, node: ast.Call) -> Values:
        """Return what an argument may be. A response runs a generator expression later, in a thread."""
        if not isinstance(argument, ast.GeneratorExp) or not sends_later(node):
            return self.evaluate(argument)
        before, self.recording = self.recording, False
        values = self.evaluate(argument)
        self.recording = before
        return values

    @staticmethod
    def _concerns_frameworks(node: ast.Call, callee: Values) -> bool:
        if not callee:
            return isinstance(node.func, ast.Attribute) and node.func.attr in libraries.ROUTE_METHODS
        return any(
            isinstance(value, (AppMethod, ClassRef))
            or (isinstance(value, External) and value.name.partition(".")[0] in libraries.FRAMEWORKS)
            for value in callee
        )

    def _lock_method(self, node: ast.Call) -> None:
        func = node.func
        if not isinstance(func, ast.Attribute):
            return
        text = dotted(func.value)
        if func.attr == "acquire":
            self.locks.append(LockUse(self.scope, node, text))
        elif func.attr == "release":
            self.locks = [lock for lock in self.locks if lock.text != text]

    def _is_parameter(self, func: ast.expr) -> bool:
        if not isinstance(func, ast.Name):
            return False
        scope = self.binding(func.id)
        return scope is not None and any(parameter.name == func.id for parameter in scope.parameters)

    def record(self, node: ast.expr, outcome: Outcome, *, awaited: bool = False, sql: ast.expr | None = None) -> None:
        """Note a call that matters, when values are known."""
        if not self.recording:
            return
        effect = None if awaited else outcome.effect()  # what is awaited is no blocking driver
        entered = [target for target in outcome.targets if enters(target, awaited=awaited)]
        # Values have no order of their own, reports have.
        targets = tuple(sorted({*entered, *outcome.iterated}, key=Scope.place))
        if effect is None and not targets:
            return
        func = node.func if isinstance(node, ast.Call) else node
        spawner = self.spawner if any(target.is_async for target in targets) else None
        call = Call(
            self.scope, node, dotted(func), effect, targets, awaited, self.loops, tuple(self.locks), spawner, sql
        )
        self.scope.calls.append(call)

    def _streams(self, node: ast.Call, arguments: Arguments) -> None:
        """Note the asynchronous generators that a response is given: they run when its handler is over."""
        given = [value.scope for values in arguments.all() for value in values if isinstance(value, Generated)]
        targets = tuple(sorted({scope for scope in given if scope.is_async}, key=Scope.place))
        if targets:
            self.scope.calls.append(Call(self.scope, node, dotted(node.func), targets=targets, streamed=True))

    def _references(
        self, node: ast.Call, callee: Values, outcome: Outcome, arguments: Arguments, spawner: ast.Call | None
    ) -> None:
        """Note the functions that are handed to a call, to be called by somebody else."""
        if not external_names(callee) & DEPENDS:
            pairs = [*zip(node.args, arguments.positional, strict=True)]
            pairs += [(keyword.value, arguments.named[keyword.arg or ""]) for keyword in node.keywords]
            handed = [
                value.scope
                for argument, values in pairs
                if isinstance(argument, (ast.Name, ast.Attribute))
                or last_name(argument) in ("partial", "offload")
                or (isinstance(argument, ast.Lambda) and last_name(node.func) in libraries.CALLBACKS)
                for value in values
                if isinstance(value, FunctionRef) and value.scope not in outcome.targets
            ]
            if handed:
                call = Call(self.scope, node, dotted(node.func), None, tuple(dict.fromkeys(handed)))
                call.loops, call.spawner, call.passed = self.loops, spawner, True
                self.scope.calls.append(call)

    # --- displays

    def _tuple(self, node: ast.Tuple) -> Values:
        made = self.containers(node, len(node.elts))
        values = [self.evaluate(element) for element in node.elts]
        for item, found in zip(made.items, values, strict=True):
            self.grow(item, found)
        if len(node.elts) > 2:
            self._initialize(values[1], node.elts[2])
        return frozenset((made,))

    def _initialize(self, handlers: Values, settings: ast.expr) -> None:
        """Give Tornado's ``initialize`` what a route names: ``(r"/path", Handler, dict(db=db))``."""
        for value in handlers:
            for inner in (
                (self.member(instance(value.scope), "initialize") or ()) if isinstance(value, ClassRef) else ()
            ):
                if isinstance(inner, FunctionRef):
                    self.bind(inner.scope, Arguments((), self._entries(settings)), 1)

    def _entries(self, node: ast.expr) -> dict[str, Values]:
        """Return what a dictionary holds, by its keys."""
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            return {str(k.value): self.evaluate(v) for k, v in pairs if isinstance(k, ast.Constant)}
        if isinstance(node, ast.Call) and last_name(node.func) == "dict":
            return {keyword.arg: self.evaluate(keyword.value) for keyword in node.keywords if keyword.arg}
        return {}

    def _list(self, node: ast.List | ast.Set) -> Values:
        made = self.containers(node)
        for element in node.elts:
            self.grow(made.rest, self.evaluate(element))
        return frozenset((made,))

    def _dictionary(self, node: ast.Dict) -> Values:
        made = self.containers(node)
        for key in node.keys:
            self.evaluate(key)
        for value in node.values:
            self.grow(made.rest, self.evaluate(value))
        return frozenset((made,))

    def _starred(self, node: ast.Starred) -> Values:
        return self.iterate(node.value)

    def _subscript(self, node: ast.Subscript) -> Values:
        found: set[Value] = set()
        base = self.evaluate(node.value)
        for value in base:
            if isinstance(value, Container):
                index = node.slice.value if isinstance(node.slice, ast.Constant) else None
                exact = isinstance(index, int) and 0 <= index < len(value.items)
                found |= self.read(value.items[index]) if exact else self.elements(value)  # type: ignore[index]  # as `exact` says
            elif isinstance(value, External) and value.name.endswith(".Annotated"):
                return self._annotated(node)
            elif isinstance(value, Instance):
                outcome = Outcome(set(), [], [])
                self.protocol(value, "__getitem__", outcome)
                self.record(node, outcome)
                found |= outcome.values
            elif isinstance(value, ClassRef):
                found.add(value)  # Repository[Truck]
            elif isinstance(value, External):
                found.add(value)
            elif isinstance(value, Database) and value.kind in libraries.BUILDERS:
                self.record(node, Outcome(set(), [], [Effect("statement", value.driver, value.reach)]))
        if not isinstance(node.slice, ast.Constant):
            self.evaluate(node.slice)
        if not found and (key := item_key(node)) is not None:
            return self.item(holder(node.value), key)
        return frozenset(found)

    # --- branches and bindings

    def _bool_op(self, node: ast.BoolOp) -> Values:
        return frozenset(value for part in node.values for value in self.evaluate(part))

    def _if_exp(self, node: ast.IfExp) -> Values:
        self.evaluate(node.test)
        return self.evaluate(node.body) | self.evaluate(node.orelse)

    def _named(self, node: ast.NamedExpr) -> Values:
        values = self.evaluate(node.value)
        self.bind_target(node.target, values)
        return values

    def _lambda(self, node: ast.Lambda) -> Values:
        return unbound(self.scope.module.scopes[id(node)])

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Values:
        before = self.loops
        for generator in node.generators:
            values = self.iterate(generator.iter)
            self.bind_target(generator.target, values)
            self.loops += 1
            for condition in generator.ifs:
                self.evaluate(condition)
        made = self.containers(node)
        if isinstance(node, ast.DictComp):
            self.evaluate(node.key)
            self.grow(made.rest, self.evaluate(node.value))
        else:
            self.grow(made.rest, self.evaluate(node.elt))
        self.loops = before
        return frozenset((made,))

    def iterate(self, node: ast.expr, *, awaited: bool = False) -> Values:
        """Return what iterating over an expression gives, and note what that asks of the database."""
        outcome = Outcome(set(), [], [])
        for value in self.evaluate(node):
            outcome.values |= self.elements(value)
            self._iterate(value, node, outcome)
        if not awaited:
            self.record(node, outcome)
        return frozenset(outcome.values)

    def _yield(self, node: ast.Yield | ast.YieldFrom) -> Values:
        values = self.iterate(node.value) if isinstance(node, ast.YieldFrom) else self.evaluate(node.value)
        self.grow(self.scope.yields, values)
        return NOTHING

    def bind_target(self, target: ast.expr, values: Values) -> None:
        """Give values to a name, an attribute, an item or several of them."""
        if isinstance(target, ast.Name):
            scope = self.binding(target.id)
            if scope is not None:
                self.grow(scope.cell(target.id), values)
        elif isinstance(target, ast.Attribute):
            for base in self.evaluate(target.value):
                if isinstance(base, (Instance, ClassRef)):
                    self.grow(base.scope.attribute(target.attr), values)
                    if (kept_as := self.known_as(base.scope)) is not None:
                        self.keep(kept_as, f".{target.attr}", values)
                elif isinstance(base, ModuleRef):
                    self.grow(base.module.scope.cell(target.attr), values)
            self.keep(holder(target.value), f".{target.attr}", values)
        elif isinstance(target, ast.Subscript):
            for base in self.evaluate(target.value):
                if isinstance(base, Container):
                    self.grow(base.rest, values)
                elif isinstance(base, App):
                    self.keep(base.framework, f"[{item_key(target)}]", values)
            if (key := item_key(target)) is not None:
                self.keep(holder(target.value), f"[{key}]", values)
        elif isinstance(target, ast.Starred):
            made = self.containers(target)
            self.grow(made.rest, values)
            self.bind_target(target.value, frozenset((made,)))
        elif isinstance(target, (ast.Tuple, ast.List)):
            for number, part in enumerate(target.elts):
                parts: set[Value] = set()
                for value in values:
                    if isinstance(value, Container) and number < len(value.items):
                        parts |= self.read(value.items[number])
                    else:
                        parts |= self.elements(value)
                self.bind_target(part, frozenset(parts))
