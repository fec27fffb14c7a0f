"""What a rule is for: routes, functions, or everything.

Owns how a target is written, what it matches, and which of several targets is the most specific.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import ConfigurationError
from ..settings import shown

ACCEPTED = "'GET:/truck/{truck_id}', 'GET:/v2/*', 'module.function', 'module.*' and '*'"

_ROUTE = re.compile(r"([A-Za-z]+|\*):(/\S*|\*)")
_FUNCTION = re.compile(r"[^\s:/{}.]+(\.[^\s:/{}.]+)+")
_PARAMETER = re.compile(r"{([^{}:]*)(:path)?[^{}]*}")


class Request(NamedTuple):
    """What is known of a call when it is to be matched."""

    functions: tuple[str, ...]
    """Full names of the function that was called and of the route's endpoint."""
    method: str = ""
    """Empty where no request is known."""
    template: str | None = None
    """The route's path with the names of its parameters; None before a router has chosen the route."""
    path: str = ""
    """The request's own path, which is matched then."""


class Target:
    """What a rule is for.

    :param where: who asks, for errors
    :param text: a method and a path's template, a function's full name, either with ``*`` for anything, or ``*``
    :raises ConfigurationError: if it is written otherwise
    """

    __slots__ = ("_function", "_method", "_path", "_template", "order", "text")

    def __init__(self, where: str, text: object) -> None:
        if not isinstance(text, str) or not text.isprintable():  # it stands in logs, and on a terminal
            raise ConfigurationError(f"{where}: target={shown(text)}; accepted are {ACCEPTED}")
        route = _ROUTE.fullmatch(text)
        self._function = self._template = self._path = None
        self._method = ""
        if route is not None:
            self._method = route[1].upper()
            text = f"{self._method}:{route[2]}"
            self._template, self._path = _glob(nameless(route[2])), _concrete(route[2])
        elif text != "*":
            if not _FUNCTION.fullmatch(text):
                raise ConfigurationError(f"{where}: target={shown(text)}; accepted are {ACCEPTED}")
            self._function = _glob(text)
        self.text = text
        exact = "*" not in text
        kind = 3 if text == "*" else 2 if not exact else 1 if route is not None else 0
        self.order = (kind, -len(text.replace("*", "")), text)
        """Less is more specific: a function, a route, what has wildcards by the length of the rest, everything."""

    def matches(self, request: Request) -> bool:
        """Tell whether a request is what the rule is for."""
        if self._function is not None:
            return any(self._function.fullmatch(name) for name in request.functions)
        if self._template is None or self._path is None:
            return True
        if not request.method or self._method not in ("*", request.method):
            return False
        if request.template is not None:
            return self._template.fullmatch(nameless(request.template)) is not None
        return self._path.fullmatch(request.path) is not None

    def covers(self, other: Target) -> bool:
        """Tell whether this matches whatever another one matches, as far as their texts say so."""
        return self.text in ("*", other.text) or (
            (self._function is None) == (other._function is None) and _glob(self.text).fullmatch(other.text) is not None
        )


def nameless(template: str) -> str:
    """Leave out the names of a template's parameters, which say nothing of where it leads."""
    return _PARAMETER.sub("{}", template)


def _glob(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)


def _concrete(template: str) -> re.Pattern[str]:
    """Make what matches the paths of requests to a template."""
    parts: list[str] = []
    end = 0
    for parameter in _PARAMETER.finditer(template):
        parts += [_glob(template[end : parameter.start()]).pattern, ".+" if parameter[2] else "[^/]+"]
        end = parameter.end()
    return re.compile("".join([*parts, _glob(template[end:]).pattern]), re.DOTALL)
