"""Where connections are made: the first thing to change, before any function is decorated."""

from __future__ import annotations

from .annotations import external_names
from .context import Context
from .findings import Place
from .makers import Maker
from .model import Scope
from .remedies import remedy
from .wording import shown


def find_places(context: Context) -> list[Place]:
    """Return the calls whose connections a bridge does not free, each with what to write there.

    Those that only threads use need no other line.
    """
    found = []
    for maker, users in users_of(context):
        scopes = [one for one in users if not (one in context.covered and context.runs_in(one) == "thread")]
        if scopes:
            functions = tuple((scope.module.shown, scope.line, scope.qualname) for scope in scopes)
            write = remedy(maker, is_kept=id(maker.node) in context.kept) or ""
            found.append(Place(maker.module.shown, maker.node.lineno, shown(maker.node.func), write, functions))
    return found


def users_of(context: Context) -> list[tuple[Maker, list[Scope]]]:
    """Return the makers that no bridge frees, with the asynchronous functions that use what they make."""
    found: dict[int, tuple[Maker, list[Scope]]] = {}
    pools = [
        Maker(call.scope, call.node, "dbutils.pooled_db.PooledDB", "pool")
        for call in context.interpreter.framework_calls.values()
        if any(name.endswith("PooledDB") for name in external_names(call.callee))
    ]
    for scope in sorted(context.asynchronous, key=Scope.place):
        sites = context.sites_of(scope)
        if any(context.advisor.leads_to_raw(call) for call in sites):
            makers = context.advisor.makers(scope)
        elif any(context.is_unwrapped(call) for call in sites):
            makers = pools if len(pools) == 1 else context.advisor.makers(scope)
        else:
            continue
        for maker in makers:
            call = (maker.module.shown, maker.node.lineno, maker.node.col_offset)
            if remedy(maker) is not None and call not in context.interpreter.converted:
                found.setdefault(id(maker.node), (maker, []))[1].append(scope)
    return sorted(found.values(), key=lambda one: (one[0].module.shown, one[0].node.lineno))
