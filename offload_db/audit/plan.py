"""What a migration changes, and what it leaves alone and why. Decides; ``edits.py`` changes the text."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from .context import Context
from .libraries import METHODS
from .model import Call, ClassRef, Database, External, Module, ModuleRef, Scope, Values
from .outside import of_other_driver
from .rules import RULES
from .texts import source_of

_POOLS = frozenset({"dbutils.pooled_db.PooledDB", "DBUtils.PooledDB.PooledDB"})
_DEF = (
    "it is a def: FastAPI, Starlette and Quart run those in threads; under Sanic, aiohttp and Tornado make it an async "
    "def first"
)


class PlanError(ValueError):
    """Raised when a migration is asked for something that is not there."""


@dataclass(frozen=True, slots=True)
class Decorate:
    """A function to decorate."""

    scope: Scope
    mode: str
    why: str


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A handler that stays as it is, and why."""

    scope: Scope
    why: str


@dataclass(slots=True)
class Plan:
    """The changes, by file."""

    decorate: list[Decorate] = field(default_factory=list)
    wrap: list[tuple[Module, ast.Call]] = field(default_factory=list)
    left: list[LeftAlone] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def make(context: Context, only: Sequence[str] = ()) -> Plan:
    """Decide what to change.

    :param only: the routes to migrate, each as ``METHOD:/path``; all if there is none
    :raises PlanError: if one of them is not there
    """
    plan = Plan()
    chosen = _chosen(context, only) if only else None
    for scope in sorted(context.asynchronous, key=lambda s: (s.module.shown, s.line)):
        decision = _decide(context, scope, chosen)
        if isinstance(decision, Decorate):
            plan.decorate.append(decision)
        elif decision is not None:
            plan.left.append(decision)
    for route in context.graph.routes:
        if not route.handler.is_async and all(left.scope is not route.handler for left in plan.left):
            plan.left.append(LeftAlone(route.handler, _DEF))
    if plan.decorate or any(scope.is_async for scope in context.covered):
        _wrap(context, plan)
    return plan


def _decide(context: Context, scope: Scope, chosen: set[Scope] | None) -> Decorate | LeftAlone | None:
    is_handler = scope in context.graph.of_handler
    sites = context.sites_of(scope)
    if scope in context.ineffective:
        return LeftAlone(scope, f"its @offload has no effect: {context.ineffective[scope][1]}")
    if not sites:
        return LeftAlone(scope, _no_query(context, scope)) if is_handler else None
    if scope in context.covered:
        return LeftAlone(scope, "it is offloaded already")
    if chosen is not None and scope not in chosen:
        return LeftAlone(scope, "--only names other routes") if is_handler else None
    if all(_ignored(call) for call in sites):
        return LeftAlone(scope, "comments in it switch its findings off")
    if not _can_import(scope.module):
        return LeftAlone(scope, "its module uses the name offload_db for something else")
    return _with_mode(context, scope)


def _no_query(context: Context, scope: Scope) -> str:
    others = [
        target.qualname
        for call in scope.calls
        for target in call.targets
        if target.is_async and context.blocks_in_task(target)
    ]
    if others:
        return f"it queries only through {', '.join(dict.fromkeys(others))}, which is decorated itself"
    return "it makes no blocking database call"


def _with_mode(context: Context, scope: Scope) -> Decorate | LeftAlone:
    advice = context.advice(scope)
    if advice.mode == "thread":
        return Decorate(scope, "thread", advice.why)
    if advice.blocker is None and advice.mode != "neither":
        return Decorate(scope, "bridge", "")
    if advice.mode == "bridge":
        assert advice.blocker is not None
        why = f'{advice.blocker.text}() goes on blocking: {advice.why}, so that mode="thread" does not fit'
        return Decorate(scope, "bridge", why)
    return LeftAlone(scope, context.change(scope) or "")


def _ignored(call: Call) -> bool:
    codes = {rule.code for rule in RULES if rule.code.startswith("ODB1")}
    lines = range(call.node.lineno, (call.node.end_lineno or call.node.lineno) + 1)
    return any(codes & call.scope.module.ignores.get(line, frozenset()) for line in lines)


def offload_name(module: Module) -> str | None:
    """Return how a module calls the decorator already; None if it does not import it."""
    for name in sorted(module.scope.bound_names):
        for value in module.scope.cell(name).values:
            if isinstance(value, External) and value.name == "offload_db.offload":
                return name
    package = package_name(module)
    return f"{package}.offload" if package is not None else None


def package_name(module: Module) -> str | None:
    """Return the name under which a module imports the package; None if it does not."""
    for name in sorted(module.scope.bound_names):
        for value in module.scope.cell(name).values:
            if isinstance(value, External) and value.name == "offload_db":
                return name
    return None


def _can_import(module: Module) -> bool:
    return offload_name(module) is not None or "offload_db" not in module.scope.bound_names


# --- one route


