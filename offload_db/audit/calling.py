"""What a call does: which audited functions it enters and with what, what a library's function blocks on and returns.

Stands on ``lookup.py``; ``interpret.py`` evaluates the arguments.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from . import libraries
from .lookup import Lookup, last_name
from .model import (
    FOREIGN,
    LOCK,
    NOTHING,
    OPAQUE,
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
    Offload,
    Scope,
    Value,
    Values,
    app_value,
    database,
    decorating,
    function_ref,
    generated,
    instance,
)

_CURSOR_NAME = re.compile(r"(^|_)(cur|curs|cursor|conn|cnx|connection)\d?$")
_CURSOR_METHODS = {
    "execute": "statement", "executemany": "statement", "callproc": "statement", "fetchone": "fetch",
    "fetchmany": "fetch", "fetchall": "fetch", "commit": "transaction", "rollback": "transaction",
}  # fmt: skip
_SAME = frozenset(
    {"builtins.staticmethod", "builtins.classmethod", "builtins.reversed", "builtins.iter", "contextlib.closing",
     "contextlib.contextmanager", "contextlib.asynccontextmanager", "contextlib.nullcontext", "copy.copy",
     "functools.lru_cache", "functools.cache", "asyncio.shield", "asyncio.wait_for", "asyncio.create_task",
     "asyncio.ensure_future", "inspect.unwrap", "sqlalchemy.text"}
)  # fmt: skip
_COLLECTIONS = frozenset(
    {"builtins.list", "builtins.tuple", "builtins.set", "builtins.sorted", "builtins.frozenset", "queue.Queue",
     "queue.LifoQueue", "queue.SimpleQueue", "collections.deque", "builtins.dict", "collections.defaultdict",
     "collections.OrderedDict", "weakref.WeakValueDictionary"}
)  # fmt: skip
_ITERATING = frozenset(
    {"builtins.list", "builtins.tuple", "builtins.set", "builtins.sorted", "builtins.len", "builtins.sum",
     "builtins.any", "builtins.all", "builtins.dict"}
)  # fmt: skip
_CALLING = frozenset(
    {"builtins.map", "builtins.filter", "builtins.sorted", "builtins.min", "builtins.max", "functools.reduce"}
)
_HANDING = frozenset({"run_in_threadpool", "to_thread", "run_sync", "run_in_executor", "submit", "sync_to_async"})
_KEEPING = frozenset({"iter", "closing", "nullcontext", "iterate_in_threadpool", "isinstance", "hasattr"})
_STORING = frozenset({"append", "appendleft", "add", "put", "put_nowait", "insert", "extend"})
_TAKING = frozenset({"get", "pop", "popleft", "popitem", "get_nowait", "values", "setdefault", "copy"})


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


class Calling(Lookup):
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
        for value in callee:
            self._call(value, node, arguments, outcome)
        if isinstance(node.func, ast.Attribute):
            self._by_name(node, node.func, inside, arguments, outcome, unknown=not callee)
            for target in outcome.targets:
                self._bind_self(target, inside)
        for values in arguments.all():
            for value in values:
                if isinstance(value, FunctionRef):
                    self._called_back(value, node, arguments, outcome)
                elif isinstance(value, Generated) and value.scope.is_lazy and not _keeps(node, callee):
                    outcome.iterated.append(value.scope)
        return outcome

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
            outcome.values |= self._offload(arguments.first(), value.mode, node.lineno)
        elif isinstance(value, AppMethod) and value.name == "add_resource":
            outcome.values.add(
                app_value((self.scope.module.shown, node.lineno, node.col_offset), "aiohttp", "resource")
            )
        elif isinstance(value, AppMethod) or value is OPAQUE:
            outcome.values.add(OPAQUE)
        elif value is FOREIGN:
            outcome.values.add(FOREIGN)

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
        names = {parameter.name for parameter in scope.parameters}
        for name, values in arguments.named.items():
            if values and name in names:
                self.grow(scope.cell(name), values)

    def _bind_self(self, target: Scope, inside: Values) -> None:
        """Give a method the object that it is called on, which may be of a subclass."""
        if target.owner is None or not target.parameters or "staticmethod" in target.decorators:
            return
        own = frozenset(
            value for value in inside if isinstance(value, Instance) and target.owner in self.classes(value.scope)
        )
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

    # --- what comes from outside

    def _external(self, name: str, node: ast.Call, arguments: Arguments, outcome: Outcome) -> None:
        first = arguments.first()
        if _is_awaitable(arguments) and libraries.maker(name):
            outcome.values.add(FOREIGN)
        elif made := libraries.maker(name):
            kind, driver, reach, does = made
            given = {value.reach for values in arguments.all() for value in values if isinstance(value, Database)}
            if "offloaded" in given:
                reach = "offloaded"
            if kind == "pool" and of_other_driver(first or arguments.named.get("creator", NOTHING)):
                outcome.values.add(FOREIGN)
                return
            outcome.values.add(database(kind, driver, reach))
            if reach == "wrappable":
                # Making the pool connects only for `mincached`, and says nothing of what is done with it.
                does, reach = does if _opens(node) else None, "unknown"
            if does:
                outcome.effects.append(Effect(does, driver, reach))
        elif name in libraries.PANDAS:
            outcome.effects.append(Effect("statement", "pandas", self._reach(arguments)))
            outcome.values.add(OPAQUE)
        elif name in libraries.APPS:
            where = (self.scope.module.shown, node.lineno, node.col_offset)
            outcome.values.add(app_value(where, *libraries.APPS[name]))
        elif name in libraries.LOCKS:
            outcome.values.add(LOCK)
        elif name == "offload_db.offload":
            outcome.values |= self._offload(first, _mode(node), node.lineno) if node.args else {decorating(_mode(node))}
        elif name == "offload_db.blocking":
            for value in first:
                if isinstance(value, FunctionRef):
                    value.scope.hops = True
            outcome.values |= {value for value in first if isinstance(value, FunctionRef)} or {OPAQUE}
        else:
            if effect := libraries.blocks_elsewhere(name):
                outcome.effects.append(effect)
            self._builtin(name, node, arguments, outcome)

    def _offload(self, values: Values, mode: str, line: int) -> Values:
        for value in values:
            if isinstance(value, FunctionRef) and value.scope.offload is None:
                value.scope.offload = Offload(mode, line)
        return values

    @staticmethod
    def _reach(arguments: Arguments) -> str:
        given = {value.reach for values in arguments.all() for value in values if isinstance(value, Database)}
        return next((reach for reach in ("offloaded", "wrappable") if reach in given), "raw")

    def _builtin(self, name: str, node: ast.Call, arguments: Arguments, outcome: Outcome) -> None:
        first = arguments.first()
        if name in _SAME or name.endswith(".OffloadMiddleware"):
            outcome.values |= first
        elif name == "typing.cast":
            outcome.values |= arguments.positional[1] if len(arguments.positional) > 1 else NOTHING
        elif name == "functools.partial":
            rest = Arguments(arguments.positional[1:], arguments.named)
            for value in first:
                if isinstance(value, FunctionRef):
                    self.bind(value.scope, rest, 1 if value.bound else 0)
            outcome.values |= first
        elif name == "builtins.super":
            outcome.values |= self._super()
        elif name == "builtins.getattr" and len(node.args) > 1:
            key = node.args[1]
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                for value in first:
                    outcome.values |= self.attribute(value, key.value, node.args[0])
                if not first:
                    outcome.values |= self.loosely(node.args[0], key.value)
        elif name in ("builtins.next", "builtins.anext"):
            for value in first:
                outcome.values |= self.elements(value)
        elif name in _COLLECTIONS:
            made = self.containers(node)
            for value in first:
                self.grow(made.rest, self.elements(value))
            outcome.values.add(made)
        else:
            outcome.values.add(FOREIGN if libraries.is_foreign(name) else OPAQUE)
        if name in _ITERATING:
            for value in first:
                self._iterate(value, node.args[0], outcome)
        if name in _CALLING:
            elements: set[Value] = set()
            for values in arguments.positional[1:]:
                for value in values:
                    elements |= self.elements(value)
            for value in {*first, *arguments.named.get("key", NOTHING)}:
                self._call(value, node, Arguments([frozenset(elements)], {}), outcome)

    def _iterate(self, value: Value, node: ast.expr, outcome: Outcome) -> None:
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
        if isinstance(value, Database) and value.kind == "peewee_query":
            return frozenset((database("peewee_model", value.driver, value.reach),))
        return super().elements(value)

    # --- what only its name tells

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
        name = func.attr
        if name in ("enter_context", "enter_async_context"):
            for value in arguments.first():
                outcome.values |= self.entered(value)
        elif name in _HANDING:
            self._handed(arguments, outcome)
        elif name in ("get", "pop") and node.args and isinstance(key := node.args[0], ast.Constant):
            outcome.values |= self.loosely(func.value, str(key.value))  # g.pop("db", None)
        elif name == "to_sql" and not any(isinstance(value, (Instance, ClassRef)) for value in inside):
            if "pandas" in self.scope.module.libraries or self._reach(arguments) != "raw":
                outcome.effects.append(Effect("statement", "pandas", self._reach(arguments)))
        elif name in ("create_all", "drop_all"):
            for value in [value for values in arguments.all() for value in values]:
                if isinstance(value, Database) and value.kind in ("engine", "sa_connection"):
                    outcome.effects.append(Effect("statement", value.driver, value.reach))
        for value in inside:
            if isinstance(value, Container):
                self._container(value, name, arguments, outcome)
        if unknown and not inside and name in _CURSOR_METHODS and _CURSOR_NAME.search(last_name(func.value)):
            # Nothing is known of the object but its name, in a file that uses a blocking driver and no other.
            used = self.scope.module.libraries
            if used & libraries.SYNC_DRIVERS and not used & libraries.OTHER_DRIVERS:
                outcome.effects.append(Effect(_CURSOR_METHODS[name], "unknown", "unknown"))

    def _container(self, value: Container, name: str, arguments: Arguments, outcome: Outcome) -> None:
        if name in _STORING:
            for values in arguments.positional:
                self.grow(value.rest, values)
        elif name in _TAKING:
            outcome.values |= self.elements(value)
            for values in arguments.positional[1:]:
                self.grow(value.rest, values)
        elif name == "items":
            outcome.values.add(value)

    def _handed(self, arguments: Arguments, outcome: Outcome) -> None:
        """Learn what a function returns that runs in a thread: it does not block here, but its result is used here."""
        for number, values in enumerate(arguments.positional):
            given = [value for value in values if isinstance(value, (FunctionRef, Method, External))]
            rest = Arguments(arguments.positional[number + 1 :], arguments.named)
            inner = Outcome(set(), [], [])
            for value in given:
                if isinstance(value, FunctionRef):
                    self._enter(value, rest, inner)
                elif isinstance(value, Method):
                    self._method(value, inner)
                elif made := libraries.maker(value.name):
                    inner.values.add(database(*made[:3]))
            if given:
                outcome.values |= inner.values
                return

    def _called_back(self, value: FunctionRef, node: ast.Call, arguments: Arguments, outcome: Outcome) -> None:
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


def _keeps(node: ast.Call, callee: Values) -> bool:
    """Tell whether a call takes a generator without running it: an audited function, a response, a thread."""
    name = last_name(node.func)
    return (
        sends_later(node)
        or name in _KEEPING
        or name in _HANDING
        or name in _STORING
        or any(isinstance(value, (FunctionRef, ClassRef, Instance)) for value in callee)
    )


def _opens(node: ast.Call) -> bool:
    """Tell whether ``PooledDB(…)`` may open connections: ``mincached`` is its second argument."""
    spread = any(keyword.arg is None for keyword in node.keywords)
    return len(node.args) > 1 or spread or any(keyword.arg == "mincached" for keyword in node.keywords)


def of_other_driver(creator: Values) -> bool:
    """Tell whether a pool is known to connect to another database."""
    names = [value.name for value in creator if isinstance(value, External)]
    return bool(names) and all(libraries.is_foreign(name) for name in names)


def _is_awaitable(arguments: Arguments) -> bool:
    """Tell whether a session is told to be an asynchronous one: ``sessionmaker(class_=AsyncSession)``."""
    given = {value.name for values in arguments.all() for value in values if isinstance(value, External)}
    return any(libraries.is_foreign(name) for name in given)


def sends_later(node: ast.Call) -> bool:
    """Tell whether a call makes a response, whose body the framework iterates over in a thread."""
    return last_name(node.func).endswith("Response")


def _mode(node: ast.Call) -> str:
    for keyword in node.keywords:
        if keyword.arg == "mode" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    return "bridge"


def unbound(scope: Scope) -> Values:
    """Return a function as its name gives it."""
    return frozenset((function_ref(scope, False),))
