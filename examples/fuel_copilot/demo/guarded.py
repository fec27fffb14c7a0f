"""Owns the backend whose migration is rolled out: the legacy one, guarded, with its figures to ask for at /rollout.

Served with the backend's own directory in front of the others, so that ``main`` is the copy that lies there.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict
from typing import Any

from offload_db import rollout

app: Any = importlib.import_module("main").app
rollout.guard(min_calls=40, p95_ratio=10.0)


async def figures() -> list[dict[str, Any]]:
    """Tell how each target is rolled out, and what came of it."""
    return [asdict(row) for row in rollout.snapshot()]


app.get("/rollout")(figures)
