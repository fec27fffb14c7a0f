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
_STEPS = 2_000


Owners = Callable[[ast.expr, Scope], Sequence[Scope]]


def nobody(node: ast.expr, scope: Scope) -> Sequence[Scope]:
    """Know of no classes."""
    return ()


def text(node: ast.expr | None, scope: Scope, project: Project, owners: Owners = nobody) -> str | None:
    """Return the text that an expression gives, as far as it can be seen; None if nothing of it is a text.

    :param owners: tells the classes that an object may be of, where that is known
    """
    return _Reader(project, owners).read(node, scope, 0)


class _Reader:
    """Finds one text, in a limited number of steps: a name may be given many values, each made of other names.

    A name within its own values, as in ``query = query + " LIMIT 1"``, says nothing new, and is not looked up again.
    """

    def __init__(self, project: Project, owners: Owners) -> None:
        self.project = project
        self.owners = owners
        self.steps = _STEPS
        self.names: set[tuple[Scope, str]] = set()  # those whose values are being read

    def read(self, node: ast.expr | None, scope: Scope, depth: int) -> str | None:
        """Return the text of an expression; *depth* is how many steps have led to it."""
        self.steps -= 1
        if node is None or depth > 8 or self.steps < 0:
            return None
        if isinstance(node, ast.Constant):
            return node.value[:_MOST] if isinstance(node.value, str) else None
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.FormattedValue) else part for part in node.values]
            return "".join(self.read(part, scope, depth + 1) or _UNKNOWN for part in parts)
        if isinstance(node, ast.BinOp):
            left = self.read(node.left, scope, depth + 1)
            if isinstance(node.op, ast.Mod):
                return left
            right = self.read(node.right, scope, depth + 1)
            return None if left is None and right is None else (left or _UNKNOWN) + (right or _UNKNOWN)
        if isinstance(node, ast.IfExp):
            return self.read(node.body, scope, depth + 1) or self.read(node.orelse, scope, depth + 1)
        if isinstance(node, ast.Call):
            return self._called(node, scope, depth)
        if isinstance(node, ast.Name):
            return self._named(node.id, scope, depth)
        if isinstance(node, ast.Attribute):
            return self._attribute(node, scope, depth)
        return None

    def _called(self, node: ast.Call, scope: Scope, depth: int) -> str | None:
        func = node.func
        name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
        if name in ("getenv", "Field") and (default := _default(node, name)) is not None:
            return self.read(default, scope, depth + 1)
        if name not in _WRAPPERS:
            return None
        if name == "join":
            return _UNKNOWN
        inner = (
            func.value if isinstance(func, ast.Attribute) and name in ("strip", "lstrip", "rstrip", "format") else None
        )
        return self.read(inner if inner is not None else (node.args[0] if node.args else None), scope, depth + 1)

    def _named(self, name: str, scope: Scope, depth: int) -> str | None:
        where: Scope | None = scope
        while where is not None:
            if name in where.assigned:
                if (where, name) in self.names:
                    return None
                self.names.add((where, name))
                found = [self.read(value, where, depth + 1) for value in where.assigned[name]]
                self.names.discard((where, name))
                parts = [part for part in found if part is not None]
                return " ".join(parts) if parts else None
            where = where.parent
        return self._imported(name, scope.module, depth)

    def _imported(self, name: str, module: Module, depth: int) -> str | None:
        for statement in module.tree.body:
            if not isinstance(statement, ast.ImportFrom):
                continue
            for alias in statement.names:
                if name not in (alias.asname, alias.name) and alias.name != "*":
                    continue
                source = source_of(statement, module, self.project)
                wanted = name if alias.name == "*" else alias.name
                if source is not None and depth < 8 and (found := self._named(wanted, source.scope, depth + 1)):
                    return found
        return None

    def _attribute(self, node: ast.Attribute, scope: Scope, depth: int) -> str | None:
        """Return a constant of a module or of a class: ``queries.ALL``, ``self.QUERY``, ``settings.PREFIX``."""
        for owner in self.owners(node.value, scope):
            if node.attr in owner.assigned:
                return self._named(node.attr, owner, depth + 1)
        if not isinstance(node.value, ast.Name):
            return None
        where: Scope | None = scope
        while where is not None:
            if where.kind == "class" and node.value.id in ("self", "cls", where.name) and node.attr in where.assigned:
                return self._named(node.attr, where, depth + 1)
            where = where.parent
        module = scope.module
        for statement in module.tree.body:
            if isinstance(statement, ast.Import):
                for alias in statement.names:
                    if (alias.asname or alias.name) == node.value.id:
                        found = self.project.find(alias.name, module)
                        return self._named(node.attr, found.scope, depth + 1) if found is not None else None
            elif isinstance(statement, ast.ImportFrom) and not statement.level:
                for alias in statement.names:
                    if (alias.asname or alias.name) == node.value.id:
                        found = self.project.find(f"{statement.module}.{alias.name}", module)
                        return self._named(node.attr, found.scope, depth + 1) if found is not None else None
        return None


def _default(node: ast.Call, name: str) -> ast.expr | None:
    """Return the text that stands where nothing is set: ``os.getenv("PREFIX", "/api")``, ``Field("/api")``."""
    number = 1 if name == "getenv" else 0
    named = [keyword.value for keyword in node.keywords if keyword.arg == "default"]
    return next(iter((*named, *node.args[number : number + 1])), None)


def source_of(statement: ast.ImportFrom, module: Module, project: Project) -> Module | None:
    """Return the audited module that a statement imports from."""
    if statement.level:
        return project.at(project.relative(statement.module, statement.level, module))
    return project.find(statement.module or "", module)


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
