"""Changes files as planned, in two steps: what makes connections, then the handlers that use them."""

from __future__ import annotations

import ast
import difflib
import functools
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import libcst as cst

from . import edits, engines, plan, pool_file
from .context import Context
from .converting import Conversion, Way
from .lookup import last_name
from .model import Module, Scope
from .own_names import is_imported, offload_name, package_name
from .project import display_path

STEPS = ("connections", "handlers")
_TITLES = {
    "connections": "connections, pools and engines are this library's. Check: the tests pass, and statistics() of the "
    "pools show connections in use. Without decorators nothing else changes",
    "handlers": "handlers leave the event loop free while they query. Check: offload-db audit finds nothing more, and "
    "other requests are answered during a slow query",
}


@dataclass(frozen=True, slots=True)
class Change:
    """A file before and after; one that is new has nothing before."""

    path: Path
    shown: str
    before: bytes
    after: bytes

    def diff(self) -> str:
        """Return the change as a unified diff."""
        encoding, _ = tokenize.detect_encoding(io.BytesIO(self.before or self.after).readline)
        before = _lines(self.before.decode(encoding))
        after = _lines(self.after.decode(encoding))
        name = self.shown.lstrip("/")
        lines = difflib.unified_diff(before, after, f"a/{name}" if before else "/dev/null", f"b/{name}")
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


@dataclass(slots=True)
class Step:
    """Changes that can go to production by themselves, after those of the steps before."""

    name: str
    changes: list[Change] = field(default_factory=list)

    def diff(self) -> str:
        """Return the changes as unified diffs."""
        return "".join(change.diff() for change in self.changes)


@dataclass(slots=True)
class Migration:
    """What was changed, and the plan behind it."""

    plan: plan.Plan
    steps: list[Step] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def changes(self) -> list[Change]:
        """Return each file as it is before all steps and after them."""
        found: dict[Path, Change] = {}
        for change in [change for step in self.steps for change in step.changes]:
            first = found.get(change.path, change)
            found[change.path] = replace(change, before=first.before)
        return list(found.values())

    def explain(self, *, verbose: bool = False) -> Iterator[str]:
        """Yield what is to be decided, then the steps with a line for each change, and for what is left alone.

        :param verbose: tell also of the handlers that need nothing
        """
        undecided = [left for left in self.plan.left if not left.minor]
        if undecided or self.plan.places:
            yield f"to be decided: places that open connections: {len(self.plan.places)}, functions: {len(undecided)}"
        for place in self.plan.places:
            where = f"{place.file}:{place.line} {place.call}()"
            yield f"change      {where}, for functions: {len(place.functions)}; write {place.write}"
        for left in undecided:
            yield f"left alone  {_place(left.scope)}: {left.why}"
        for number, step in enumerate(self.steps, 1):
            yield f"step {number}      {_TITLES[step.name]}"
            yield from self._connections() if step.name == "connections" else self._handlers()
        for left in self.plan.left if verbose else ():
            if left.minor:
                yield f"left alone  {_place(left.scope)}: {left.why}"
        for note in (*self.plan.notes, *self.failures):
            yield f"note        {note}"

    def _connections(self) -> Iterator[str]:
        for module, line, _, made in self.plan.convert:
            yield f"converted   {module.shown}:{line} {made.way.value}"
        for module, call in self.plan.wrap:
            yield f"wrapped     {module.shown}:{call.lineno} the pool"

    def _handlers(self) -> Iterator[str]:
        for decorate in self.plan.decorate:
            mode = "" if decorate.mode == "bridge" else f' with mode="{decorate.mode}"'
            why = f": {decorate.why}" if decorate.why else ""
            yield f"decorated   {_place(decorate.scope)}{mode}{why}"


