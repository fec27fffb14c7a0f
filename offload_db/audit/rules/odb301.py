"""A threading lock is held across a database call in code that runs on the event loop.

As long as the loop is blocked that is safe. In a bridge the call suspends the task, and the next task that wants the
lock stops the loop for good: the one that holds it cannot go on. Use mode="thread" for every handler that takes the
lock, or drop a lock that the database's own make superfluous.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Context
from ..findings import Finding

CODE = "ODB301"
NAME = "lock-across-call"
SUMMARY = "a `threading` lock is held across a database call"


def check(context: Context) -> Iterator[Finding]:
    """Yield each place where a lock is taken that is held so."""
    for scope in context.graph.scopes:
        if scope not in context.on_loop:
            continue
        above = context.above(scope)
        if above and all(one in context.covered and context.runs_in(one) == "thread" for one in above):
            continue
        told = set()
        for call in scope.calls:
            if not call.locks or call.passed or not context.graph.blocks(call):
                continue
            for lock in call.locks:
                if id(lock) not in told:
                    told.add(id(lock))
                    below = context.graph.below(call) if call.effect is None else []
                    message = f"the lock {lock.text} is held while {call.text}() talks to the database"
                    yield context.finding(
                        CODE, scope, lock.node, call=call.text, severity="high", message=message, stays=True,
                        via=tuple(step.scope.qualname for step in below),
                    )  # fmt: skip
