"""Syntax trees in a third of the memory.

The nodes of ``ast`` have a dictionary each. These are of classes derived from them, with the same names and fields,
that keep them in slots, and without what nobody here asks for.
"""

from __future__ import annotations

import ast
from typing import TypeVar, cast

Node = TypeVar("Node", bound=ast.AST)

_LEFT_OUT = ("end_col_offset", "type_comment", "kind", "type_ignores")
_LINES = ("lineno", "end_lineno")
_NO_NODES: list[ast.AST] = []  # most lists are empty
_made: dict[type[ast.AST], type[ast.AST]] = {}


def slim(kind: type[ast.AST]) -> type[ast.AST]:
    """Return the class that takes the place of one of ``ast``'s; a class without fields stays as it is."""
    made = _made.get(kind)
    if made is None:
        made = _made[kind] = _slim(kind)
    return made


def _slim(kind: type[ast.AST]) -> type[ast.AST]:
    names = [name for name in (*kind._fields, *kind._attributes) if name not in _LEFT_OUT]
    if not names:
        return kind
    left_out: dict[str, object] = {name: None for name in (*kind._fields, *kind._attributes) if name in _LEFT_OUT}
    if "type_ignores" in left_out:
        left_out["type_ignores"] = _NO_NODES
    return type(kind.__name__, (kind,), {"__slots__": names, "__module__": "ast", **left_out})


def slimmed(tree: Node) -> Node:
    """Return a tree of the same nodes, or itself where it is nested too deeply for that."""
    try:
        return cast("Node", _node(tree, {}))
    except RecursionError:
        return tree


def _field(value: object, numbers: dict[int, int]) -> object:
    if isinstance(value, list):
        return [_node(one, numbers) if isinstance(one, ast.AST) else one for one in value] or _NO_NODES
    return _node(value, numbers) if isinstance(value, ast.AST) else value


def _node(node: ast.AST, numbers: dict[int, int]) -> ast.AST:
    kind = type(node)
    made = slim(kind)
    if made is kind:
        return node
    new = made.__new__(made)
    for name, value in node.__dict__.items():
        if name in _LINES:
            # One line has many nodes; each of them comes with a number of its own.
            setattr(new, name, numbers.setdefault(value, value))
        elif name not in _LEFT_OUT:
            setattr(new, name, _field(value, numbers))
    return new
