"""A child task (create_task, gather, a task group) queries outside of any bridge.

A decorator covers its own task. Put @offload on the function that runs in the new one.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Context
from ..findings import Finding

CODE = "ODB302"
NAME = "unbridged-child-task"
SUMMARY = "a child task (`gather`, `create_task`, …) queries outside the bridge"


def check(context: Context) -> Iterator[Finding]:
    """Yield each start of a task whose function blocks and is not decorated itself."""
    for scope in context.graph.scopes:
        if scope.kind == "module":
            continue
        for call in scope.calls:
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
