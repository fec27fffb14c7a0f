"""Who reaches whom: from the code of a request down to the driver, and from a function up to the requests.

Stands on the calls that ``interpret.py`` noted. A chain leads through plain functions only: what an ``async def``
does is its own affair.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator

from .model import Call, Scope
from .route_tables import Route

_RANKS = ("statement", "connect", "other")


def rank(call: Call) -> str:
    """Return how much a driver call says: a statement most."""
    kind = call.effect.kind if call.effect is not None else "other"
    return kind if kind in _RANKS else "other"


class Graph:
    """The calls of all functions."""

    def __init__(self, scopes: Iterable[Scope], routes: list[Route]) -> None:
        self.scopes = list(scopes)
        self.routes = routes
        self.callers: dict[Scope, list[Call]] = {}  # calls and references that lead to a function
        self.users: dict[Scope, list[Scope]] = {}  # functions that have it as a dependency
        for scope in self.scopes:
            for call in scope.calls:
                for target in call.targets:
                    self.callers.setdefault(target, []).append(call)
            for dependency in scope.dependencies:
                self.users.setdefault(dependency, []).append(scope)
        self.of_handler: dict[Scope, list[Route]] = {}
        for route in routes:
            self.of_handler.setdefault(route.handler, []).append(route)
        self._repeated: dict[Scope, Call] = {}
        self._steps = {name: self.towards(functools.partial(_drives_with, name)) for name in _RANKS}
        # a statement that is sent again and again: for each row of another one, most of the time
        self._repeated = self.towards(lambda call: bool(call.loops) and self._leads_to_statement(call))
        self.to_unwrapped = self.towards(
            lambda call: _drives(call) and call.effect is not None and call.effect.reach == "wrappable"
        )
        self.to_elsewhere = self.towards(
            lambda call: call.effect is not None and call.effect.kind == "elsewhere", through_hops=False
        )
        self._entries: dict[Scope, list[Route]] = {}

    def towards(self, wanted: Callable[[Call], bool], *, through_hops: bool = True) -> dict[Scope, Call]:
        """Return, for each plain function that reaches a wanted call, the call that is the next step to it."""
        steps: dict[Scope, Call] = {}
        waiting: deque[Scope] = deque()
        for scope in self.scopes:
            found = next((call for call in scope.calls if not call.passed and wanted(call)), None)
            if found is not None and (through_hops or not scope.hops):
                steps[scope] = found
                waiting.append(scope)
        while waiting:
            target = waiting.popleft()
            if target.is_async:
                continue
            for call in self.callers.get(target, ()):
                if not call.passed and call.scope not in steps and (through_hops or not call.scope.hops):
                    steps[call.scope] = call
                    waiting.append(call.scope)
        return steps

    def below(self, call: Call) -> list[Call]:
        """Return the calls from a call's target down to the driver, the costliest chain there is; empty if none."""
        repeated = [target for target in call.targets if not target.is_async and target in self._repeated]
        if repeated:
            chain = list(self._follow(self._repeated[repeated[0]], self._repeated))
            return [*chain, *(self._below(chain[-1]) if chain[-1].effect is None else ())]
        return self._below(call)

    def _below(self, call: Call) -> list[Call]:
        for name in _RANKS:
            steps = self._steps[name]
            targets = [target for target in call.targets if not target.is_async and target in steps]
            if targets:
                return list(self._follow(steps[targets[0]], steps))
        return []

    def _leads_to_statement(self, call: Call) -> bool:
        return _drives_with("statement", call) or self.reaches(call, self._steps["statement"])

    def _follow(self, call: Call, steps: dict[Scope, Call]) -> Iterator[Call]:
        seen: set[Scope] = set()
        while True:
            yield call
            seen.add(call.scope)
            if (call.effect is not None and call.effect.kind != "elsewhere") or (
                steps is self._repeated and call.loops
            ):
                return
            following = next((t for t in call.targets if t in steps and not t.is_async and t not in seen), None)
            if following is None:
                return
            call = steps[following]

    def blocks(self, call: Call) -> bool:
        """Tell whether a call blocks on a database, itself or below."""
        return not call.passed and (_drives(call) or bool(self.below(call)))

    def reaches(self, call: Call, steps: dict[Scope, Call]) -> bool:
        """Tell whether a call leads to what *steps* lead to, through plain functions."""
        return any(not target.is_async and target in steps for target in call.targets)

    def from_async(self, but: Container[Scope] = ()) -> set[Scope]:
        """Return the functions that run on the event loop: every ``async def``, and what these call.

        :param but: asynchronous functions to leave out
        """
        found = {scope for scope in self.scopes if scope.is_async and scope not in but}
        waiting = list(found)
        while waiting:
            for call in waiting.pop().calls:
                if not call.passed:
                    for target in call.targets:
                        if target not in found and not target.is_async:
                            found.add(target)
                            waiting.append(target)
        return found

    def entries(self, scope: Scope) -> list[Route]:
        """Return the requests in whose course a function runs, its own first, then the nearest."""
        found = self._entries.get(scope)
        if found is None:
            found = self._entries[scope] = list(dict.fromkeys(self._upwards(scope)))
        return found

    def _upwards(self, scope: Scope) -> Iterator[Route]:
        seen = {scope}
        waiting = deque([scope])
        while waiting:
            one = waiting.popleft()
            yield from self.of_handler.get(one, ())
            above = [call.scope for call in self.callers.get(one, ())] + self.users.get(one, [])
            for caller in above:
                if caller.kind != "module" and caller not in seen:
                    seen.add(caller)
                    waiting.append(caller)


def _drives_with(name: str, call: Call) -> bool:
    return _drives(call) and rank(call) == name


def _drives(call: Call) -> bool:
    return call.effect is not None and call.effect.kind != "elsewhere"
