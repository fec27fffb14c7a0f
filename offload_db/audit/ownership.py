"""Are all connections that a call uses made for that call alone, and do they stay in it?

Walks from a function down through what it calls, with what each is given; ``origins.py`` follows the expressions.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import libraries
from .bindings import Binding, walk
from .lookup import last_name
from .makers import OWNED, SHAREABLE, Frame, Maker, refuses
from .model import (
    FOREIGN,
    Call,
    ClassRef,
    Container,
    Database,
    External,
    FunctionRef,
    Instance,
    Method,
    Scope,
    Value,
    Values,
)
from .origins import Origins
from .wording import shown

_MOST_FUNCTIONS = 400
_MOST_NESTED = 3
_TOO_MUCH = "it is not known what it does: it calls too much to be followed"
_LOOKING = ("builtins.", "contextlib.", "typing.", "inspect.", "dataclasses.", "pandas.", "polars.", "offload_db.")
_PASSING = frozenset({"enter_context", "enter_async_context", "callback", "push"})
_KEEPING = frozenset({"append", "appendleft", "add", "put", "put_nowait", "insert", "extend", "set", "setattr"})


@dataclass(slots=True)
class Uses:
    """What a call uses of databases: who makes that, and why it may not be the call's own."""

    makers: dict[int, Maker] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)


