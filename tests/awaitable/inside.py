"""Owns what tests of the awaitable surface look at behind the public names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest

from offload_db.awaitable.streams import _Chunks
from offload_db.connection.physical import PhysicalConnection

Chunks = _Chunks
Step = Callable[[Chunks], Any]


def spied(
    patch: pytest.MonkeyPatch, step: Literal["read", "some", "start"], spy: Callable[[Step, Chunks], Any]
) -> None:
    """Put *spy*, which gets the step itself and the stream's chunks, in the place of a step of every stream."""
    original = getattr(Chunks, f"_{step}")
    patch.setattr(Chunks, f"_{step}", lambda chunks: spy(original, chunks))


def is_called(link: PhysicalConnection) -> bool:
    """Tell whether a driver call is under way on a connection."""
    return link.busy


def rows_read(chunks: Chunks) -> int:
    """Return how many rows of a stream the driver's cursor has given."""
    number: int = chunks._cursor.rownumber
    return number
