"""Which asynchronous functions are offloaded already: by their decorator, their application, or all who await them."""

from __future__ import annotations

import ast

from .decorators import Decorated
from .graph import Graph
from .model import Decorating, External, Scope

_ABOVE = (
    "it stands above the route decorator, which has registered the function undecorated: put it below, directly above "
    "the def"
)


def is_offload(decorated: Decorated) -> bool:
    """Tell whether a decorator is ``offload``, with settings or without."""
    return any(
        isinstance(value, Decorating) or (isinstance(value, External) and value.name == "offload_db.offload")
        for value in decorated.values
    )


def ineffective(graph: Graph, decorated: list[Decorated]) -> dict[Scope, tuple[ast.expr, str]]:
    """Return the decorators that have no effect where they stand, and why."""
    registering = {id(route.decorator) for route in graph.routes if route.decorator is not None}
    found: dict[Scope, tuple[ast.expr, str]] = {}
    for one in decorated:
        if not is_offload(one):
            continue
        node = one.scope.node
        if one.scope.kind == "class":
            found[one.scope] = (one.node, "it stands on a class: decorate its methods")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            below = node.decorator_list[node.decorator_list.index(one.node) + 1 :]
            if any(id(other) in registering for other in below):
                found[one.scope] = (one.node, _ABOVE)
            elif one.scope.is_generator and not one.scope.is_async and "contextmanager" not in one.scope.decorators:
                found[one.scope] = (one.node, "it stands on a generator function, which frameworks run in a thread")
            elif one.scope.is_generator and any(_makes_context_manager(one.scope, other) for other in below):
                found[one.scope] = (one.node, "it stands above what makes a context manager of the generator")
    return found


def _makes_context_manager(scope: Scope, node: ast.expr) -> bool:
    return "contextmanager" in scope.decorators and ast.unparse(node).endswith("contextmanager")


def covered(graph: Graph, without_effect: set[Scope]) -> set[Scope]:
    """Return the asynchronous functions whose driver calls suspend their task.

    A function without a decorator of its own is covered if everybody who runs it is: its routes, those who await it,
    and those whose dependency it is. One that is started as a task, or handed to somebody unknown, is not.
    """
    found = {scope for scope in graph.scopes if scope.offload is not None and scope not in without_effect}
    growing = True
    while growing:
        growing = False
        for scope in graph.scopes:
            if scope.is_async and scope not in found and _is_covered(scope, graph, found):
                found.add(scope)
                growing = True
    return found


def _is_covered(scope: Scope, graph: Graph, found: set[Scope]) -> bool:
    routes = graph.of_handler.get(scope, [])
    if not all(route.bridged for route in routes):
        return False
    users = graph.users.get(scope, [])
    if not all(_request_is_bridged(user, graph) for user in users):
        return False
    calls = graph.callers.get(scope, [])
    for call in calls:
        if call.scope.kind == "module" and call.passed:
            continue  # a registration, which is a route if it can be seen
        if call.streamed:
            entries = graph.entries(call.scope)
            if not entries or not all(route.streams for route in entries):
                return False
        elif call.passed:
            if not _request_is_bridged(call.scope, graph) or not call.text.endswith("add_task"):
                return False
        elif call.spawner is not None or call.scope not in found:
            return False
    return bool(routes or users or [call for call in calls if call.scope.kind != "module"])


def _request_is_bridged(scope: Scope, graph: Graph) -> bool:
    """Tell whether the application or router bridges every request that the function belongs to."""
    routes = graph.entries(scope)
    return bool(routes) and all(route.bridged for route in routes)