class Ownership:
    """Answers for the functions of an audit."""

    def __init__(self, origins: Origins) -> None:
        self.origins = origins
        self._known: dict[Scope, Uses] = {}
        self._holding: dict[Scope, bool] = {}
        self._lefts: dict[Scope, tuple[list[Binding], list[ast.expr], list[str]]] = {}
        libraries_used = {name for module in origins.interpreter.project.modules for name in module.libraries}
        self._has_others = bool(libraries_used & libraries.OTHER_DRIVERS)

    def uses(self, scope: Scope) -> Uses:
        """Return what a call of a function uses, itself and in all that it calls."""
        found = self._known.get(scope)
        if found is None:
            found = self._known[scope] = Uses()
            try:
                self._follow(scope, found)
            except RecursionError:
                found.reasons.append(_TOO_MUCH)
        return found

    def _follow(self, scope: Scope, found: Uses) -> None:
        seen: set[tuple[object, ...]] = set()
        waiting = [Frame(scope)]
        self.origins.start()
        while waiting:
            frame = waiting.pop()
            key = self.origins.signature(frame)
            if key in seen:
                continue
            seen.add(key)
            if len(seen) > _MOST_FUNCTIONS:
                found.reasons.append(_TOO_MUCH)
                return
            for call in frame.scope.calls:
                if call.passed or call.streamed:
                    continue
                self._driver_call(call, frame, found)
                waiting.extend(self.origins.enter(target, call.node, frame) for target in call.targets)
            self._leaving(frame, found)
        if self._holds(scope.returns.values):
            found.reasons.append(f"{scope.qualname} returns it")

    # --- what it uses

    def _driver_call(self, call: Call, frame: Frame, found: Uses) -> None:
        effect = call.effect
        if effect is None or effect.kind == "elsewhere":
            return
        if isinstance(call.node, ast.Call):
            found.makers |= self._made(call.node, frame)
        for node in self._receivers(call.node, frame.scope):
            origin = self.origins.of(node, frame)
            found.makers |= origin.makers
            databases = [v for v in self.origins.values(node, frame.scope) if isinstance(v, Database)]
            shareable = [value for value in databases if value.kind in SHAREABLE]
            found.reasons += [why for value in shareable if (why := refuses(value, origin)) is not None]
            if databases and (len(shareable) == len(databases) or all(_is_protected(value) for value in databases)):
                continue
            found.reasons += origin.reasons

    def _made(self, node: ast.Call, frame: Frame) -> dict[int, Maker]:
        names = [v.name for v in self.origins.values(node.func, frame.scope) if isinstance(v, External)]
        return self.origins.of(node, frame).makers if any(libraries.maker(name) for name in names) else {}

    def _receivers(self, node: ast.expr, scope: Scope) -> Iterator[ast.expr]:
        """Yield what a driver call is made on, and the connections that it is given."""
        if not isinstance(node, ast.Call):
            yield node
            return
        if isinstance(node.func, ast.Attribute):
            values = self.origins.values(node.func.value, scope)
            if not values or any(isinstance(value, (Database, Instance)) for value in values):
                yield node.func.value
        else:
            values = self.origins.values(node.func, scope)
            if any(isinstance(value, (Database, Method)) for value in values):
                yield node.func
            elif any(isinstance(v, External) and v.name.startswith("mysql.connector.") for v in values):
                yield node
        if isinstance(node.func, ast.Attribute) and ast.unparse(node.func).startswith("mysql.connector."):
            yield node
        for given in (*node.args, *(keyword.value for keyword in node.keywords)):
            if self._is_database(self.origins.values(given, scope)):
                yield given

    @staticmethod
    def _is_database(values: Values) -> bool:
        return any(isinstance(value, (Database, Instance)) for value in values)

    # --- what leaves it

    def _leaving(self, frame: Frame, found: Uses) -> None:
        """Note where what belongs to a call is put where others find it."""
        kept, foreign, reasons = self._left(frame.scope)
        for binding in kept:
            target = binding.target
            if not isinstance(target, ast.Attribute) or self.origins.of(target.value, frame).reasons:
                found.reasons.append(f"{ast.unparse(target) if target is not None else 'somebody'} keeps it")
        for node in foreign:
            self._foreign(node, frame, found)
        found.reasons += reasons

    def _left(self, scope: Scope) -> tuple[list[Binding], list[ast.expr], list[str]]:
        """Return where a function puts connections, what it uses of other drivers, and to whom it gives connections."""
        known = self._lefts.get(scope)
        if known is None:
            values = self.origins.values
            kept = [
                binding
                for binding in self.origins.assignments.of_scope(scope)
                if not (isinstance(binding.target, ast.Name) and binding.target.id not in scope.outer_names)
                and binding.value is not None
                and self._holds(values(binding.value, scope))
            ]
            calls = [node for node in walk(scope) if isinstance(node, ast.Call)]
            owners = [node.func.value for node in calls if isinstance(node.func, ast.Attribute)]
            foreign = [node for node in owners if FOREIGN in values(node, scope)] if self._has_others else []
            given = [
                f"{shown(node.func)}() is given it"
                for node in calls
                if last_name(node.func) not in _PASSING and self._gives_away(node, scope)
            ]
            known = self._lefts[scope] = (kept, foreign, given)
        return known

    def _foreign(self, node: ast.expr, frame: Frame, found: Uses) -> None:
        """Note an object of another driver, such as sqlite3's: it belongs to the thread that made it."""
        origin = self.origins.of(node, frame)
        if origin.injected:
            found.reasons.append(f"{shown(node)} may belong to the thread that made it")
        found.reasons += origin.reasons

    def _gives_away(self, node: ast.Call, scope: Scope) -> bool:
        """Tell whether a call of something unknown is given a connection, or what holds one."""
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        for one in list(given):
            if isinstance(one, (ast.Tuple, ast.List)):
                given += one.elts
        if not any(self._hands(one, scope) for one in given):
            return False
        if last_name(node.func) in _KEEPING:
            return True
        callees = self.origins.values(node.func, scope)
        return not callees or not all(_lets_go(value) for value in callees)

    def _hands(self, node: ast.expr, scope: Scope) -> bool:
        values = self.origins.values(node, scope)
        if self._holds(values):
            return True
        if isinstance(node, ast.Attribute) and any(isinstance(value, (FunctionRef, Method)) for value in values):
            return self._holds(self.origins.values(node.value, scope))
        for value in values:
            if isinstance(value, FunctionRef) and value.scope.parent is scope:  # a function or lambda in this one
                names = {inner.id for inner in walk(value.scope) if isinstance(inner, ast.Name)}
                if any(name in scope.cells and self._holds(scope.cells[name].values) for name in names):
                    return True
        return False

    def _holds(self, values: Values, depth: int = 0) -> bool:
        """Tell whether a value is a connection that nothing protects, or an object or a collection with one."""
        for value in values:
            cells = (*value.items, value.rest) if isinstance(value, Container) and depth < _MOST_NESTED else ()
            if any(self._holds(cell.values, depth + 1) for cell in cells):
                return True
            if isinstance(value, Database) and value.kind in OWNED and not _is_protected(value):
                return True
            if isinstance(value, Instance) and self._is_holder(value.scope):
                return True
        return False

    def _is_holder(self, scope: Scope) -> bool:
        known = self._holding.get(scope)
        if known is None:
            self._holding[scope] = False
            known = self._holding[scope] = any(
                self._holds(cell.values)
                for one in self.origins.interpreter.classes(scope)
                for cell in one.attributes.values()
            )
        return known


def _lets_go(callee: Value) -> bool:
    """Tell whether a call of something keeps nothing of what it is given, or is looked into by itself."""
    if isinstance(callee, External):
        return callee.name.startswith(_LOOKING) or libraries.maker(callee.name) is not None
    return isinstance(callee, (FunctionRef, ClassRef, Instance, Method, Database))


def _is_protected(value: Database) -> bool:
    """Tell whether what a pool gives out takes care of itself; a PooledDB does when it is wrapped."""
    return value.reach in ("offloaded", "wrappable")
