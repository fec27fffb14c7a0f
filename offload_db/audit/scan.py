"""Reads one file: its scopes, the names that each binds, and the comments that switch rules off.

Every file is parsed once and walked once here. What names mean is not decided here. Plain functions that only a test
runner calls are left out: none of them runs on an event loop, and in a library they are half of the code.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterable
from pathlib import Path

from .model import Function, Module, Parameter, Scope
from .trees import slimmed

_IGNORE = re.compile(r"#\s*offload:\s*ignore\[([A-Za-z0-9_,\s]+)\]")
_TEST_FILE = re.compile(r"^test_.*\.py$|_test\.py$")
_TEST_LIBRARY = re.compile(r"^\s*(import|from) (pytest|unittest)\b", re.MULTILINE)


def scan(path: Path, shown: str, name: str, root: Path) -> Module:
    """Parse a file and find its scopes.

    :param path: the file
    :param shown: its path in reports
    :param name: its dotted name, as its root sees it
    :param root: the directory that imports start from
    :raises SyntaxError: if it is not Python that this interpreter reads
    :raises OSError: if it cannot be read
    :raises UnicodeDecodeError: if its bytes are not in the encoding that it declares
    """
    text = read(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes in somebody's strings
        tree = ast.parse(text, filename=str(path))
    in_tests = not {"test", "tests"}.isdisjoint(path.relative_to(root).parts) or _TEST_LIBRARY.search(text)
    if in_tests and _TEST_FILE.search(path.name):
        _leave_out_tests(tree, "async def" in text)
    tree = slimmed(tree)
    module = Module(path, shown, name, root, text.count("\n") + 1, tree)
    module.scope = Scope("module", "<module>", "<module>", module, None, tree, tree.body)
    module.scopes[id(tree)] = module.scope
    _Scanner(module).statements(tree.body, module.scope)
    if _IGNORE.search(text):
        module.ignores = _ignores(text)
    return module


def _leave_out_tests(tree: ast.Module | ast.ClassDef, has_coroutines: bool) -> None:
    """Remove what pytest and unittest call by its name, but for what has a coroutine in it."""
    kept: list[ast.stmt] = []
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef):
            _leave_out_tests(statement, has_coroutines)
        is_test = isinstance(statement, ast.FunctionDef) and statement.name.startswith("test")
        if is_test and not (has_coroutines and any(isinstance(n, ast.AsyncFunctionDef) for n in ast.walk(statement))):
            continue
        kept.append(statement)
    tree.body = kept


def read(path: Path) -> str:
    """Return the text of a file in the encoding that it declares."""
    with tokenize.open(path) as file:
        return file.read()


def _ignores(text: str) -> dict[int, frozenset[str]]:
    found: dict[int, frozenset[str]] = {}
    alone: frozenset[str] = frozenset()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and (match := _IGNORE.search(token.string)):
            codes = frozenset(code.strip().upper() for code in match[1].split(",") if code.strip())
            line = token.start[0]
            found[line] = found.get(line, frozenset()) | codes
            if not token.line[: token.start[1]].strip():
                alone |= codes  # a comment on a line of its own speaks of the next line of code
        elif alone and token.type not in (tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT):
            found[token.start[0]] = found.get(token.start[0], frozenset()) | alone
            alone = frozenset()
    return found


class _Scanner:
    """Walks the syntax tree of one module."""

    def __init__(self, module: Module) -> None:
        self.module = module

    def statements(self, nodes: Iterable[ast.AST], scope: Scope) -> None:
        stack = list(nodes)
        while stack:
            node = stack.pop()
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                stack.extend(self._function(node, scope))
                continue
            if isinstance(node, ast.ClassDef):
                stack.extend(self._class(node, scope))
                continue
            if not isinstance(node, (ast.Constant, ast.Attribute, ast.expr_context)):  # the most, and no names
                self._names(node, scope)
            stack.extend(ast.iter_child_nodes(node))

    def _names(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                scope.bound_names.add(node.id)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    scope.assigned.setdefault(target.id, []).append(node.value)
        elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)):
            if isinstance(node.target, ast.Name) and node.value is not None:
                scope.assigned.setdefault(node.target.id, []).append(node.value)
        elif isinstance(node, ast.Await):
            scope.awaits.append(node.value)
        elif isinstance(node, (ast.AsyncFor, ast.AsyncWith)):
            scope.awaits.append(None)
        elif isinstance(node, ast.comprehension):
            if node.is_async:
                scope.awaits.append(None)
        elif isinstance(node, (ast.Yield, ast.YieldFrom)):
            scope.is_generator = True
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self._import(node, scope)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            scope.outer_names |= {*node.names}
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
            if node.name:
                scope.bound_names.add(node.name)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            self._called(node.func.id, scope)

    def _called(self, name: str, scope: Scope) -> None:
        """Note that a function calls a parameter of its own, or of the function around it (as a decorator does)."""
        inner: Scope | None = scope
        while inner is not None and inner.kind in ("function", "lambda"):
            if name in inner.bound_names:
                if any(parameter.name == name for parameter in inner.parameters):
                    inner.called_parameters |= {name}
                return
            inner = inner.parent

    def _import(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            self.module.libraries.add(node.module.partition(".")[0].lower())
            self.module.imported.add(node.module)
            self.module.imported.update(f"{node.module}.{alias.name}" for alias in node.names)
        for alias in node.names:
            if isinstance(node, ast.Import):
                self.module.libraries.add(alias.name.partition(".")[0].lower())
                self.module.imported.add(alias.name)
            if alias.name != "*":
                scope.bound_names.add(alias.asname or alias.name.partition(".")[0])

    def _function(self, node: Function, scope: Scope) -> list[ast.AST]:
        """Make the function's scope; return what belongs to the scope around it."""
        name = "<lambda>" if isinstance(node, ast.Lambda) else node.name
        body: list[ast.stmt] = []
        if not isinstance(node, ast.Lambda):
            scope.bound_names.add(name)
            body = node.body
        made = Scope(
            "lambda" if isinstance(node, ast.Lambda) else "function",
            name,
            name if scope.kind == "module" else f"{scope.qualname}.{name}",
            self.module,
            scope,
            node,
            body,
            is_async=isinstance(node, ast.AsyncFunctionDef),
        )
        self.module.scopes[id(node)] = made
        around = self._parameters(made, node.args)
        self.statements([node.body] if isinstance(node, ast.Lambda) else node.body, made)
        if not isinstance(node, ast.Lambda):
            around.extend(node.decorator_list)
        return around

    def _parameters(self, made: Scope, arguments: ast.arguments) -> list[ast.AST]:
        positional = [*arguments.posonlyargs, *arguments.args]
        defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
        pairs = [*zip(positional, defaults, strict=True)]
        pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        made.parameters = [Parameter(argument.arg, argument.annotation, default) for argument, default in pairs]
        made.positional = len(positional)
        made.var_positional = arguments.vararg.arg if arguments.vararg else None
        made.var_keyword = arguments.kwarg.arg if arguments.kwarg else None
        made.bound_names.update(parameter.name for parameter in made.parameters)
        made.bound_names.update(name for name in (made.var_positional, made.var_keyword) if name)
        return [default for _, default in pairs if default is not None]

    def _class(self, node: ast.ClassDef, scope: Scope) -> list[ast.AST]:
        scope.bound_names.add(node.name)
        qualname = node.name if scope.kind == "module" else f"{scope.qualname}.{node.name}"
        made = Scope("class", node.name, qualname, self.module, scope, node, node.body)
        self.module.scopes[id(node)] = made
        self.statements(node.body, made)
        return [*node.bases, *(keyword.value for keyword in node.keywords), *node.decorator_list]
