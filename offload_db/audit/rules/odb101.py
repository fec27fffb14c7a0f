"""A driver executes a statement in an async def: PyMySQL, mysqlclient, mysql-connector or MariaDB's.

The loop stands still until the server has answered, and with it every other request. Put @offload on the handler; if
it also blocks elsewhere and never awaits, @offload(mode="thread").
"""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Context
from ..findings import Finding

CODE = "ODB101"
NAME = "blocking-statement"
SUMMARY = "a driver executes a statement in an `async def`"
REMEDY = "put @offload_db.offload directly above the async def; offload-db migrate does it"


def check(context: Context) -> Iterator[Finding]:
    """Yield each such call."""
    for call in context.sites:
        effect = call.effect
        if (
            effect is not None
            and effect.kind == "statement"
            and effect.driver not in ("sqlalchemy", "pandas", "peewee")
        ):
            yield context.blocking(CODE, call, "executes a statement")
