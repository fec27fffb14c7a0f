"""peewee is used in an async def.

Its queries run when they are iterated over, got or executed. Use @offload(mode="thread") on a handler that never
awaits.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Context
from ..findings import Finding

CODE = "ODB107"
NAME = "blocking-peewee"
SUMMARY = "peewee in an `async def`"
REMEDY = (
    'use @offload_db.offload(mode="thread") where nothing is awaited, else have functions that '
    "offload_db.blocking wraps run the queries, and put @offload_db.offload on the async def"
)


def check(context: Context) -> Iterator[Finding]:
    """Yield each such call."""
    for call in context.sites:
        effect = call.effect
        if effect is not None and effect.driver == "peewee":
            yield context.blocking(CODE, call, "uses peewee synchronously")
