"""Owns what tests of the drivers look at behind the public names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from offload_db.drivers import mysqlclient_connection, pymysql_columns, pymysql_connection


def rely_on(patch: pytest.MonkeyPatch, owner: type, *names: str) -> None:
    """Have the fast reader rely on these names of a class of PyMySQL's."""
    patch.setitem(pymysql_connection._RELIED_ON, owner, names)


def short_cuts(patch: pytest.MonkeyPatch, *cuts: tuple[Any, Callable[[bytes], Any]]) -> None:
    """Have the fast reader make values by these functions, for the converters that they stand for."""
    patch.setattr(pymysql_columns, "_SHORT_CUTS", cuts)


def look_again() -> None:
    """Have the fast reader look again whether it knows the PyMySQL that is installed."""
    pymysql_connection._strange.cache_clear()


def arrived(descriptor: int) -> bytes:
    """Look at what has arrived of an answer for mysqlclient, without waiting."""
    return mysqlclient_connection._arrived(descriptor)
