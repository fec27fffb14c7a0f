"""Which connections that are kept for all callers a migration makes with ``offload_db.connect``.

It takes what ``pymysql.connect`` takes, and its callers wait for their turn. A connection that each call makes for
itself is not looked at: nothing would limit how many there are.
"""

from __future__ import annotations

import ast

from .bindings import walk
from .context import Context
from .model import Scope
from .own_names import can_import
from .places import users_of

_CONNECTS = frozenset({"pymysql.connect", "pymysql.Connect", "pymysql.Connection", "pymysql.connections.Connection"})


def convertible(context: Context, chosen: set[Scope] | None = None) -> frozenset[tuple[str, int, int]]:
    """Return the calls of PyMySQL that make a connection for all callers, and for no one of them alone.

    :param chosen: the functions that are migrated; None takes all
    :returns: file, line and column of each
    """
    return frozenset(
        (maker.module.shown, maker.node.lineno, maker.node.col_offset)
        for maker, users in users_of(context)
        if maker.name in _CONNECTS
        and id(maker.node) in context.kept
        and maker.scope.kind != "lambda"
        and can_import(maker.module)
        and not any(_is_endless(scope) or not _shares(context, scope) for scope in users)
        and (chosen is None or not chosen.isdisjoint(users))
    )


def _shares(context: Context, scope: Scope) -> bool:
    return bool(context.advisor.ownership.uses(scope).reasons)


def _is_endless(scope: Scope) -> bool:
    """Tell whether a call may never end: it would keep the connection from all others."""
    return any(
        isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and bool(node.test.value)
        for node in walk(scope)
    )
