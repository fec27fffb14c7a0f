"""Where connections come from: follows an expression back to what made it, through assignments, calls and objects.

What a call has made for itself is its own. All else comes with the reason why it may be somebody else's as well: it
is kept in a module, a class, an application, a cache, or it is not known.
"""

from __future__ import annotations

import ast

from . import libraries
from .annotations import DEPENDS, external_names
from .bindings import Assignments, Binding, alternatives, argument, is_name, results, spreads
from .interpret import Interpreter
from .lookup import last_name
from .makers import OWNED, SHAREABLE, Frame, Made, Maker, Origin, is_of_pool, names_a_pool, refuses, unknown_origin
from .model import (
    FOREIGN,
    ClassRef,
    Database,
    External,
    FunctionRef,
    Instance,
    Method,
    ModuleRef,
    Scope,
    Values,
    instance,
)
from .singles import Singles
from .wording import dotted

_THROUGH = frozenset(
    {"closing", "cast", "nullcontext", "iter", "next", "enter_context", "enter_async_context", "wait_for", "shield"}
)
_MOST_DEPTH = 40
_MOST_STEPS = 20_000


class Origins:
    """Answers for the files that *interpreter* has read."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.interpreter = interpreter
        self.assignments = Assignments(interpreter)
        self.singles = Singles(interpreter, self.assignments)
        self.values = self.assignments.values
        self._known: dict[tuple[int, int], Origin] = {}
        self._results_known: dict[tuple[object, ...], Origin] = {}
        self._signatures: dict[int, tuple[object, ...]] = {}
        self._frames: list[Frame] = []  # which keeps their addresses theirs
        self._depth = self._steps = 0
        self.pools_by_name = any(names_a_pool(module) for module in interpreter.project.modules)

    # --- an expression

    def of(self, node: ast.expr, frame: Frame) -> Origin:
        """Return where the value of an expression comes from."""
        key = (id(node), id(frame))
        known = self._known.get(key)
        if known is None:
            self._steps += 1
            if self._depth > _MOST_DEPTH or self._steps > _MOST_STEPS:
                return unknown_origin(node)
            known = self._known[key] = Origin()  # while it is being found out: a name that is given itself
            self._frames.append(frame)
            self._depth += 1
            known.add(self._of(node, frame))
            self._depth -= 1
        return known

    def start(self) -> None:
        """Begin with another function, which may take as many steps as the one before."""
        self._steps = self._depth = 0
        self._known.clear()
        self._results_known.clear()
        self._signatures.clear()
        self._frames.clear()

    def signature(self, frame: Frame) -> tuple[object, ...]:
        """Return what tells two calls of a function apart: whether what they are given is their own."""
        known = self._signatures.get(id(frame))
        if known is None:
            self._signatures[id(frame)] = (frame.scope,)
            self._frames.append(frame)
            given: list[object] = [frame.scope]
            if frame.receiver is not None:
                given.append(self._kind(frame.receiver))
            for parameter in frame.scope.parameters:
                cell = frame.scope.cells.get(parameter.name)
                if cell is not None and any(isinstance(value, (Database, Instance)) for value in cell.values):
                    given.append(self._kind(self.parameter(parameter.name, frame)))
            known = self._signatures[id(frame)] = tuple(given)
        return known

    def _kind(self, origin: Origin) -> object:
        if origin.reasons:
            return origin.reasons[0]
        return tuple(
            (id(made.call), self.signature(made.frame) if made.frame is not None else ()) for made in origin.objects
        )

    def _of(self, node: ast.expr, frame: Frame) -> Origin:
        if isinstance(node, (ast.Constant, ast.Name)):
            return self._name(node, frame) if isinstance(node, ast.Name) else Origin()
        if isinstance(node, (ast.Attribute, ast.Call)):
            return self._attribute(node, frame) if isinstance(node, ast.Attribute) else self._call(node, frame)
        if isinstance(node, (ast.Await, ast.NamedExpr, ast.Starred)):
            return self.of(node.value, frame)
        if isinstance(node, (ast.BoolOp, ast.IfExp, ast.Tuple, ast.List)):
            return self._all(alternatives(node), frame)
        if isinstance(node, ast.Subscript):
            return self._item(node)
        return unknown_origin(node)

    def _item(self, node: ast.Subscript) -> Origin:
        values = [(binding.value, binding.scope) for binding in self.assignments.of_item(node)]
        makers = [self.of(value, Frame(scope)).makers for value, scope in values if value is not None]
        return Origin([f"{dotted(node.value)}[…] may keep it"], {key: one[key] for one in makers for key in one})

    def _all(self, nodes: list[ast.expr], frame: Frame) -> Origin:
        found = Origin()
        for node in nodes:
            found.add(self.of(node, frame))
        return found

    def _name(self, node: ast.Name, frame: Frame) -> Origin:
        self.interpreter.scope = frame.scope
        where = self.interpreter.binding(node.id)
        if where is None:
            return unknown_origin(node)
        if where.kind in ("module", "class"):
            return self._kept(where, node.id)
        around: Frame | None = frame
        while around and around.scope is not where:
            around = around.caller
        if around is None:
            return Origin([f"{node.id} belongs to {where.qualname}, which may have ended"])
        found = Origin()
        given = [one for one in self.assignments.of_scope(where) if is_name(one.target, node.id)]
        if any(parameter.name == node.id for parameter in where.parameters):
            found.add(self.parameter(node.id, around))
        elif node.id in (where.var_positional, where.var_keyword):
            found.reasons.append(f"it is not known what {where.qualname} is given")
        elif not given or self.assignments.imports(where, node.id):
            return self._kept(where, node.id)
        for binding in given:
            found.add(self._bound(binding, around))
        return found

    def _kept(self, where: Scope, name: str, depth: int = 0) -> Origin:
        """Return the origin of a name of a module or class: everybody's, but it may be good for that."""
        found = Origin([f"{name} is kept in {where.module.shown} for all callers"])
        for binding in self.assignments.of_global(where.module, name):
            if binding.value is not None:
                found.makers |= self.of(binding.value, Frame(binding.scope)).makers
        if depth < 8:
            for source, original in self.assignments.imported(where, name):
                found.makers |= self._kept(source.scope, original, depth + 1).makers
        return found

    def _bound(self, binding: Binding, frame: Frame) -> Origin:
        value = binding.value
        if value is None:
            return Origin(["it is not known what it is given"])
        if binding.how == "is":
            return self.of(value, frame)
        if binding.how == "part":
            return self._part(value, binding.index, frame)
        if binding.how == "entered":
            return self._entered(value, frame)
        return self.of(value, frame) if isinstance(value, (ast.Tuple, ast.List, ast.Call)) else unknown_origin(value)

    def _part(self, value: ast.expr, index: int, frame: Frame) -> Origin:
        """Return the origin of an item of a tuple, or of what a function returns as one."""
        if isinstance(value, ast.Await):
            return self._part(value.value, index, frame)
        if isinstance(value, (ast.Tuple, ast.List)) and index < len(value.elts):
            return self.of(value.elts[index], frame)
        found = Origin()
        if not isinstance(value, ast.Call) or self._depth > _MOST_DEPTH:
            return unknown_origin(value)
        functions = [callee.scope for callee in self.values(value.func, frame.scope) if isinstance(callee, FunctionRef)]
        if not functions or self.singles.is_renamed(value.func, frame.scope) or any(map(self.singles.keeps, functions)):
            return unknown_origin(value)
        self._depth += 1
        for scope in functions:
            inner = self.enter(scope, value, frame)
            for result in results(scope):
                found.add(self._part(result, index, inner))
        self._depth -= 1
        return found

    def _entered(self, node: ast.expr, frame: Frame) -> Origin:
        """Return the origin of what ``with node as x`` gives to x."""
        found = Origin()
        values = [value for value in self.values(node, frame.scope) if isinstance(value, Instance)]
        for value in values:
            methods = self.interpreter.member(value, "__enter__") or self.interpreter.member(value, "__aenter__") or ()
            scopes = [method.scope for method in methods if isinstance(method, FunctionRef)]
            for scope in scopes:
                found.add(self._results(scope, Frame(scope, node, frame, self.of(node, frame))))
            found.add(Origin() if scopes else unknown_origin(node))
        return found if values else self.of(node, frame)

    # --- parameters

    def parameter(self, name: str, frame: Frame) -> Origin:
        """Return the origin of what a function is given."""
        scope = frame.scope
        is_method = scope.owner is not None and "staticmethod" not in scope.decorators
        if is_method and scope.parameters and scope.parameters[0].name == name:
            return frame.receiver or Origin([f"an object of {scope.owner.name} may serve several calls"])  # type: ignore[union-attr]  # it is a method
        parameter = next(one for one in scope.parameters if one.name == name)
        unknown = Origin([f"it is not known what {scope.qualname} is given as {name}"])
        if frame.call is None:
            return self._dependency(parameter.default, parameter.annotation, scope) or unknown
        given = argument(frame.call, scope, name)
        if given is not None and frame.caller is not None:
            return self.of(given, frame.caller)
        return Origin() if isinstance(parameter.default, ast.Constant) and not spreads(frame.call) else unknown

    def _dependency(self, default: ast.expr | None, annotation: ast.expr | None, scope: Scope) -> Origin | None:
        """Return the origin of what FastAPI gives to a parameter: it calls the dependency for each request."""
        marks = [default] if default is not None else []
        if isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple):
            marks += annotation.slice.elts[1:]
        for mark in marks:
            if not isinstance(mark, ast.Call) or not external_names(self.values(mark.func, scope)) & DEPENDS:
                continue
            wanted = mark.args[0] if mark.args else annotation
            if isinstance(wanted, ast.Subscript) and isinstance(wanted.slice, ast.Tuple):
                wanted = wanted.slice.elts[0]
            found = Origin(injected=True)
            values = self.values(wanted, scope)
            for value in values:
                if isinstance(value, FunctionRef) and not self.singles.keeps(value.scope):
                    found.add(self._results(value.scope, Frame(value.scope)))
                elif isinstance(value, ClassRef) and not self.singles.is_single(value.scope):
                    found.objects.append(Made(value.scope, None, None))
                else:
                    found.reasons.append(f"{ast.unparse(wanted or mark)} may give every request the same")
            return found if values else None
        return None

    # --- attributes

    def _attribute(self, node: ast.Attribute, frame: Frame) -> Origin:
        owners = self.values(node.value, frame.scope)
        instances = [value for value in owners if isinstance(value, Instance)]
        if self.assignments.is_of_thread(node.value, frame.scope):
            return Origin([], self._of_unknown(node, owners, frame).makers)
        if not instances or len(instances) < len(owners):
            return self._of_unknown(node, owners, frame)
        base = self.of(node.value, frame)
        if base.reasons:
            return Origin([*base.reasons], self._makers_of(node.attr, instances))
        found = Origin()
        for made in base.objects:
            found.add(self._of_object(made, node.attr, base, node, frame))
        return found if base.objects else unknown_origin(node)

    def _of_unknown(self, node: ast.Attribute, owners: Values, frame: Frame) -> Origin:
        found = Origin([f"{dotted(node)} may be kept for all callers"])
        for value in owners:
            if isinstance(value, ModuleRef):
                return self._kept(value.module.scope, node.attr)
            if isinstance(value, Database):  # db.session
                return Origin([f"{dotted(node)} is kept for all callers"], self.of(node.value, frame).makers)
        for binding in self.assignments.of_alike(node):
            values = self.values(binding.value, binding.scope)
            if binding.value is not None and any(isinstance(value, (Database, Instance)) for value in values):
                found.makers |= self.of(binding.value, Frame(binding.scope)).makers
        return found

    def _makers_of(self, name: str, instances: list[Instance]) -> dict[int, Maker]:
        found: dict[int, Maker] = {}
        family = {one for value in instances for one in self.interpreter.classes(value.scope)}
        for value in instances:
            for member in self.interpreter.member(value, name) or ():
                if isinstance(member, FunctionRef) and "property" in member.scope.decorators:
                    found |= self._results(member.scope, Frame(member.scope)).makers
        for binding in self.assignments.of_attribute(name, family):
            if binding.value is not None:
                found |= self._bound(binding, Frame(binding.scope)).makers
        return found

    def _of_object(self, made: Made, name: str, base: Origin, node: ast.expr, frame: Frame) -> Origin:
        family = set(self.interpreter.classes(made.scope))
        receiver = Origin(objects=[made], injected=base.injected)
        found = Origin(injected=base.injected)
        for value in self.interpreter.member(instance(made.scope), name) or ():
            if isinstance(value, FunctionRef) and "property" in value.scope.decorators:
                found.add(self._results(value.scope, Frame(value.scope, node, frame, receiver)))
                return found
        known = False
        for binding in self.assignments.of_attribute(name, family):
            known = True
            if binding.scope.kind == "class":
                if not isinstance(binding.value, ast.Constant):
                    found.reasons.append(f"{made.scope.name}.{name} belongs to all objects of its class")
            elif binding.scope.owner not in family:
                found.reasons.append(f"{binding.scope.qualname} sets {made.scope.name}.{name}")
            elif binding.scope.name == "__init__" and made.frame is not None:
                found.add(self._bound(binding, Frame(binding.scope, made.call, made.frame, receiver)))
            else:
                found.add(self._bound(binding, Frame(binding.scope, None, None, receiver)))
        if not known:
            found.reasons.append(f"it is not known where {made.scope.name}.{name} comes from")
        return found

    def _call(self, node: ast.Call, frame: Frame) -> Origin:
        callees = self.values(node.func, frame.scope)
        found = Origin()
        if self.singles.is_renamed(node.func, frame.scope):
            found.reasons.append(f"{dotted(node.func)} may give every caller the same")
        for callee in callees:
            found.add(self._called(callee, node, frame))
        if not callees:
            if last_name(node.func) in _THROUGH and node.args:
                return self._entered(node.args[0], frame)
            return unknown_origin(node)
        return found

    def _called(self, callee: object, node: ast.Call, frame: Frame) -> Origin:
        if isinstance(callee, FunctionRef):
            if (why := self.singles.keeps(callee.scope)) is not None:
                makers = self._results(callee.scope, self.enter(callee.scope, node, frame)).makers
                return Origin([why], makers)
            return self._results(callee.scope, self.enter(callee.scope, node, frame))
        if isinstance(callee, ClassRef):
            why = self.singles.is_single(callee.scope)
            return Origin([why]) if why is not None else Origin(objects=[Made(callee.scope, node, frame)])
        if isinstance(callee, Method):
            return self._method(callee, node, frame)
        if isinstance(callee, Database):  # SessionLocal(), and scoped_session's registry
            makers = self.of(node.func, frame).makers
            shared = [f"{dotted(node)} gives every call in a thread the same"]
            return Origin(shared if callee.kind == "scoped_session" else [], makers)
        if isinstance(callee, External):
            return self._external(callee.name, node, frame)
        if callee is FOREIGN and isinstance(node.func, ast.Attribute):
            return self.of(node.func.value, frame)
        return unknown_origin(node)

    def _method(self, callee: Method, node: ast.Call, frame: Frame) -> Origin:
        if not isinstance(node.func, ast.Attribute):
            return unknown_origin(node)
        base = self.of(node.func.value, frame)
        if callee.owner.kind in SHAREABLE:
            why = refuses(callee.owner, base)
            return Origin([why] if why else [], base.makers)
        return base  # conn.cursor(): whose the connection is

    def _external(self, name: str, node: ast.Call, frame: Frame) -> Origin:
        made = libraries.maker(name)
        if made is not None:
            found = Origin(makers={id(node): Maker(frame.scope, node, name, made[0])})
            if name.startswith("mysql.connector.") and made[0] == "connection" and is_of_pool(node, self.pools_by_name):
                found.reasons.append("its pool raises an error where it should wait")
            if made[0] in ("cursor", "session", "sessionmaker", "scoped_session"):
                for given in (*node.args[:1], *(k.value for k in node.keywords if k.arg in ("bind", "connection"))):
                    origin = self.of(given, frame)
                    found.makers |= origin.makers
                    if any(isinstance(v, Database) and v.kind in OWNED for v in self.values(given, frame.scope)):
                        found.reasons += origin.reasons
            return found
        if last_name(node.func) in _THROUGH and node.args:
            return self.of(node.args[-1 if last_name(node.func) == "cast" else 0], frame)
        if libraries.is_foreign(name):
            return Origin()
        return unknown_origin(node)

    def _results(self, scope: Scope, frame: Frame) -> Origin:
        """Return the origin of what a function returns or yields."""
        key = self.signature(frame)
        known = self._results_known.get(key)
        if known is not None:
            return known
        found = self._results_known[key] = Origin()
        given = list(results(scope))
        for node in given:
            found.add(self.of(node, frame))
        if not given:
            found.reasons.append(f"it is not known what {scope.qualname} returns")
        return found

    def enter(self, scope: Scope, node: ast.expr, frame: Frame) -> Frame:
        """Return a function as it is entered by a call."""
        receiver: Origin | None = None
        if scope.owner is not None and "staticmethod" not in scope.decorators:
            if scope.name in ("__init__", "__new__", "__post_init__") and isinstance(node, ast.Call):
                receiver = self.of(node, frame)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                is_super = isinstance(node.func.value, ast.Call) and last_name(node.func.value.func) == "super"
                receiver = frame.receiver if is_super else self.of(node.func.value, frame)
            elif isinstance(node, (ast.Attribute, ast.Subscript)):
                receiver = self.of(node.value, frame)
            else:
                receiver = self.of(node, frame)
        return Frame(scope, node, frame, receiver)
