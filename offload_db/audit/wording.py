"""How reports name an expression of the source.

What findings are recognised by has the shorter names of ``lookup.dotted``, which stay.
"""

from __future__ import annotations

import ast


def shown(node: ast.expr) -> str:
    """Return an expression as people read it: ``app['db'].cursor()``, and a property without parentheses."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{shown(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return f"{shown(node.func)}()"
    if isinstance(node, ast.Subscript):
        key = node.slice
        is_name = isinstance(key, ast.Constant) and isinstance(key.value, (str, int))
        return f"{shown(node.value)}[{ast.unparse(key) if is_name else '…'}]"
    if isinstance(node, ast.Await):
        return f"(await {shown(node.value)})"
    return "…"
