"""Which connections, pools and engines a migration makes with this library, before it decorates anything.

A connection that is kept for all callers becomes ``offload_db.connect``'s, which takes what ``pymysql.connect`` takes.
One that each call makes for itself comes from a pool for all who connect alike, see ``pool_file.py``: nothing else
would limit how many there are. mysql-connector's pool becomes this library's, which waits where the other one raises an
error. An engine of SQLAlchemy's goes on a pool, if its URL and its options can be read.
"""

from __future__ import annotations

import ast
import enum
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import parse_qs

from . import pool_file
from .bindings import walk
from .context import Context
from .lookup import last_name
from .makers import Maker, is_of_pool
from .model import Database, Module, Scope
from .own_names import can_import, is_imported
from .places import users_of
from .scan import read
from .texts import text

# Where a call stands: file, line and column.
Call = tuple[str, int, int]


class Way(enum.Enum):
    """What becomes of a call that makes a connection, a pool or an engine; the value says what that changes."""

    KEPT = "the connection that is kept for all is this library's: callers wait for their turn"
    FIRST = "the kept connection is made when it is first asked for: of two who are first, one closes what it has made"
    LAZY = "the kept connection is made when it is first asked for: ask before requests come, or there may be two"
    EACH = "connections come from a pool for all code that connects alike: they are used again, and have a limit"
    POOL = "the pool is this library's, of the same size: who comes when it is empty waits, and gets no error"
    ENGINE = "the engine is on a pool of the size that its own had"


class Conversion(NamedTuple):
    """What a migration makes of a call."""

    way: Way
    driver: str  # the module that connects
    has_query: bool = False  # whether the URL of an engine has settings, too


_CONNECTS = frozenset({"pymysql.connect", "pymysql.Connect", "pymysql.Connection", "pymysql.connections.Connection"})
# What else connects, and the module that a pool is told of.
_OTHER_CONNECTS = {
    "mysql.connector.connect": "mysql.connector",
    "mysql.connector.Connect": "mysql.connector",
    "MySQLdb.connect": "MySQLdb",
    "MySQLdb.Connect": "MySQLdb",
    "MySQLdb.Connection": "MySQLdb",
}
_CONNECTOR_POOL = "mysql.connector.pooling.MySQLConnectionPool"
OF_CONNECTOR_POOL = frozenset({"pool_name", "pool_size", "pool_reset_session"})
# What else a pool of mysql-connector's has, and this library's has not.
_NOT_OURS = frozenset({"add_connection", "set_config", "pool_name", "pool_size", "reset_session", "_cnx_queue"})
_LEFT = re.compile(
    r"\bCREATE\s+TEMPORARY\b|\bGET_LOCK\b|\bPREPARE\b|^\s*SET\s+(?!TRANSACTION\b|NAMES\b|AUTOCOMMIT\b)", re.IGNORECASE
)
_REFUSING = ("pool", "mysql-connector")
_REFUSES = "its pool raises an error where it should wait"
_ENGINES = frozenset({"sqlalchemy.create_engine", "sqlalchemy.engine.create_engine"})
_URL = "mysql+pymysql://"
# Options of an engine: those that the pool decides, and those that stay.
SIZES = {"pool_size": 5, "max_overflow": 10}
_OF_POOL = {*SIZES, "pool_timeout", "pool_recycle", "pool_use_lifo", "poolclass", "connect_args"}
_OF_ENGINE = frozenset(
    {"echo", "echo_pool", "pool_pre_ping", "future", "isolation_level", "json_serializer", "json_deserializer",
     "hide_parameters", "logging_name", "execution_options", "query_cache_size"}
)  # fmt: skip


