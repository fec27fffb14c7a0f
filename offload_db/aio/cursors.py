"""aiomysql's cursors.

Owns aiomysql's names; what a cursor does is ``awaitable/cursors.py``'s.
"""

from __future__ import annotations

from ..awaitable.cursors import (
    RE_INSERT_VALUES,
    AsyncCursor,
    Cursor,
    DictCursor,
    SSCursor,
    SSDictCursor,
)

__all__ = ["RE_INSERT_VALUES", "AsyncCursor", "Cursor", "DictCursor", "SSCursor", "SSDictCursor"]
