"""Names of expressions of the source: short ones, by which findings are recognised, and those that people read."""

from __future__ import annotations

import ast
from collections.abc import Callable


def dotted(node: ast.expr, key: Callable[[ast.expr], str] = lambda _: "") -> str:
    """Return an expression as a short name: ``session.query().filter().all``.

    :param key: how what stands in brackets is named
    """
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, key)}.{node.attr}"
    if isinstance(node, ast.Call):
        return f"{dotted(node.func, key)}()"
    if isinstance(node, ast.Subscript):
        return f"{dotted(node.value, key)}[{key(node.slice)}]"
    if isinstance(node, ast.Await):
        return f"(await {dotted(node.value, key)})"
    return "…"


def shown(node: ast.expr) -> str:
    """Return an expression as people read it: ``app['db'].cursor()``, and a property without parentheses."""
    return dotted(node, _key)


def _key(node: ast.expr) -> str:
    is_name = isinstance(node, ast.Constant) and isinstance(node.value, (str, int))
    return ast.unparse(node) if is_name else "…"
