"""Owns what tests look at behind the public names, in one place, so that a change there is made once here."""

from __future__ import annotations

from offload_db import OffloadPool
from offload_db.pool.checkout import PoolCore


def core(pool: OffloadPool) -> PoolCore:
    """Return what keeps the connections of a pool."""
    return pool._core
