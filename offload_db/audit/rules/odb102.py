"""A connection is opened, or taken from a pool, in an async def.

A connect takes round trips, a DNS look-up and often TLS; a pool that is empty waits for as long as it takes. Both stop
the loop. Put @offload on the handler, and wrap the pool with OffloadPool.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Context
from ..findings import Finding

CODE = "ODB102"
NAME = "blocking-connect"
SUMMARY = "a connection is opened, or taken from a pool, in an `async def`"
REMEDY = (
    "put @offload_db.offload directly above the async def, and wrap the pool where it is built; "
    "offload-db migrate does both"
)


def check(context: Context) -> Iterator[Finding]:
    """Yield each such call."""
    for call in context.sites:
        effect = call.effect
        if effect is not None and effect.kind == "connect" and effect.driver not in ("sqlalchemy", "peewee"):
            yield context.blocking(CODE, call, "gets a connection")
