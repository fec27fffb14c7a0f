"""Which way an outermost call runs: offloaded, or as it ran before it was decorated.

Owns what the code below such a call finds out about that, and where a choice is asked for. Who chooses, and what is
made of the figures, is ``rollout/``'s.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")

Runner = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Awaitable[Any]]


class ArmCall:
    """An outermost call of which the way was chosen.

    :param inline: whether it runs as it did before it was decorated: its driver calls on the loop's thread
    :param silent: whether nothing is said then of what keeps the loop
    """

    __slots__ = ("began", "checkout_timeouts", "ended", "inline", "kept_waiting", "loop_time", "silent", "used")

    def __init__(self, *, inline: bool, silent: bool) -> None:
        self.inline = inline
        self.silent = silent
        self.ended = False
        self.loop_time = 0.0
        """Seconds for which its driver calls kept the loop's thread."""
        self.kept_waiting = 0.0
        """Seconds for which it waited for a connection, or for the loop: its driver calls could not begin, or were
        back."""
        self.checkout_timeouts = 0
        self.began = time.monotonic()
        self.used: set[Any] = set()
        """Pools that it has asked for connections, and the locks of connections that were there before it."""


class Chosen(Protocol):
    """What runs a call the way that was chosen."""

    @property
    def inline(self) -> bool:
        """Whether it runs as it did before it was decorated."""

    async def run(
        self, runner: Runner, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run the whole call by *runner*."""

    async def step(
        self, runner: Runner, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one step of an asynchronous generator; :meth:`end` is called after the last one."""

    def end(self) -> None:
        """Note that it is over."""


choose: Callable[[Any, tuple[Any, ...]], Chosen | None] | None = None
"""Asked for each call of a decorated function, given that function and its arguments, once there is anything to choose.

Whoever returns None lets the call run as always. This is looked at before every call, so it costs nothing else.
"""

expects_inline = False
"""Whether something is set by which calls run as before, on the loop's own thread: pools keep a connection for them."""

_current: ContextVar[ArmCall | None] = ContextVar("offload_db_arm", default=None)


def current_call() -> ArmCall | None:
    """Return the call that this code belongs to, in whatever task or thread; None where nothing was chosen."""
    call = _current.get()
    return None if call is None or call.ended else call


def enter(call: ArmCall) -> Token[ArmCall | None]:
    """Let the code that follows belong to a call."""
    return _current.set(call)


def leave(token: Token[ArmCall | None]) -> None:
    """Take :func:`enter` back."""
    try:
        _current.reset(token)
    except ValueError:
        pass  # a coroutine that is thrown away unfinished is closed in another context than it was started in


class TimedHop(Generic[T]):
    """A function on its way through a worker thread, and how long it was not running meanwhile.

    :param call: what it is part of
    """

    __slots__ = ("_call", "_function", "_ran", "_sent")

    def __init__(self, call: ArmCall, function: Callable[[], T]) -> None:
        self._call = call
        self._function = function
        self._sent = time.perf_counter()
        self._ran = 0.0

    def __call__(self) -> T:
        """Run it, on the thread."""
        began = time.perf_counter()
        try:
            return self._function()
        finally:
            self._ran = time.perf_counter() - began

    def resumed(self) -> None:
        """Note that the task goes on."""
        self._call.kept_waiting += max(0.0, time.perf_counter() - self._sent - self._ran)


def timed(function: Callable[[], T]) -> TimedHop[T] | None:
    """Time what is about to hop; None where nobody wants to know."""
    call = None if choose is None else current_call()
    return None if call is None else TimedHop(call, function)
