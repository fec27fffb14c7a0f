"""Which connections and engines a migration makes with this library, before it decorates anything.

A connection that is kept for all callers becomes ``offload_db.connect``'s, which takes what ``pymysql.connect`` takes.
An engine of SQLAlchemy's goes on a pool, if its URL and its options can be read. A connection that each call makes for
itself is not looked at: nothing would limit how many there are.
"""

from __future__ import annotations

import ast

from .bindings import walk
from .context import Context
from .lookup import last_name
from .makers import Maker
from .model import Scope
from .own_names import can_import
from .places import users_of
from .scan import read
from .texts import text

_CONNECTS = frozenset({"pymysql.connect", "pymysql.Connect", "pymysql.Connection", "pymysql.connections.Connection"})
_ENGINES = frozenset({"sqlalchemy.create_engine", "sqlalchemy.engine.create_engine"})
_URL = "mysql+pymysql://"
# Options of an engine: those that the pool decides, and those that stay.
SIZES = {"pool_size": 5, "max_overflow": 10}
_OF_POOL = {*SIZES, "pool_timeout", "pool_recycle", "pool_use_lifo", "connect_args"}
_OF_ENGINE = frozenset(
    {"echo", "echo_pool", "pool_pre_ping", "future", "isolation_level", "json_serializer", "json_deserializer",
     "hide_parameters", "logging_name", "execution_options", "query_cache_size"}
)  # fmt: skip


def convertible(context: Context, chosen: set[Scope] | None = None) -> frozenset[tuple[str, int, int]]:
    """Return the calls that are to be this library's.

    :param chosen: the functions that are migrated; None takes all
    :returns: file, line and column of each
    """
    return frozenset(
        (maker.module.shown, maker.node.lineno, maker.node.col_offset)
        for maker, users in users_of(context)
        if (_is_kept_connection(context, maker, users) or _is_plain_engine(context, maker))
        and maker.scope.kind != "lambda"
        and can_import(maker.module)
        and (chosen is None or not chosen.isdisjoint(users))
    )


def _is_kept_connection(context: Context, maker: Maker, users: list[Scope]) -> bool:
    """Tell whether a connection of PyMySQL is everybody's, and nobody's alone."""
    return (
        maker.name in _CONNECTS
        and id(maker.node) in context.kept
        and not any(_is_endless(scope) or not context.advisor.ownership.uses(scope).reasons for scope in users)
    )


def _is_endless(scope: Scope) -> bool:
    """Tell whether a call may never end: it would keep the connection from all others."""
    return any(
        isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and bool(node.test.value)
        for node in walk(scope)
    )


def _is_plain_engine(context: Context, maker: Maker) -> bool:
    """Tell whether an engine is PyMySQL's, has no options but known ones, and no session that several callers share."""
    node = maker.node
    if maker.name not in _ENGINES or len(node.args) != 1:
        return False
    url = text(node.args[0], maker.scope, context.project) or ""
    lines = read(maker.module.path).split("\n")[node.lineno - 1 : (node.end_lineno or node.lineno) - 1]
    return (
        not any("#" in line for line in lines)  # a comment would be lost
        and url.startswith(_URL)
        and "?" not in url
        and all(keyword.arg in _OF_ENGINE | _OF_POOL and _is_limit(keyword) for keyword in node.keywords)
        and not any("session" in shared.kind or shared.kind == "sa_connection" for shared in context.shared)
        and not any(
            isinstance(name, (ast.Name, ast.Attribute)) and last_name(name) == "scoped_session"
            for module in context.project.modules
            if "sqlalchemy" in module.libraries
            for name in ast.walk(module.tree)
        )
    )


def _is_limit(keyword: ast.keyword) -> bool:
    """Tell whether a size is one: 0 connections, or less than none beside them, mean no limit."""
    try:
        value = ast.literal_eval(keyword.value)
    except ValueError:
        return keyword.arg not in SIZES
    return keyword.arg not in SIZES or (isinstance(value, int) and value >= (keyword.arg == "pool_size"))
