"""What a migration changes, and what it leaves alone and why. Decides; ``edits.py`` changes the text."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .context import Context
from .model import Call, External, Module, Scope
from .rules import RULES

_POOLS = frozenset({"dbutils.pooled_db.PooledDB", "DBUtils.PooledDB.PooledDB"})
_LOOP_MODULES = frozenset({"asyncio", "anyio", "trio", "create_task", "get_running_loop", "get_event_loop"})


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
            plan.left.append(LeftAlone(route.handler, "it is a def, which its framework runs in a thread"))
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
    return _with_mode(context, scope, sites)


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


def _with_mode(context: Context, scope: Scope, sites: list[Call]) -> Decorate | LeftAlone:
    whole = not scope.awaits and not scope.is_generator and not _uses_loop(scope)
    lock = holds_lock(context, scope)
    if lock is not None:
        if not whole:
            return LeftAlone(
                scope,
                f"the lock {lock} is held across a database call, and it awaits: in a bridge the loop could stop for "
                "good. Release the lock before the call, or drop it",
            )
        return Decorate(scope, "thread", f"the lock {lock} is held across a database call")
    elsewhere = context.blocks_elsewhere(scope)
    if elsewhere is None:
        return Decorate(scope, "bridge", "")
    if whole:
        return Decorate(scope, "thread", f"{elsewhere.text}() blocks, too, and a bridge does not free it")
    if any(_freed(context, call) for call in sites):
        return Decorate(
            scope, "bridge", f'{elsewhere.text}() goes on blocking: it awaits, so that mode="thread" does not fit'
        )
    return LeftAlone(
        scope,
        f'{elsewhere.text}() uses what a bridge does not free, and it awaits, so that mode="thread" does not fit: take '
        "a connection from a wrapped pool, offload_db.connect or offload_db.contrib.sqlalchemy.create_engine",
    )


def _freed(context: Context, call: Call) -> bool:
    chain = [call, *context.graph.below(call)]
    return any(step.effect is not None and step.effect.reach != "raw" for step in chain)


def _uses_loop(scope: Scope) -> bool:
    return any(
        isinstance(node, ast.Name) and node.id in _LOOP_MODULES
        for statement in scope.body
        for node in ast.walk(statement)
    )


def holds_lock(context: Context, scope: Scope) -> str | None:
    """Return the lock that a function, or a helper below it, holds across a database call."""
    seen = {scope}
    waiting = [scope]
    while waiting:
        for call in waiting.pop().calls:
            if call.passed:
                continue
            if call.locks and context.graph.blocks(call):
                return call.locks[0].text
            for target in call.targets:
                if not target.is_async and target not in seen:
                    seen.add(target)
                    waiting.append(target)
    return None


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
    wrapped = {
        _last(argument)
        for call in calls
        if any(isinstance(value, External) and value.name == "offload_db.OffloadPool" for value in call.callee)
        for argument in (*call.node.args, *(keyword.value for keyword in call.node.keywords))
    }
    inside = {
        id(argument)
        for call in calls
        if any(isinstance(value, External) and value.name == "offload_db.OffloadPool" for value in call.callee)
        for argument in (*call.node.args, *(keyword.value for keyword in call.node.keywords))
    }
    for call in calls:
        if not any(isinstance(value, External) and value.name in _POOLS for value in call.callee):
            continue
        module = call.scope.module
        target = _target(call.node, module)
        if id(call.node) in inside or (target is not None and _last(target) in wrapped):
            continue
        if package_name(module) is None and "offload_db" in module.scope.bound_names:
            plan.notes.append(f"{module.shown}:{call.node.lineno}: the pool is not wrapped: offload_db is another name")
        else:
            plan.wrap.append((module, call.node))
    for scope in context.graph.scopes:
        for made in scope.calls:
            values = [v for v in scope.module.scope.cell(made.text).values if isinstance(v, External)]
            if any(value.name.endswith(".PersistentDB") for value in values):
                plan.notes.append(f"{scope.module.shown}:{made.line}: {made.text} is no PooledDB, and is not wrapped")


def _target(node: ast.Call, module: Module) -> ast.expr | None:
    for statement in ast.walk(module.tree):
        if isinstance(statement, ast.Assign) and statement.value is node and len(statement.targets) == 1:
            return statement.targets[0]
        if isinstance(statement, ast.AnnAssign) and statement.value is node:
            return statement.target
    return None


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