def _lines(text: str) -> list[str]:
    """Split where Python does, and `patch`: not at form feeds."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _place(scope: Scope) -> str:
    return f"{scope.module.shown}:{scope.line} {scope.qualname}"


def migrate(context: Context, only: Sequence[str] = (), last: str = STEPS[-1]) -> Migration:
    """Plan and make the changes, in memory.

    :param only: the routes to migrate, each as ``METHOD:/path``; all if there is none
    :param last: the name of the last step to take
    :raises PlanError: if one of them is not there
    """
    migration = Migration(plan.make(context, only))
    steps = {name: Step(name) for name in STEPS[: STEPS.index(last) + 1]}
    for module in _changed(migration.plan):
        try:
            texts = _texts(module, migration.plan, context)
        except (edits.EditError, OSError) as error:
            migration.failures.append(f"{module.shown} is left as it is: {error}")
            continue
        for number, step in enumerate(steps.values()):
            if texts[number] != texts[number + 1]:
                step.changes.append(Change(module.path, module.shown, texts[number], texts[number + 1]))
    if migration.plan.pool_file is not None:
        steps["connections"].changes.insert(0, _pool_file(migration.plan, migration.plan.pool_file, context))
    migration.steps = [step for step in steps.values() if step.changes]
    return migration


def _changed(planned: plan.Plan) -> list[Module]:
    return list(
        dict.fromkeys(
            [decorate.scope.module for decorate in planned.decorate]
            + [one[0] for one in planned.wrap]
            + [one[0] for one in planned.convert]
            + [one[0] for one in planned.take]
        )
    )


def _pool_file(planned: plan.Plan, home: pool_file.Home, context: Context) -> Change:
    known = next((module for module in context.project.modules if module.path == home.path), None)
    before = home.path.read_bytes() if known is not None else b""
    drivers = {made.driver for *_, made in planned.convert if made.way is Way.EACH}
    shown = known.shown if known is not None else display_path(home.path)
    return Change(home.path, shown, before, pool_file.text(before.decode(), drivers).encode())


def _texts(module: Module, planned: plan.Plan, context: Context) -> tuple[bytes, bytes, bytes]:
    """Return a file before the changes, with its connections made by this library, and with its decorators, too."""
    name, package = offload_name(module), package_name(module)
    decorators = {
        (decorate.scope.line, decorate.scope.node.col_offset): _decorator(name, decorate.mode)  # type: ignore[union-attr]  # a function has one
        for decorate in planned.decorate
        if decorate.scope.module is module
    }
    here = {(line, column): made for where, line, column, made in planned.convert if where is module}
    calls = [node for node in ast.walk(module.tree) if isinstance(node, ast.Call)] if here else []
    made = {
        (call.lineno, call.col_offset, last_name(call.func)): _making(conversion, package or "offload_db")
        for call in calls
        if (conversion := here.get((call.lineno, call.col_offset))) is not None and not _is_of_call(call)
    }
    taken = [call for where, call in planned.take if where is module]
    made |= {(call.lineno, call.col_offset, last_name(call.func)): engines.taken for call in taken}
    ways = {conversion.way for conversion in here.values()}
    engine = Way.ENGINE in ways
    imports = ["import offload_db.contrib.sqlalchemy" if engine else "import offload_db"]
    imports += ["import sqlalchemy"] if engine and not is_imported(module, "sqlalchemy") else []
    drivers = {made.driver for made in here.values() if made.way is Way.POOL or _is_kept_elsewhere(made)}
    imports += [f"import {driver}" for driver in sorted(drivers) if not is_imported(module, driver)]
    pools = frozenset((call.lineno, call.col_offset) for where, call in planned.wrap if where is module)
    home = planned.pool_file if Way.EACH in ways and pool_file.NAME not in module.scope.bound_names else None
    of_library = bool(pools) or not ways <= {Way.EACH}
    connections = edits.Edits(
        {},
        pools,
        package or "offload_db",
        made,
        frozenset(place for place, conversion in here.items() if conversion.way is Way.FIRST),
        tuple(imports),
        own_import=home.line if home is not None else None,
        add_import=engine or bool(drivers) or (of_library and package is None),
        is_local=lambda first: context.project.find(first, module) is not None,
    )
    everything = replace(
        connections,
        decorators=decorators,
        add_import=connections.add_import or (bool(decorators) and name is None),
    )
    before = module.path.read_bytes()
    first = edits.apply(before, connections) if pools or made else before
    return before, first, edits.apply(before, everything) if decorators else first


def _is_of_call(call: ast.Call) -> bool:
    """Tell whether it calls something of what another call gives: that one begins where it does."""
    return any(isinstance(node, ast.Call) for node in ast.walk(call.func))


def _is_kept_elsewhere(made: Conversion) -> bool:
    """Tell whether a connection is kept in a pool of its own, whose driver is named there."""
    return made.way in (Way.KEPT, Way.FIRST, Way.LAZY) and made.driver != "pymysql"


def _making(made: Conversion, package: str) -> Callable[[cst.Call], cst.BaseExpression]:
    if made.way is Way.ENGINE:
        return functools.partial(engines.engine, package=package, has_query=made.has_query)
    if made.way is Way.POOL:
        return functools.partial(engines.pool, package=package)
    if made.way is Way.EACH:
        return functools.partial(engines.each, driver=made.driver)
    return functools.partial(engines.kept, package=package, driver=made.driver)


def _decorator(name: str | None, mode: str) -> str:
    name = name or "offload_db.offload"
    return name if mode == "bridge" else f'{name}(mode="{mode}")'
