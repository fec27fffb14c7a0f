"""A connection is not closed on every path.

A pooled one comes back when Python collects it, until then it is missing; one of its own stays open on the server.
Use with, or close it in a finally.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Context
from ..findings import Finding
from ..wording import shown

CODE = "ODB303"
NAME = "connection-left-open"
SUMMARY = "a connection is not closed on every path"
REMEDY = "open it in a with statement, or close it in a finally"


def check(context: Context) -> Iterator[Finding]:
    """Yield each connection that may be left open by code on the event loop."""
    for scope, opened, how in context.leaks():
        yield context.finding(
            CODE,
            scope,
            opened.statement,
            call=opened.how,
            severity="low" if how.startswith("an exception") else "medium",
            message=f"{opened.name} = {shown(opened.statement.value)}: {how}",
        )
