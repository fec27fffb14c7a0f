"""Changes the text of a file: decorators, pools, connections and the import, and not a byte elsewhere.

Needs LibCST, whose trees keep every space and comment. What to change is decided in ``plan.py``.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider

_SECTION = re.compile(
    r"\b(third|party|external|libraries|packages|dependencies|imports?|vendor|from pypi)\b", re.IGNORECASE
)


class EditError(ValueError):
    """Raised when a file cannot be changed safely. It is left as it is."""


@dataclass(frozen=True, slots=True)
class Edits:
    """What to change in one file. Places are (line, column) as ``ast`` gives them."""

    decorators: Mapping[tuple[int, int], str]  # of a def -> the decorator, without its @
    pools: frozenset[tuple[int, int]]  # of the calls that make them
    package: str  # how the module calls the library
    # of the calls that are to be others, with the last name of what is called: f().g() begins where f() does
    made: Mapping[tuple[int, int, str], Callable[[cst.Call], cst.BaseExpression]]
    guarded: frozenset[tuple[int, int]]  # those of them that only one of two callers at once may keep
    imports: tuple[str, ...]
    own_import: str | None  # of a module of the application
    add_import: bool
    is_local: Callable[[str], bool]  # tells whether a top-level name is a module of the project


def apply(source: bytes, edits: Edits) -> bytes:
    """Return the changed text of a file.

    :raises EditError: if LibCST does not read the file, a place is not found, or the result would not parse
    """
    try:
        tree = cst.parse_module(source)
    except cst.ParserSyntaxError as error:
        raise EditError(f"LibCST does not parse it: {error.message}") from error
    wrapper = MetadataWrapper(tree, unsafe_skip_copy=True)
    text = source.decode(tree.encoding)
    # Form feeds and the like end no line for Python, but do for str.splitlines.
    lines = re.split(r"\r\n|\r|\n", text)
    transformer = _Transformer(edits, wrapper.resolve(PositionProvider), lines)
    while re.search(rf"\b{transformer.made}\b", text):
        transformer.made += "_"
    changed = wrapper.module.visit(transformer)
    if transformer.missing():
        raise EditError(f"the code at {sorted(transformer.missing())} was not found")
    if edits.own_import is not None:
        changed = _with_own_import(changed, edits.own_import, edits.is_local)
    if edits.add_import:
        changed = _with_import(changed, edits)
    result = changed.bytes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(result)
    except SyntaxError as error:
        raise EditError(f"the result would not parse: {error}") from error
    return result


class _Transformer(cst.CSTTransformer):
    def __init__(self, edits: Edits, positions: Mapping[cst.CSTNode, CodeRange], lines: Sequence[str]) -> None:
        super().__init__()
        self.edits = edits
        self.wrapper = f"{edits.package}.OffloadPool"
        self.made = "made"  # a name for what a call has made, before it is certain that it is kept
        self._tests: list[cst.BaseExpression] = []  # of the `if` around
        self.converted: set[tuple[int, int, str]] = set()
        self.positions = positions
        self.lines = lines
        self.decorated: set[tuple[int, int]] = set()
        self.wrapped: set[tuple[int, int]] = set()

    def missing(self) -> set[tuple[int | str, ...]]:
        """Return the places that were not come across."""
        return (
            (self.edits.decorators.keys() - self.decorated)
            | (self.edits.pools - self.wrapped)
            | (self.edits.made.keys() - self.converted)
        )

    def _place(self, node: cst.CSTNode) -> tuple[int, int]:
        """Return where a node begins, its column in bytes of UTF-8 as ``ast`` counts."""
        start = self.positions[node].start
        return start.line, len(self.lines[start.line - 1][: start.column].encode())

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:  # noqa: N802  # LibCST's name
        """Put the decorator directly above the def."""
        keyword = original_node.asynchronous
        place = self._place(keyword if keyword is not None else original_node)
        text = self.edits.decorators.get(place)
        if text is None:
            return updated_node
        self.decorated.add(place)
        # Comments between the decorators and the def stay where they are: directly above the new decorator.
        decorator = cst.Decorator(cst.parse_expression(text), leading_lines=updated_node.lines_after_decorators)
        return updated_node.with_changes(decorators=[*updated_node.decorators, decorator], lines_after_decorators=[])

    def leave_SimpleStatementLine(  # noqa: N802  # LibCST's name
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.SimpleStatementLine | cst.FlattenSentinel[cst.SimpleStatementLine]:
        """Wrap a pool in a line of its own, below the one that makes it."""
        if len(original_node.body) != 1:
            return updated_node
        statement = original_node.body[0]
        if isinstance(statement, cst.Assign) and len(statement.targets) == 1:
            target: cst.BaseExpression = statement.targets[0].target
        elif isinstance(statement, cst.AnnAssign):
            target = statement.target
        else:
            return updated_node
        if not isinstance(statement.value, cst.Call) or not isinstance(target, (cst.Name, cst.Attribute)):
            return updated_node
        place = self._place(statement.value)
        if place in self.edits.guarded:
            return self._kept_once(updated_node, target)
        if place not in self.edits.pools:
            return updated_node
        self.wrapped.add(place)
        name = cst.Module([]).code_for_node(target)
        line = cst.parse_statement(f"{name} = {self.wrapper}({name})")
        assert isinstance(line, cst.SimpleStatementLine)
        return cst.FlattenSentinel([updated_node, line])

    def visit_If_body(self, node: cst.If) -> None:  # noqa: N802  # as above
        """Remember the condition that its statements stand under."""
        self._tests.append(node.test)

    def leave_If_body(self, node: cst.If) -> None:  # noqa: N802  # as above
        """Forget it."""
        self._tests.pop()

    def _kept_once(
        self, line: cst.SimpleStatementLine, target: cst.BaseExpression
    ) -> cst.FlattenSentinel[cst.SimpleStatementLine]:
        """Ask again before a connection is kept: another caller may have made one while this one was made."""
        [statement] = line.body
        assert isinstance(statement, (cst.Assign, cst.AnnAssign))
        code = cst.Module([]).code_for_node
        first = line.with_changes(body=[cst.Assign([cst.AssignTarget(cst.Name(self.made))], statement.value)])  # type: ignore[arg-type]  # it is a call
        test = code(self._tests[-1])
        kept = f"if {test}:\n    {code(target)} = {self.made}\nelse:  # another call was first\n    {self.made}.close()"
        return cst.FlattenSentinel([first, cst.parse_statement(kept)])  # type: ignore[list-item]  # a block takes both

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:  # noqa: N802  # as above
        """Wrap a pool where it stands, if it is not assigned by itself; make a connection with this library."""
        place = self._place(original_node)
        func = original_node.func
        name = func.attr.value if isinstance(func, cst.Attribute) else getattr(func, "value", "")
        making = self.edits.made.get((*place, name))
        if making is not None:
            self.converted.add((*place, name))
            return making(updated_node)
        if place not in self.edits.pools or self._is_assigned(original_node):
            return updated_node
        self.wrapped.add(place)
        return cst.Call(cst.parse_expression(self.wrapper), [cst.Arg(updated_node)])

    def visit_SimpleStatementLine(self, node: cst.SimpleStatementLine) -> None:  # noqa: N802  # as above
        """Remember which call is all that a line assigns."""
        if len(node.body) == 1:
            statement = node.body[0]
            if isinstance(statement, cst.Assign) and len(statement.targets) == 1:
                target: cst.BaseExpression = statement.targets[0].target
            elif isinstance(statement, cst.AnnAssign):
                target = statement.target
            else:
                return
            if isinstance(target, (cst.Name, cst.Attribute)):
                self._assigned = statement.value

    _assigned: cst.BaseExpression | None = None

    def _is_assigned(self, node: cst.Call) -> bool:
        return self._assigned is node


# --- the import


def _with_own_import(tree: cst.Module, line: str, is_local: Callable[[str], bool]) -> cst.Module:
    """Add the import of a module of the application below all imports of the file's head."""
    body = list(tree.body)
    index = 1 if body and _is_docstring(body[0]) else 0
    for number, statement in enumerate(body):
        if _imports(statement):
            index = number + 1
        elif number and not isinstance(statement, (cst.If, cst.Try, cst.SimpleStatementLine)):
            break
    above = _imports(body[index - 1]) if index else []
    is_alone = bool(above) and not any(name.startswith(".") or is_local(name) for name in above)
    made = cst.parse_statement(line).with_changes(leading_lines=[cst.EmptyLine(indent=False)] if is_alone else [])
    return tree.with_changes(body=[*body[:index], made, *body[index:]])


