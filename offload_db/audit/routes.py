"""Which functions answer which requests: decorators and registrations of the web frameworks, with their prefixes.

Also says which applications and routers bridge their requests by themselves.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator

from .annotations import DEPENDS, external_names
from .calling import FrameworkCall
from .interpret import Interpreter
from .libraries import APPS, TORNADO_RULES, VERBS
from .model import App, AppMethod, ClassRef, External, FunctionRef, Instance, Scope, Values, instance
from .route_tables import Bridge, Declared, Key, Route, Tables
from .texts import text

_ROUTE_OBJECTS = frozenset(
    {"starlette.routing.Route", "starlette.routing.WebSocketRoute", "fastapi.routing.APIRoute",
     "fastapi.routing.APIWebSocketRoute"}
)  # fmt: skip
_INCLUDING = frozenset({"include_router", "blueprint", "register_blueprint", "mount", "add_subapp"})
_DECORATING = VERBS | {"route", "api_route", "websocket", "websocket_route", "view"}
_ROUTER_NAME = re.compile(r"(^|_)(app|api|router|routes|route|bp|blueprint|application)\d?$", re.IGNORECASE)


def find_routes(interpreter: Interpreter) -> list[Route]:
    """Return every route that can be seen, once for each prefix under which it is included."""
    finder = _Finder(interpreter)
    for call in interpreter.framework_calls.values():
        finder.visit(call)
    for decorated in interpreter.decorated:
        if (registration := interpreter.framework_calls.get(id(decorated.node))) is not None:
            finder.decorator(registration, decorated.scope)
    for app, values in interpreter.route_classes:
        if _bridging(values):
            finder.tables.bridged_routes.add(app.key)
    return list(finder.routes())


def _bridging(values: Values) -> bool:
    return any(
        isinstance(value, External) and value.name.endswith((".OffloadRoute", ".OffloadMiddleware")) for value in values
    )


class _Finder:
    def __init__(self, interpreter: Interpreter) -> None:
        self.interpreter = interpreter
        self.tables = Tables()

    # --- what is declared

    def visit(self, call: FrameworkCall) -> None:
        """Take notice of a call that makes, includes or registers something."""
        registration = self.interpreter.framework_calls.get(id(call.node.func))
        if registration is not None:  # app.get("/path")(handler)
            for value in call.arguments.first():
                if isinstance(value, FunctionRef):
                    self.decorator(registration, value.scope)
        for value in call.callee:
            if isinstance(value, AppMethod):
                self._method(call, value)
            elif isinstance(value, External):
                self._external(call, value.name)
            elif isinstance(value, ClassRef):
                for base in self.interpreter.outside_bases(value.scope):
                    if isinstance(base, App):
                        self._made(call, base.key)
                if any(getattr(b, "name", "").endswith("OffloadMiddleware") for b in value.scope.bases.values):
                    self._wrapped(call)

    def _external(self, call: FrameworkCall, name: str) -> None:
        node = call.node
        if name.removesuffix(".__init__") in APPS:  # also Application.__init__(self, handlers)
            self._made(call, (call.scope.module.shown, node.lineno, node.col_offset))
        elif name.endswith(".OffloadMiddleware"):
            self._wrapped(call)
        elif name in _ROUTE_OBJECTS:
            verb = "websocket" if "WebSocket" in name else ""
            self._register(call, None, self._path(call, 0), self._argument(call, 1, "endpoint"), verb)
        elif name == "starlette.routing.Mount":
            self._mount(call)
        elif name in TORNADO_RULES:
            self._register(call, None, self._path(call, 0), self._argument(call, 1, "handler"), "")
        elif name.startswith("aiohttp.web.") and name.rpartition(".")[2] in (*VERBS, "view", "route"):
            verb = name.rpartition(".")[2]
            if verb == "route":
                self._register(call, None, self._path(call, 1), self._argument(call, 2, "handler"), self._word(call, 0))
            else:
                self._register(call, None, self._path(call, 0), self._argument(call, 1, "handler"), verb)

    def _wrapped(self, call: FrameworkCall) -> None:
        for values in call.arguments.all():
            for value in values:
                if isinstance(value, App):
                    self._bridges(value.key, call.node, call.scope)

    def _bridges(self, key: Key, node: ast.Call | None, scope: Scope) -> None:
        """Take notice of a middleware that bridges an application, and of the paths that it names."""
        named: dict[str, tuple[str, ...]] = {}
        for keyword in _keywords(node) if node is not None else ():
            if keyword.arg in ("paths", "exclude"):
                found = self._resolved(keyword.value, scope)
                items = found.elts if isinstance(found, (ast.List, ast.Tuple, ast.Set)) else []
                named[keyword.arg] = tuple(text for item in items if (text := self._text(item, scope)) is not None)
        bridge = Bridge(named.get("paths"), named.get("exclude", ()))
        self.tables.bridges.setdefault(key, []).append(bridge)

    def _made(self, call: FrameworkCall, key: Key) -> None:
        for value in self._applications(call):  # Sanic's Blueprint.group(one, two, url_prefix="/api")
            self.tables.included.setdefault(value.key, []).append((key, None, False))
        for keyword in call.node.keywords:
            if keyword.arg in ("prefix", "url_prefix"):
                self.tables.prefixes[key] = self._text(keyword.value, call.scope) or ""
            elif keyword.arg == "route_class" and _bridging(call.arguments.named.get("route_class", frozenset())):
                self.tables.bridged_routes.add(key)
            elif keyword.arg == "middleware":
                self._middlewares(keyword.value, call.scope, key)
            elif keyword.arg in ("routes", "handlers"):
                self._listed(keyword.value, call.scope, key)
            elif keyword.arg == "dependencies":
                self.tables.dependencies.setdefault(key, []).extend(self._depended(keyword.value, call.scope))
        if any(isinstance(value, External) and value.name.startswith("sanic.") for value in call.callee):
            self.tables.versions[key] = _version(call.node)
            if len(call.node.args) > 1 and (prefix := self._text(call.node.args[1], call.scope)):
                self.tables.prefixes[key] = prefix  # Blueprint("name", "/prefix")
        for argument in call.node.args:
            self._listed(argument, call.scope, key)

    def _depended(self, node: ast.expr, scope: Scope) -> Iterator[Scope]:
        """Yield the functions of ``dependencies=[Depends(…)]``."""
        found = self._resolved(node, scope)
        for item in found.elts if isinstance(found, (ast.List, ast.Tuple)) else ():
            call = self._resolved(item, scope)
            if isinstance(call, ast.Call) and external_names(self._values(call.func, scope)) & DEPENDS:
                for wanted in (*call.args[:1], *(k.value for k in call.keywords if k.arg == "dependency")):
                    self._values(wanted, scope)
                    yield from self.interpreter.depended(wanted)[1]

    def _applications(self, call: FrameworkCall) -> Iterator[App]:
        """Yield the applications and routers that a call is given, also in a list."""
        for values in call.arguments.all():
            for value in values:
                for inner in (value, *self.interpreter.elements(value)):
                    if isinstance(inner, App):
                        yield inner

    def _middlewares(self, node: ast.expr, scope: Scope, key: Key) -> None:
        found = self._resolved(node, scope)
        calls = {id(inner.args[0]): inner for inner in ast.walk(found) if isinstance(inner, ast.Call) and inner.args}
        for inner in ast.walk(found):
            if isinstance(inner, (ast.Name, ast.Attribute)) and _bridging(self._values(inner, scope)):
                self._bridges(key, calls.get(id(inner)), scope)  # Middleware(OffloadMiddleware, paths=[…])

    def _listed(self, node: ast.expr, scope: Scope, key: Key | tuple[int, str]) -> None:
        """Take notice of a list of routes that belongs to an application or a mount."""
        found = self._resolved(node, scope)
        if not isinstance(found, (ast.List, ast.Tuple, ast.BinOp)):
            return
        stack: list[ast.AST] = [found]
        while stack:
            inner = stack.pop()
            if isinstance(inner, ast.Call):
                self.tables.inside.setdefault(id(inner), key)
                continue
            if isinstance(inner, ast.Tuple) and inner is not found:
                self._pair(inner, scope)
                continue
            if isinstance(inner, ast.Starred):
                self._listed(inner.value, scope, key)
                continue
            stack.extend(ast.iter_child_nodes(inner))

    def _pair(self, node: ast.Tuple, scope: Scope) -> None:
        """Tornado's ``(r"/path", Handler)``."""
        if len(node.elts) >= 2 and (path := self._text(node.elts[0], scope)):
            for handler, method in self._handlers(node.elts[1], scope, ""):
                self.tables.declared.append(Declared(method, path, handler, None, None, node, scope))

    def _mount(self, call: FrameworkCall) -> None:
        prefix = self._path(call, 0) or ""
        for keyword in call.node.keywords:
            if keyword.arg == "routes":
                self._listed(keyword.value, call.scope, (id(call.node), prefix))
        for value in self._applications(call):
            self.tables.included.setdefault(value.key, []).append((id(call.node), prefix, False))

    def _method(self, call: FrameworkCall, value: AppMethod) -> None:
        name, owner = value.name, value.owner.key
        if name in _INCLUDING:
            self._include(call, name, owner)
        elif name == "add_resource":
            made = (call.scope.module.shown, call.node.lineno, call.node.col_offset)
            self.tables.prefixes[made] = self._path(call, 0) or ""
            self.tables.included.setdefault(made, []).append((owner, None, False))
        elif name == "__init__":  # of a subclass, which gives its list of routes on
            self._made(call, owner)
        elif name == "add_middleware":
            if any(_bridging(values) for values in call.arguments.all()):
                self._bridges(owner, call.node, call.scope)
        elif name in ("add_handlers", "add_routes"):
            for argument in call.node.args:
                self._listed(argument, call.scope, owner)
                for values in call.arguments.positional:
                    for child in values:
                        if isinstance(child, App):
                            self.tables.included.setdefault(child.key, []).append((owner, None, False))
        elif name.startswith("add_"):
            self._added(call, value, owner)

    def _include(self, call: FrameworkCall, name: str, owner: Key) -> None:
        prefix: str | None = None
        if name in ("mount", "add_subapp"):
            prefix = self._path(call, 0)
        for keyword in call.node.keywords:
            if keyword.arg in ("prefix", "url_prefix"):
                prefix = self._text(keyword.value, call.scope)
            elif keyword.arg == "dependencies":
                needed = list(self._depended(keyword.value, call.scope))
                for child in self._applications(call):
                    self.tables.dependencies.setdefault(child.key, []).extend(needed)
        replaces = name in ("blueprint", "register_blueprint") and prefix is not None
        for child in self._applications(call):
            self.tables.included.setdefault(child.key, []).append((owner, prefix, replaces))

    def _added(self, call: FrameworkCall, value: AppMethod, owner: Key) -> None:
        verb = value.name.removeprefix("add_")
        if value.owner.framework == "sanic" and verb in ("route", "websocket_route"):
            handler, path = self._argument(call, 0, "handler"), self._path(call, 1)
        elif value.owner.kind == "resource":
            handler, path, verb = self._argument(call, 1, "handler"), "", self._word(call, 0)
        elif value.owner.framework == "aiohttp" and verb == "route":
            handler, path, verb = self._argument(call, 2, "handler"), self._path(call, 1), self._word(call, 0)
        elif verb == "url_rule":
            handler, path = self._argument(call, 2, "view_func"), self._path(call, 0)
        else:
            handler, path = self._argument(call, 1, "endpoint"), self._path(call, 0)
        self._register(call, owner, path, handler, verb)

    def _register(
        self, call: FrameworkCall, owner: Key | None, path: str | None, handler: ast.expr | None, verb: str
    ) -> None:
        if path is None or handler is None:
            return
        for scope, method in self._handlers(handler, call.scope, verb, call.node):
            self.tables.declared.append(Declared(method, path, scope, owner, None, call.node, call.scope))

    def _handlers(
        self, node: ast.expr, scope: Scope, verb: str, call: ast.Call | None = None
    ) -> Iterator[tuple[Scope, str]]:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "as_view":
            node = node.func.value
        found = {
            inner
            for value in self._values(node, scope)
            for inner in (
                (self.interpreter.member(value, "__call__") or ()) if isinstance(value, Instance) else (value,)
            )
        }
        values = [value for value in found if isinstance(value, (FunctionRef, ClassRef))]
        for value in sorted(values, key=lambda value: value.scope.place()):
            if isinstance(value, FunctionRef):
                for method in self._methods(verb, call):
                    yield value.scope, method
            else:
                yield from self._of_class(value.scope)

    def _of_class(self, scope: Scope) -> Iterator[tuple[Scope, str]]:
        for name in (*sorted(VERBS), "on_message", "on_receive"):
            for inner in self.interpreter.member(instance(scope), name) or ():
                if isinstance(inner, FunctionRef):
                    yield inner.scope, name.upper() if name in VERBS else "WEBSOCKET"

    def _methods(self, verb: str, call: ast.Call | None) -> list[str]:
        if verb.lower() in VERBS:
            return [verb.upper()]
        if "websocket" in verb:
            return ["WEBSOCKET"]
        for keyword in call.keywords if call is not None else ():
            if keyword.arg == "methods":
                listed = keyword.value
                if isinstance(listed, ast.Call) and listed.args:  # frozenset({"GET"})
                    listed = listed.args[0]
                if isinstance(listed, (ast.List, ast.Tuple, ast.Set)):
                    return [str(item.value).upper() for item in listed.elts if isinstance(item, ast.Constant)]
        return [verb.upper()] if verb.isupper() and verb != "*" else ["GET"]

    def decorator(self, call: FrameworkCall, scope: Scope) -> None:
        """Take notice of a call that stands as a decorator."""
        func = call.node.func
        if not isinstance(func, ast.Attribute) or func.attr not in _DECORATING:
            return
        owners = [value.owner for value in call.callee if isinstance(value, AppMethod)]
        if not owners and (call.callee or not _ROUTER_NAME.search(_last(func.value))):
            return
        path = self._path(call, 0)
        if path is None or (not owners and not path.startswith("/")):
            return
        owner = owners[0].key if owners else None
        handlers = (
            self._of_class(scope)
            if scope.kind == "class"
            else ((scope, method) for method in self._methods(func.attr, call.node))
        )
        version = _version(call.node) if owners and owners[0].framework == "sanic" else ""
        for handler, method in handlers:
            self.tables.declared.append(
                Declared(method, path, handler, owner, call.node, call.node, call.scope, version)
            )

    # --- what comes of it

    def routes(self) -> Iterator[Route]:
        """Yield the routes with their whole paths."""
        for declared in self.tables.declared:
            self._depends(declared, self.tables.owner(declared))
        yield from self.tables.routes()

    def _depends(self, declared: Declared, owner: Key | None) -> None:
        """Give a handler the dependencies that its route, its router and the routers around have."""
        needed = [self._depended(k.value, declared.scope) for k in _keywords(declared.node) if k.arg == "dependencies"]
        waiting: list[Key | int | None] = [owner]
        seen: set[Key] = set()
        while waiting:
            key = waiting.pop()
            if isinstance(key, int):
                key = self.tables.mounted(key)[1]
            if key is not None and key not in seen:
                seen.add(key)
                needed.append(iter(self.tables.dependencies.get(key, ())))
                waiting += [parent for parent, _, _ in self.tables.included.get(key, ())]
        for scope in itertools.chain.from_iterable(needed):
            if scope not in declared.handler.dependencies:
                declared.handler.dependencies.append(scope)

    # --- arguments

    def _argument(self, call: FrameworkCall, number: int, name: str) -> ast.expr | None:
        if number < len(call.node.args):
            return call.node.args[number]
        names = {name, "endpoint", "handler", "view_func"}
        return next((keyword.value for keyword in call.node.keywords if keyword.arg in names), None)

    def _path(self, call: FrameworkCall, number: int) -> str | None:
        node = call.node.args[number] if number < len(call.node.args) else None
        for keyword in call.node.keywords if node is None else ():
            if keyword.arg in ("path", "rule", "uri", "pattern"):
                node = keyword.value
        return self._text(node, call.scope)

    def _word(self, call: FrameworkCall, number: int) -> str:
        return self._text(call.node.args[number], call.scope) or "" if number < len(call.node.args) else ""

    def _text(self, node: ast.expr | None, scope: Scope) -> str | None:
        return text(node, scope, self.interpreter.project, self._owners)

    def _owners(self, node: ast.expr, scope: Scope) -> list[Scope]:
        """Return the classes that the object may be of whose attribute is a text, such as ``settings``."""
        values = [value for value in self._values(node, scope) if isinstance(value, (Instance, ClassRef))]
        return [one for value in values for one in self.interpreter.classes(value.scope)]

    def _values(self, node: ast.expr, scope: Scope) -> Values:
        self.interpreter.scope, self.interpreter.recording = scope, False
        return self.interpreter.evaluate(node)

    @staticmethod
    def _resolved(node: ast.expr, scope: Scope) -> ast.expr:
        where: Scope | None = scope
        while isinstance(node, ast.Name) and where is not None:
            if node.id in where.assigned:
                return where.assigned[node.id][-1]
            where = where.parent
        return node


def _keywords(node: ast.expr) -> list[ast.keyword]:
    return node.keywords if isinstance(node, ast.Call) else []


def _version(node: ast.Call) -> str:
    """Return what Sanic puts before every prefix of a blueprint or route with a version."""
    for keyword in node.keywords:
        if keyword.arg == "version" and isinstance(keyword.value, ast.Constant) and keyword.value.value is not None:
            return f"/v{str(keyword.value.value).lstrip('/v')}"
    return ""


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
