"""Routes as they are declared, and what comes of them: whole paths, and what bridges their requests.

Does not know how the frameworks declare them; that is ``routes.py``'s.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from .model import Scope

Key = tuple[str, int, int]

_POSITION = re.compile(r"//+")


@dataclass(frozen=True, slots=True)
class Route:
    """A request and the function that answers it."""

    method: str
    path: str
    handler: Scope
    bridged: bool  # by its application or router
    streams: bool  # with the body that it streams, too
    decorator: ast.expr | None  # what registers it, if that is a decorator


@dataclass(frozen=True, slots=True)
class Bridge:
    """A middleware that bridges the requests of an application, or those of some paths."""

    paths: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()

    def takes(self, path: str) -> bool:
        """Tell whether it bridges a request."""
        return (self.paths is None or _begins(path, self.paths)) and not _begins(path, self.exclude)


def _begins(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == prefix.rstrip("/") or path.startswith(f"{prefix.rstrip('/')}/") for prefix in prefixes)


@dataclass(slots=True)
class Declared:
    """A route as it is declared: below the prefixes of its router."""

    method: str
    path: str
    handler: Scope
    owner: Key | None
    decorator: ast.expr | None
    node: ast.expr
    scope: Scope  # where it is declared
    version: str = ""


@dataclass(slots=True)
class Tables:
    """What is declared of routes, routers and applications."""

    declared: list[Declared] = field(default_factory=list)
    prefixes: dict[Key, str] = field(default_factory=dict)
    included: dict[Key, list[tuple[Key | int | None, str | None, bool]]] = field(default_factory=dict)
    bridges: dict[Key, list[Bridge]] = field(default_factory=dict)  # of the whole application
    bridged_routes: set[Key] = field(default_factory=set)  # its own routes
    inside: dict[int, Key | tuple[int, str]] = field(default_factory=dict)  # a Route(…) in a list
    dependencies: dict[Key, list[Scope]] = field(default_factory=dict)  # of all of its routes
    versions: dict[Key, str] = field(default_factory=dict)  # Sanic's, which stand before every prefix

    def owner(self, declared: Declared) -> Key | None:
        """Return the application or router that a route belongs to."""
        return self.mounted(id(declared.node))[1] or declared.owner

    def routes(self) -> Iterator[Route]:
        """Yield the routes with their whole paths."""
        for declared in self.declared:
            path, owner = self.mounted(id(declared.node))[0] + declared.path, self.owner(declared)
            direct = owner in self.bridged_routes and declared.method != "WEBSOCKET"
            for prefix, bridges, version in self._prefixes(owner, frozenset()):
                whole = _POSITION.sub("/", (declared.version or version) + prefix + path) or "/"
                bridged = direct or any(bridge.takes(whole) for bridge in bridges)
                yield Route(declared.method, whole, declared.handler, bridged, direct, declared.decorator)

    def mounted(self, node: int) -> tuple[str, Key | None]:
        """Return the prefix of the mounts around a route, and the application that the outermost belongs to."""
        prefix = ""
        inside = self.inside.get(node)
        while inside is not None and len(inside) == 2:
            prefix = inside[1] + prefix
            inside = self.inside.get(inside[0])
        return prefix, inside

    def _prefixes(self, key: Key | None, seen: frozenset[Key]) -> Iterator[tuple[str, list[Bridge], str]]:
        """Yield each prefix under which a router stands, what bridges its requests, and its version."""
        if key is None or key in seen:
            yield "", [], ""
            return
        own = self.prefixes.get(key, "")
        bridges, version = self.bridges.get(key, []), self.versions.get(key, "")
        parents = self.included.get(key)
        if not parents:
            yield own, bridges, version
            return
        for place, prefix, replaces in dict.fromkeys(parents):
            around, parent = self.mounted(place) if isinstance(place, int) else ("", place)
            for above, above_bridges, above_version in self._prefixes(parent, seen | {key}):
                whole = above + around + (prefix or "") + ("" if replaces else own)
                yield whole, [*bridges, *above_bridges], version or above_version
