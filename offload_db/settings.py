"""Settings: what is accepted, and where they are read from.

Owns the checks that name the setting, what was given and what is accepted, and the environment variables of
:meth:`OffloadPool.from_env`. Holds no setting itself.
"""

from __future__ import annotations

import difflib
import os
import re
import threading
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .errors import ConfigurationError


class Unchosen(int):
    """The default of a number, where it matters that nobody chose it."""


# No text, or that of a short number.
_NUMBER = re.compile(r"([+-]?[0-9]{1,6}([.][0-9]{0,3})?)?")

_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

TLS_FILES = ("MYSQL_SSL_CA", "MYSQL_SSL_CERT", "MYSQL_SSL_KEY")
TLS_FLAGS = ("MYSQL_SSL_VERIFY_CERT", "MYSQL_SSL_VERIFY_IDENTITY", "MYSQL_SSL_DISABLED")
"""What PyMySQL takes as ``ssl_ca`` and so on, by the names of its variables."""

DEFAULT_SIZE, DEFAULT_MIN_SIZE = 20, Unchosen(5)


def check_name(where: str, name: str, value: object) -> None:
    """Raise :class:`ConfigurationError` unless *value* is a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{where}: {name}={shown(value)}; accepted are strings that are not empty")


def check_count(where: str, name: str, value: object, *, minimum: int) -> None:
    """Raise :class:`ConfigurationError` unless *value* is a whole number of at least *minimum*."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigurationError(f"{where}: {name}={shown(value)}; accepted are whole numbers from {minimum} up")


def check_seconds(where: str, name: str, value: object) -> None:
    """Raise :class:`ConfigurationError` unless *value* is a duration above zero, or None."""
    if value is None:
        return
    # Threads cannot wait for longer than that.
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= threading.TIMEOUT_MAX:
        most = f"{threading.TIMEOUT_MAX:.0f}"
        raise ConfigurationError(f"{where}: {name}={shown(value)}; accepted are seconds above 0, to {most}, and None")


