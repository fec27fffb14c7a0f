"""The ``@offload`` decorator and its sibling ``blocking``.

Owns how a user's function is wrapped: bridged or in a thread, with everything frameworks read from it left in place.
Knows no database: what happens at a driver call is decided where the call is made.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import sys
import types
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager
from contextvars import copy_context
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

import anyio
from anyio.lowlevel import RunVar

from ..errors import BridgeError, ConfigurationError
from ..settings import check_seconds, check_word, kind_of, shown
from . import arms
from .arms import Runner
from .call_scope import BridgedCall, bridged_call, continued
from .caller_identity import UNSHARED
from .cancellation import Cancellation
from .handled_errors import with_handled
from .hops import Hop, holder_limiter, run_hop, run_in_thread
from .place import Place, current_task, place
from .portal import abridged, awaiting, suspend
from .stack import first_outside
from .thread_mode import adopt, drive
from .undecorated import ChosenCalls, ChosenSteps, run_undecorated, run_undecorated_def

P = ParamSpec("P")
T = TypeVar("T")
Y = TypeVar("Y")
S = TypeVar("S")

Mode = Literal["bridge", "thread"]
EnterScope = Callable[..., AbstractContextManager[BridgedCall | None]]

# As many as anyio's own default. They are limiters of their own, so that a handler that waits for a connection in one
# never keeps a thread from the framework, whose threads may be what gives a connection back.
THREADS = 40
_handler_threads: RunVar[anyio.CapacityLimiter] = RunVar("offload_db_handler_threads")
_blocking_threads: RunVar[anyio.CapacityLimiter] = RunVar("offload_db_blocking_threads")


class Offload(Protocol):
    """``offload(...)`` with its settings chosen, waiting for the function."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # what matches it is an async generator function, not a def
        self, function: Callable[P, AsyncGenerator[Y, S]], /
    ) -> Callable[P, AsyncGenerator[Y, S]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # as above
        self, function: Callable[P, AsyncIterator[Y]], /
    ) -> Callable[P, AsyncIterator[Y]]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> Callable[P, Coroutine[Any, Any, T]]: ...


@overload
def offload(function: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T]]: ...
@overload
def offload(  # type: ignore[overload-overlap]  # as above
    function: Callable[P, AsyncGenerator[Y, S]], /
) -> Callable[P, AsyncGenerator[Y, S]]: ...
@overload
def offload(  # type: ignore[overload-overlap]  # as above
    function: Callable[P, AsyncIterator[Y]], /
) -> Callable[P, AsyncIterator[Y]]: ...
@overload
def offload(function: Callable[P, T], /) -> Callable[P, Coroutine[Any, Any, T]]: ...
@overload
def offload(*, mode: Mode = "bridge", lane: str | None = None, timeout: float | None = None) -> Offload: ...


def offload(
    function: Any = None, /, *, mode: Mode = "bridge", lane: str | None = None, timeout: float | None = None
) -> Any:
    """Free the event loop while the decorated function waits for the database.

    Use it as ``@offload`` or ``@offload(mode=…, lane=…)``, directly above the function and below a route decorator.
    It takes ``async def`` and ``def`` functions (the whole call of a ``def`` runs in one worker thread), async
    generator functions, methods, and ``staticmethod`` and ``classmethod`` objects. Signature, annotations and
    docstring stay. A decorated function that calls another joins its bridge.

    If the task is cancelled, its statement is killed on the server, and the cancellation is raised at the driver call
    when that call has come back; ``finally`` blocks that close cursors and connections work then. In
    ``mode="thread"``, and for a ``def``, the statement is killed as well: the function's own code gets the driver's
    error for it, and :class:`CallCancelled` for whatever it begins afterwards but rolling back and closing. The
    cancellation is raised when the whole function has come back.

    :param mode: ``"bridge"``: each driver call of an ``async def`` runs in a worker thread, its own code stays on the
        loop's thread; ``"thread"``: the whole coroutine runs in one worker thread and must never suspend
    :param lane: name of the lane whose limit the call's connections count against
    :param timeout: seconds that all database calls of one call may take together: waiting for a connection,
        connecting, executing and fetching. The call's own code is not limited
    :raises ConfigurationError: if a setting is bad, or if the function is nothing that can be offloaded: a class, a
        generator function, or a function that the route decorator below has registered undecorated already
    :raises BridgeError: when called, if a ``mode="thread"`` coroutine suspends
    """
    check_word("offload", "mode", mode, ("bridge", "thread"))
    if lane is not None and not _is_name(lane):
        raise ConfigurationError(f"offload: lane={shown(lane)}; accepted are the name of a lane and None")
    check_seconds("offload", "timeout", timeout)
    scope = functools.partial(bridged_call, lane, timeout)
    if function is None:
        return functools.partial(_decorate, mode=mode, scope=scope)
    return _decorate(function, mode=mode, scope=scope)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _decorate(function: Any, *, mode: Mode, scope: EnterScope) -> Any:
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(_decorate(function.__func__, mode=mode, scope=scope))
    if inspect.isclass(function):
        raise ConfigurationError(
            f"@offload stands on the class {function.__qualname__}; accepted are functions: decorate its methods"
        )
    if not callable(function):
        if inspect.iscoroutine(function):
            function.close()  # nobody will await it any more
        raise ConfigurationError(f"@offload: got {shown(function)}; accepted are functions and methods")
    outer = _called(function)
    plain = inspect.unwrap(outer)
    scope = functools.partial(scope, name=functools.partial(_whereabouts, plain))
    if inspect.isgeneratorfunction(outer):
        raise ConfigurationError(
            f"@offload stands on the generator function {plain.__qualname__}; frameworks run it in a thread already: "
            "leave it as it is, or make it an async generator"
        )
    if inspect.isasyncgenfunction(plain) and not inspect.isasyncgenfunction(outer):
        raise ConfigurationError(
            f"@offload stands above a decorator that makes something else of the async generator {plain.__qualname__}; "
            "put @offload directly above the def"
        )
    if _is_registered(function):
        raise ConfigurationError(
            f"@offload stands above the route decorator of {plain.__qualname__}, which has registered the function "
            "undecorated: put @offload below it, directly above the def"
        )
    bridged = functools.partial(_run_bridged, scope)
    in_thread = functools.partial(_run_in_thread, scope, plain)
    if inspect.isasyncgenfunction(outer):
        return _wrap_generator(function, plain, in_thread if mode == "thread" else bridged)
    if inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(outer):
        return _wrap(function, plain, in_thread if mode == "thread" else bridged)
    run = in_thread if mode == "thread" else functools.partial(_run_plain, scope, bridged)
    return _wrap(function, plain, run, before=run_undecorated_def)


