"""What to write where connections are made, so that a bridge frees what they do."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from .advice import Advice
from .makers import Maker
from .wording import shown

_ANY = "take the connection from a wrapped pool, offload_db.connect or offload_db.contrib.sqlalchemy.create_engine"
_PEEWEE = "have the queries run by functions that offload_db.blocking wraps"
_MOST = 3
# What OffloadPool.create is told of a driver that is not PyMySQL.
_DRIVERS = {"mysql": "mysql.connector, ", "MySQLdb": "MySQLdb, ", "mariadb": "pymysql, "}


def remedy(maker: Maker, *, is_kept: bool = False) -> str | None:
    """Return what to write in the place of a call that makes a connection, a pool or an engine.

    :param is_kept: whether what it makes is kept for all callers
    """
    if maker.name.startswith("offload_db."):
        return None
    driver = _DRIVERS.get(maker.name.partition(".")[0], "")
    if maker.kind == "connection" and is_kept:
        if not driver:
            return "offload_db.connect(…) with the same arguments: callers wait for their turn"
        return f"offload_db.OffloadPool.create({driver}max_size=1, …).connection(): callers wait for their turn"
    if maker.kind == "connection":
        take = "connection()" if driver else "connect(…) with the same arguments"
        return f"pool.{take}, of one pool = offload_db.OffloadPool.create({driver}max_size=20, …) for all"
    if maker.kind == "pool" and maker.name.endswith("PooledDB"):
        return "below it: pool = offload_db.OffloadPool(pool)"
    size: int | str
    if maker.kind == "pool":
        size = _size(maker.node, "pool_size", 5) or "…"
        return f"offload_db.OffloadPool.create({driver}max_size={size}, …), and connection() to take one: that waits"
    if maker.kind in ("engine", "flask_db"):
        kept, more = _size(maker.node, "pool_size", 5), _size(maker.node, "max_overflow", 10)
        size = "…" if kept is None or more is None else kept + more
        return f"offload_db.contrib.sqlalchemy.create_engine(offload_db.OffloadPool.create(max_size={size}, …))"
    return _PEEWEE if maker.kind == "peewee_db" else None


def _size(node: ast.Call, name: str, default: int) -> int | None:
    """Return a size that a call is given; None if it does not stand there."""
    for keyword in node.keywords:
        if keyword.arg == name:
            value = keyword.value
            return value.value if isinstance(value, ast.Constant) and isinstance(value.value, int) else None
    return default


def place(maker: Maker) -> str:
    """Return where a call stands."""
    return f"{maker.module.shown}:{maker.node.lineno}"


def reason(advice: Advice, *, is_raw: bool) -> str | None:
    """Say in short why a mode fits, what it leaves blocking, or why neither fits; None where nothing is special.

    :param is_raw: whether what a bridge does not free is a database's, so that another connection helps
    """
    if advice.blocker is None or advice.mode == "thread" or _is_of_lock(advice):
        return advice.why or None
    call = shown(advice.blocker.node)
    if advice.mode == "bridge":
        until = "until its connection is changed, " if is_raw else ""
        return f"{until}{call} goes on blocking: {advice.why}"
    return f'a bridge does not free {call}, and mode="thread" does not fit: {advice.why}'


def _is_of_lock(advice: Advice) -> bool:
    return advice.why.startswith("the lock ")


def change(advice: Advice, makers: Iterable[Maker], kept: Iterable[int]) -> str:
    """Say why neither mode fits, and what to change so that one does.

    :param makers: what opens the connections
    :param kept: which of them make what is kept for all callers, by the ids of their nodes
    """
    if advice.blocker is None or _is_of_lock(advice):
        return f"{advice.why}: in a bridge the loop could stop for good. Release the lock before the call, or drop it"
    lines: dict[str, list[str]] = {}
    for maker in makers:
        if (what := remedy(maker, is_kept=id(maker.node) in kept)) is not None:
            lines.setdefault(what, []).append(place(maker))
    texts = [f"in {_places(where)} write {what}" for what, where in lines.items()]
    return (
        f"{shown(advice.blocker.node)} uses what a bridge does not free, and {advice.why}, so that "
        f'mode="thread" does not fit: {"; ".join(texts) or _ANY}'
    )


def _places(where: list[str]) -> str:
    more = f" and {len(where) - _MOST} more places" if len(where) > _MOST else ""
    return ", ".join(where[:_MOST]) + more
