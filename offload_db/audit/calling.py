"""What a call of audited code or of a database object does: whom it enters, with what, and what it blocks on.

Stands on ``lookup.py``; what libraries do is in ``outside.py``.
"""

from __future__ import annotations

import abc
import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from . import libraries
from .lookup import Lookup
from .model import (
    FOREIGN,
    NOTHING,
    OPAQUE,
    THREAD_LOCAL,
    UNSEEN,
    App,
    AppMethod,
    Cell,
    ClassRef,
    Container,
    Database,
    Decorating,
    Effect,
    External,
    FunctionRef,
    Generated,
    Instance,
    Method,
    ModuleRef,
    Scope,
    Value,
    Values,
    app_value,
    database,
    function_ref,
    generated,
    instance,
)

_WITH_ATTRIBUTES = frozenset({External, ModuleRef, Instance, ClassRef, Database, App})


@dataclass(slots=True)
class Arguments:
    """The values of a call's arguments."""

    positional: Sequence[Values]
    named: Mapping[str, Values]

    def first(self) -> Values:
        """Return the first one."""
        return self.positional[0] if self.positional else NOTHING

    def all(self) -> Iterable[Values]:
        """Yield all of them."""
        yield from self.positional
        yield from self.named.values()


@dataclass(frozen=True, slots=True)
class FrameworkCall:
    """A call of something that belongs to a web framework, or to this library."""

    scope: Scope
    node: ast.Call
    callee: Values
    arguments: Arguments


@dataclass(slots=True)
class Outcome:
    """What came of a call."""

    values: set[Value]
    targets: list[Scope]
    effects: list[Effect]
    iterated: list[Scope] = field(default_factory=list)  # generators that it runs

    def effect(self) -> Effect | None:
        """Return the one effect that stands for all: that of what is offloaded, if anything is."""
        order = {"statement": 0, "connect": 1, "transaction": 2}
        ranks = {"offloaded": 0, "wrappable": 1, "raw": 2, "unknown": 3}
        return min(
            self.effects,
            key=lambda effect: (ranks[effect.reach], order.get(effect.kind, 9), effect.driver),
            default=None,
        )


