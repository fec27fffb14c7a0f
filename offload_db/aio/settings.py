"""The connection settings of aiomysql, as PyMySQL takes them.

Owns what each keyword means here. Checks no value that PyMySQL checks itself.
"""

from __future__ import annotations

import inspect
from typing import Any

import pymysql
from pymysql.constants import CLIENT

from ..awaitable.cursors import driver_class
from ..errors import ConfigurationError

_DRIVERS = frozenset(inspect.signature(pymysql.connections.Connection.__init__).parameters) - {"self"}


def connection_settings(where: str, given: dict[str, Any]) -> dict[str, Any]:
    """Translate aiomysql's keywords; PyMySQL's own pass unchanged.

    :param where: the function that was called, for errors
    :raises ConfigurationError: if there is no such keyword
    """
    settings = dict(given)
    # Whichever loop awaits is the one; and PyMySQL takes the plugin that the server asks for.
    for meaningless in ("loop", "auth_plugin"):
        settings.pop(meaningless, None)
    for old, new in (("db", "database"), ("passwd", "password")):
        value = settings.pop(old, None)
        if value is not None:
            settings[new] = value
    if unknown := sorted(settings.keys() - _DRIVERS):
        raise ConfigurationError(
            f"{where}: {unknown[0]} is not an argument; accepted are aiomysql's and those of pymysql.connect"
        )
    for name in ("connect_timeout", "conv", "program_name", "use_unicode"):
        if not settings.get(name, True):
            del settings[name]  # None has no meaning to PyMySQL, or another one
    if settings.get("sql_mode"):
        settings["sql_mode"] = settings["sql_mode"].strip("'\"")  # aiomysql leaves quoting to its users
    if "conv" in settings:
        settings["conv"] = {**pymysql.converters.encoders, **settings["conv"]}
    if "cursorclass" in settings:
        settings["cursorclass"] = driver_class(settings["cursorclass"])
    if not any(settings.get(name) for name in _DRIVERS if name.startswith("ssl")):
        # Newer versions of PyMySQL would try TLS, which aiomysql does only if it is told to.
        settings["ssl_disabled"] = True
    settings["client_flag"] = settings.get("client_flag", 0) | CLIENT.MULTI_STATEMENTS
    return settings
