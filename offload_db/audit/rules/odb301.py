"""A threading lock is held across a database call in code that runs on the event loop.

As long as the loop is blocked that is safe. In a bridge the call suspends the task, and the next task that wants the
lock stops the loop for good: the one that holds it cannot go on. Use mode="thread" for every handler that takes the
lock, or drop a lock that the database's own make superfluous. Some locks are not seen in the source: logging holds a
handler's lock while the handler emits and formats (let a QueueHandler take the records, and a QueueListener hand them
to this handler in a thread), and up to Python 3.11 functools.cached_property holds one while it computes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from ..context import Context
from ..findings import Finding
from ..model import External, Scope
from ..wording import shown

CODE = "ODB301"
NAME = "lock-across-call"
SUMMARY = "a `threading` lock is held across a database call, be it one that `logging` holds"
REMEDY = (
    'release the lock before the call, or use @offload_db.offload(mode="thread") on all that take it; '
    "let logging write through a QueueHandler"
)

CACHED_PROPERTY_LOCKS = sys.version_info < (3, 12)

# What logging calls while it holds a handler's lock, by the end of the base class's name.
_UNDER_LOCK = {
    "Handler": ("emit", "format"),
    "BufferingHandler": ("flush", "shouldFlush"),
    "MemoryHandler": ("flush", "shouldFlush"),
    "StreamHandler": ("flush",),
    "FileHandler": ("flush",),
    "QueueHandler": ("enqueue", "prepare"),
    "Formatter": ("format", "formatException", "formatMessage", "formatStack", "formatTime"),
}
# A handler that has one of these takes no such lock, or not there.
_OWN_LOCKING = ("createLock", "handle")
_QUEUE = "use logging.handlers.QueueHandler, and a QueueListener with this handler"


def check(context: Context) -> Iterator[Finding]:
    """Yield each place where a lock is taken that is held so."""
    yield from _in_the_source(context)
    for scope in context.graph.scopes:
        if CACHED_PROPERTY_LOCKS and "cached" in scope.decorators and _in_bridges(context, scope):
            yield from _across(context, scope, "functools.cached_property holds its lock", "use property")
    if context.asynchronous:
        for scope in _called_by_logging(context):
            yield from _across(context, scope, "logging holds the handler's lock", _QUEUE)


def _in_the_source(context: Context) -> Iterator[Finding]:
    for scope in context.graph.scopes:
        if scope not in context.on_loop or not any(call.locks for call in scope.calls) or _in_threads(context, scope):
            continue
        told = set()
        for call in scope.calls:
            if not call.locks or call.passed or not context.graph.blocks(call):
                continue
            for lock in call.locks:
                if id(lock) not in told:
                    told.add(id(lock))
                    below = context.graph.below(call) if call.effect is None else []
                    message = f"the lock {lock.text} is held while {shown(call.node)} talks to the database"
                    yield context.finding(
                        CODE, scope, lock.node, call=call.text, severity="high", message=message, stays=True,
                        via=tuple(step.scope.qualname for step in below),
                    )  # fmt: skip


def _in_threads(context: Context, scope: Scope) -> bool:
    """Tell whether all asynchronous functions that a function runs in are whole in a worker thread."""
    above = context.above(scope)
    return bool(above) and all(one in context.covered and context.runs_in(one) == "thread" for one in above)


def _in_bridges(context: Context, scope: Scope) -> bool:
    """Tell whether a function runs below one that is bridged."""
    return any(one in context.covered and context.runs_in(one) != "thread" for one in context.above(scope))


def _across(context: Context, scope: Scope, held: str, remedy: str) -> Iterator[Finding]:
    """Yield the one finding of a function that is called under a lock, if it talks to the database."""
    call = next((call for call in scope.calls if context.graph.blocks(call)), None)
    if call is not None:
        below = context.graph.below(call) if call.effect is None else []
        message = f"{held} while {shown(call.node)} in {scope.name} talks to the database; {remedy}"
        yield context.finding(
            CODE, scope, scope.node, call=call.text, severity="high", message=message, stays=True,
            via=tuple(step.scope.qualname for step in below),
        )  # fmt: skip


def _called_by_logging(context: Context) -> Iterator[Scope]:
    """Yield the methods of handlers and formatters that logging calls under a lock, inherited ones too."""
    methods = {(scope.owner, scope.name): scope for scope in context.graph.scopes if scope.owner is not None}
    found: dict[Scope, None] = {}
    for module in context.project.modules:
        for scope in module.scopes.values():
            if scope.kind != "class":
                continue
            order = context.interpreter.classes(scope)
            bases = {base.name for one in order for base in one.bases.values if isinstance(base, External)}
            ends = {name.rpartition(".")[2] for name in bases if name.startswith("logging.")}
            if any(end.endswith("Handler") for end in ends):
                if any((one, name) in methods for one in order for name in _OWN_LOCKING):
                    continue
                ends.add("Handler")
            for name in sorted({name for end in ends for name in _UNDER_LOCK.get(end, ())}):
                owner = next((one for one in order if (one, name) in methods), None)
                if owner is not None:
                    found[methods[owner, name]] = None
    yield from found
