"""What a name or an attribute may be: through scopes, imports, classes and their bases.

Stands on ``worklist.py``; ``interpret.py`` runs over the statements.
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
    UNSEEN,
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
from .worklist import Derived, Worklist

_APPLICATIONS = frozenset({"application", "current_app", "_app", "config_dict"})
_BUILTINS = frozenset(dir(builtins))


class Lookup(Worklist):
    """Finds names and attributes."""

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.recording = False
        # attributes of objects from outside, such as app.state.pool, by the last two names
        self.loose: dict[str, Cell] = {}
        self._loose_names: set[str] = set()
        self._sought: dict[str, set[Scope | Cell]] = {}  # who asked for a name of these that nobody has stored yet
        self._members: dict[tuple[Value, str], Derived] = {}
        self._passed: dict[tuple[Value, str], Derived] = {}
        self._wraps: dict[Scope, tuple[str, ...]] = {}  # what a `__getattr__` passes on to
        self._families: dict[Scope, list[Scope]] = {}  # a class with its bases
        self._below: dict[Scope, set[Scope]] = {}  # the classes in whose family a class is
        self._outside: dict[Scope, list[Value]] = {}
        self._family_readers: dict[Scope, set[Scope | Cell]] = {}
        self.subclasses: dict[Scope, Cell] = {}

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
            if self.project.is_name(name) and (inner := self.project.find(full, self.scope.module)) is not None:
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
            if (name == "router" and value.kind == "app") or name == "workflow_data":
                return frozenset((value,))
            if name in ("state", "ctx", "config"):
                return frozenset((OPAQUE,))
            return self.loosely(around, name) or frozenset((app_method(value, name),))
        if value is FOREIGN or value is UNSEEN:
            return frozenset((value,))
        return self.loosely(around, name)

    def _passed_on(self, value: Instance | ClassRef, name: str) -> Values:
        """Return an attribute of what a proxy wraps, whose ``__getattr__`` says ``getattr(self._conn, name)``."""
        if name.startswith("__") or self.member(value, "__getattr__") is None:
            return NOTHING
        return self._derived(self._passed, value, name)

    def _find_passed(self, value: Value, name: str) -> Values:
        assert isinstance(value, (Instance, ClassRef))
        found: set[Value] = set()
        for passing in self.member(value, "__getattr__") or ():
            for wrapped in self._passes_to(passing.scope) if isinstance(passing, FunctionRef) else ():
                for inner in (self.member(value, wrapped) or ()) if wrapped != name else ():
                    found |= self.attribute(inner, name)
        return frozenset(found)

    def _passes_to(self, scope: Scope) -> tuple[str, ...]:
        """Return the attributes that a ``__getattr__`` passes on to."""
        found = self._wraps.get(scope)
        if found is None:
            calls = [node for node in ast.walk(scope.node) if isinstance(node, ast.Call) and node.args]
            passed = [call.args[0] for call in calls if last_name(call.func) == "getattr"]
            names = dict.fromkeys(node.attr for node in passed if isinstance(node, ast.Attribute))
            found = self._wraps[scope] = tuple(names)
        return found

    def _derived(self, known: dict[tuple[Value, str], Derived], value: Value, name: str) -> Values:
        cell = known.get((value, name))
        if cell is None:
            passed = known is self._passed
            find = self._find_passed if passed else self._find_member
            cell = known[value, name] = Derived(find, value, name, grows=passed)
        return self.derived(cell)

    def forget_passed(self) -> None:
        """Find again what proxies pass on, from what is known now: they have kept what they found on the way."""
        self._passed.clear()

    def _of_outer_base(self, value: Instance | ClassRef, name: str) -> Values:
        """Return what was stored in a base that a library made: ``Base.query = session.query_property()``."""
        for scope in self.classes(value.scope) if name in self._loose_names else ():
            for base in getattr(scope.node, "bases", ()):
                if values := self.loosely(base, name):
                    return values
        return NOTHING

    def loosely(self, around: ast.expr | None, name: str) -> Values:
        """Return what was stored under an attribute of an object that is not known, such as ``request.app.state``."""
        if name in self._loose_names:
            return self.read(self._loose(f"{holder(around)}.{name}"))
        self._sought.setdefault(name, set()).add(self.reader())
        return NOTHING

    def item(self, holding: str, key: str) -> Values:
        """Return what was stored in an object that is not known, such as ``app["pool"]``."""
        name = f"[{key}]"
        if name in self._loose_names:
            return self.read(self._loose(f"{holding}{name}"))
        self._sought.setdefault(name, set()).add(self.reader())
        return NOTHING

    def keep(self, holding: str, name: str, values: Values) -> None:
        """Store values under an attribute or item of an object that is not known.

        :param name: the attribute, with its dot, or the item, with its brackets
        """
        kept = frozenset(value for value in values if isinstance(value, (Database, Instance)))
        if not kept or (holding == "self" and name[0] == "."):
            return
        known = name.removeprefix(".")
        if known not in self._loose_names:
            self._loose_names.add(known)
            for reader in self._sought.pop(known, ()):
                self.enqueue(reader)
        self.grow(self._loose(f"{holding}{name}"), kept)

    def _loose(self, key: str) -> Cell:
        cell = self.loose.get(key)
        if cell is None:
            cell = self.loose[key] = Cell()
        return cell

    def member(self, value: Instance | ClassRef, name: str) -> Values | None:
        """Return a member of a class or its object, through the bases; None where it has none of that name."""
        return self._derived(self._members, value, name) or None

    def _find_member(self, value: Value, name: str) -> Values:
        assert isinstance(value, (Instance, ClassRef))
        is_object = isinstance(value, Instance)
        found: set[Value] = set()
        for scope in self.classes(value.scope):
            if name in scope.bound_names:
                found |= {self._bind(inner, is_object) for inner in self.read(scope.cell(name))}
            found |= self.read(scope.attribute(name))
            if found:
                return frozenset(found | self._overrides(value.scope, name, found))
        for base in self.outside_bases(value.scope):
            if isinstance(base, Database) and name in ATTRIBUTES.get(base.kind, ()):
                return self.attribute(base, name)
            if isinstance(base, Database) and (name in METHODS.get(base.kind, ()) or base.kind.startswith("peewee")):
                return frozenset((method(base, name),))
            if isinstance(base, App):
                return frozenset((app_method(base, name),))
        return NOTHING

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
        self._family_readers.setdefault(scope, set()).add(self.reader())
        order = self._families.get(scope)
        if order is None:
            order = self._families[scope] = []
            waiting = deque([scope])
            while waiting:
                one = waiting.popleft()
                if one not in order:
                    order.append(one)
                    self._below.setdefault(one, set()).add(scope)
                    waiting.extend(base.scope for base in one.bases.values if isinstance(base, ClassRef))
        return order

    def grow_bases(self, scope: Scope, values: Values) -> None:
        """Add bases to a class; whoever has looked at the class or one below it looks again."""
        if values <= scope.bases.values:
            return
        scope.bases.values |= values
        for below in self._below.pop(scope, ()):
            self._families.pop(below, None)
            self._outside.pop(below, None)
            for reader in self._family_readers.pop(below, ()):
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


def item_key(node: ast.Subscript) -> str | None:
    """Return by what an item is found: a constant; in an application also the name of one, such as an ``AppKey``."""
    named = last_name(node.slice) if holder(node.value) == "app" else ""
    return str(node.slice.value) if isinstance(node.slice, ast.Constant) else named or None


def last_name(node: ast.expr | None) -> str:
    """Return the last name of an expression: ``state`` of ``request.app.state``."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call):
        return last_name(node.func)
    return ""
