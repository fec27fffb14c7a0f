"""Where connections are made: the first thing to change, before any function is decorated."""

from __future__ import annotations

from .context import Context
from .findings import Place
from .lookup import dotted
from .makers import Maker
from .model import Scope
from .remedies import remedy


def find_places(context: Context) -> list[Place]:
    """Return the calls whose connections a bridge does not free, each with what to write there."""
    return [
        Place(
            maker.module.shown,
            maker.node.lineno,
            dotted(maker.node.func),
            remedy(maker, is_kept=id(maker.node) in context.kept) or "",
            tuple((scope.module.shown, scope.line, scope.qualname) for scope in scopes),
        )
        for maker, scopes in users_of(context)
    ]


def users_of(context: Context) -> list[tuple[Maker, list[Scope]]]:
    """Return the makers that no bridge frees, with the asynchronous functions that use what they make."""
    found: dict[int, tuple[Maker, list[Scope]]] = {}
    for scope in sorted(context.asynchronous, key=Scope.place):
        sites = context.sites_of(scope)
        if not any(context.advisor.leads_to_raw(call) or context.is_unwrapped(call) for call in sites):
            continue
        for maker in context.advisor.makers(scope):
            if remedy(maker) is not None:
                found.setdefault(id(maker.node), (maker, []))[1].append(scope)
    return sorted(found.values(), key=lambda one: (one[0].module.shown, one[0].node.lineno))
