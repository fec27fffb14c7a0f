"""A synchronous SQLAlchemy engine, connection or session is used in an async def.

A bridge does not free an engine of its own making: use offload_db.contrib.sqlalchemy.create_engine, or
@offload(mode="thread") on a handler that never awaits.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Context
from ..findings import Finding

CODE = "ODB105"
NAME = "blocking-sqlalchemy"
SUMMARY = "a synchronous SQLAlchemy engine, connection or session in an `async def`"
REMEDY = (
    "make the engine with offload_db.contrib.sqlalchemy.create_engine(pool) and put @offload_db.offload "
    "on the async def"
)


def check(context: Context) -> Iterator[Finding]:
    """Yield each such call."""
    for call in context.sites:
        effect = call.effect
        if effect is not None and effect.driver == "sqlalchemy":
            yield context.blocking(CODE, call, "uses SQLAlchemy synchronously")