class Calling(Lookup, abc.ABC):
    """Calls values."""

    def containers(self, node: ast.AST, items: int = 0) -> Container:
        """Return the container that an expression makes; always the same one for the same expression."""
        made = self.made.get(id(node))
        if made is None:
            made = self.made[id(node)] = Container([Cell() for _ in range(items)], Cell())
        return made

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]  # those of Lookup
        self.made: dict[int, Container] = {}

    def apply(self, node: ast.Call, callee: Values, arguments: Arguments, inside: Values) -> Outcome:
        """Call each of the values that the callee may be.

        :param inside: what the callee is an attribute of, if it is one
        """
        outcome = Outcome(set(), [], [])
        wrapped = [value for value in callee if isinstance(value, FunctionRef) and value.scope.passes_on]
        for value in callee.difference(wrapped):
            self._call(value, node, arguments, outcome)
        returned = set(outcome.values)
        for value in wrapped:
            self._call(value, node, arguments, outcome)
        if len(wrapped) < len(callee):
            outcome.values = returned  # a wrapper returns what all of its functions do
        if isinstance(node.func, ast.Attribute):
            self._by_name(node, node.func, inside, arguments, outcome, unknown=not callee)
            for target in outcome.targets:
                self._bind_self(target, inside)
        if any(target.called_parameters for target in outcome.targets):
            for value in [one for values in arguments.all() for one in values if isinstance(one, FunctionRef)]:
                self._called_back(value, arguments, outcome)
        self._runs_generators(node, callee, arguments, outcome)
        return outcome

    def is_of_thread(self, value: Value) -> bool:
        """Tell whether each thread has attributes of its own of an object: a ``threading.local``."""
        if not isinstance(value, Instance):
            return value is THREAD_LOCAL
        bases = (base for one in self.classes(value.scope) for base in one.bases.values)
        return any(isinstance(base, External) and base.name in libraries.THREAD_LOCALS for base in bases)

    def attributes(self, values: Values, name: str, around: ast.expr) -> Values:
        """Return what an attribute of an expression may be."""
        found: set[Value] = set()
        alike = True  # what nothing is known of but its name is found by that, once for all values
        for value in values:
            if type(value) in _WITH_ATTRIBUTES or value is FOREIGN or value is UNSEEN:
                found |= self.attribute(value, name, around)
            elif alike:
                alike = False
                found |= self.loosely(around, name)
        return frozenset(found)

    # --- what libraries do, see ``outside.py``

    @abc.abstractmethod
    def _external(self, name: str, node: ast.Call, arguments: Arguments, outcome: Outcome) -> None:
        """Call something of a library."""

    @abc.abstractmethod
    def _by_name(
        self,
        node: ast.Call,
        func: ast.Attribute,
        inside: Values,
        arguments: Arguments,
        outcome: Outcome,
        *,
        unknown: bool,
    ) -> None:
        """Call a method of which only the name tells something."""

    @abc.abstractmethod
    def _runs_generators(self, node: ast.Call, callee: Values, arguments: Arguments, outcome: Outcome) -> None:
        """Run the generators that a library is given."""

    @abc.abstractmethod
    def _offload(self, values: Values, mode: str, line: int) -> Values:
        """Take notice that functions are offloaded."""

    # --- one value

    def _call(self, value: Value, node: ast.Call, arguments: Arguments, outcome: Outcome) -> None:
        if isinstance(value, FunctionRef):
            self._enter(value, arguments, outcome)
        elif isinstance(value, ClassRef):
            self._construct(value, arguments, outcome)
        elif isinstance(value, Instance):
            for inner in self.member(value, "__call__") or ():
                if isinstance(inner, FunctionRef):
                    self._enter(inner, arguments, outcome)
        elif isinstance(value, Method):
            self._method(value, outcome)
        elif isinstance(value, Database):
            if made := libraries.CALLED.get(value.kind):
                outcome.values.add(database(made, value.driver, value.reach))
        elif isinstance(value, External):
            self._external(value.name, node, arguments, outcome)
        elif isinstance(value, Decorating):
            given = self._offload(arguments.first(), value.mode, node.lineno)
            outcome.values |= given if arguments.positional else {value}
        elif isinstance(value, AppMethod) and value.name == "add_resource":
            outcome.values.add(
                app_value((self.scope.module.shown, node.lineno, node.col_offset), "aiohttp", "resource")
            )
        elif isinstance(value, AppMethod) or value is OPAQUE:
            if isinstance(value, AppMethod) and value.owner.framework in libraries.INJECTING:
                self.inject(value.owner.framework, arguments)
            outcome.values.add(OPAQUE)
        elif value is FOREIGN or value is UNSEEN:
            outcome.values.add(value)

    def inject(self, framework: str, arguments: Arguments) -> None:
        """Store what an application is given for its handlers, by name."""
        for name, values in arguments.named.items():
            self.keep(libraries.INJECTING[framework], f"[{name}]", values)

    def known_as(self, scope: Scope) -> str | None:
        """Return by what name the one object of a class is usually known: ``app``, ``bot``; None if it is none."""
        if any(isinstance(base, App) for base in self.outside_bases(scope)):
            return "app"
        bases = {base.name for one in self.classes(scope) for base in one.bases.values if isinstance(base, External)}
        return "bot" if any(name.endswith(("Bot", ".Client")) for name in bases) else None

    def _enter(self, value: FunctionRef, arguments: Arguments, outcome: Outcome) -> None:
        scope = value.scope
        if scope not in outcome.targets:
            outcome.targets.append(scope)
        self.bind(scope, arguments, 1 if value.bound else 0)
        outcome.values |= self.result(scope)

    def result(self, scope: Scope) -> Values:
        """Return what a call of an audited function gives, awaited if it is asynchronous."""
        if scope.is_generator:
            return frozenset((generated(scope),))
        return self.read(scope.returns)

    def bind(self, scope: Scope, arguments: Arguments, offset: int) -> None:
        """Give arguments to the parameters of a function."""
        for number, values in enumerate(arguments.positional, offset):
            if not values:
                continue
            if number < scope.positional:
                self.grow(scope.cell(scope.parameters[number].name), values)
            elif scope.var_positional:
                rest = self.containers(scope.node)
                self.grow(rest.rest, values)
                self.grow(scope.cell(scope.var_positional), frozenset((rest,)))
        names = {parameter.name for parameter in scope.parameters} if arguments.named else ()
        for name, values in arguments.named.items():
            if values and name in names:
                self.grow(scope.cell(name), values)

    def _bind_self(self, target: Scope, inside: Values) -> None:
        """Give a method the object that it is called on, which may be of a subclass."""
        if target.owner is None or not target.parameters or "staticmethod" in target.decorators:
            return
        others = [value for value in inside if isinstance(value, Instance) and value.scope is not target.owner]
        own = frozenset(value for value in others if target.owner in self.classes(value.scope))
        if own:
            self.grow(target.cell(target.parameters[0].name), own)

    def _construct(self, value: ClassRef, arguments: Arguments, outcome: Outcome) -> None:
        made = instance(value.scope)
        outcome.values.add(made)
        for name in ("__init__", "__new__", "__post_init__"):
            for inner in self.member(made, name) or ():
                if isinstance(inner, FunctionRef):
                    outcome.targets.append(inner.scope)
                    if name != "__post_init__":
                        self.bind(inner.scope, arguments, 1)
        if "__init__" not in value.scope.bound_names:
            fields = [
                statement.target.id
                for statement in value.scope.body
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
            ]
            for field, values in zip(fields, arguments.positional, strict=False):
                self.grow(value.scope.attribute(field), values)
            for field in fields:
                if field in arguments.named:
                    self.grow(value.scope.attribute(field), arguments.named[field])
        for base in self.outside_bases(value.scope):
            if isinstance(base, Database) and base.kind == "connection":
                outcome.effects.append(Effect("connect", base.driver, base.reach))

    def _method(self, value: Method, outcome: Outcome) -> None:
        owner = value.owner
        known = libraries.METHODS.get(owner.kind, {}).get(value.name)
        if known is None:
            if owner.kind in libraries.BUILDERS:
                outcome.values.add(owner)
            return
        does, gives = known
        if does:
            outcome.effects.append(Effect(does, owner.driver, owner.reach))
        if gives:
            outcome.values.add(database(gives, owner.driver, owner.reach))

    def protocol(self, value: Value, name: str, outcome: Outcome) -> None:
        """Enter what an operator calls: ``__getitem__`` and the like of an audited class."""
        for inner in (self.member(value, name) or ()) if isinstance(value, Instance) else ():
            if isinstance(inner, FunctionRef):
                self._enter(inner, Arguments((), {}), outcome)
                if inner.scope.is_lazy:
                    outcome.iterated.append(inner.scope)

    def _iterate(self, value: Value, node: ast.expr, outcome: Outcome) -> None:
        if isinstance(value, Instance):
            iterating = Outcome(set(), [], [])
            self.protocol(value, "__iter__", iterating)
            outcome.targets += iterating.targets
            outcome.iterated += iterating.iterated
            for iterator in iterating.values:
                self.protocol(iterator, "__next__", outcome)
        if isinstance(value, Generated) and value.scope.is_lazy:
            outcome.iterated.append(value.scope)
        does = libraries.ITERATED.get(value.kind) if isinstance(value, Database) else None
        # A call that fetches is noted by itself.
        if isinstance(value, Database) and does and (does == "statement" or not isinstance(node, ast.Call)):
            outcome.effects.append(Effect(does, value.driver, value.reach))

    def _super(self) -> Values:
        scope: Scope | None = self.scope
        while scope is not None and scope.owner is None:
            scope = scope.parent
        if scope is None or scope.owner is None:
            return NOTHING
        self.classes(scope.owner)  # looked at again when the bases grow
        bases = scope.owner.bases.values
        above = {instance(base.scope) for base in bases if isinstance(base, ClassRef)}
        outside = {self.made_by(base, scope) for base in bases if isinstance(base, External)}
        return frozenset({*above, *(base for base in outside if base is not None)})

    def elements(self, value: Value) -> Values:
        """Return what iterating over a value gives."""
        if isinstance(value, Generated):
            return self.read(value.scope.yields)
        if isinstance(value, Instance):
            refs = [ref for ref in self.member(value, "__iter__") or () if isinstance(ref, FunctionRef)]
            return frozenset(one for ref in refs for one in self.read(ref.scope.yields))
        if isinstance(value, Database) and value.kind == "peewee_query":
            return frozenset((database("peewee_model", value.driver, value.reach),))
        return super().elements(value)

    def _called_back(self, value: FunctionRef, arguments: Arguments, outcome: Outcome) -> None:
        """Enter a function that is given to one that calls it."""
        for target in list(outcome.targets):
            if not target.called_parameters:
                continue
            offset = 1 if target.owner is not None and "staticmethod" not in target.decorators else 0
            for number, values in enumerate(arguments.positional, offset):
                if value not in values or number >= target.positional:
                    continue
                if target.parameters[number].name in target.called_parameters:
                    self._enter(value, Arguments((), {}), outcome)
            for name, values in arguments.named.items():
                if value in values and name in target.called_parameters:
                    self._enter(value, Arguments((), {}), outcome)

    def entered(self, value: Value) -> Values:
        """Return what ``with value as x`` gives to x."""
        if isinstance(value, Generated):
            return self.read(value.scope.yields)
        if isinstance(value, Database):
            return frozenset((database(libraries.ENTERED.get(value.kind, value.kind), value.driver, value.reach),))
        if isinstance(value, Instance):
            for name in ("__enter__", "__aenter__"):
                for inner in self.member(value, name) or ():
                    if isinstance(inner, FunctionRef):
                        return self.result(inner.scope) or frozenset((value,))
        return frozenset((value,))


def unbound(scope: Scope) -> Values:
    """Return a function as its name gives it."""
    return frozenset((function_ref(scope, False),))


def enters(target: Scope, *, awaited: bool) -> bool:
    """Tell whether calling a function runs it here and now: a decorator may have made it something to wait for."""
    if target.is_async:
        return True
    if target.is_lazy:
        return False
    return not (target.offload or "hands" in target.decorators or (awaited and "unknown" in target.decorators))
