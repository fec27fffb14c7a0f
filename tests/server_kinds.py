"""Which tests need a MariaDB, where the server that they are given may be MySQL's own.

Owns how such a test is recognised, and that it is skipped with the reason on another server. Without MYSQL_HOST the
server is a private MariaDB, and none is.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator

# What only MariaDB understands, by the words that a test's statements have then.
ONLY_MARIADBS = {
    "the sequence engine": re.compile(r"\bseq_\w+_to_"),
    "INSERT … RETURNING": re.compile(r"\bRETURNING \w"),
    "SET STATEMENT … FOR": re.compile(r"\bSET STATEMENT \w"),
    "max_statement_time": re.compile(r"\bmax_statement_time\b"),
    "KILL QUERY ID": re.compile(r"\bKILL QUERY ID\b"),
}


def reason_to_skip(function: object, parameters: object, marked: str | None, version: str) -> str | None:
    """Say why a test is left out on a server of this version; None if it is not.

    :param function: the test's
    :param parameters: what it is called with
    :param marked: what it says itself that it needs of MariaDB
    """
    if "mariadb" in version.lower():
        return None
    whats = [marked] if marked else needed("\n".join([repr(parameters), *_texts(function)]))
    return f"needs MariaDB, for {' and '.join(whats)}; the server is MySQL {version}" if whats else None


def needed(text: str) -> list[str]:
    """Name what a text needs of MariaDB."""
    return [what for what, pattern in ONLY_MARIADBS.items() if pattern.search(text)]


def _texts(function: object) -> Iterator[str]:
    """Give the source of a test, and of what it uses of the tests' own functions and constants."""
    seen: set[int] = set()
    left = [function]
    while left:
        current = left.pop()
        if callable(current):
            current = inspect.unwrap(current)
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, types.FunctionType):
            yield inspect.getsource(current)
            names = _names(current.__code__)
            left += [current.__globals__[name] for name in names if name in current.__globals__]
        elif isinstance(current, (str, bytes, tuple, list, dict)):
            yield repr(current)


def _names(code: types.CodeType) -> set[str]:
    """Return the names that code uses, and the functions within it."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))