def _with_import(tree: cst.Module, edits: Edits) -> cst.Module:
    body = list(tree.body)
    index, separate = _import_place(body, edits.is_local)
    if index == 0 and separate == "first" and _heading(tree.header)[1]:
        index, separate = 1, "within"  # below the import that the file's first comment speaks of
    line, *further = cst.parse_module("\n".join(edits.imports)).body
    assert isinstance(line, cst.SimpleStatementLine)
    blank = cst.EmptyLine(indent=False)
    if separate == "before":  # a section of its own above the next statement
        following = body[index]
        leading = list(following.leading_lines)
        while leading and leading[0].comment is None:
            leading.pop(0)
        line = line.with_changes(
            leading_lines=following.leading_lines[: -len(leading) or None] or [blank] * bool(index)
        )
        body[index] = following.with_changes(leading_lines=[blank, *leading])
    elif separate == "after":  # a section of its own below the one before
        line = line.with_changes(leading_lines=[blank] if index else [])
    elif separate == "first":  # at the head of a section: its blank lines and its heading stay above
        following = body[index]
        above, below = _heading(following.leading_lines)
        line = line.with_changes(leading_lines=above)
        body[index] = following.with_changes(leading_lines=below)
    body[index:index] = [line, *further]
    return tree.with_changes(body=body)


