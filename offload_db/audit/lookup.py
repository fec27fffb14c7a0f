"""What a name or an attribute may be: through scopes, imports, classes and their bases.

Values only grow until nothing changes any more; whoever has read a cell is looked at again when it has grown. This is
the ground of ``interpret.py``, which runs over the statements.
"""

from __future__ import annotations

import ast
import builtins
from collections import deque

from .libraries import APPS, ATTRIBUTES, METHODS, OBJECTS, is_foreign, is_known, maker
from .model import (
    FOREIGN,
    NOTHING,
    OPAQUE,
    App,
    Cell,
    ClassRef,
    Container,
    Database,
    External,
    FunctionRef,
    Instance,
    Module,
    ModuleRef,
    Scope,
    Value,
    Values,
    app_method,
    app_value,
    database,
    external,
    function_ref,
    instance,
    method,
    module_ref,
)
from .project import Project

# More than this is no knowledge any more, but for database objects. It bounds the work.
MOST_VALUES = 24
_APPLICATIONS = frozenset({"application", "current_app", "_app", "config_dict"})
_BUILTINS = frozenset(dir(builtins))


class Lookup:
    """Reads and grows cells, and finds names and attributes."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.queue: deque[Scope] = deque()
        self.queued: set[Scope] = set()
        self.scope: Scope = project.modules[0].scope
        # attributes of objects from outside, such as app.state.pool, by the last two names
        self.loose: dict[str, Cell] = {}
        self.recording = False
        self.loose_names: set[str] = set()
        self._passing: set[tuple[Scope, str]] = set()  # proxies that are looked through
        self._families: dict[Scope, list[Scope]] = {}  # a class with its bases
        self._outside: dict[Scope, list[Value]] = {}
        self.family_readers: dict[Scope, set[Scope]] = {}
        self.subclasses: dict[Scope, Cell] = {}

    def read(self, cell: Cell) -> Values:
        """Return what a cell holds; the current scope is looked at again when that grows."""
        cell.readers.add(self.scope)
        return cell.values

    def grow(self, cell: Cell, values: Values) -> None:
        """Add values to a cell."""
        if values <= cell.values:
            return
        if len(cell.values) >= MOST_VALUES:
            values = frozenset(value for value in values if isinstance(value, Database))
            if values <= cell.values:
                return
        cell.values |= values
        for reader in cell.readers:
            self.enqueue(reader)

    def enqueue(self, scope: Scope) -> None:
        """Look at a scope again."""
        if scope not in self.queued:
            self.queued.add(scope)
            self.queue.append(scope)

    # --- names

    def binding(self, name: str) -> Scope | None:
        """Return the scope that a name of the current one belongs to."""
        scope: Scope | None = self.scope
        first = True
        while scope is not None:
            if (scope.kind != "class" or first) and name in scope.bound_names:
                if name not in scope.outer_names:
                    return scope
                if scope.parent is None or self._is_global(scope, name):
                    return scope.module.scope
            first = False
            scope = scope.parent
        return None

    def _is_global(self, scope: Scope, name: str) -> bool:
        """Tell whether a name that is declared global or nonlocal is not that of a function around it."""
        around = scope.parent
        while around is not None and around.kind != "module":
            if around.kind == "function" and name in around.bound_names and name not in around.outer_names:
                return False
            around = around.parent
        return True

    def name(self, name: str) -> Values:
        """Return what a name may be in the current scope."""
        scope = self.binding(name)
        if scope is not None and scope.kind == "class" and scope.parent is not None:
            # A class body that says `pool = pool` reads the name from around it.
            own, self.scope = self.scope, scope.parent
            around = self.name(name)
            self.scope = own
            return self.read(scope.cell(name)) | around
        if scope is not None:
            return self.read(scope.cell(name))
        for other in self.scope.module.stars:
            if values := self.module_attribute(other, name):
                return values
        if name in _BUILTINS:
            return frozenset((external(f"builtins.{name}"),))
        return self._outer_star(self.scope.module, name)

    def _outer_star(self, module: Module, name: str) -> Values:
        """Return what a name may be that a library has and that is imported with all of its names."""
        return frozenset(
            external(f"{library}.{name}") for library in module.outer_stars if is_known(f"{library}.{name}")
        )

    def module_attribute(self, module: Module, name: str, depth: int = 0) -> Values:
        """Return what ``module.name`` may be."""
        if name in module.scope.bound_names or name in module.scope.cells:
            return self.read(module.scope.cell(name))
        if module.path.name == "__init__.py":
            inner = self.project.at("\0".join((*module.path.parent.parts, name)))
            if inner is not None:
                return frozenset((module_ref(inner),))
            if module.path.parent / name in self.project.directories:
                return frozenset((external(f"{module.name}.{name}"),))  # a package without __init__.py
        if depth < 4:
            for other in module.stars:
                if values := self.module_attribute(other, name, depth + 1):
                    return values
        return self._outer_star(module, name)

    # --- attributes

    def attribute(self, value: Value, name: str, around: ast.expr | None = None) -> Values:
        """Return what an attribute of a value may be.

        :param around: the expression of the value
        """
        if isinstance(value, External):
            full = f"{value.name}.{name}"
            if full in OBJECTS:
                return frozenset((database(*OBJECTS[full]),))
            if kept := self.loosely(around, name):
                return kept  # such as `g.db`
            if name in self.project.by_tail and (inner := self.project.find(full, self.scope.module)) is not None:
                return frozenset((module_ref(inner),))  # of a package without __init__.py
            return frozenset((external(full),))
        if isinstance(value, ModuleRef):
            return self.module_attribute(value.module, name)
        if isinstance(value, (Instance, ClassRef)):
            found = self.member(value, name)
            if found is not None:
                return found
            return self.loosely(around, name) or self._of_outer_base(value, name) or self._passed_on(value, name)
        if isinstance(value, Database):
            if held := ATTRIBUTES.get(value.kind, {}).get(name):
                return frozenset((database(held, value.driver, value.reach),))
            return frozenset((method(value, name),))
        if isinstance(value, App):
            if name == "router" and value.kind == "app":
                return frozenset((value,))
            if name in ("state", "ctx", "config"):
                return frozenset((OPAQUE,))
            return self.loosely(around, name) or frozenset((app_method(value, name),))
        if value is FOREIGN:
            return frozenset((FOREIGN,))
        return self.loosely(around, name)

    def _passed_on(self, value: Instance | ClassRef, name: str) -> Values:
        """Return an attribute of what a proxy wraps, whose ``__getattr__`` says ``getattr(self._conn, name)``."""
        key = (value.scope, name)
        if name.startswith("__") or key in self._passing:
            return NOTHING
        found: set[Value] = set()
        self._passing.add(key)
        for passing in self.member(value, "__getattr__") or ():
            for node in ast.walk(passing.scope.node) if isinstance(passing, FunctionRef) else ():
                if isinstance(node, ast.Call) and last_name(node.func) == "getattr" and node.args:
                    wrapped = node.args[0]
                    if isinstance(wrapped, ast.Attribute) and wrapped.attr != name:
                        for inner in self.member(value, wrapped.attr) or ():
                            found |= self.attribute(inner, name)
        self._passing.discard(key)
        return frozenset(found)

    def _of_outer_base(self, value: Instance | ClassRef, name: str) -> Values:
        """Return what was stored in a base that a library made: ``Base.query = session.query_property()``."""
        for scope in self.classes(value.scope) if name in self.loose_names else ():
            for base in getattr(scope.node, "bases", ()):
                if values := self.loosely(base, name):
                    return values
        return NOTHING

    def loosely(self, around: ast.expr | None, name: str) -> Values:
        """Return what was stored under an attribute of an object that is not known, such as ``request.app.state``."""
        cell = self.loose.get(f"{holder(around)}.{name}") if name in self.loose_names else None
        return self.read(cell) if cell is not None else NOTHING

    def member(self, value: Instance | ClassRef, name: str) -> Values | None:
        """Return a member of a class or its object, through the bases; None where it has none of that name."""
        is_object = isinstance(value, Instance)
        found: set[Value] = set()
        for scope in self.classes(value.scope):
            if name in scope.bound_names:
                found |= {self._bind(inner, is_object) for inner in self.read(scope.cell(name))}
            if name in scope.attributes:
                found |= self.read(scope.attribute(name))
            elif is_object:
                self.read(scope.attribute(name))  # it may come to be known
            if found:
                return frozenset(found | self._overrides(value.scope, name, found))
        for base in self.outside_bases(value.scope):
            if isinstance(base, Database) and name in ATTRIBUTES.get(base.kind, ()):
                return self.attribute(base, name)
            if isinstance(base, Database) and (name in METHODS.get(base.kind, ()) or base.kind.startswith("peewee")):
                return frozenset((method(base, name),))
            if isinstance(base, App):
                return frozenset((app_method(base, name),))
        return None

    def _overrides(self, scope: Scope, name: str, found: set[Value]) -> Values:
        """Return what subclasses have in the place of an abstract method."""
        cell = self.subclasses.get(scope)
        if cell is None or not any(isinstance(v, FunctionRef) and "abstract" in v.scope.decorators for v in found):
            return NOTHING
        below: set[Value] = set()
        for sub in self.read(cell):
            if isinstance(sub, ClassRef) and name in sub.scope.bound_names:
                below |= {self._bind(inner, True) for inner in self.read(sub.scope.cell(name))}
        return frozenset(below)

    @staticmethod
    def _bind(value: Value, is_object: bool) -> Value:
        if isinstance(value, FunctionRef) and not value.bound:
            flags = value.scope.decorators
            if "staticmethod" not in flags and (is_object or "classmethod" in flags):
                return function_ref(value.scope, True)
        return value

    def classes(self, scope: Scope) -> list[Scope]:
        """Return a class and its audited bases, in the order in which members are looked for."""
        self.family_readers.setdefault(scope, set()).add(self.scope)
        order = self._families.get(scope)
        if order is None:
            order = self._families[scope] = []
            waiting = [scope]
            while waiting:
                one = waiting.pop(0)
                if one not in order:
                    order.append(one)
                    waiting.extend(base.scope for base in one.bases.values if isinstance(base, ClassRef))
        return order

    def grow_bases(self, scope: Scope, values: Values) -> None:
        """Add bases to a class; whoever has looked at the class or one below it looks again."""
        if values <= scope.bases.values:
            return
        scope.bases.values |= values
        for below in [one for one, order in self._families.items() if scope in order]:
            del self._families[below]
            self._outside.pop(below, None)
            for reader in self.family_readers.get(below, ()):
                self.enqueue(reader)

    def outside_bases(self, scope: Scope) -> list[Value]:
        """Return what a class inherits from libraries, as the object that it makes."""
        order = self.classes(scope)
        found = self._outside.get(scope)
        if found is None:
            bases = [(base, one) for one in order for base in one.bases.values]
            made = [self.made_by(base, one) for base, one in bases if isinstance(base, External)]
            found = self._outside[scope] = [value for value in made if value is not None]
            found += [base for base, _ in bases if isinstance(base, Database)]
        return found

    @staticmethod
    def made_by(value: External, where: Scope) -> Value | None:
        """Return what calling a library's name makes, if that is a database object or an application."""
        known = maker(value.name)
        if known is not None:
            return database(*known[:3])
        if value.name in APPS:
            return app_value((where.module.shown, where.line, 0), *APPS[value.name])
        return None

    # --- what else can be done with a value

    def elements(self, value: Value) -> Values:
        """Return what iterating over a value gives."""
        if isinstance(value, Container):
            found = self.read(value.rest)
            for item in value.items:
                found |= self.read(item)
            return found
        return frozenset((FOREIGN,)) if value is FOREIGN else NOTHING

    def object_of(self, value: Value) -> Values:
        """Return an object of what an annotation or a dependency names."""
        if isinstance(value, ClassRef):
            return frozenset((instance(value.scope),))
        if isinstance(value, External):
            known = maker(value.name)
            if known is not None:
                return frozenset((database(known[0], known[1], "unknown" if known[2] != "offloaded" else known[2]),))
            if value.name in ("typing.Any", "typing_extensions.Any", "builtins.object"):
                return NOTHING
            if is_foreign(value.name):
                return frozenset((FOREIGN,))
            return frozenset((OPAQUE,))
        return NOTHING


def holder(node: ast.expr | None) -> str:
    """Return by what name things are found that are stored in an object: an application has several."""
    name = last_name(node)
    return "app" if name in _APPLICATIONS else name


def last_name(node: ast.expr | None) -> str:
    """Return the last name of an expression: ``state`` of ``request.app.state``."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call):
        return last_name(node.func)
    return ""


def dotted(node: ast.expr) -> str:
    """Return an expression as a short name: ``session.query().filter().all``."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return f"{dotted(node.func)}()"
    if isinstance(node, ast.Subscript):
        return f"{dotted(node.value)}[]"
    if isinstance(node, ast.Await):
        return f"(await {dotted(node.value)})"
    return "…"
