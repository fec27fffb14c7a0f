"""Is a connection that a function opens closed on every path?

Looks at one function's statements. What is given away (returned, stored, handed to somebody who might close it) is
not judged.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .model import Opened, Scope

_CLOSING = frozenset({"close", "release", "putconn", "release_connection", "disconnect", "remove", "return_connection"})
_CATCHING = frozenset({"Exception", "BaseException"})


def leak(opened: Opened, scope: Scope) -> str | None:
    """Say how a connection stays open; None if it does not, or if that is somebody else's affair."""
    assert not isinstance(scope.node, (ast.Module, ast.Lambda))
    name = opened.name
    body = scope.node.body
    closes: list[ast.Call] = []
    safe = caught = False
    gone = False
    for node in _walk(body):
        if isinstance(node, (ast.With, ast.AsyncWith)):
            if any(_mentions(item.context_expr, name) and _owns(item.context_expr, name) for item in node.items):
                return None
        elif isinstance(node, ast.Try):
            if any(_closes(inner, name) for statement in node.finalbody for inner in ast.walk(statement)):
                safe = True
            for handler in node.handlers:
                if _catches_all(handler) and any(_closes(inner, name) for inner in ast.walk(handler)):
                    caught = True
        elif _closes(node, name):
            assert isinstance(node, ast.Call)
            closes.append(node)
        elif _gives_away(node, name):
            gone = True
    if safe or (caught and len(closes) > 1):
        return None
    if not closes:
        return None if gone else "it is never closed"
    last = max(call.lineno for call in closes)
    for node, block in _exits(body, name):
        if opened.statement.lineno < node.lineno < last and not _closed_before(block, node, name):
            word = "return" if isinstance(node, ast.Return) else "raise"
            return f"the `{word}` in line {node.lineno} leaves it open"
    return "an exception before its close() leaves it open"


def _walk(body: list[ast.stmt]) -> Iterator[ast.AST]:
    stack: list[ast.AST] = list(reversed(body))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            stack.extend(reversed(list(ast.iter_child_nodes(node))))


def _mentions(node: ast.AST, name: str) -> bool:
    return any(isinstance(inner, ast.Name) and inner.id == name for inner in ast.walk(node))


def _owns(node: ast.expr, name: str) -> bool:
    """``with conn`` and ``with closing(conn)``, but not ``with conn.cursor()``."""
    if isinstance(node, ast.Name):
        return node.id == name
    return isinstance(node, ast.Call) and any(isinstance(a, ast.Name) and a.id == name for a in node.args)


def _closes(node: ast.AST, name: str) -> bool:
    if not isinstance(node, ast.Call):
        return False
    func = node.func
    called = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
    if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id == name:
        return called in _CLOSING
    return any(isinstance(a, ast.Name) and a.id == name for a in node.args) and (
        called in _CLOSING or "close" in called or "release" in called
    )


def _catches_all(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or (isinstance(handler.type, ast.Name) and handler.type.id in _CATCHING)


def _gives_away(node: ast.AST, name: str) -> bool:
    if isinstance(node, (ast.Return, ast.Yield)) and node.value is not None:
        return _is_or_holds(node.value, name)
    if isinstance(node, ast.Assign):
        return _is_or_holds(node.value, name)
    if isinstance(node, ast.Call):
        return any(_is_or_holds(argument, name) for argument in (*node.args, *(k.value for k in node.keywords)))
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and _mentions(node, name)


def _is_or_holds(node: ast.expr, name: str) -> bool:
    if isinstance(node, (ast.Tuple, ast.List)):
        return any(_is_or_holds(element, name) for element in node.elts)
    return isinstance(node, ast.Name) and node.id == name


def _exits(body: list[ast.stmt], name: str) -> Iterator[tuple[ast.Return | ast.Raise, list[ast.stmt]]]:
    """Yield each return and raise with the block that it stands in, but for those where there is no connection."""
    for statement in body:
        if isinstance(statement, (ast.Return, ast.Raise)):
            yield statement, body
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        there = _says_there_is(statement.test, name) if isinstance(statement, ast.If) else None
        for block in ("body", "orelse", "finalbody"):
            if (block, there) not in (("body", False), ("orelse", True)):
                yield from _exits(getattr(statement, block, []), name)
        for part in (*getattr(statement, "handlers", []), *getattr(statement, "cases", [])):
            yield from _exits(part.body, name)


def _says_there_is(test: ast.expr, name: str) -> bool | None:
    """Return whether a test tells that a name has a connection, or that it has none; None if it tells neither."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _says_there_is(test.operand, name)
        return None if inner is None else not inner
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.left, ast.Name):
        right = test.comparators[0]
        if test.left.id == name and isinstance(right, ast.Constant) and right.value is None:
            return isinstance(test.ops[0], (ast.IsNot, ast.NotEq))
    return True if isinstance(test, ast.Name) and test.id == name else None


def _closed_before(block: list[ast.stmt], node: ast.stmt, name: str) -> bool:
    before = block[: block.index(node)]
    return any(_closes(inner, name) for statement in before for inner in ast.walk(statement))
