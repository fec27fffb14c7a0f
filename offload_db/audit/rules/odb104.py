"""An async def calls a plain function that reaches the driver, however deep.

The chain is in the finding. One decorator on the async def frees all of it: the helpers stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Context
from ..findings import Finding
from ..wording import shown

CODE = "ODB104"
NAME = "blocking-helper"
SUMMARY = "an `async def` calls a helper that reaches the driver"
REMEDY = "put @offload_db.offload on the async def alone; the helper stays as it is"


def check(context: Context) -> Iterator[Finding]:
    """Yield each call of a plain function that leads to a driver."""
    for call in context.sites:
        if call.effect is None or call.effect.kind == "elsewhere":
            below = context.graph.below(call)
            yield context.blocking(CODE, call, f"leads to {shown(below[-1].node)}")
