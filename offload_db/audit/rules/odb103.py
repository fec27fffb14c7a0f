"""Another method of a connection or cursor is called in an async def: commit, rollback, ping, fetch, close.

commit, rollback and ping are round trips; fetching reads from the server where the cursor is unbuffered; close may roll
back. What frees the statement frees these, too.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Context
from ..findings import Finding

CODE = "ODB103"
NAME = "blocking-driver-call"
SUMMARY = "another method of a connection or cursor is called in an `async def`"
REMEDY = "nothing of its own: what frees the statement beside it frees this call, too"


def check(context: Context) -> Iterator[Finding]:
    """Yield each such call."""
    for call in context.sites:
        effect = call.effect
        if (
            effect is not None
            and effect.kind in ("transaction", "ping", "fetch", "cursor", "close")
            and effect.driver not in ("sqlalchemy", "peewee")
        ):
            yield context.blocking(CODE, call, "is a call of the driver")
