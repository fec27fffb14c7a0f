"""Sets that keep nothing alive, and that other threads add to.

Owns how such a one is listed. Who is in them is known where they stand.
"""

from __future__ import annotations

import weakref
from typing import TypeVar

T = TypeVar("T")


def members(found: weakref.WeakSet[T]) -> list[T]:
    """List what is in a set; what another thread adds just now may be missing."""
    while True:
        try:
            return list(found)
        except RuntimeError:  # it has grown under the iteration
            continue