def convertible(context: Context, chosen: set[Scope] | None = None) -> dict[Call, Conversion]:
    """Return the calls that are to be this library's, and how.

    :param chosen: the functions that are migrated; None takes all
    """
    found: dict[Call, Conversion] = {}
    each: dict[Call, Module] = {}
    pools: dict[Call, Maker] = {}
    for maker, users in users_of(context):
        if not _is_imported_name(context, maker) or not can_import(maker.module):
            continue
        if chosen is not None and chosen.isdisjoint(users):
            continue
        way = _way(context, maker, users)
        if way is not None:
            call = (maker.module.shown, maker.node.lineno, maker.node.col_offset)
            url = text(maker.node.args[0], maker.scope, context.project) if way is Way.ENGINE else None
            found[call] = Conversion(way, _driver_of(maker.name), "?" in (url or ""))
            if way is Way.EACH:
                each[call] = maker.module
            elif way is Way.POOL:
                pools[call] = maker
    modules = {*each.values(), *connecting(context)}
    if pool_file.home(modules, context.project) is None or not all(map(pool_file.is_free, modules)):
        found = {call: made for call, made in found.items() if call not in each}
    if pools and not _are_plain_pools(context, list(pools.values())):
        found = {call: made for call, made in found.items() if call not in pools}
    return found


def _way(context: Context, maker: Maker, users: list[Scope]) -> Way | None:
    if _is_plain_engine(context, maker):
        return Way.ENGINE
    named = [keyword.arg for keyword in maker.node.keywords]
    if maker.name == _CONNECTOR_POOL:
        is_plain = not maker.node.args and (None not in named or "pool_size" in named)
        is_plain = is_plain and not _leave_something(context, users)  # mysql-connector's resets each session
        return Way.POOL if is_plain and _can_name(maker.module, "mysql.connector") else None
    if maker.node.args or not (maker.name in _CONNECTS or maker.name in _OTHER_CONNECTS):
        return None
    if "defer_connect" in named:
        return None
    uses = [context.advisor.ownership.uses(scope) for scope in users]
    if id(maker.node) not in context.kept:
        is_own = not any(one.of_thread or set(one.reasons) - {_REFUSES} for one in uses)
        return Way.EACH if is_own and not _leave_something(context, users) else None
    if maker.scope.kind == "lambda" or any(map(_is_endless, users)):
        return None
    if not all(one.reasons for one in uses) or is_of_pool(maker.node, False):
        return None
    if maker.name not in _CONNECTS and not _can_name(maker.module, _OTHER_CONNECTS[maker.name]):
        return None
    callers = context.graph.callers.get(maker.scope, [])
    if maker.scope.kind != "function" or (callers and all(call.scope.kind == "module" for call in callers)):
        return Way.KEPT
    if _is_seen_half_made(context, maker):
        return None
    return Way.FIRST if _is_guarded(maker.scope, maker.node) else Way.LAZY


def _is_seen_half_made(context: Context, maker: Maker) -> bool:
    """Tell whether others may see what a function has set so far, while it waits for the connection."""
    scope = maker.scope
    origins = context.advisor.ownership.origins
    is_new = scope.name == "__init__" and scope.owner is not None and not origins.singles.is_single(scope.owner)
    for binding in origins.assignments.of_scope(scope):
        target = binding.target
        if target is None or target.lineno >= maker.node.lineno:
            continue
        if isinstance(target, ast.Name):
            if target.id in scope.outer_names:
                return True
        elif not (is_new and isinstance(target, ast.Attribute) and last_name(target.value) == "self"):
            return True
    return False


def _leave_something(context: Context, users: list[Scope]) -> bool:
    """Tell whether a statement leaves something on its session that the next user of a pool's connection would meet."""
    functions = {one for scope in users for one in context.advisor.in_its_thread(scope)}
    sent = (call for one in functions for call in one.calls if call.sql is not None and call.effect is not None)
    return any(_LEFT.search(context.statement([call]) or "") is not None for call in sent)


def _is_imported_name(context: Context, maker: Maker) -> bool:
    """Tell whether a call names what it calls as it is imported: other names may have arguments already, or change."""
    node: ast.expr = maker.node.func
    while isinstance(node, ast.Attribute):
        node = node.value
    if not isinstance(node, ast.Name):
        return False
    context.interpreter.scope = maker.scope
    where = context.interpreter.binding(node.id)
    imported = context.advisor.ownership.origins.assignments.imports
    return where is not None and bool(imported(where, node.id)) and node.id not in where.assigned


