"""A connection, session or cursor is kept in a module global, a class or an application's state, for everybody.

It serves one request at a time, before as after. Offloaded callers wait their turn, if it comes from a wrapped pool or
offload_db.connect; a connection of its own is not protected: its transactions mix, and in mode="thread" several threads
use it at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..context import Context
from ..findings import Finding
from ..interpret import Shared
from ..model import Database, Scope

CODE = "ODB304"
NAME = "shared-connection"
SUMMARY = "a connection, session or cursor is shared by all callers"
REMEDY = (
    "take a connection from the pool for each call, or open the shared one with offload_db.connect: then "
    "callers wait for their turn"
)


def check(context: Context) -> Iterator[Finding]:
    """Yield each place where such a thing is kept."""
    for shared in context.shared:
        readers = [reader for reader in context.readers(shared) if reader in context.on_loop]
        owner = shared.scope if shared.scope.kind != "class" or not readers else readers[0]
        endpoints = owner if context.endpoints(owner) or not readers else readers[0]
        finding = context.finding(
            CODE,
            owner,
            shared.node,
            call=shared.name,
            severity="medium",
            message=f"the {shared.kind.removeprefix('sa_')} {shared.name} is shared by all callers",
            migrated=bool(readers) and all(context.is_migrated(reader) for reader in readers),
            stays=_in_threads(context, shared, readers),
        )
        yield replace(finding, endpoints=context.endpoints(endpoints), file=shared.scope.module.shown)


def _in_threads(context: Context, shared: Shared, readers: list[Scope]) -> bool:
    """Tell whether threads may use a connection at once that nothing protects."""
    if not any(isinstance(value, Database) and value.reach == "raw" for value in shared.cell.values):
        return False
    above = [one for reader in readers for one in context.above(reader)]
    return any(one in context.covered and context.runs_in(one) == "thread" for one in above)
