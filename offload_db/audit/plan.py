"""What a migration changes, and what it leaves alone and why. Decides; ``edits.py`` changes the text."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .context import Context
from .findings import Place
from .model import Call, Module, Scope
from .own_names import can_import
from .places import find_places
from .rules import RULES
from .wording import shown
from .wrapping import wrapping_of

_DEF = (
    "it is a def: FastAPI, Starlette and Quart run those in threads; under Sanic, aiohttp and Tornado make it an async "
    "def first"
)


_ASGI = frozenset({"fastapi", "starlette", "quart"})
_MANY = 20  # decorators, from which on a middleware is less to change


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
    minor: bool = False  # nothing is to be done


@dataclass(slots=True)
class Plan:
    """The changes, by file."""

    decorate: list[Decorate] = field(default_factory=list)
    wrap: list[tuple[Module, ast.Call]] = field(default_factory=list)
    convert: list[tuple[Module, int, int]] = field(default_factory=list)
    left: list[LeftAlone] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)  # to be changed first, by hand
    notes: list[str] = field(default_factory=list)


def make(context: Context, only: Sequence[str] = ()) -> Plan:
    """Decide what to change.

    :param only: the routes to migrate, each as ``METHOD:/path``; all if there is none
    :raises PlanError: if one of them is not there
    """
    plan = Plan()
    chosen = chosen_by(context, only) if only else None
    order = sorted(context.asynchronous, key=Scope.place)
    decided = {scope: _decide(context, scope, chosen) for scope in order}
    for scope, decision in decided.items():
        if isinstance(decision, Decorate):
            plan.decorate.append(decision)
        elif decision is not None:
            plan.left.append(decision)
        elif not context.sites_of(scope) and scope in context.graph.of_handler:
            plan.left.append(_no_query(context, scope, decided))
    for route in context.graph.routes:
        if not route.handler.is_async and all(left.scope is not route.handler for left in plan.left):
            plan.left.append(LeftAlone(route.handler, _DEF, minor=True))
    if plan.decorate or any(scope.is_async for scope in context.covered):
        wrapping = wrapping_of(context)
        plan.wrap += wrapping.pools
        plan.notes += wrapping.notes
    bridged = [
        one for one in plan.decorate if one.mode == "bridge" and not _ASGI.isdisjoint(one.scope.module.libraries)
    ]
    if len(bridged) >= _MANY:
        plan.notes.append(
            f"{len(bridged)} of the {len(plan.decorate)} decorators are in ASGI applications: there OffloadMiddleware "
            "does the same with a line for each application"
        )
    for scope in order:
        in_thread = scope.offload is not None and scope.offload.mode == "thread" and context.is_offloaded(scope)
        if in_thread and context.sites_of(scope) and context.advice(scope).mode in ("either", "bridge"):
            why = 'nothing in it blocks that a bridge does not free: mode="thread" may go'
            plan.notes.append(f"{scope.module.shown}:{scope.line} {scope.qualname}: {why}")
    converted = context.interpreter.converted
    plan.convert = [
        (m, line, column)
        for m in context.project.modules
        for shown, line, column in sorted(converted)
        if shown == m.shown
    ]
    plan.places = [place for place in find_places(context) if not place.call.endswith("PooledDB")]
    return plan


def _decide(context: Context, scope: Scope, chosen: set[Scope] | None) -> Decorate | LeftAlone | None:
    is_handler = scope in context.graph.of_handler
    sites = context.sites_of(scope)
    if scope in context.ineffective:
        return LeftAlone(scope, f"its @offload has no effect: {context.ineffective[scope][1]}")
    if not sites:
        return None  # `make` says why, when it is known what becomes of the others
    if scope in context.covered:
        return _offloaded(context, scope)
    if chosen is not None and scope not in chosen:
        return LeftAlone(scope, "--only names other routes", minor=True) if is_handler else None
    if all(_ignored(call) for call in sites):
        return LeftAlone(scope, "comments in it switch its findings off")
    if not can_import(scope.module):
        return LeftAlone(scope, "its module uses the name offload_db for something else")
    return _with_mode(context, scope)


def _no_query(context: Context, scope: Scope, decided: Mapping[Scope, Decorate | LeftAlone | None]) -> LeftAlone:
    others: dict[str, list[str]] = {}
    seen = {scope}
    waiting = [scope]
    while waiting:
        for call in waiting.pop().calls:
            for target in call.targets:
                if target in seen or not target.is_async or not context.blocks_in_task(target):
                    continue
                seen.add(target)
                if target in context.covered:
                    others.setdefault("is offloaded already", []).append(target.qualname)
                elif context.sites_of(target):
                    how = "is decorated itself" if isinstance(decided[target], Decorate) else "is left alone"
                    others.setdefault(how, []).append(target.qualname)
                else:
                    waiting.append(target)
    if others:
        texts = [f"{', '.join(dict.fromkeys(names))}, which {how}" for how, names in others.items()]
        why = f"it queries only through {'; and through '.join(texts)}"
        return LeftAlone(scope, why, minor="is left alone" not in others)
    return LeftAlone(scope, "it makes no blocking database call", minor=True)


def _offloaded(context: Context, scope: Scope) -> LeftAlone:
    call = context.advisor.blocks_elsewhere(scope) if context.runs_in(scope) == "bridge" else None
    if call is None or not context.advisor.leads_to_raw(call):
        return LeftAlone(scope, "it is offloaded already", minor=True)
    why = f"it is offloaded already, but {shown(call.node)} goes on blocking: a bridge does not free what it uses"
    return LeftAlone(scope, why)


def _with_mode(context: Context, scope: Scope) -> Decorate | LeftAlone:
    advice = context.advice(scope)
    if advice.mode == "thread":
        return Decorate(scope, "thread", advice.why)
    if advice.blocker is None and advice.mode != "neither":
        return Decorate(scope, "bridge", "")
    if advice.mode == "bridge":
        assert advice.blocker is not None
        why = f'{shown(advice.blocker.node)} goes on blocking: {advice.why}, so that mode="thread" does not fit'
        return Decorate(scope, "bridge", why)
    return LeftAlone(scope, context.change(scope) or "")


def _ignored(call: Call) -> bool:
    codes = {rule.code for rule in RULES if rule.code.startswith("ODB1")}
    lines = range(call.node.lineno, (call.node.end_lineno or call.node.lineno) + 1)
    return any(codes & call.scope.module.ignores.get(line, frozenset()) for line in lines)


# --- one route


def chosen_by(context: Context, only: Iterable[str]) -> set[Scope]:
    """Return the functions that run in the course of some routes.

    :raises PlanError: if one of the routes is not there
    """
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
            similar = f"similar ones are {', '.join(close)}" if close else "none was found here; see offload-db audit"
            raise PlanError(f"--only {wanted}: there is no such route; {similar} (accepted is METHOD:/path)")
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
