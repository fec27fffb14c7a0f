"""Owns what tests of the frameworks' parts look at behind the public names."""

from __future__ import annotations

from typing import Any

from offload_db import OffloadPool, queries


def default_pool() -> OffloadPool:
    """Return the default pool, or make it, as code in a thread does."""
    return queries._default_pool()


def database_of(kind: Any) -> str:
    """Return the database in which a pool's variant works."""
    name: str = kind._connector.settings["database"]
    return name
