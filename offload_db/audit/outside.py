"""What a call of a library's function does: what it makes, blocks on, runs and returns.

Stands on ``calling.py``; ``libraries.py`` has the tables.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from . import libraries
from .calling import Arguments, Calling, Outcome
from .lookup import last_name
from .model import (
    FOREIGN,
    LOCK,
    NOTHING,
    OPAQUE,
    THREAD_LOCAL,
    UNSEEN,
    ClassRef,
    Container,
    Database,
    Effect,
    External,
    FunctionRef,
    Generated,
    Instance,
    Method,
    Offload,
    Value,
    Values,
    app_value,
    database,
    decorating,
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
     "collections.OrderedDict", "contextvars.ContextVar", "weakref.WeakValueDictionary"}
)  # fmt: skip
_ITERATING = frozenset(
    {"builtins.list", "builtins.tuple", "builtins.set", "builtins.sorted", "builtins.len", "builtins.sum",
     "builtins.any", "builtins.all", "builtins.dict"}
)  # fmt: skip
_CALLING = frozenset(
    {"builtins.map", "builtins.filter", "builtins.sorted", "builtins.min", "builtins.max", "functools.reduce"}
)
_OTHER_ENGINE = re.compile("sqlite|postgres|cockroachdb|oracle|mssql|duckdb|redshift|snowflake|clickhouse")
_MOST_NAMES = 4
_HANDING = frozenset({"run_in_threadpool", "to_thread", "run_sync", "run_in_executor", "submit", "sync_to_async"})
_KEEPING = frozenset({"iter", "closing", "nullcontext", "iterate_in_threadpool", "isinstance", "hasattr"})
_STORING = frozenset({"append", "appendleft", "add", "put", "put_nowait", "insert", "extend", "set"})
_TAKING = frozenset({"get", "pop", "popleft", "popitem", "get_nowait", "values", "setdefault", "copy"})


class Outside(Calling):
    """Calls what is not audited."""

    # Places of calls that are looked at as if they were this library's, and what becomes of them.
    converted: Mapping[tuple[str, int, int], Any] = MappingProxyType({})

    def _external(self, name: str, node: ast.Call, arguments: Arguments, outcome: Outcome) -> None:
        first = arguments.first()
        made = libraries.maker(name)
        if made and _is_awaitable(arguments):
            outcome.values.add(FOREIGN)
        elif made:
            kind, driver, reach, does = made
            given = {value.reach for values in arguments.all() for value in values if isinstance(value, Database)}
            here = (self.scope.module.shown, node.lineno, node.col_offset)
            if "offloaded" in given or here in self.converted:
                reach = "offloaded"
            if self._is_of_other_database(kind, node, arguments):
                outcome.values.add(FOREIGN)
                return
            outcome.values.add(database(kind, driver, reach))
            if reach == "wrappable":
                # Making the pool connects only for `mincached`, and says nothing of what is done with it.
                does, reach = does if _opens(node) else None, "unknown"
            if does:
                outcome.effects.append(Effect(does, driver, reach))
        elif name in libraries.PANDAS:
            outcome.effects.append(self._reads(arguments))
            outcome.values.add(OPAQUE)
        elif name in libraries.APPS:
            where = (self.scope.module.shown, node.lineno, node.col_offset)
            outcome.values.add(app_value(where, *libraries.APPS[name]))
            if libraries.APPS[name][0] in libraries.INJECTING:
                self.inject(libraries.APPS[name][0], arguments)
        elif name in libraries.LOCKS:
            outcome.values.add(LOCK)
        elif name in libraries.THREAD_LOCALS:
            outcome.values.add(THREAD_LOCAL)
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

    def _is_of_other_database(self, kind: str, node: ast.Call, arguments: Arguments) -> bool:
        """Tell whether a pool, an engine or a session is known to belong to another database than MySQL."""
        first = arguments.first()
        if kind == "pool":
            return of_other_driver(first or arguments.named.get("creator", NOTHING))
        if kind == "engine":
            return bool(node.args) and _OTHER_ENGINE.match(self._beginning(node.args[0])) is not None
        bound = first | arguments.named.get("bind", NOTHING) if kind in ("session", "sessionmaker") else NOTHING
        return FOREIGN in bound and not any(isinstance(value, Database) for value in bound)

    def _beginning(self, node: ast.expr, depth: int = 0) -> str:
        """Return how the text of an engine's URL begins, where that stands in the source."""
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.JoinedStr):
            return self._beginning(node.values[0], depth) if node.values else ""
        if isinstance(node, ast.BinOp):
            return self._beginning(node.left, depth)
        if isinstance(node, ast.Call) and last_name(node.func) in ("create", "make_url") and node.args:
            return self._beginning(node.args[0], depth)
        where = self.binding(node.id) if isinstance(node, ast.Name) and depth < _MOST_NAMES else None
        given = where.assigned.get(node.id, ()) if where is not None and isinstance(node, ast.Name) else ()
        return self._beginning(given[0], depth + 1) if len(given) == 1 else ""

    def _offload(self, values: Values, mode: str, line: int) -> Values:
        for value in values:
            if isinstance(value, FunctionRef) and value.scope.offload is None:
                value.scope.offload = Offload(mode, line)
        return values

    def _reads(self, arguments: Arguments) -> Effect:
        """Return what reading or writing a data frame does; another database's connection is not looked at."""
        given = {value for values in arguments.all() for value in values}
        if FOREIGN in given and not any(isinstance(value, Database) for value in given):
            return Effect("elsewhere", "pandas", "raw")
        return Effect("statement", "pandas", self._reach(arguments))

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
            if any(isinstance(value, External) and value.name == "offload_db.offload" for value in first):
                outcome.values.add(decorating(_mode(node)))
            else:
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
                self.protocol(value, "__next__" if name == "builtins.next" else "__anext__", outcome)
        elif name == "dataclasses.field":
            inner = Outcome(set(), [], [])
            for value in arguments.named.get("default_factory", NOTHING):
                self._call(value, node, Arguments((), {}), inner)
            outcome.values |= inner.values
        elif name in _COLLECTIONS:
            made = self.containers(node)
            for value in first:
                self.grow(made.rest, self.elements(value))
            outcome.values.add(made)
        else:
            unseen = UNSEEN if self.project.is_own(name, self.scope.module) else OPAQUE
            outcome.values.add(FOREIGN if libraries.is_foreign(name) else unseen)
        if name in _ITERATING:
            for value in first:
                if name == "builtins.len" and isinstance(value, Instance):
                    self.protocol(value, "__len__", outcome)
                else:
                    self._iterate(value, node.args[0], outcome)
        if name in _CALLING:
            elements: set[Value] = set()
            for values in arguments.positional[1:]:
                for value in values:
                    elements |= self.elements(value)
            for value in {*first, *arguments.named.get("key", NOTHING)}:
                self._call(value, node, Arguments([frozenset(elements)], {}), outcome)

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
        elif name == "__new__":  # super().__new__(cls)
            outcome.values |= {instance(value.scope) for value in arguments.first() if isinstance(value, ClassRef)}
        elif name in ("get", "pop") and node.args and isinstance(key := node.args[0], ast.Constant):
            outcome.values |= self.loosely(func.value, str(key.value))  # g.pop("db", None)
        elif name == "to_sql" and not any(isinstance(value, (Instance, ClassRef)) for value in inside):
            if "pandas" in self.scope.module.libraries or self._reach(arguments) != "raw":
                outcome.effects.append(self._reads(arguments))
        elif name in ("create_all", "drop_all"):
            for value in [value for values in arguments.all() for value in values]:
                if isinstance(value, Database) and value.kind in ("engine", "sa_connection"):
                    outcome.effects.append(Effect("statement", value.driver, value.reach))
        for value in inside:
            if isinstance(value, Container):
                self._container(value, name, arguments, outcome)
        if name in _CURSOR_METHODS and _CURSOR_NAME.search(last_name(func.value)):
            # Nothing is known of the object but its name, in a file that uses a blocking driver and no other; or it
            # comes from a file of the application that is not among those that are read.
            used = self.scope.module.libraries
            seems = unknown and not inside and used & libraries.SYNC_DRIVERS
            if (seems or inside == {UNSEEN}) and not used & libraries.OTHER_DRIVERS:
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
                else:
                    outcome.values |= self.handed_out(value)
            if given:
                outcome.values |= inner.values
                return

    def handed_out(self, value: Value) -> Values:
        """Return what a function of a library gives to somebody else who calls it."""
        inner = Outcome(set(), [], [])
        if isinstance(value, Method):
            self._method(value, inner)
        elif isinstance(value, External) and (made := libraries.maker(value.name)):
            inner.values.add(database(*made[:3]))
        return frozenset(inner.values)

    def _runs_generators(self, node: ast.Call, callee: Values, arguments: Arguments, outcome: Outcome) -> None:
        given = [one.scope for values in arguments.all() for one in values if type(one) is Generated]
        if given and not _keeps(node, callee):
            outcome.iterated += [scope for scope in given if scope.is_lazy]


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
        if keyword.arg == "mode":
            return str(keyword.value.value) if isinstance(keyword.value, ast.Constant) else "unknown"
    return "bridge"
