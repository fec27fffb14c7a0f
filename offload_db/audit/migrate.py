"""Changes files as planned: decorates handlers, wraps pools, adds the import."""

from __future__ import annotations

import ast
import difflib
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import edits, plan
from .context import Context
from .lookup import last_name
from .model import Module, Scope
from .own_names import is_imported, offload_name, package_name


@dataclass(frozen=True, slots=True)
class Change:
    """A file before and after."""

    path: Path
    shown: str
    before: bytes
    after: bytes

    def diff(self) -> str:
        """Return the change as a unified diff."""
        with tokenize.open(self.path) as file:
            encoding = file.encoding
        before = _lines(self.before.decode(encoding))
        after = _lines(self.after.decode(encoding))
        name = self.shown.lstrip("/")
        lines = difflib.unified_diff(before, after, f"a/{name}", f"b/{name}")
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


@dataclass(slots=True)
class Migration:
    """What was changed, and the plan behind it."""

    plan: plan.Plan
    changes: list[Change] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def explain(self, *, verbose: bool = False) -> Iterator[str]:
        """Yield what is to be decided, then a line for each change, and for what is left alone.

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
        for module, line, _ in self.plan.convert:
            yield f"converted   {module.shown}:{line} the connection, or the engine, is this library's"
        for module, call in self.plan.wrap:
            yield f"wrapped     {module.shown}:{call.lineno} the pool"
        for decorate in self.plan.decorate:
            mode = "" if decorate.mode == "bridge" else f' with mode="{decorate.mode}"'
            why = f": {decorate.why}" if decorate.why else ""
            yield f"decorated   {_place(decorate.scope)}{mode}{why}"
        for left in self.plan.left if verbose else ():
            if left.minor:
                yield f"left alone  {_place(left.scope)}: {left.why}"
        for note in (*self.plan.notes, *self.failures):
            yield f"note        {note}"


def _lines(text: str) -> list[str]:
    """Split where Python does, and `patch`: not at form feeds."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _place(scope: Scope) -> str:
    return f"{scope.module.shown}:{scope.line} {scope.qualname}"


def migrate(context: Context, only: Sequence[str] = ()) -> Migration:
    """Plan and make the changes, in memory.

    :param only: the routes to migrate, each as ``METHOD:/path``; all if there is none
    :raises PlanError: if one of them is not there
    """
    migration = Migration(plan.make(context, only))
    modules = dict.fromkeys(
        [decorate.scope.module for decorate in migration.plan.decorate]
        + [module for module, _ in migration.plan.wrap]
        + [module for module, _, _ in migration.plan.convert]
    )
    for module in modules:
        try:
            change = _change(module, migration.plan, context)
        except (edits.EditError, OSError) as error:
            migration.failures.append(f"{module.shown} is left as it is: {error}")
        else:
            migration.changes.append(change)
    return migration


def _change(module: Module, planned: plan.Plan, context: Context) -> Change:
    name, package = offload_name(module), package_name(module)
    decorators = {
        (decorate.scope.line, decorate.scope.node.col_offset): _decorator(name, decorate.mode)  # type: ignore[union-attr]  # a function has one
        for decorate in planned.decorate
        if decorate.scope.module is module
    }
    made = frozenset((line, column) for where, line, column in planned.convert if where is module)
    calls = [node for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    engine = any((one.lineno, one.col_offset) in made and last_name(one.func) == "create_engine" for one in calls)
    imports = ["import offload_db.contrib.sqlalchemy" if engine else "import offload_db"]
    imports += ["import sqlalchemy"] if engine and not is_imported(module, "sqlalchemy") else []
    pools = frozenset((call.lineno, call.col_offset) for where, call in planned.wrap if where is module)
    wanted = edits.Edits(
        decorators,
        pools,
        package or "offload_db",
        made,
        tuple(imports),
        add_import=engine or (bool(decorators) and name is None) or (bool(pools or made) and package is None),
        is_local=lambda first: context.project.find(first, module) is not None,
    )
    before = module.path.read_bytes()
    return Change(module.path, module.shown, before, edits.apply(before, wanted))


def _decorator(name: str | None, mode: str) -> str:
    name = name or "offload_db.offload"
    return name if mode == "bridge" else f'{name}(mode="{mode}")'
