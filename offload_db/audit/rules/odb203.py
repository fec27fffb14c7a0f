"""@offload(mode="thread") stands on a function that must not run in a thread.

It awaits: nothing can resume it in its thread, so it ends with a BridgeError. It uses the event loop, which belongs to
another thread. Or several threads would use one connection at once, or empty a pool that raises an error where it
should wait. Use mode="bridge", and connections that a bridge frees.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Context
from ..findings import Finding

CODE = "ODB203"
NAME = "thread-mode-misfits"
SUMMARY = '`@offload(mode="thread")` on a function that really awaits, needs the event loop, or shares a connection'
REMEDY = 'take mode="thread" away, and take the connection from a wrapped pool or offload_db.connect'


def check(context: Context) -> Iterator[Finding]:
    """Yield each function in thread mode that may suspend."""
    for scope in context.asynchronous:
        in_thread = scope.offload is not None and scope.offload.mode == "thread" and context.is_offloaded(scope)
        if not in_thread:
            continue
        why = "it awaits" if context.suspends(scope) else context.advisor.danger(scope)
        if context.suspends(scope):
            message = f'{scope.qualname} awaits, and would end with a BridgeError: use mode="bridge"'
        else:
            message = f'mode="thread" does not fit {scope.qualname}: {why}'
        if why is not None:
            yield context.finding(CODE, scope, scope.node, call="offload", severity="high", message=message, stays=True)
