"""Owns what the tests of connections may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.connection.outside import Outside


@pytest.fixture
def outside() -> Iterator[Outside]:
    """Give the threads."""
    with closing(Outside()) as threads:
        yield threads