def _called(function: Any) -> Any:
    """Return what is called in the end: the function below partials, or the object's own ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else function.__call__


async def _run_bridged(
    scope: EnterScope, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Await the function in a task that may suspend below any number of plain calls."""
    with scope() as begun:
        if begun is not None and (args or kwargs):
            begun.receive(args, kwargs)
        if place() is not Place.LOOP:
            return await function(*args, **kwargs)
        task = current_task()
        if task is None:
            raise BridgeError(
                f"{_name(function)} is driven outside of a task, where nothing can be suspended; "
                "await it from a task of asyncio or trio"
            )
        return await abridged(function, args, kwargs, task)


async def _run_in_thread(
    scope: EnterScope, plain: Any, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run the whole coroutine in one worker thread."""
    with scope() as begun:
        if begun is not None:
            begun.receive(args, kwargs)
        if place() is Place.THREAD:
            result = function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result
        limiter = holder_limiter(_handler_threads, THREADS)
        context = copy_context()
        run, cancellation = continued(functools.partial(drive, function, args, kwargs, plain=plain))
        timed = arms.timed(run)
        hop: Hop[Any] = Hop(with_handled(functools.partial(context.run, timed or run)))
        try:
            await run_hop(hop, limiter, cancellation)
        finally:
            adopt(context, but=UNSHARED)
        if timed is not None:
            timed.resumed()
        return hop.outcome()


async def _run_plain(
    scope: EnterScope, bridged: Runner, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run a ``def`` in one worker thread; what it returns may turn out to be awaitable, and is bridged then."""
    with scope() as begun:
        if begun is not None:
            begun.receive(args, kwargs)
        call = functools.partial(function, *args, **kwargs)
        if place() is Place.THREAD:
            result = call()
        else:
            run, cancellation = continued(call)
            timed = arms.timed(run)
            limiter = holder_limiter(_handler_threads, THREADS)
            result = await run_in_thread(with_handled(timed or run), limiter, cancellation)
            if timed is not None:
                timed.resumed()
        return await bridged(awaiting, (result,), {}) if inspect.isawaitable(result) else result


def _name(function: Any) -> str:
    return str(getattr(_called(function), "__qualname__", kind_of(function)))


def _whereabouts(plain: Any) -> str:
    """Tell which function it is, and where it stands."""
    name, code = getattr(plain, "__qualname__", type(plain).__qualname__), getattr(plain, "__code__", None)
    return f"{name}()" if code is None else f"{name}() at {code.co_filename}:{code.co_firstlineno}"


def _wrap(function: Any, plain: Any, run: Runner, *, before: Runner = run_undecorated) -> Any:
    way, chosen = arms, ChosenCalls(run, before, plain)

    # On one line, which _dress maps to the first line of the user's function.
    # fmt: off
    async def offloaded(*a: Any, **k: Any) -> Any: return await (run if way.choose is None else chosen)(function, a, k)
    # fmt: on

    return _dress(offloaded, function, plain, own_file=False)


def _wrap_generator(function: Any, plain: Any, always: Runner) -> Any:
    way, chosen, finish, throw = arms, functools.partial(ChosenSteps, always, plain), _finish, _throw

    async def offloaded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        run = always if way.choose is None else chosen(args)
        generator = function(*args, **kwargs)
        step: Callable[..., Any] = generator.__anext__
        sent: tuple[Any, ...] = ()
        leaving: list[GeneratorExit] = []
        while True:
            try:
                item = await run(step, sent, {})
            except StopAsyncIteration:
                return
            except BaseException:
                # In a thread, a step that was cancelled came to its end and left the generator waiting for the next.
                if not leaving:
                    await finish(generator, run)
                raise
            if leaving:
                raise leaving.pop()
            try:
                step, sent = generator.asend, ((yield item),)
            except GeneratorExit as error:
                # Not to be closed in here, where its own clean-up would see this error as one that is handled.
                leaving.append(error)
                step, sent = generator.aclose, ()
            except BaseException as error:
                step, sent = throw(generator, error), ()

    return _dress(offloaded, function, plain, own_file=True)


async def _finish(generator: Any, run: Runner) -> None:
    if getattr(generator, "ag_frame", generator) is None:
        return  # it has come to its end
    with anyio.CancelScope(shield=True):
        try:
            await run(generator.aclose, (), {})
        except RuntimeError:
            pass  # it suspended in a thread: what made it stop has closed it already


def _throw(generator: Any, error: BaseException) -> Callable[[], Any]:
    # The frames that the error passes must not hold it, or it would keep itself alive.
    errors = [error]
    return lambda: generator.athrow(errors.pop())


def _dress(wrapper: Any, function: Any, plain: Any, *, own_file: bool) -> Any:
    """Give the wrapper the looks of the user's function.

    FastAPI before 0.106 resolves annotations that are strings in the globals of the function it is given, and
    ``inspect.getfile`` reads the file from its code: both have to be the user's, so the wrapper refers to nothing but
    its closure and builtins.

    :param own_file: leave the wrapper's own file and lines in tracebacks
    """
    namespace = getattr(plain, "__globals__", wrapper.__globals__)
    code = wrapper.__code__
    target = getattr(plain, "__code__", None)
    if target is not None and not own_file:
        code = code.replace(co_filename=target.co_filename, co_firstlineno=target.co_firstlineno)
    dressed = types.FunctionType(code, namespace, wrapper.__name__, wrapper.__defaults__, wrapper.__closure__)
    functools.update_wrapper(dressed, function)
    dressed.__offloaded__ = True  # type: ignore[attr-defined]  # for those who list what is not decorated
    return dressed


def _is_registered(function: Any) -> bool:
    """Tell whether a route decorator of Starlette or FastAPI has taken the function just before.

    It can be seen where the router is a global or local of the decorating code, and only ``@`` syntax counts: code
    that registers a function on purpose and wraps it for another route is right.
    """
    routing, applications = sys.modules.get("starlette.routing"), sys.modules.get("starlette.applications")
    if routing is None or applications is None:
        return False
    frame = first_outside(sys._getframe(1), __file__, functools.__file__)
    # The line of a decorator's call is the decorator's, with Python 3.10 the function's.
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
    if not line.startswith(("@", "async def ", "def ")):
        return False
    layers = [function]
    while (below := getattr(layers[-1], "__wrapped__", None)) is not None:
        layers.append(below)
    for value in (*frame.f_globals.values(), *frame.f_locals.values()):
        if isinstance(value, (routing.Router, applications.Starlette)) and value.routes:
            endpoint = getattr(value.routes[-1], "endpoint", None)
            if any(endpoint is layer for layer in layers):
                return True
    return False


def _is_plain(value: object) -> bool:
    called = _called(value) if callable(value) else None
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return called is not None and not any(kind(called) for kind in kinds)


async def _carry_blocking(hop: Hop[Any], cancellation: Cancellation) -> None:
    await run_hop(hop, holder_limiter(_blocking_threads, THREADS), cancellation)


def blocking(function: Callable[P, T], /) -> Callable[P, T]:
    """Make any other blocking function hop to a worker thread when it is called in bridged code.

    Elsewhere it runs inline, as before. If the task is cancelled, the cancellation is raised when the function has
    come back; a statement of this library's that it waits for is killed.

    :param function: what blocks: ``requests.get``, an SMTP call, a heavy calculation
    :raises ConfigurationError: if it is not a plain callable
    """
    if not _is_plain(function):
        raise ConfigurationError(f"blocking: got {shown(function)}; accepted are plain functions that block")

    @functools.wraps(function)
    def blocking_call(*args: P.args, **kwargs: P.kwargs) -> T:
        if place() is not Place.BRIDGED:
            return function(*args, **kwargs)
        run, cancellation = continued(functools.partial(function, *args, **kwargs))
        hop = Hop(with_handled(run))
        suspend(_carry_blocking(hop, cancellation))
        return hop.outcome()

    return blocking_call
