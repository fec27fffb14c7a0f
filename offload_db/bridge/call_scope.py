"""What belongs to one bridged call: its lane, its deadline, its connections.

Owns what code below a bridged call can find out about it, in whatever task or thread it runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Any, NamedTuple, Protocol, TypeVar

from .caller_identity import flow
from .cancellation import Cancellation
from .place import current_task

T = TypeVar("T")


class Deadline:
    """One limit on the time that the database calls of a bridged call take together."""

    __slots__ = ("_spent", "expires", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.expires = time.monotonic() + seconds
        self._spent: dict[str, float] = {}

    @property
    def left(self) -> float:
        """Seconds until it is over, 0.0 at least."""
        return max(0.0, self.expires - time.monotonic())

    def restart(self) -> None:
        """Begin the time anew."""
        self.expires = time.monotonic() + self.seconds
        self._spent.clear()

    def spend(self, part: str, seconds: float) -> None:
        """Note that *part* of the work took *seconds*."""
        self._spent[part] = self._spent.get(part, 0.0) + seconds

    def __str__(self) -> str:
        spent = ", ".join(f"{seconds:.2f} s {part}" for part, seconds in self._spent.items()) or "nothing sent yet"
        return f"the timeout of {self.seconds:.2f} s for the whole call is over ({spent})"


class BridgedCall:
    """The outermost bridged call: what it owns ends with it."""

    __slots__ = ("_name", "began", "cancellation", "ended", "flow", "owned", "reported", "waits_for")

    def __init__(self, name: Callable[[], str] | None = None) -> None:
        self._name = name
        self.began = time.monotonic()
        self.ended = False
        self.reported = False
        """Whether the log has said that others wait for what belongs to the call."""
        self.flow = threading.get_ident(), id(current_task())
        """Where the call's own code runs, which the tasks that it starts do not."""
        self.waits_for: Wanted | None = None
        """What the call's own code waits for, if that belongs to another call."""
        self.cancellation: Cancellation | None = None
        """What stops the call's own code, while that is in a worker thread."""
        self.owned: dict[Owned, None] = {}  # an empty set would be the largest thing that a call has
        """What belongs to the call, or did so last: its connections."""

    def __str__(self) -> str:
        return "a bridged call" if self._name is None else self._name()

    def receive(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what the call was given when it began: a framework may have opened a connection for it."""
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, Given):
                argument._entrust(self)

    def end(self) -> None:
        """Let go of what belongs to the scope; the garbage collector may be the one who ends it."""
        self.ended = True
        self._name = None  # it may hold the request
        while self.owned:
            try:
                owned, _ = self.owned.popitem()
            except KeyError:  # another thread has closed the last one
                return
            owned.disown(self)

    def release(self) -> None:
        """Let others use what belongs to the scope, until it uses that again; what it holds it still holds."""
        for owned in list(self.owned):
            owned.disown(self)


class Owned(Protocol):
    """What can belong to a bridged call."""

    def disown(self, scope: BridgedCall) -> None:
        """End the ownership of a bridged call that has ended or lets go; a finaliser may call this."""


class Given:
    """What a bridged call can be given as an argument: a connection, or its cursor."""

    __slots__ = ()

    def _entrust(self, scope: BridgedCall) -> None:
        """Note that the call has it."""


class Wanted(Protocol):
    """What a bridged call can wait for, because it belongs to another one."""

    @property
    def owner(self) -> BridgedCall | None:
        """The call that it belongs to now, None if it belongs to nobody."""


class Setting(NamedTuple):
    """What holds in a part of a bridged call."""

    scope: BridgedCall
    lane: str | None
    deadline: Deadline | None
    cancellation: Cancellation | None = None
    """What stops it, where it runs in a worker thread."""


# One variable for all of it: each takes its time to be set and reset, with every request.
_setting: ContextVar[Setting | None] = ContextVar("offload_db_setting", default=None)


def current_setting() -> Setting | None:
    """Return what holds here, None outside of any bridged call."""
    setting = _setting.get()
    return None if setting is None or setting.scope.ended else setting


def current_bridged_call() -> BridgedCall | None:
    """Return the bridged call that this code belongs to, in whatever task or thread; None outside of any.

    A task started by a bridged call inherits its scope, but not its bridge.
    """
    setting = current_setting()
    return None if setting is None else setting.scope


def waits_on_itself(scope: BridgedCall, wanted: Wanted) -> bool:
    """Tell whether a call that waits for what it wants would wait for itself, by way of the calls that have it."""
    seen: set[BridgedCall] = set()
    holder = wanted.owner
    if holder is scope:
        return False  # one of its children has the turn, and gives it on
    while holder is not None and holder not in seen:
        if holder is scope:
            return True
        seen.add(holder)
        holder = None if holder.waits_for is None else holder.waits_for.owner
    return False


def continued(function: Callable[[], T]) -> tuple[Callable[[], T], Cancellation]:
    """Wrap *function*, which is to run in another thread while the caller waits for it: the call's own code moves.

    :return: what to run, and what stops it when the caller's task is cancelled
    """
    cancellation = Cancellation()
    setting = current_setting()
    if setting is None:
        return function, cancellation
    scope = setting.scope
    moves = scope.flow == flow()

    def run() -> T:
        token = _setting.set(setting._replace(cancellation=cancellation))
        before = scope.flow, scope.cancellation
        if moves:
            scope.flow, scope.cancellation = flow(), cancellation
        try:
            return function()
        finally:
            if moves:
                scope.flow, scope.cancellation = before
            _setting.reset(token)

    return run, cancellation


def current_cancellation() -> Cancellation | None:
    """Return what stops the code that calls, if it runs in a worker thread for a bridged call."""
    setting = current_setting()
    return None if setting is None else setting.cancellation


def current_deadline() -> Deadline | None:
    """Return the limit that the bridged call has on its time."""
    setting = current_setting()
    return None if setting is None else setting.deadline


def name_call(name: Callable[[], str]) -> None:
    """Name the bridged call in messages, where its function's name says less: by its route."""
    scope = current_bridged_call()
    if scope is not None:
        scope._name = name


def pause_call() -> None:
    """Let go of what belongs to the bridged call, and begin its time anew, because it waits for its client.

    A call that may last for hours, such as a WebSocket or a stream of events, would keep a shared connection as long.
    """
    scope = current_bridged_call()
    if scope is not None:
        scope.release()
    deadline = current_deadline()
    if deadline is not None:
        deadline.restart()


class bridged_call:  # noqa: N801  # used like the context managers of contextlib, and faster than they are
    """Run the body as a bridged call, or as part of the one that runs already.

    An outer call's lane stays: a handler that calls another decorated one takes no second permit. Of two timeouts the
    one that is over first holds.

    :param lane: name of the lane that the call's connections count against
    :param timeout: seconds that all its database calls may take together
    :param name: tells what the call is, for those who wait for what belongs to it
    """

    __slots__ = ("_lane", "_name", "_own", "_timeout", "_token")

    def __init__(
        self, lane: str | None = None, timeout: float | None = None, name: Callable[[], str] | None = None
    ) -> None:
        self._lane = lane
        self._timeout = timeout
        self._name = name
        self._own: BridgedCall | None = None
        self._token: Token[Setting | None] | None = None

    def __enter__(self) -> BridgedCall | None:
        """Return the call if it begins here."""
        held = _setting.get()
        if held is not None and held.scope.ended:
            held = None
        deadline = None if self._timeout is None else Deadline(self._timeout)
        if held is None:
            self._own = BridgedCall(self._name)
            self._token = _setting.set(Setting(self._own, self._lane, deadline))
            return self._own
        lane = self._lane if held.lane is None else held.lane
        if deadline is None or (held.deadline is not None and held.deadline.expires <= deadline.expires):
            deadline = held.deadline
        if lane is not held.lane or deadline is not held.deadline:
            self._token = _setting.set(held._replace(lane=lane, deadline=deadline))
        return None

    def __exit__(self, *exc_info: object) -> None:
        if self._own is not None:
            self._own.end()
        if self._token is not None:
            try:
                _setting.reset(self._token)
            except ValueError:
                pass  # a coroutine that is thrown away unfinished is closed in another context than it was started in
