"""@offload stands where it has no effect.

Above the route decorator the route has registered the undecorated function already; on a class nothing is called
through it; on a generator function frameworks use a thread anyway. Put it directly above the def.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Context
from ..findings import Finding

CODE = "ODB201"
NAME = "offload-without-effect"
SUMMARY = "`@offload` stands where it has no effect"
REMEDY = "move it directly above the def, below the decorator of the route"


def check(context: Context) -> Iterator[Finding]:
    """Yield each decorator that is misplaced."""
    for scope, (node, why) in context.ineffective.items():
        yield context.finding(
            CODE,
            scope,
            node,
            call="offload",
            severity="high",
            migrated=False,
            message=f"@offload has no effect on {scope.qualname}: {why}",
        )
