"""Owns that nothing which a test sets is left to the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rollout.inside import fresh


@pytest.fixture(autouse=True)
def nothing_set() -> Iterator[None]:
    """Begin and end each test with nothing set."""
    with fresh():
        yield
