"""What to change where neither mode fits: the line that makes the connection."""

from __future__ import annotations

from collections.abc import Iterable

from .advice import Advice
from .makers import Maker

_ANY = "take the connection from a wrapped pool, offload_db.connect or offload_db.contrib.sqlalchemy.create_engine"
_BY_KIND = {
    "engine": "make the engine with offload_db.contrib.sqlalchemy.create_engine on an OffloadPool",
    "flask_db": "give it the engine of offload_db.contrib.sqlalchemy.create_engine on an OffloadPool",
    "connection": "take the connection from an OffloadPool, or from offload_db.connect",
    "pool": "make an OffloadPool in its place",
    "peewee_db": "have the queries run by functions that offload_db.blocking wraps",
}
MOST = 3


def remedy(maker: Maker) -> str | None:
    """Return what to write in the place of a call that makes a connection, a pool or an engine."""
    return None if maker.name.startswith("offload_db.") else _BY_KIND.get(maker.kind)


def place(maker: Maker) -> str:
    """Return where a call stands."""
    return f"{maker.module.shown}:{maker.node.lineno}"


def change(advice: Advice, makers: Iterable[Maker]) -> str:
    """Say why neither mode fits, and what to change so that one does."""
    if advice.blocker is None or advice.why.startswith("the lock "):
        return f"{advice.why}: in a bridge the loop could stop for good. Release the lock before the call, or drop it"
    lines: dict[str, list[str]] = {}
    for maker in makers:
        if (what := remedy(maker)) is not None:
            lines.setdefault(what, []).append(place(maker))
    texts = [f"in {_places(where)}, {what}" for what, where in lines.items()]
    return (
        f'{advice.blocker.text}() uses what a bridge does not free, and {advice.why}, so that mode="thread" does not '
        f"fit: {'; '.join(texts) or _ANY}"
    )


def _places(where: list[str]) -> str:
    more = f" and {len(where) - MOST} more places" if len(where) > MOST else ""
    return ", ".join(where[:MOST]) + more