def _can_name(module: Module, driver: str) -> bool:
    """Tell whether a file has a driver's module under its own name, or can import it so."""
    return is_imported(module, driver) or driver.partition(".")[0] not in module.scope.bound_names


def _has_a_line(statement: ast.stmt, around: ast.If) -> bool:
    """Tell whether a statement stands on a line of its own."""
    first = statement.lineno > (around.test.end_lineno or around.lineno)
    return first and [one.lineno for one in around.body].count(statement.lineno) == 1


def connecting(context: Context) -> list[Module]:
    """Return the files whose calls connect through the pool of all who connect alike, or are to."""
    files = {call[0] for call, made in context.interpreter.converted.items() if made.way is Way.EACH}
    return [module for module in context.project.modules if module.shown in files]


def _driver_of(name: str) -> str:
    return "pymysql" if name in _CONNECTS else _OTHER_CONNECTS.get(name, "mysql.connector")


def _is_guarded(scope: Scope, made: ast.expr) -> bool:
    """Tell whether a connection is made if there is none: ``if kept is None: kept = connect()``."""
    for node in walk(scope):
        if not isinstance(node, ast.If):
            continue
        for statement in node.body:
            if not _has_a_line(statement, node):
                continue
            if isinstance(statement, ast.Assign) and statement.value is made and len(statement.targets) == 1:
                target = statement.targets[0]
                wanted = ast.unparse(target)
                asked = {ast.unparse(one) for one in ast.walk(node.test) if isinstance(one, (ast.Name, ast.Attribute))}
                return isinstance(target, (ast.Name, ast.Attribute)) and wanted in asked
    return False


def taken(context: Context) -> Iterator[tuple[Module, ast.Call]]:
    """Yield the calls that take a connection from a pool of mysql-connector's: ``pool.get_connection()``."""
    for scope, node, pools in _of_pools(context, {"get_connection"}):
        calls = [one for one in walk(scope) if isinstance(one, ast.Call) and one.func is node]
        if calls and pools:
            yield scope.module, calls[0]


def _of_pools(context: Context, names: frozenset[str] | set[str]) -> Iterator[tuple[Scope, ast.Attribute, list[bool]]]:
    """Yield the attributes of some names, and for each value that it may be of whether that is such a pool."""
    assignments = context.advisor.ownership.origins.assignments
    for module in context.project.modules:
        for scope in module.scopes.values():
            for node in walk(scope):
                if isinstance(node, ast.Attribute) and node.attr in names:
                    values = assignments.values(node.value, scope)
                    pools = [isinstance(v, Database) and (v.kind, v.driver) == _REFUSING for v in values]
                    if any(pools) or (not values and node.attr == "get_connection"):
                        yield scope, node, pools


def _are_plain_pools(context: Context, makers: list[Maker]) -> bool:
    """Tell whether all of mysql-connector's pools can be this library's: nothing but connections is asked of them."""
    here = {id(maker.node) for maker in makers}
    others = [
        maker
        for scope in context.asynchronous
        for maker in context.advisor.makers(scope)
        if maker.name == _CONNECTOR_POOL and id(maker.node) not in here
    ]
    return (
        not others
        and all(pools and all(pools) for _, _, pools in _of_pools(context, {"get_connection"}))
        and not any(any(pools) for _, _, pools in _of_pools(context, _NOT_OURS))
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
        and parse_qs(url.partition("?")[2]).keys() <= {"charset"}
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
    """Tell whether a size is one: 0 connections, or less than none beside them, mean no limit; QueuePool is usual."""
    if keyword.arg == "poolclass":
        return last_name(keyword.value) == "QueuePool"
    try:
        value = ast.literal_eval(keyword.value)
    except ValueError:
        return keyword.arg not in SIZES
    return keyword.arg not in SIZES or (isinstance(value, int) and value >= (keyword.arg == "pool_size"))
