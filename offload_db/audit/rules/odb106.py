"""pandas reads from or writes to the database in an async def.

It fetches and converts everything in one call. Use @offload(mode="thread") on a handler that never awaits, or give
the call to a thread.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Context
from ..findings import Finding

CODE = "ODB106"
NAME = "blocking-pandas"
SUMMARY = "`pandas.read_sql`, `to_sql` and the like in an `async def`"
REMEDY = (
    "read on an engine of offload_db.contrib.sqlalchemy.create_engine(pool), or use "
    '@offload_db.offload(mode="thread") where nothing is awaited'
)


def check(context: Context) -> Iterator[Finding]:
    """Yield each such call."""
    for call in context.sites:
        effect = call.effect
        if effect is not None and effect.driver == "pandas":
            yield context.blocking(CODE, call, "reads or writes a table")
