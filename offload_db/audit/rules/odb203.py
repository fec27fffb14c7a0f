"""@offload(mode="thread") stands on a function that really awaits.

Nothing can resume it in its thread, so it ends with a BridgeError. Use mode="bridge".
"""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Context
from ..findings import Finding

CODE = "ODB203"
NAME = "thread-mode-awaits"
SUMMARY = '`@offload(mode="thread")` on a function that really awaits'


def check(context: Context) -> Iterator[Finding]:
    """Yield each function in thread mode that may suspend."""
    for scope in context.asynchronous:
        in_thread = scope.offload is not None and scope.offload.mode == "thread" and context.is_offloaded(scope)
        if in_thread and context.suspends(scope):
            message = f'{scope.qualname} awaits, and would end with a BridgeError: use mode="bridge"'
            yield context.finding(CODE, scope, scope.node, call="offload", severity="high", message=message, stays=True)