def _chosen(context: Context, only: Iterable[str]) -> set[Scope]:
    chosen: set[Scope] = set()
    names = {f"{route.method}:{route.path}": route.handler for route in context.graph.routes}
    handlers: dict[str, list[Scope]] = {}
    for route in context.graph.routes:
        handlers.setdefault(f"{route.method}:{route.path}", []).append(route.handler)
    for wanted in only:
        method, colon, path = wanted.strip().partition(":")
        key = f"{method.upper()}:{path.strip()}"
        if not colon or key not in handlers:
            close = difflib.get_close_matches(key, names, n=3, cutoff=0.5) or sorted(names)[:3]
            raise PlanError(f"--only {wanted}: there is no such route; similar ones are {', '.join(close) or 'none'}")
        for handler in handlers[key]:
            chosen |= _in_the_course_of(handler)
    return chosen


def _in_the_course_of(handler: Scope) -> set[Scope]:
    """Return the handler, and what it awaits, starts, hands on or depends on."""
    found = {handler}
    waiting = [handler]
    while waiting:
        one = waiting.pop()
        for target in [*one.dependencies, *(target for call in one.calls for target in call.targets)]:
            if target not in found:
                found.add(target)
                waiting.append(target)
    return found


# --- pools


def _wrap(context: Context, plan: Plan) -> None:
    calls = context.interpreter.framework_calls.values()
    wrapping = [(call, argument) for call in calls if _is_wrapper(call.callee) for argument in _arguments(call.node)]
    inside = {id(argument) for _, argument in wrapping}
    wrapped = {place for call, argument in wrapping for place in _places(context, argument, call.scope)}
    for call in calls:
        made = _makes_pool(context, call.callee)
        creator = call.arguments.first() or call.arguments.named.get("creator", frozenset())
        if made is None or id(call.node) in inside or of_other_driver(creator):
            continue
        module = call.scope.module
        target = _target(call.node, module)
        if target is not None and (module, _last(target)) in wrapped:
            continue
        where = f"{module.shown}:{call.node.lineno}"
        if isinstance(made, Scope) and (extra := _own_methods(context, made)):
            plan.notes.append(f"{where}: the pool is not wrapped: {made.name} has methods of its own ({extra})")
        elif package_name(module) is None and "offload_db" in module.scope.bound_names:
            plan.notes.append(f"{where}: the pool is not wrapped: offload_db is another name")
        else:
            plan.wrap.append((module, call.node))
    for scope in context.graph.scopes:
        for made_call in scope.calls:
            values = [v for v in scope.module.scope.cell(made_call.text).values if isinstance(v, External)]
            if any(value.name.endswith(".PersistentDB") for value in values):
                where = f"{scope.module.shown}:{made_call.line}"
                plan.notes.append(f"{where}: {made_call.text} is no PooledDB, and is not wrapped")


def _is_wrapper(callee: Values) -> bool:
    return any(isinstance(value, External) and value.name == "offload_db.OffloadPool" for value in callee)


def _arguments(node: ast.Call) -> list[ast.expr]:
    return [*node.args, *(keyword.value for keyword in node.keywords)]


def _makes_pool(context: Context, callee: Values) -> External | Scope | None:
    """Return what makes a pool: the library's class, or the audited class that is derived from it."""
    for value in callee:
        if isinstance(value, External) and value.name in _POOLS:
            return value
        if isinstance(value, ClassRef):
            for base in context.interpreter.outside_bases(value.scope):
                if isinstance(base, Database) and base.kind == "pool" and base.reach == "wrappable":
                    return value.scope
    return None


def _own_methods(context: Context, scope: Scope) -> str:
    """Return the methods that callers of a derived pool could miss in an ``OffloadPool``."""
    known = {"__init__", *METHODS["pool"]}
    return ", ".join(
        sorted(
            name
            for one in context.interpreter.classes(scope)
            for name in one.bound_names
            if name not in known and not name.startswith("_")
        )
    )


def _places(context: Context, node: ast.expr, scope: Scope) -> Iterator[tuple[Module, str]]:
    """Yield the modules and names under which a pool that is wrapped was made."""
    module = scope.module
    yield module, _last(node)
    if isinstance(node, ast.Name):
        for statement in module.tree.body:
            if isinstance(statement, ast.ImportFrom) and (source := source_of(statement, module, context.project)):
                yield from ((source, a.name) for a in statement.names if (a.asname or a.name) == node.id)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        for value in module.scope.cell(node.value.id).values:
            if isinstance(value, ModuleRef):
                yield value.module, node.attr


def _target(node: ast.Call, module: Module) -> ast.expr | None:
    for statement in ast.walk(module.tree):
        if isinstance(statement, ast.Assign) and statement.value is node and len(statement.targets) == 1:
            return statement.targets[0]
        if isinstance(statement, ast.AnnAssign) and statement.value is node:
            return statement.target
    return None


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
