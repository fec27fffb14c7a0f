"""What rules ask: who blocks, through whom, for which request, how severe it is and which mode fits.

Built once for an audit. Holds no rule.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator

from .advice import Advice, Advisor
from .bindings import argument, results
from .closing import leak
from .coverage import covered, ineffective
from .findings import Endpoint, Finding, Handler
from .graph import Graph, rank
from .interpret import Interpreter, Shared
from .libraries import CONNECTIONS
from .makers import Frame
from .model import Call, Database, Module, Opened, Scope, functions
from .remedies import change, reason
from .routes import find_routes
from .scan import read
from .sharing import Sharing
from .texts import judge, text
from .wording import shown

_POLLED = re.compile(
    r"/(cache|live|latest|current|realtime|real-time|poll|polling|heartbeat|status|position|positions)$"
    r"|^(/api)?(/v\d+)?/(health|healthz|livez|ready|readyz|ping|metrics)$"
)
_APPLICATION = re.compile(r"(^|\.|_)(app|application)(\.(state|ctx))?$")
_LIGHT = frozenset({"fetch", "cursor", "close", "ping"})


class Context:
    """The audited project, ready for the rules."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.interpreter = interpreter
        self.project = interpreter.project
        scopes = list(functions(self.project.modules))
        self.graph = Graph(scopes, find_routes(interpreter))
        self.ineffective = ineffective(self.graph, interpreter.decorated)
        self.covered = covered(self.graph, set(self.ineffective))
        self.on_loop = self.graph.from_async()
        self._blocked = self.graph.from_async(but=self.covered)
        self.asynchronous = [scope for scope in scopes if scope.is_async]
        self.sites = [
            call for scope in self.asynchronous for call in scope.calls if not call.passed and self.graph.blocks(call)
        ]
        self._sites_of: dict[Scope, list[Call]] = {}
        for call in self.sites:
            self._sites_of.setdefault(call.scope, []).append(call)
        self.advisor = Advisor(interpreter, self.graph)
        self._lines: dict[Module, list[str]] = {}
        self._blocking: dict[Scope, bool] = {}
        given = {one for scope in self.asynchronous for one in scope.dependencies}
        # what runs on the event loop, and the dependencies of what does
        self.in_requests = self.on_loop.union(*(self.advisor.in_its_thread(one) for one in given))
        self.shared = Sharing(interpreter, self.graph, self.advisor, self.in_requests).find()
        self._sharing = {shared.cell: self.interpreter.readers(shared.cell) for shared in self.shared}

    # --- a function

    def sites_of(self, scope: Scope) -> list[Call]:
        """Return the calls of an asynchronous function that block on a database."""
        return self._sites_of.get(scope, [])

    def endpoints(self, scope: Scope) -> tuple[Endpoint, ...]:
        """Return the requests in whose course a function runs."""
        return tuple(dict.fromkeys(Endpoint(route.method, route.path) for route in self.graph.entries(scope)))

    def advice(self, scope: Scope) -> Advice:
        """Return the mode that fits an asynchronous function, and why."""
        return self.advisor.advise(scope, self.sites_of(scope))

    def change(self, scope: Scope) -> str | None:
        """Say what to change where neither mode fits a function; None where one does."""
        advice = self.advice(scope)
        return change(advice, self.advisor.makers(scope), self.kept) if advice.mode == "neither" else None

    @functools.cached_property
    def kept(self) -> frozenset[int]:
        """Return which calls make what is kept for all callers, by the ids of their nodes."""
        found: set[int] = set()
        origins = self.advisor.ownership.origins
        for shared in self.shared:
            given = shared.node if isinstance(shared.node, ast.expr) else getattr(shared.node, "value", None)
            for node in [given] if isinstance(given, ast.expr) else results(shared.scope):
                found |= origins.of(node, Frame(shared.scope)).makers.keys()
        return frozenset(found)

    def is_unwrapped(self, call: Call) -> bool:
        """Tell whether a call blocks on a PooledDB that no OffloadPool wraps, itself or below."""
        if call.effect is not None and call.effect.kind != "elsewhere":
            return call.effect.reach == "wrappable"
        return self.graph.reaches(call, self.graph.to_unwrapped)

    def suspends(self, scope: Scope) -> bool:
        """Tell whether a function contains a real ``await``: one of something that may suspend."""
        return self.advisor.suspends(scope)

    def blocks_in_task(self, scope: Scope) -> bool:
        """Tell whether running an asynchronous function as a task of its own blocks the loop."""
        known = self._blocking.get(scope)
        if known is None:
            self._blocking[scope] = False
            known = self._blocking[scope] = bool(self.sites_of(scope)) or any(
                target.is_async and not self.is_offloaded(target) and self.blocks_in_task(target)
                for call in scope.calls
                if not call.passed
                for target in call.targets
            )
        return known

    def is_offloaded(self, scope: Scope) -> bool:
        """Tell whether a function is decorated with effect."""
        return scope.offload is not None and scope not in self.ineffective

    def runs_in(self, scope: Scope, depth: int = 0) -> str:
        """Return the mode in which an offloaded function runs; ``unknown`` where that is computed."""
        if scope.offload is not None:
            return scope.offload.mode
        callers = [c.scope for c in self.graph.callers.get(scope, ()) if c.scope in self.covered]
        modes = {self.runs_in(caller, depth + 1) for caller in callers} if depth < 5 else set()
        return modes.pop() if len(modes) == 1 else "bridge"

    def above(self, scope: Scope) -> list[Scope]:
        """Return the asynchronous functions that a function runs in."""
        found: list[Scope] = []
        seen = {scope}
        waiting = [scope]
        while waiting:
            one = waiting.pop()
            if one.is_async:
                found.append(one)
                continue
            for call in self.graph.callers.get(one, ()):
                if not call.passed and call.scope not in seen:
                    seen.add(call.scope)
                    waiting.append(call.scope)
        return found

    def is_migrated(self, scope: Scope) -> bool:
        """Tell whether every asynchronous function that a function runs in is offloaded."""
        return scope in self.on_loop and scope not in self._blocked

    # --- connections

    def leaks(self) -> Iterator[tuple[Scope, Opened, str]]:
        """Yield the connections that functions on the loop open and may leave open."""
        kept = {reader for shared in self.interpreter.shared for reader in self.interpreter.readers(shared.cell)}
        for scope in self.graph.scopes:
            if scope in self.on_loop and scope.kind == "function":
                for opened in scope.opened:
                    if kept.isdisjoint(opened.targets):
                        how = leak(opened, scope)
                        if how is not None:
                            yield scope, opened, how

    def readers(self, shared: Shared) -> list[Scope]:
        """Return who reads what is shared, in the order of the source."""
        return sorted(self.interpreter.readers(shared.cell), key=Scope.place)

    # --- findings

    def statement(self, calls: list[Call]) -> str | None:
        """Return the text of the statement that a chain of calls ends with."""
        node, number = calls[-1].sql, len(calls) - 1
        while node is not None:
            scope = calls[number].scope
            found = text(node, scope, self.project)
            if found is not None or number == 0 or not isinstance(node, ast.Name):
                return found
            node = argument(calls[number - 1].node, scope, node.id)
            number -= 1
        return None

    def severity(self, call: Call, below: list[Call]) -> tuple[str, tuple[str, ...]]:
        """Return how severe a blocking call is, and what shows it."""
        calls = [call, *below]
        kind = calls[-1].effect.kind if calls[-1].effect is not None else ""
        reasons = []
        points = 0 if kind in _LIGHT else 1
        if rank(calls[-1]) == "statement":
            seen = judge(self.statement(calls))
            reasons += seen
            points += "no WHERE" in seen
        if points and any(one.loops for one in calls):
            reasons.append("in a loop")
            points += 2 if rank(calls[-1]) == "statement" else 1
        if points and self.is_polled(call.scope):
            reasons.append("polled")
            points += 2
        return ("low", "medium", "high", "critical")[min(points, 3)], tuple(reasons)

    def is_polled(self, scope: Scope) -> bool:
        """Tell whether a path or a docstring says that clients ask again and again."""
        if not isinstance(scope.node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return False
        if re.search(r"\bpoll(ed|s|ing)?\b", ast.get_docstring(scope.node) or "", re.IGNORECASE):
            return True
        return any(_POLLED.search(route.path.rstrip("/")) for route in self.graph.of_handler.get(scope, ()))

    def blocking(self, rule: str, call: Call, what: str) -> Finding:
        """Return the finding that a call blocks the loop.

        :param what: what the call does, as the message has it
        """
        below = [] if call.effect is not None and call.effect.kind != "elsewhere" else self.graph.below(call)
        severity, reasons = self.severity(call, below)
        scope = call.scope
        last = below[-1] if below else call
        because = f" ({', '.join(reasons)})" if reasons else ""
        return self.finding(
            rule,
            scope,
            call.node,
            call=call.text,
            severity=severity,
            message=f"{shown(call.node)} {what} and blocks the event loop{because}",
            via=tuple(step.scope.qualname for step in below),
            chain=tuple(f"{step.scope.module.shown}:{step.line} {step.text}" for step in below),
            steps=tuple(shown(step.node) for step in (call, *below)),
            queries=rank(last) == "statement",
            driver=last.effect.driver if last.effect is not None else None,
            reasons=reasons,
        )

    def finding(
        self,
        rule: str,
        scope: Scope,
        node: ast.AST,
        *,
        call: str,
        severity: str,
        message: str,
        via: tuple[str, ...] = (),
        chain: tuple[str, ...] = (),
        steps: tuple[str, ...] = (),
        queries: bool = False,
        driver: str | None = None,
        reasons: tuple[str, ...] = (),
        stays: bool = False,
        migrated: bool | None = None,
    ) -> Finding:
        """Return a finding at a node of a function."""
        line = getattr(node, "lineno", scope.line)
        advice = self.advice(scope) if scope.is_async else None
        return Finding(
            rule,
            scope.module.shown,
            line,
            self._column(scope.module, line, getattr(node, "col_offset", 0)),
            scope.qualname,
            call,
            severity,
            message,
            endpoints=self.endpoints(scope),
            via=via,
            chain=chain,
            steps=steps,
            queries=queries,
            driver=driver,
            mode=advice.mode if advice is not None else None,
            advice=self.change(scope) if scope.is_async else None,
            reasons=reasons,
            migrated=self.is_migrated(scope) if migrated is None else migrated,
            stays=stays,
            end_line=getattr(node, "end_lineno", line) or line,
        )

    def _column(self, module: Module, line: int, offset: int) -> int:
        """Return the column of a place, in characters from 1: `ast` counts the bytes of UTF-8."""
        lines = self._lines.get(module)
        if lines is None:
            lines = self._lines[module] = read(module.path).split("\n")
        text = lines[line - 1] if line <= len(lines) else ""
        return len(text.encode()[:offset].decode(errors="ignore")) + 1

    def handlers(self) -> list[Handler]:
        """Return every asynchronous function that answers a request or blocks."""
        leaking = {(scope, opened.name) for scope, opened, _ in self.leaks()}
        rows = []
        for scope in self.asynchronous:
            sites = self.sites_of(scope)
            if not sites and scope not in self.graph.of_handler:
                continue
            advice = self.advice(scope)
            closed = None
            if scope.opened:
                closed = not any((scope, opened.name) in leaking for opened in scope.opened)
            rows.append(
                Handler(
                    scope.qualname,
                    scope.module.shown,
                    scope.line,
                    self.endpoints(scope),
                    bool(sites),
                    scope in self.covered,
                    self.suspends(scope),
                    advice.mode,
                    self._obtained(scope, sites),
                    closed,
                    self._shares(scope),
                    self.change(scope),
                    reason(advice, is_raw=advice.blocker is not None and self.advisor.leads_to_raw(advice.blocker)),
                    any(call.spawner is not None for call in self.graph.callers.get(scope, ())),
                )
            )
        return sorted(rows, key=lambda row: (row.file, row.line))

    def _obtained(self, scope: Scope, sites: list[Call]) -> str | None:
        for call in sites:
            chain = [call, *self.graph.below(call)]
            if chain[-1].effect is not None and rank(chain[-1]) == "connect":
                return " -> ".join(step.text for step in chain)
        for parameter in scope.parameters:
            values = scope.cell(parameter.name).values
            if any(isinstance(value, Database) and value.kind in CONNECTIONS for value in values):
                return f"the parameter {parameter.name}"
        for call in sites:
            chain = [call, *self.graph.below(call)]
            if len(chain) > 1:
                return " -> ".join(step.text for step in chain)
        return None

    def _shares(self, scope: Scope) -> bool:
        return any(one in readers for one in self._below(scope) for readers in self._sharing.values())

    def _below(self, scope: Scope) -> list[Scope]:
        """Return a function and the plain functions that it calls, however deep."""
        found = {scope: None}
        waiting = [scope]
        while waiting:
            for call in waiting.pop().calls:
                for target in call.targets if not call.passed else ():
                    if not target.is_async and target not in found:
                        found[target] = None
                        waiting.append(target)
        return list(found)
