"""A child task (create_task, gather, a task group) or a callback of the loop queries outside of any bridge.

A decorator covers its own task. Put @offload on the function that runs in the new one. What the loop calls by itself
(call_later, add_done_callback) runs in no task: let it start one, of a function that is offloaded.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Context
from ..findings import Finding
from ..libraries import CALLBACKS
from ..model import Call

CODE = "ODB302"
NAME = "unbridged-child-task"
SUMMARY = "a child task (`gather`, `create_task`, …) queries outside the bridge"
REMEDY = (
    "put @offload_db.offload on the function that the new task runs; from a callback, start a task of such a function"
)


def check(context: Context) -> Iterator[Finding]:
    """Yield each start of a task whose function blocks and is not decorated itself."""
    for scope in context.graph.scopes:
        if scope.kind == "module":
            continue
        for call in scope.calls:
            yield from _called_back(context, call)
            if call.spawner is None or call.text.endswith("add_task"):
                continue
            for target in call.targets:
                if target.is_async and not context.is_offloaded(target) and context.blocks_in_task(target):
                    message = (
                        f"{target.qualname} runs in a task of its own, where no bridge reaches it: put @offload on it"
                    )
                    yield context.finding(
                        CODE,
                        scope,
                        call.spawner,
                        call=target.name,
                        severity="medium",
                        message=message,
                        stays=True,
                        via=(target.qualname,),
                    )


def _called_back(context: Context, call: Call) -> Iterator[Finding]:
    """Yield the finding of a plain function that is given to the loop and blocks there."""
    if not call.passed or call.text.rpartition(".")[2] not in CALLBACKS:
        return
    below = context.graph.below(call)
    if below:
        name = below[0].scope.qualname
        message = (
            f"{name} is called by the event loop itself, where no bridge reaches it: start a task of an offloaded "
            "function there"
        )
        yield context.finding(
            CODE, call.scope, call.node, call=call.text, severity="medium", message=message, stays=True,
            via=tuple(step.scope.qualname for step in below),
        )  # fmt: skip
