"""Finds the text behind an expression, a route's path or a statement, and says what can be seen of the statement.

Text that is only known at run time reads as ``…``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence

from .model import Module, Scope
from .project import Project

_UNKNOWN = "…"
_WRAPPERS = frozenset({"text", "dedent", "strip", "format", "join", "sql", "SQL", "lstrip", "rstrip"})
_MOST = 20_000


Owners = Callable[[ast.expr, Scope], Sequence[Scope]]


def nobody(node: ast.expr, scope: Scope) -> Sequence[Scope]:
    """Know of no classes."""
    return ()


def text(node: ast.expr | None, scope: Scope, project: Project, owners: Owners = nobody, depth: int = 0) -> str | None:
    """Return the text that an expression gives, as far as it can be seen; None if nothing of it is a text.

    :param owners: tells the classes that an object may be of, where that is known
    """
    if node is None or depth > 8:
        return None
    if isinstance(node, ast.Constant):
        return node.value[:_MOST] if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.FormattedValue) else part for part in node.values]
        return "".join(text(part, scope, project, owners, depth + 1) or _UNKNOWN for part in parts)
    if isinstance(node, ast.BinOp):
        left = text(node.left, scope, project, owners, depth + 1)
        if isinstance(node.op, ast.Mod):
            return left
        right = text(node.right, scope, project, owners, depth + 1)
        return None if left is None and right is None else (left or _UNKNOWN) + (right or _UNKNOWN)
    if isinstance(node, ast.IfExp):
        return text(node.body, scope, project, owners, depth + 1) or text(
            node.orelse, scope, project, owners, depth + 1
        )
    if isinstance(node, ast.Call):
        return _called(node, scope, project, owners, depth)
    if isinstance(node, ast.Name):
        return _named(node.id, scope, project, owners, depth)
    if isinstance(node, ast.Attribute):
        return _attribute(node, scope, project, owners, depth)
    return None


def _called(node: ast.Call, scope: Scope, project: Project, owners: Owners, depth: int) -> str | None:
    func = node.func
    name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
    if name in ("getenv", "Field") and (default := _default(node, name)) is not None:
        return text(default, scope, project, owners, depth + 1)
    if name not in _WRAPPERS:
        return None
    if name == "join":
        return _UNKNOWN
    inner = func.value if isinstance(func, ast.Attribute) and name in ("strip", "lstrip", "rstrip", "format") else None
    return text(
        inner if inner is not None else (node.args[0] if node.args else None), scope, project, owners, depth + 1
    )


def _default(node: ast.Call, name: str) -> ast.expr | None:
    """Return the text that stands where nothing is set: ``os.getenv("PREFIX", "/api")``, ``Field("/api")``."""
    number = 1 if name == "getenv" else 0
    named = [keyword.value for keyword in node.keywords if keyword.arg == "default"]
    return next(iter((*named, *node.args[number : number + 1])), None)


def _named(name: str, scope: Scope, project: Project, owners: Owners, depth: int) -> str | None:
    where: Scope | None = scope
    while where is not None:
        if name in where.assigned:
            found = [text(value, where, project, owners, depth + 1) for value in where.assigned[name]]
            parts = [part for part in found if part is not None]
            return " ".join(parts) if parts else None
        where = where.parent
    return _imported(name, scope.module, project, owners, depth)


def _imported(name: str, module: Module, project: Project, owners: Owners, depth: int) -> str | None:
    for statement in module.tree.body:
        if not isinstance(statement, ast.ImportFrom):
            continue
        for alias in statement.names:
            if name not in (alias.asname, alias.name) and alias.name != "*":
                continue
            source = source_of(statement, module, project)
            wanted = name if alias.name == "*" else alias.name
            if source is not None and depth < 8 and (found := _named(wanted, source.scope, project, owners, depth + 1)):
                return found
    return None


def source_of(statement: ast.ImportFrom, module: Module, project: Project) -> Module | None:
    """Return the audited module that a statement imports from."""
    if statement.level:
        return project.at(project.relative(statement.module, statement.level, module))
    return project.find(statement.module or "", module)


def _attribute(node: ast.Attribute, scope: Scope, project: Project, owners: Owners, depth: int) -> str | None:
    """Return a constant of a module or of a class: ``queries.ALL``, ``self.QUERY``, ``settings.PREFIX``."""
    for owner in owners(node.value, scope):
        if node.attr in owner.assigned:
            return _named(node.attr, owner, project, owners, depth + 1)
    if not isinstance(node.value, ast.Name):
        return None
    where: Scope | None = scope
    while where is not None:
        if where.kind == "class" and node.value.id in ("self", "cls", where.name) and node.attr in where.assigned:
            return _named(node.attr, where, project, owners, depth + 1)
        where = where.parent
    module = scope.module
    for statement in module.tree.body:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                if (alias.asname or alias.name) == node.value.id:
                    found = project.find(alias.name, module)
                    return _named(node.attr, found.scope, project, owners, depth + 1) if found is not None else None
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            for alias in statement.names:
                if (alias.asname or alias.name) == node.value.id:
                    found = project.find(f"{statement.module}.{alias.name}", module)
                    return _named(node.attr, found.scope, project, owners, depth + 1) if found is not None else None
    return None


_COMMENT = re.compile(r"/\*.*?\*/|--[^\n]*", re.DOTALL)
_WHERE = re.compile(r"\bWHERE\b", re.IGNORECASE)
_LIMIT = re.compile(r"\bLIMIT\b|\bFETCH\s+(FIRST|NEXT)\b", re.IGNORECASE)
_ONE_ROW = re.compile(
    r"\ASELECT\s+(COUNT|SUM|MAX|MIN|AVG|COALESCE|EXISTS)\s*\((?!.*\bGROUP\s+BY\b)", re.IGNORECASE | re.DOTALL
)
_FROM = re.compile(r"\bFROM\b", re.IGNORECASE)


def judge(statement: str | None) -> list[str]:
    """Return what makes a statement heavy: ``no WHERE``, ``no LIMIT``; nothing if it is not known."""
    if not statement:
        return []
    plain = _COMMENT.sub(" ", statement).lstrip(" \t\r\n(")
    verb = plain[:6].upper()
    reasons = []
    if verb in ("UPDATE", "DELETE") and not _WHERE.search(plain):
        reasons.append("no WHERE")
    if verb == "SELECT" and _FROM.search(plain):
        if not _WHERE.search(plain):
            reasons.append("no WHERE")
        if not _LIMIT.search(plain) and not _ONE_ROW.search(plain):
            reasons.append("no LIMIT")
    return reasons
