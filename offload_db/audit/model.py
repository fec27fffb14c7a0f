"""What the audit knows about source code: files, scopes, the values that names may have, and the calls functions make.

Owns the data alone. How it comes about is in ``scan.py`` (one file), ``interpret.py`` (values) and ``graph.py`` (who
reaches whom).
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Value:
    """One thing that an expression may evaluate to. Values are compared by identity; equal ones are the same one."""

    __slots__ = ()


Values = frozenset[Value]
NOTHING: Values = frozenset()
_FEW_READERS = 12


class Cell:
    """The values that a name, an attribute or a function's result may have, and who has read them."""

    __slots__ = ("read_by", "values")

    def __init__(self) -> None:
        self.values: Values = NOTHING
        # Most cells have one reader, and most others a few: a set for them would be many times as large as the cell.
        self.read_by: Scope | Cell | list[Scope | Cell] | set[Scope | Cell] | None = None

    def add_reader(self, reader: Scope | Cell) -> None:
        """Note who looks again when the values grow: code, or what is derived from this cell."""
        if self.read_by is None:
            self.read_by = reader
        elif isinstance(self.read_by, set):
            self.read_by.add(reader)
        elif isinstance(self.read_by, list):
            if reader not in self.read_by:
                self.read_by.append(reader)
                if len(self.read_by) > _FEW_READERS:
                    self.read_by = set(self.read_by)
        elif self.read_by is not reader:
            self.read_by = [self.read_by, reader]

    def readers(self) -> Collection[Scope | Cell]:
        """Return who has read it."""
        if self.read_by is None:
            return ()
        return self.read_by if isinstance(self.read_by, (list, set)) else (self.read_by,)


@dataclass(frozen=True, slots=True, eq=False)
class External(Value):
    """A dotted name of something outside the audited files, such as ``pymysql.connect``."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Opaque(Value):
    """Something that comes from outside the audited files and is no database object."""


@dataclass(frozen=True, slots=True, eq=False)
class LockValue(Value):
    """A lock of ``threading``."""


@dataclass(frozen=True, slots=True, eq=False)
class ModuleRef(Value):
    """An audited module."""

    module: Module


@dataclass(frozen=True, slots=True, eq=False)
class FunctionRef(Value):
    """An audited function; *bound* where its first parameter is filled already."""

    scope: Scope
    bound: bool


@dataclass(frozen=True, slots=True, eq=False)
class ClassRef(Value):
    """An audited class."""

    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class Instance(Value):
    """An object of an audited class."""

    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class Generated(Value):
    """What a call of an audited generator function returns."""

    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class Database(Value):
    """A connection, cursor, pool, engine, session or the like.

    *reach* says whether a bridge frees the loop from it: ``offloaded``, ``wrappable`` (it comes from a ``PooledDB``
    that can be wrapped), ``raw`` (no) or ``unknown``.
    """

    kind: str
    driver: str
    reach: str


@dataclass(frozen=True, slots=True, eq=False)
class Method(Value):
    """A method of a database object that is not called yet."""

    owner: Database
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class App(Value):
    """An application, router or blueprint of a web framework, known by where it is made."""

    key: tuple[str, int, int]
    framework: str
    kind: str


@dataclass(frozen=True, slots=True, eq=False)
class AppMethod(Value):
    """A method of an application or router."""

    owner: App
    name: str


@dataclass(slots=True, eq=False)
class Container(Value):
    """A tuple, list or dictionary: cells of its first items, and one for all others."""

    items: list[Cell]
    rest: Cell


@dataclass(frozen=True, slots=True, eq=False)
class Annotated(Value):
    """An alias for ``Annotated[…]``: what a parameter that is annotated with it may be."""

    cell: Cell


@dataclass(frozen=True, slots=True, eq=False)
class Decorating(Value):
    """``offload(…)`` with its settings chosen, waiting for the function."""

    mode: str


OPAQUE = Opaque()
FOREIGN = Opaque()  # of the driver of another database; so is whatever comes of it
UNSEEN = Opaque()  # of a file of the application that is not among those that are read; so is whatever comes of it
THREAD_LOCAL = Opaque()  # of which each thread has attributes of its own
LOCK = LockValue()
external = functools.cache(External)
database = functools.cache(Database)
method = functools.cache(Method)
module_ref = functools.cache(ModuleRef)
function_ref = functools.cache(FunctionRef)
class_ref = functools.cache(ClassRef)
instance = functools.cache(Instance)
decorating = functools.cache(Decorating)
generated = functools.cache(Generated)
app_value = functools.cache(App)
app_method = functools.cache(AppMethod)


INTERNED = (
    external,
    database,
    method,
    module_ref,
    function_ref,
    class_ref,
    instance,
    decorating,
    generated,
    app_value,
    app_method,
)


def forget() -> None:
    """Drop the values of an audit that is over."""
    for make in INTERNED:
        make.cache_clear()


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a function."""

    name: str
    annotation: ast.expr | None
    default: ast.expr | None


@dataclass(frozen=True, slots=True)
class Offload:
    """How a function is offloaded."""

    mode: str
    line: int


