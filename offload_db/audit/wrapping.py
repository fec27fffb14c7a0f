"""Which pools a migration wraps: those that asynchronous code uses, where they are built."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from .context import Context
from .libraries import METHODS
from .model import ClassRef, Database, External, Instance, Module, ModuleRef, Scope, Values
from .outside import of_other_driver
from .own_names import can_import
from .places import users_of
from .texts import source_of

_POOLS = frozenset({"dbutils.pooled_db.PooledDB", "DBUtils.PooledDB.PooledDB"})


@dataclass(slots=True)
class Wrapping:
    """The pools to wrap, by the calls that make them, and why others are not."""

    pools: list[tuple[Module, ast.Call]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def wrapping_of(context: Context) -> Wrapping:
    """Decide which pools are wrapped."""
    found = Wrapping()
    calls = context.interpreter.framework_calls.values()
    wrapping = [(call, argument) for call in calls if _is_wrapper(call.callee) for argument in _arguments(call.node)]
    inside = {id(argument) for _, argument in wrapping}
    used = {id(maker.node) for maker, _ in users_of(context)}
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
        if target is not None and id(call.node) not in used and not _is_used(context, target, call.scope):
            found.notes.append(f"{where}: the pool is not wrapped: no async function uses it")
        elif isinstance(made, Scope) and (extra := _own_methods(context, made)):
            found.notes.append(f"{where}: the pool is not wrapped: {made.name} has methods of its own ({extra})")
        elif not can_import(module):
            found.notes.append(f"{where}: the pool is not wrapped: offload_db is another name")
        else:
            found.pools.append((module, call.node))
    for scope in context.graph.scopes:
        for made_call in scope.calls:
            values = [v for v in scope.module.scope.cell(made_call.text).values if isinstance(v, External)]
            if any(value.name.endswith(".PersistentDB") for value in values):
                where = f"{scope.module.shown}:{made_call.line}"
                found.notes.append(f"{where}: {made_call.text} is no PooledDB, and is not wrapped")
    return found


def _is_used(context: Context, target: ast.expr, scope: Scope) -> bool:
    """Tell whether code of asynchronous functions may use a pool; what nobody is seen to use may be used."""
    assignments = context.advisor.ownership.origins.assignments
    cells = []
    if isinstance(target, ast.Name):
        context.interpreter.scope = scope
        where = context.interpreter.binding(target.id)
        cells += [where.cells[target.id]] if where is not None and target.id in where.cells else []
    elif isinstance(target, ast.Attribute):
        for owner in assignments.values(target.value, scope):
            if isinstance(owner, (Instance, ClassRef)):
                cells.append(owner.scope.attribute(target.attr))
    readers = {reader for cell in cells for reader in context.interpreter.readers(cell)} - {scope}
    if not readers or any(reader.kind == "module" for reader in readers):
        return True
    passed = {target for one in context.graph.scopes for call in one.calls if call.passed for target in call.targets}
    return not readers.isdisjoint(context.in_requests | passed)


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
