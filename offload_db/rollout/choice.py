"""Choosing the way of each call, and counting what came of it.

Owns the choice, which is made once for each request, and the call while it runs. Which rule holds is ``rules.py``'s.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..bridge import arms
from ..bridge.background import start_from_finaliser
from ..bridge.call_scope import current_setting
from ..bridge.place import Place, place
from ..bridge.stack import frames_from
from ..connection.call_sites import endpoint_of, path_below_root, request_scope, scope_in
from .figures import Mode
from .room import note_used, wait_for_room
from .rules import RULES, Rule
from .targets import Request

logger = logging.getLogger("offload_db.rollout")

# The library's own functions, such as that which opens pools, are no part of any request.
_OWN = f"{__name__.partition('.')[0]}."

# Where a request's choice is kept, in its ASGI scope.
_KEY = "offload_db.rollout"

watchers: list[Callable[[CallRecord], None]] = []
"""Told of each call that is over: the guards."""


class Choice(NamedTuple):
    """What was chosen for one request, or for one call outside of any."""

    rule: Rule | None
    mode: Mode


class CallRecord(NamedTuple):
    """A call that is over."""

    request: Request
    rule: Rule | None
    mode: Mode
    seconds: float
    """How long it took, without the time that it was kept waiting."""
    error: str | None
    cancelled: bool
    checkout_timeouts: int


def choose(plain: Any, args: tuple[Any, ...]) -> arms.Chosen | None:
    """Choose the way of one call of a decorated function; None lets it run as always.

    :param plain: the user's own function
    :param args: what it is called with: an ASGI application is given the request
    """
    current = arms.current_call()
    if current is not None:
        return _NESTED if current.inline else None
    if not RULES.active or current_setting() is not None:  # what began before anything was set goes on as it began
        return None
    whole = _is_asgi(args)
    name = _name(plain)
    if not whole and name.startswith(_OWN):
        return None
    scope: Any = args[0] if whole else scope_in(frames_from(sys._getframe(1))) or request_scope.get()
    request = _request(scope, name, whole=whole)
    choice: Choice | None = None if scope is None else scope.get(_KEY)
    first = choice is None
    if choice is None:
        rule = RULES.find(request)
        if rule is None and not RULES.watching:
            return None
        choice = Choice(rule, "offload" if rule is None or place() is Place.BRIDGED else rule.pick())
        if scope is not None:
            scope[_KEY] = choice
    endpoint = None if scope is None else scope.get("endpoint")
    if not whole and (endpoint is None or inspect.unwrap(endpoint) is not plain):
        scope = None  # a dependency or middleware, which has figures of its own
    return _Call(choice, request, name, scope, first=first, whole=whole)


def _is_asgi(args: tuple[Any, ...]) -> bool:
    return len(args) == 3 and isinstance(args[0], dict) and "type" in args[0] and callable(args[2])


def _name(plain: Any) -> str:
    kind = plain if hasattr(plain, "__qualname__") else type(plain)
    return f"{kind.__module__}.{kind.__qualname__}"


def _request(scope: Any, name: str, *, whole: bool) -> Request:
    functions = () if whole else (name,)
    if scope is None or scope["type"] not in ("http", "websocket"):
        return Request(functions)
    endpoint = endpoint_of(scope)
    if endpoint is None:
        return Request(functions, str(scope.get("method") or "WEBSOCKET"), None, path_below_root(scope))
    own = _name(inspect.unwrap(scope["endpoint"]))
    return Request((own,) if own in functions else (own, *functions), endpoint.method, endpoint.path)


class _Nested:
    """A call inside of one that runs as it did before: so does this."""

    inline = True

    async def run(
        self, runner: arms.Runner, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run the whole call, or a step of it."""
        return await runner(function, args, kwargs)

    step = run

    def end(self) -> None:
        """Note that it is over."""


_NESTED = _Nested()


class _Call(arms.ArmCall):
    """An outermost call.

    :param scope: the request whose route the call is counted for; None counts it for its function
    :param first: whether the request's choice was made for it
    :param whole: whether it is an ASGI application, whose answers are looked at
    """

    __slots__ = ("_began", "_choice", "_error", "_first", "_name", "_request", "_scope", "_spent", "_undo", "_whole")

    def __init__(self, choice: Choice, request: Request, name: str, scope: Any, *, first: bool, whole: bool) -> None:
        super().__init__(inline=choice.mode != "offload", silent=choice.mode == "block")
        self._choice = choice
        self._request = request
        self._name = name
        self._scope = scope
        self._first = first
        self._whole = whole
        self._spent = 0.0
        self._began = False
        self._undo: list[Callable[[], None]] = []
        self._error: tuple[str, bool] | None = None  # its class, and whether it is a cancellation

    async def run(
        self, runner: arms.Runner, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run the whole call by *runner*."""
        if self._whole:
            args = (*args[:2], functools.partial(self._send, args[2]))
        try:
            result = await self.step(runner, function, args, kwargs)
            self._answered(getattr(result, "status_code", None))
        finally:
            self.end()
        return result

    async def step(
        self, runner: arms.Runner, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one step of an asynchronous generator; :meth:`end` is called after the last one."""
        token = arms.enter(self)
        started = time.perf_counter()
        try:
            if self.inline and not self._began:
                self._undo = await wait_for_room(self._request)
                self.kept_waiting += time.perf_counter() - started
            self._began = True
            return await runner(function, args, kwargs)
        except StopAsyncIteration:
            raise
        except GeneratorExit:
            self._abandon()
            raise
        except BaseException as error:
            status = getattr(error, "status_code", None)  # an answer, such as HTTPException
            if isinstance(status, int):
                self._answered(status)
            else:
                self._error = type(error).__name__, not isinstance(error, Exception)
            raise
        finally:
            self._spent += time.perf_counter() - started
            arms.leave(token)

    async def _send(self, send: Callable[[Any], Any], message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._answered(message.get("status"))
        await send(message)

    def _answered(self, status: object) -> None:
        if isinstance(status, int) and status >= 500:
            self._error = f"HTTP {status}", False

    def _abandon(self) -> None:
        """End uncounted, as the call is thrown away unfinished; a finaliser may do that, and must wait for no lock."""
        self.ended = True
        for undo in self._undo:
            start_from_finaliser(undo)
        self._scope, self._undo, self.used = None, [], set()

    def end(self) -> None:
        """Count the call."""
        if self.ended:
            return
        self.ended = True
        rule, mode = self._choice
        scope, request, name = self._scope, self._request, self._name
        note_used(request, self.used)  # before its route is known: so will others be looked for
        for undo in self._undo:
            undo()
        self.used, self._undo = set(), []
        self._scope = None  # who keeps the call's context need not keep the request
        if scope is not None and (endpoint := endpoint_of(scope)) is not None:
            name = f"{endpoint.method}:{endpoint.path}"
            if self._whole:  # its route is known by now
                request = _request(scope, name, whole=True)
        elif self._whole:
            name = "(no route)"
        error, cancelled = self._error or (None, False)
        seconds = max(0.0, self._spent - self.kept_waiting)
        with RULES.lock:
            for row in RULES.rows_of(name, request, rule, first=self._first):
                row.arm(mode).add(
                    seconds,
                    error,
                    loop_time=self.loop_time,
                    kept_waiting=self.kept_waiting,
                    checkout_timeouts=self.checkout_timeouts,
                )
            messages = RULES.unmatched()
        for message in messages:
            logger.warning("%s", message)
        record = CallRecord(request, rule, mode, seconds, error, cancelled, self.checkout_timeouts)
        for watcher in tuple(watchers):
            watcher(record)