def _heading(lines: Sequence[cst.EmptyLine]) -> tuple[Sequence[cst.EmptyLine], Sequence[cst.EmptyLine]]:
    """Split what stands above an import: the heading of its section, and a comment that speaks of the import alone."""
    comments = [number for number, line in enumerate(lines) if line.comment is not None]
    if not comments or _SECTION.search(" ".join(str(lines[number].comment.value) for number in comments)):  # type: ignore[union-attr]  # they have one
        return lines, []
    return lines[: comments[0]], lines[comments[0] :]


def _import_place(body: Sequence[cst.BaseStatement], is_local: Callable[[str], bool]) -> tuple[int, str]:
    """Return the index at which the import goes, and how it is set apart from its neighbours."""
    last = -1
    for index, statement in enumerate(body):
        names = _imports(statement)
        if not names:
            if index and not isinstance(statement, (cst.If, cst.Try, cst.SimpleStatementLine)):
                break  # the first def or class: what comes below are no imports of the module's head
            continue
        if any(name == "__future__" or name in sys.stdlib_module_names for name in names):
            last = index
            continue
        if any(name.startswith(".") or is_local(name) for name in names):
            return index, "before"
        place = index
        while place < len(body) and _sorts_before(body[place]):
            place += 1
            if place < len(body) and (_leading(body[place]) or not _imports(body[place])):
                return place, "within"
        return place, "first" if place == index else "within"
    if last >= 0:
        return last + 1, "after"
    return (1 if body and _is_docstring(body[0]) else 0), "after"


def _leading(statement: cst.BaseStatement) -> Sequence[cst.EmptyLine]:
    return getattr(statement, "leading_lines", ())


def _sorts_before(statement: cst.BaseStatement) -> bool:
    if not isinstance(statement, cst.SimpleStatementLine) or not isinstance(statement.body[0], cst.Import):
        return False
    return _imports(statement)[0] < "offload_db"


def _imports(statement: cst.BaseStatement) -> list[str]:
    """Return the top-level names that a statement imports; ``.`` for a relative one."""
    if isinstance(statement, cst.Try):
        inside = [inner for inner in statement.body.body if isinstance(inner, cst.SimpleStatementLine)]
        return [name for inner in inside for name in _imports(inner)]
    if not isinstance(statement, cst.SimpleStatementLine):
        return []
    found = []
    for part in statement.body:
        if isinstance(part, cst.Import):
            found += [_first(alias.name) for alias in part.names]
        elif isinstance(part, cst.ImportFrom):
            found.append("." if part.relative else _first(part.module) if part.module is not None else ".")
    return found


def _first(node: cst.BaseExpression) -> str:
    while isinstance(node, cst.Attribute):
        node = node.value
    return node.value if isinstance(node, cst.Name) else ""


def _is_docstring(statement: cst.BaseStatement) -> bool:
    return (
        isinstance(statement, cst.SimpleStatementLine)
        and isinstance(statement.body[0], cst.Expr)
        and isinstance(statement.body[0].value, (cst.SimpleString, cst.ConcatenatedString))
    )
