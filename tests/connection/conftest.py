"""Owns what the tests of connections may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.conftest import MySQL
from tests.connection.outside import Outside
from tests.connection.statements import PROCEDURES


@pytest.fixture
def outside() -> Iterator[Outside]:
    """Give the threads."""
    with closing(Outside()) as threads:
        yield threads


@pytest.fixture(scope="module")
def settings(mysql: MySQL) -> Iterator[dict[str, Any]]:
    """Give one database, with the procedures, for all tests of a file; they keep to temporary tables."""
    name = mysql.fresh_database()
    with mysql.connect(database=name) as connection, connection.cursor() as cursor:
        for definition in PROCEDURES.values():
            cursor.execute(definition)
    yield mysql.settings(name)
    mysql.drop_database(name)
