"""Which driver a connection, a module or an error is of.

Owns the list of the drivers that are known. What is known of each stands in its own file.
"""

from __future__ import annotations

from typing import Any

import pymysql

from .base import (
    GENERIC,
    Driver,
)
from .mysql_connector import MYSQL_CONNECTOR
from .mysqlclient import MYSQLCLIENT
from .pymysql import PYMYSQL

OTHERS: dict[str, Driver] = {"MySQLdb": MYSQLCLIENT, "mysql": MYSQL_CONNECTOR}
"""Drivers by the name of the package that their connections come from."""


def driver_from(module: str) -> Driver:
    """Return what is known of the driver whose module has this name."""
    return OTHERS.get(module.partition(".")[0], GENERIC)


def code_of(error: BaseException) -> int | None:
    """Return the code of an error of any driver that is known."""
    driver = PYMYSQL if isinstance(error, pymysql.MySQLError) else driver_from(type(error).__module__)
    return driver.code(error)


def driver_of(raw: Any) -> Driver:
    """Return what is known of the driver that made the connection *raw*."""
    if isinstance(raw, pymysql.connections.Connection):
        return PYMYSQL
    known = (driver_from(cls.__module__) for cls in type(raw).__mro__)
    return next((driver for driver in known if driver is not GENERIC), GENERIC)
