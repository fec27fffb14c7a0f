"""A handler is offloaded with a bridge, but what it calls is not freed by one.

A bridge frees what comes from a wrapped pool, from offload_db.connect and from offload_db.contrib.sqlalchemy. A pool
that is not wrapped, a connection of its own, an engine, peewee and other drivers block as before. Wrap the pool, or use
mode="thread" where the handler never awaits.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Context
from ..findings import Finding
from ..model import Call, Scope
from ..wording import shown

CODE = "ODB202"
NAME = "bridge-frees-nothing"
SUMMARY = "an offloaded handler uses a pool that is not wrapped, or a driver that a bridge does not free"
REMEDY = 'wrap the pool, or open the connection with offload_db.connect; or use mode="thread" where nothing is awaited'

_BARE = "a PooledDB that no OffloadPool wraps: wrap it where it is built"
_RAW = (
    'a driver that a bridge does not free: use mode="thread" where nothing is awaited, or offload_db.connect, or '
    "offload_db.contrib.sqlalchemy.create_engine"
)


def check(context: Context) -> Iterator[Finding]:
    """Yield one finding for each offloaded function and what it blocks on."""
    for scope in context.asynchronous:
        if scope not in context.covered or context.runs_in(scope) != "bridge":
            continue
        for what, steps in ((_BARE, context.graph.to_unwrapped), (_RAW, context.advisor.to_raw)):
            found = next((call for call in context.sites_of(scope) if _goes(call, what, context, steps)), None)
            if found is not None:
                yield context.finding(
                    CODE,
                    scope,
                    found.node,
                    call=found.text,
                    severity="high",
                    message=f"{shown(found.node)} uses {what}",
                    stays=True,
                )


def _goes(call: Call, what: str, context: Context, steps: dict[Scope, Call]) -> bool:
    if call.effect is not None and call.effect.kind != "elsewhere":
        return call.effect.reach == "wrappable" if what is _BARE else not context.advisor.is_freed(call.effect)
    return context.graph.reaches(call, steps)