@dataclass(eq=False, slots=True)
class Scope:
    """A module, class, function or lambda, and what is known about it."""

    kind: str
    name: str
    qualname: str
    module: Module
    parent: Scope | None
    node: ast.Module | ast.ClassDef | Function
    body: list[ast.stmt]
    is_async: bool = False
    is_generator: bool = False
    awaits: list[ast.expr | None] = field(default_factory=list)  # None for `async for`, `async with`
    parameters: list[Parameter] = field(default_factory=list)
    positional: int = 0
    var_positional: str | None = None
    var_keyword: str | None = None
    bound_names: set[str] = field(default_factory=set)
    # What most have none of is no set of their own: those are large when empty.
    outer_names: frozenset[str] = frozenset()  # declared global or nonlocal
    assigned: dict[str, list[ast.expr]] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    attributes: dict[str, Cell] = field(default_factory=dict)  # of a class and its objects
    returns: Cell = field(default_factory=Cell)
    yields: Cell = field(default_factory=Cell)
    bases: Cell = field(default_factory=Cell)
    called_parameters: frozenset[str] = frozenset()
    decorators: frozenset[str] = frozenset()  # what is known of them: property, staticmethod, …
    offload: Offload | None = None
    hops: bool = False  # wrapped by offload_db.blocking
    passes_on: bool = False  # a decorator's wrapper, which gives and returns what the function takes and returns
    calls: list[Call] = field(default_factory=list)
    opened: list[Opened] = field(default_factory=list)
    spawners: list[ast.Call] = field(default_factory=list)
    dependencies: list[Scope] = field(default_factory=list)  # what the framework calls before it

    @property
    def is_lazy(self) -> bool:
        """Whether a call only makes a generator, whose code runs when that is iterated over."""
        return self.is_generator and not self.is_async and not self.decorators & {"contextmanager", "unknown"}

    @property
    def line(self) -> int:
        """The line of its ``def``."""
        return getattr(self.node, "lineno", 1)

    def place(self) -> tuple[str, int, int]:
        """Return where it stands, to sort by."""
        return self.module.shown, self.line, getattr(self.node, "col_offset", 0)

    @property
    def owner(self) -> Scope | None:
        """The class whose method it is."""
        return self.parent if self.parent is not None and self.parent.kind == "class" else None

    def cell(self, name: str) -> Cell:
        """Return the cell of a name of this scope."""
        cell = self.cells.get(name)
        if cell is None:
            cell = self.cells[name] = Cell()
        return cell

    def attribute(self, name: str) -> Cell:
        """Return the cell of an attribute of this class."""
        cell = self.attributes.get(name)
        if cell is None:
            cell = self.attributes[name] = Cell()
        return cell

    def __repr__(self) -> str:
        return f"<{self.kind} {self.module.name}.{self.qualname}>"


@dataclass(eq=False, slots=True)
class Module:
    """An audited file."""

    path: Path
    shown: str  # the path in reports
    name: str  # dotted, as seen from its root
    root: Path
    lines: int
    tree: ast.Module
    scope: Scope = field(init=False)
    scopes: dict[int, Scope] = field(default_factory=dict)  # by id of the syntax node
    stars: list[Module] = field(default_factory=list)  # modules whose names are all imported
    outer_stars: list[str] = field(default_factory=list)  # the same of libraries
    ignores: dict[int, frozenset[str]] = field(default_factory=dict)  # line -> rules
    libraries: set[str] = field(default_factory=set)  # first names of what it imports
    imported: set[str] = field(default_factory=set)  # the same with their dots, but for relative imports


@dataclass(frozen=True, slots=True)
class Effect:
    """What a driver call does: ``statement``, ``connect``, ``transaction``, ``fetch``, ``cursor``, ``close``, ``ping``.

    ``elsewhere`` is a call that blocks without a database.
    """

    kind: str
    driver: str
    reach: str


@dataclass(eq=False, slots=True)
class Call:
    """One call that a function makes, as far as it matters here."""

    scope: Scope
    node: ast.expr
    text: str
    effect: Effect | None = None
    targets: tuple[Scope, ...] = ()  # audited functions that it enters
    awaited: bool = False
    loops: int = 0
    locks: tuple[LockUse, ...] = ()
    spawner: ast.Call | None = None  # the create_task or gather that it is an argument of
    sql: ast.expr | None = None
    passed: bool = False  # not a call but a function that is handed on, to be called later
    streamed: bool = False  # an asynchronous generator that a response runs when its handler is over

    @property
    def line(self) -> int:
        """Its line."""
        return self.node.lineno


@dataclass(eq=False, slots=True)
class Opened:
    """A local name that is given a connection."""

    name: str
    statement: ast.Assign
    how: str  # the call that gives it
    targets: tuple[Scope, ...]  # the audited functions that it comes from


@dataclass(eq=False, slots=True)
class LockUse:
    """A place where a ``threading`` lock is taken."""

    scope: Scope
    node: ast.expr
    text: str


def functions(modules: list[Module]) -> Iterator[Scope]:
    """Yield each function of the modules, lambdas too, and the modules' own code."""
    for module in modules:
        for scope in module.scopes.values():
            if scope.kind != "class":
                yield scope