def check_flag(where: str, name: str, value: object) -> None:
    """Raise :class:`ConfigurationError` unless *value* is True or False."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{where}: {name}={shown(value)}; accepted are True and False")


def check_word(where: str, name: str, value: object, words: Sequence[str]) -> None:
    """Raise :class:`ConfigurationError` unless *value* is one of some *words*."""
    if not isinstance(value, str) or value not in words:
        *others, last = map(repr, words)
        raise ConfigurationError(f"{where}: {name}={shown(value, words)}; accepted are {', '.join(others)} and {last}")


def check_statements(where: str, name: str, value: object) -> None:
    """Raise :class:`ConfigurationError` unless *value* is a list or tuple of strings, or None."""
    if value is None or (isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)):
        return
    raise ConfigurationError(f"{where}: {name}={kind_of(value)}; accepted are lists of statements, and None")


def check_known(where: str, given: Iterable[str], known: Iterable[str], accepted: str) -> None:
    """Raise :class:`ConfigurationError` unless each name that is *given* is *known*."""
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigurationError(f"{where}: {name} is not an argument{hint}; accepted are {accepted}")


def shown(value: object, words: Iterable[str] = ()) -> str:
    """Show in an error what is wrong, if that is nothing that anybody would keep secret; else its kind alone.

    That are numbers, also as text, True, False, None, and what was meant to be one of the accepted *words*. Any other
    text may be a password that got into the wrong place.
    """
    if type(value) is int and abs(value) > 10**20:
        return "a huge number"
    if value is None or type(value) in (bool, int, float):
        return repr(value)
    if type(value) is str and (_NUMBER.fullmatch(value) or difflib.get_close_matches(value, list(words), 1)):
        return repr(value)
    return kind_of(value)


def kind_of(value: object) -> str:
    """Name what was given without showing what may be in it."""
    name = getattr(value, "__name__", None) if callable(value) or isinstance(value, types.ModuleType) else None
    return name if isinstance(name, str) else f"<{type(value).__module__}.{type(value).__qualname__} object>"


def read_environment(
    environ: Mapping[str, str], where: str = "OffloadPool.from_env"
) -> tuple[int, int, dict[str, Any]]:
    """Read the pool's sizes, and what PyMySQL's ``connect`` takes, from environment variables.

    :param where: who asks, for errors
    :return: the smallest and the largest number of connections, and the connection settings
    :raises ConfigurationError: naming every variable that is missing or wrong
    """
    if not isinstance(environ, Mapping):
        raise ConfigurationError(f"{where}: environ={kind_of(environ)}; accepted are mappings such as os.environ")
    problems: list[str] = []
    for name in ("MYSQL_HOST", "MYSQL_USER", "MYSQL_PASSWORD", "MYSQL_DATABASE"):
        if name not in environ:
            problems.append(f"{name} is not set")
        elif not isinstance(environ[name], str):
            problems.append(f"{name} is {kind_of(environ[name])}; accepted is text")
        elif not environ[name].strip() and name != "MYSQL_PASSWORD":
            problems.append(f"{name} is empty")
    port = _number(environ, "MYSQL_PORT", 3306, range(1, 65536), problems)
    largest = _number(environ, "DB_POOL_MAX_SIZE", DEFAULT_SIZE, range(1, 10_001), problems)
    smallest = _number(environ, "DB_POOL_MIN_SIZE", min(DEFAULT_MIN_SIZE, largest), range(10_001), problems)
    if smallest > largest and not any("DB_POOL" in problem for problem in problems):
        problems.append(f"DB_POOL_MIN_SIZE={smallest} is more than DB_POOL_MAX_SIZE={largest}")
    tls = _tls(environ, problems)
    if problems:
        raise ConfigurationError(f"{where}: {'; '.join(problems)}")
    settings = {
        "host": environ["MYSQL_HOST"],
        "port": port,
        "user": environ["MYSQL_USER"],
        "password": environ["MYSQL_PASSWORD"],
        "database": environ["MYSQL_DATABASE"],
        **tls,
    }
    return smallest, largest, settings


def _tls(environ: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    """Read the settings of TLS; what is not set, or empty, is left to PyMySQL."""
    given = {name: str(environ.get(name, "")).strip() for name in (*TLS_FILES, *TLS_FLAGS)}
    settings: dict[str, Any] = {}
    for name, text in given.items():
        if not text:
            continue
        if name in TLS_FILES:
            if not os.access(text, os.R_OK):
                problems.append(f"{name} does not name a file that can be read")
            settings[name.removeprefix("MYSQL_").lower()] = text
        elif text.lower() in _FLAGS:
            settings[name.removeprefix("MYSQL_").lower()] = _FLAGS[text.lower()]
        else:
            problems.append(f"{name}={shown(text, _FLAGS)}; accepted are {', '.join(_FLAGS)}")
    if settings.get("ssl_disabled") and len(settings) > 1:
        problems.append("MYSQL_SSL_DISABLED is on, so no other MYSQL_SSL_… setting has a meaning")
    # PyMySQL encrypts for a CA alone, and lets in whoever answers.
    if "ssl_ca" in settings or settings.get("ssl_verify_identity"):
        settings.setdefault("ssl_verify_cert", True)
    if settings.get("ssl_verify_identity") and not settings["ssl_verify_cert"]:
        problems.append("MYSQL_SSL_VERIFY_IDENTITY is on, and MYSQL_SSL_VERIFY_CERT is off")
    if "ssl_key" in settings and "ssl_cert" not in settings:
        problems.append("MYSQL_SSL_KEY is set, and MYSQL_SSL_CERT is not")
    return settings


def _number(environ: Mapping[str, str], name: str, default: int, accepted: range, problems: list[str]) -> int:
    text = str(environ.get(name, default)).strip()
    if text.isascii() and text.isdigit() and int(text) in accepted:
        return int(text)
    problems.append(f"{name}={shown(text)}; accepted are whole numbers from {accepted[0]} to {accepted[-1]}")
    return default
