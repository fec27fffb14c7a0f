"""What is known of where a value comes from: who made it, through which calls, and why it may not be one's own."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from .lookup import last_name
from .model import Database, Module, Scope
from .wording import shown

# What many callers may use at once.
SHAREABLE = frozenset({"pool", "offload_pool", "engine", "sessionmaker", "peewee_db", "peewee_model", "peewee_query"})
# What a driver, or SQLAlchemy, gives to one caller at a time.
OWNED = frozenset(
    {"connection", "cursor", "session", "scoped_session", "sa_connection", "sa_transaction", "result", "query"}
)
# Pools that raise an error where another one waits: an application that ran one handler at a time never met it.
_REFUSING = frozenset({"mysql-connector", "mariadb", "pymysql"})
_NAMELESS = frozenset({"StaticPool", "AssertionPool"})  # SQLAlchemy's, for one connection


@dataclass(frozen=True, slots=True, eq=False)
class Maker:
    """A call in the source that makes a connection, a pool or an engine."""

    scope: Scope
    node: ast.Call
    name: str
    kind: str

    @property
    def module(self) -> Module:
        """The file that it stands in."""
        return self.scope.module


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """An object of an audited class that a call has made for itself."""

    scope: Scope
    call: ast.Call | None
    frame: Frame | None


@dataclass(slots=True, eq=False)
class Origin:
    """Where a value comes from. *reasons* say why it may not belong to this call alone; there are none if it does."""

    reasons: list[str] = field(default_factory=list)
    makers: dict[int, Maker] = field(default_factory=dict)
    objects: list[Made] = field(default_factory=list)
    injected: bool = False  # made before the call, for it alone: by a dependency

    def add(self, other: Origin) -> None:
        """Take in what is known of another value that it may be."""
        self.reasons += other.reasons
        self.makers |= other.makers
        self.objects += other.objects
        self.injected |= other.injected


def unknown_origin(node: ast.expr) -> Origin:
    """Return the origin of a value of which nothing is known."""
    return Origin([f"it is not known where {shown(node)} comes from"])


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A function that is entered: by which call of whom, and on which object."""

    scope: Scope
    call: ast.expr | None = None  # None where a framework calls
    caller: Frame | None = None
    receiver: Origin | None = None


def refuses(pool: Database, origin: Origin) -> str | None:
    """Say why many callers at once get errors from a pool, or one connection."""
    if pool.kind == "pool" and pool.driver in _REFUSING and pool.reach != "offloaded":
        return "its pool raises an error where it should wait"
    for maker in origin.makers.values():
        for keyword in maker.node.keywords:
            if keyword.arg == "poolclass" and last_name(keyword.value) in _NAMELESS:
                return f"its pool is a {last_name(keyword.value)}, which has one connection for all"
        if maker.name.startswith("playhouse.pool.") and not any(k.arg == "timeout" for k in maker.node.keywords):
            return "its pool raises an error where it should wait: it has no timeout"
    return None


def names_a_pool(module: Module) -> bool:
    """Tell whether a file that uses mysql-connector has a setting ``pool_name``."""
    return "mysql" in module.libraries and any(
        (isinstance(node, ast.Constant) and node.value == "pool_name")
        or (isinstance(node, ast.keyword) and node.arg == "pool_name")
        for node in ast.walk(module.tree)
    )


def is_of_pool(node: ast.Call, somewhere: bool) -> bool:
    """Tell whether ``mysql.connector.connect(…)`` takes a connection from a pool, which raises an error when empty.

    :param somewhere: whether a pool has a name anywhere, which settings that do not stand here may give
    """
    named = {keyword.arg for keyword in node.keywords}
    return bool(named & {"pool_name", "pool_size"}) or (None in named and somewhere)
