"""Which mode fits a function: ``bridge``, ``thread``, ``either`` or ``neither``, and why. The one place that says so.

In threads a handler must find nothing that belongs to the event loop, and no connection that another thread may use at
the same time. So thread mode is for calls whose connections are certainly their own; see ``ownership.py``.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from . import libraries
from .annotations import external_names
from .bindings import walk
from .graph import Graph
from .interpret import Interpreter
from .lookup import holder, last_name
from .makers import Maker
from .model import Call, Effect, External, Module, Scope
from .origins import Origins
from .ownership import Ownership
from .scan import read
from .wording import shown

_LOOP_METHODS = frozenset(
    {"create_task", "ensure_future", "call_soon", "call_later", "call_at", "put_nowait", "get_nowait", "set_result",
     "set_exception", "add_callback", "spawn_callback", "start_soon", "get_running_loop", "get_event_loop",
     "add_done_callback", "run_in_executor", "create_background_task"}
)  # fmt: skip
_TORNADO_METHODS = frozenset({"finish", "flush", "render", "redirect", "send_error", "write_message"})
_LOOP_LIBRARIES = ("asyncio", "anyio", "trio", "uvloop", "sniffio", "tornado.ioloop", "tornado.gen", "curio")
# Names of these libraries that need no loop.
_LOOPLESS = frozenset(
    {"TimeoutError", "CancelledError", "InvalidStateError", "QueueEmpty", "QueueFull", "iscoroutine",
     "iscoroutinefunction", "isfuture", "Task", "Future", "AbstractEventLoop", "get_cancelled_exc_class", "from_thread"}
)  # fmt: skip
_LOOP_WORDS = re.compile(
    rf"\b({'|'.join(sorted({*_LOOP_METHODS, *_TORNADO_METHODS, *_LOOP_LIBRARIES, 'add_task'}))})\b".replace(".", r"\.")
)
_DOUBT = re.compile(r"^it is not known| may | is given it$")
_MESSAGES = frozenset({"set", "cancel", "notify", "notify_all", "release"})  # of asyncio's own objects


@dataclass(frozen=True, slots=True)
class Advice:
    """The mode that fits a function.

    *blocker* is the call that a bridge does not free, if there is one. *why* says why it must be a thread, or why it
    must not.
    """

    mode: str
    blocker: Call | None = None
    why: str = ""


class Advisor:
    """Gives advice on the functions of an audit."""

    def __init__(self, interpreter: Interpreter, graph: Graph) -> None:
        self.interpreter = interpreter
        self.graph = graph
        self.ownership = Ownership(Origins(interpreter))
        self.has_pool = any(
            made is not None and made[2] in ("offloaded", "wrappable")
            for call in interpreter.framework_calls.values()
            for made in map(libraries.maker, external_names(call.callee))
        )
        # what a bridge does not free, by who reaches it
        self.to_raw = graph.towards(self._is_raw, through_hops=False)
        self._loops: dict[Scope, bool] = {}
        self._loop_modules: dict[Module, bool] = {}
        self._suspends: dict[Scope, bool] = {}
        self._advice: dict[Scope, Advice] = {}
        self._messages: frozenset[str] | None = None

    def advise(self, scope: Scope, sites: list[Call]) -> Advice:
        """Return the mode that fits an asynchronous function.

        :param sites: its calls that block on a database
        """
        known = self._advice.get(scope)
        if known is None:
            known = self._advice[scope] = self._decide(scope, sites)
        return known

    def _decide(self, scope: Scope, sites: list[Call]) -> Advice:
        blocker = self.blocks_elsewhere(scope)
        lock = self.holds_lock(scope)
        obstacle = self._bound_to_loop(scope)
        if obstacle is None and (lock is not None or blocker is not None):
            obstacle = self._shares(scope)
        if lock is not None:
            held = f"the lock {lock} is held across a database call"
            return (
                Advice("neither", blocker, f"{held}, and {obstacle}") if obstacle else Advice("thread", blocker, held)
            )
        if blocker is None:
            return Advice("bridge" if obstacle is not None else "either")
        if obstacle is None:
            return Advice("thread", blocker, f"{shown(blocker.node)} blocks, too, and a bridge does not free it")
        return Advice("bridge" if any(self._frees(call) for call in sites) else "neither", blocker, obstacle)

    def makers(self, scope: Scope) -> list[Maker]:
        """Return the calls in the source that open what a function uses."""
        return sorted(self.ownership.uses(scope).makers.values(), key=lambda one: (one.module.shown, one.node.lineno))

    # --- what a bridge frees

    def is_freed(self, effect: Effect) -> bool:
        """Tell whether a bridge frees a driver call; one that nobody knows may come of a pool, if there is one."""
        return effect.reach in ("offloaded", "wrappable") or (effect.reach == "unknown" and self.has_pool)

    def _is_raw(self, call: Call) -> bool:
        return call.effect is not None and call.effect.kind != "elsewhere" and not self.is_freed(call.effect)

    def blocks_elsewhere(self, scope: Scope) -> Call | None:
        """Return a call that blocks on something that a bridge does not free, if there is one."""
        for call in scope.calls:
            if call.passed:
                continue
            if call.effect is not None and (call.effect.kind == "elsewhere" or self._is_raw(call)):
                return call
            if self.graph.reaches(call, self.graph.to_elsewhere) or self.graph.reaches(call, self.to_raw):
                return call
        return None

    def leads_to_raw(self, call: Call) -> bool:
        """Tell whether a call blocks on a driver that a bridge does not free, itself or below."""
        return self._is_raw(call) or self.graph.reaches(call, self.to_raw)

    def danger(self, scope: Scope) -> str | None:
        """Say what goes wrong when a function runs in a thread, where that is certain; None if nothing is."""
        if scope.is_generator:
            return None
        reasons = [why for why in self.ownership.uses(scope).reasons if not _DOUBT.search(why)]
        return self._bound_to_loop(scope) or self._told(reasons)

    def _frees(self, call: Call) -> bool:
        chain = [call, *self.graph.below(call)]
        return any(step.effect is not None and self.is_freed(step.effect) for step in chain)

    # --- what a thread must not do

    def _bound_to_loop(self, scope: Scope) -> str | None:
        """Say why a function must run on the event loop's thread; None if it need not."""
        if scope.is_generator:
            return "it is a generator"
        if self.suspends(scope):
            return "it awaits"
        for one in self.in_its_thread(scope):
            if self._uses_loop(one):
                return "it uses the event loop itself" if one is scope else f"{one.qualname} uses the event loop"
        return None

    def _shares(self, scope: Scope) -> str | None:
        """Say what several calls of a function could use at once; None if all is certainly a call's own."""
        return self._told(self.ownership.uses(scope).reasons)

    @staticmethod
    def _told(reasons: list[str]) -> str | None:
        if not reasons:
            return None
        why = min(reasons, key=lambda reason: (_DOUBT.search(reason) is not None, reason))
        return f"in threads, {why}" if why.startswith("its pool ") else f"in threads, calls could share it: {why}"

    def suspends(self, scope: Scope) -> bool:
        """Tell whether a function contains a real ``await``: one of something that may suspend."""
        known = self._suspends.get(scope)
        if known is None:
            self._suspends[scope] = False  # a function that awaits only itself never suspends
            known = self._suspends[scope] = any(self._may_suspend(scope, node) for node in scope.awaits)
        return known

    def _may_suspend(self, scope: Scope, node: ast.expr | None) -> bool:
        if node is None:
            return True
        targets = [target for call in scope.calls if call.node is node for target in call.targets]
        return not targets or any(
            not target.is_async or "unknown" in target.decorators or self.suspends(target) for target in targets
        )

    def in_its_thread(self, scope: Scope) -> list[Scope]:
        """Return a function and all that runs in its thread, however deep: what it calls and what it awaits."""
        found = {scope: None}
        waiting = [scope]
        while waiting:
            for call in waiting.pop().calls:
                for target in call.targets if not call.passed else ():
                    if target not in found:
                        found[target] = None
                        waiting.append(target)
        return list(found)

    def _uses_loop(self, scope: Scope) -> bool:
        """Tell whether a function does what only the event loop's thread may do."""
        known = self._loops.get(scope)
        if known is None:
            known = self._loops[scope] = self._may_use_loop(scope.module) and any(
                self._is_of_loop(node, scope) for node in walk(scope)
            )
        return known

    def _may_use_loop(self, module: Module) -> bool:
        """Tell whether a file has any word that has to do with a loop: most have none, and need not be walked."""
        known = self._loop_modules.get(module)
        if known is None:
            source = read(module.path)
            values = (value for cell in module.scope.cells.values() for value in cell.values)
            known = self._loop_modules[module] = (
                _LOOP_WORDS.search(source) is not None
                or any(name in source for name in self._asyncio_objects())
                or any(isinstance(value, External) and value.name.startswith(_LOOP_LIBRARIES) for value in values)
            )
        return known

    def _is_of_loop(self, node: ast.AST, scope: Scope) -> bool:
        if isinstance(node, ast.Attribute):
            return (
                node.attr in _LOOP_METHODS
                or (node.attr == "add_task" and holder(node.value) == "app")
                or (node.attr in _TORNADO_METHODS and last_name(node.value) == "self")
                or (node.attr in _MESSAGES and last_name(node.value) in self._asyncio_objects())
                or (
                    node.attr not in _LOOPLESS and isinstance(node.value, ast.Name) and self._is_loop(scope, node.value)
                )
            )
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and self._is_loop(scope, node.func)

    def _is_loop(self, scope: Scope, node: ast.Name) -> bool:
        """Tell whether a name is that of a library for event loops, or comes from one."""
        self.interpreter.scope = scope
        where = self.interpreter.binding(node.id)
        cell = where.cells.get(node.id) if where is not None else None
        return cell is not None and any(
            isinstance(value, External)
            and value.name.startswith(_LOOP_LIBRARIES)
            and value.name.rpartition(".")[2] not in _LOOPLESS
            for value in cell.values
        )

    def _asyncio_objects(self) -> frozenset[str]:
        """Return the names that are given an object of a loop: ``self.changed = asyncio.Event()``."""
        if self._messages is None:
            self._messages = frozenset(
                last_name(binding.target)
                for module in self.interpreter.project.modules
                if not module.libraries.isdisjoint({"asyncio", "anyio", "trio"})
                for scope in module.scopes.values()
                for binding in self.ownership.origins.assignments.of_scope(scope)
                if isinstance(binding.value, ast.Call)
                and isinstance(func := binding.value.func, (ast.Attribute, ast.Name))
                and self._is_loop(scope, func if isinstance(func, ast.Name) else _first(func))
            )
        return self._messages

    def holds_lock(self, scope: Scope) -> str | None:
        """Return the lock that a function, or a helper below it, holds across a database call."""
        seen = {scope}
        waiting = [scope]
        while waiting:
            for call in waiting.pop().calls:
                if call.passed:
                    continue
                if call.locks and self.graph.blocks(call):
                    return call.locks[0].text
                for target in call.targets:
                    if not target.is_async and target not in seen:
                        seen.add(target)
                        waiting.append(target)
        return None


def _first(node: ast.expr) -> ast.Name:
    """Return the first name of ``asyncio.locks.Event``."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node if isinstance(node, ast.Name) else ast.Name("", ast.Load())
