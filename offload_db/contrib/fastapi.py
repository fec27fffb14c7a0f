"""For FastAPI: a route class, answers 503, a lifespan, and what the chosen way does not cover.

Owns what needs to know FastAPI's routes. The middleware for whole applications is ``contrib/asgi.py``'s and works
without this file.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

try:
    from fastapi import FastAPI, routing
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Mount, WebSocketRoute
    from starlette.websockets import WebSocket
except ImportError as error:
    raise ImportError(
        f"offload_db.contrib.fastapi needs FastAPI ({error}): pip install 'offload-db[fastapi]'", name=error.name
    ) from error

from .. import OffloadPool, offload
from ..settings import kind_of
from . import asgi

logger = logging.getLogger("offload_db")

_BEFORE_0_106 = "fastapi_astack"


class OffloadRoute(routing.APIRoute):
    """A route that is bridged as a whole: dependencies, handler, ``yield`` exits, background tasks, streamed body.

    Use it as ``APIRouter(route_class=OffloadRoute)``, or for the routes that an application itself declares after
    ``app.router.route_class = OffloadRoute``. It does not cover WebSockets, which FastAPI gives no route class to.

    A subclass chooses a lane and a timeout by its attributes.
    """

    lane: str | None = None
    """Name of the lane that a request's connections count against."""
    timeout: float | None = None
    """Seconds that all database calls of one request may take together."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bridged = asgi.bridged(self._handle, lane=self.lane, timeout=self.timeout)

    async def handle(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Serve one request, bridged."""
        await self._bridged(scope, receive, send)

    async def _handle(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if _BEFORE_0_106 not in scope:
            await super().handle(scope, receive, send)
            return
        # There dependencies end in a stack that belongs to a middleware, above all routes. With a stack of the route's
        # own they end in the bridge. As in that middleware, none of them can keep an error from the client.
        raised: Exception | None = None
        async with AsyncExitStack() as scope[_BEFORE_0_106]:
            try:
                await super().handle(scope, receive, send)
            except Exception as error:
                raised = error
                raise
        if raised is not None:
            raise raised

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, of which each step of a streamed body is bridged: it runs in another task."""
        handler = super().get_route_handler()

        async def handle_request(request: Request) -> Response:
            response = await handler(request)
            if isinstance(response, StreamingResponse):
                response.body_iterator = _stepwise(response.body_iterator)
            return response

        return handle_request


@offload
async def _stepwise(body: Any) -> AsyncIterator[Any]:
    try:
        async for chunk in body:
            yield chunk
    finally:
        if hasattr(body, "aclose"):
            await body.aclose()


def add_exception_handlers(app: FastAPI, *, retry_after: int = asgi.RETRY_AFTER) -> None:
    """Answer 503 with ``Retry-After`` where no connection was free: ``CheckoutTimeout`` and ``LaneFull``.

    A WebSocket is closed with code 1013, "try again later".

    :param retry_after: whole seconds after which a client may try again
    :raises ConfigurationError: if *retry_after* is bad
    """
    asgi.check_retry_after("add_exception_handlers", retry_after)

    async def answer_overloaded(connection: HTTPConnection, error: Exception) -> Response | None:
        if isinstance(connection, WebSocket):
            await connection.close(code=1013, reason=asgi.OVERLOADED)
            return None
        return JSONResponse({"detail": asgi.OVERLOADED}, status_code=503, headers={"Retry-After": str(retry_after)})

    for error in asgi.OVERLOAD_ERRORS:
        app.add_exception_handler(error, answer_overloaded)  # type: ignore[arg-type]  # it returns None for WebSockets


def lifespan(
    *pools: OffloadPool,
    inner: asgi.Lifespan | None = None,
    drain_timeout: float = 10.0,
    freeze: bool = False,
    log_gaps: bool = True,
) -> asgi.Lifespan:
    """Make a lifespan for ``FastAPI(lifespan=…)`` that opens and closes pools.

    What :func:`offload_db.contrib.asgi.lifespan` makes, and besides: handlers of ``@app.on_event``, which FastAPI
    drops where there is a lifespan, run in it if there is no *inner* one; and what :func:`find_gaps` finds is logged.

    :param inner: the application's own lifespan
    :param drain_timeout: seconds to let callers finish that hold a connection; 0 does not wait
    :param freeze: let Python's garbage collector leave out what is there at the start, see the other lifespan
    :param log_gaps: whether to log at the start what is not covered
    :raises ConfigurationError: if one of *pools* is none
    """

    @asynccontextmanager
    async def inside(app: FastAPI) -> AsyncIterator[Any]:
        if log_gaps:
            _log_gaps(app)
        async with (_events if inner is None else inner)(app) as state:
            yield state

    return asgi.lifespan(*pools, inner=inside, drain_timeout=drain_timeout, freeze=freeze)


def _log_gaps(app: FastAPI) -> None:
    try:
        gaps = find_gaps(app)
    except Exception:  # routes of a kind that nobody thought of must not keep an application from starting
        logger.exception("what is not covered could not be listed")
        return
    if gaps:
        logger.warning("the event loop may still be blocked by:\n%s", "\n".join(f"  {gap}" for gap in gaps))


@asynccontextmanager
async def _events(app: FastAPI) -> AsyncIterator[None]:
    for handlers in (app.router.on_startup, app.router.on_shutdown):
        for handler in handlers:
            result = handler()
            if inspect.isawaitable(result):
                await result
        if handlers is app.router.on_startup:
            yield


Kind = Literal["route", "dependency", "background", "websocket", "streaming", "task", "middleware"]


@dataclass(frozen=True, slots=True)
class Gap:
    """Code that may block the event loop, because the chosen way does not cover it."""

    kind: Kind
    where: str
    """The route or middleware that it belongs to."""
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.remedy}"


_STREAMS = {"StreamingResponse", "EventSourceResponse"}
_TASKS = {
    *("create_task", "ensure_future", "gather", "TaskGroup", "as_completed", "shield"),
    *("create_task_group", "start_soon", "open_nursery"),
    *(("wait_for",) if sys.version_info < (3, 12) else ()),  # which newer versions await in the same task
}


def find_gaps(app: Any) -> list[Gap]:
    """List what decorators, :class:`OffloadRoute` and the middleware do not cover in an application.

    It looks at routes, dependencies and middlewares, and calls nothing. Whether code uses the database it does not
    know, and what a handler calls it does not see: streamed bodies and tasks are found by the names in the handler.

    :param app: a FastAPI application, also inside of an ``OffloadMiddleware``
    """
    covers: Callable[[str], bool] = _nothing
    gaps: list[Gap] = []
    while isinstance(app, asgi.OffloadMiddleware):
        covers, app = app.covers, app.app
    _look(app, "", covers, gaps)
    return gaps


def _nothing(path: str) -> bool:
    return False


def _look(app: Any, prefix: str, covers: Callable[[str], bool], gaps: list[Gap]) -> None:
    """Look at an application and those that are mounted in it.

    :param prefix: where it is mounted
    :param covers: whether a middleware above bridges requests of a path
    """
    above, apart = covers, ""
    for middleware in getattr(app, "user_middleware", ()):
        cls, options = middleware.cls, getattr(middleware, "kwargs", None) or getattr(middleware, "options", {})
        if inspect.isclass(cls) and issubclass(cls, asgi.OffloadMiddleware):
            above, apart = cls(app, **options).covers, ""
        elif inspect.isclass(cls) and issubclass(cls, BaseHTTPMiddleware):
            dispatch = options.get("dispatch") or cls.dispatch
            apart = _named(dispatch)
            if above is _nothing and not _decorated(dispatch):
                gaps.append(Gap("middleware", apart, "a middleware's function without @offload_db.offload"))
    if apart and above is not _nothing:
        remedy = "runs what is below it in a task of its own; add OffloadMiddleware before it, so that it is innermost"
        gaps.append(Gap("middleware", apart, remedy))
    for route in _routes(app):
        path = prefix + str(getattr(route, "path", ""))
        if isinstance(getattr(route, "route", route), Mount):
            _look(route.app, path, above, gaps)
        elif getattr(route, "endpoint", None) is not None:
            gaps.extend(_route_gaps(route, path, above(path)))


def _routes(app: Any) -> list[Any]:
    routes = getattr(app, "routes", None) or ()
    # Newer versions keep an included router as one route, and have a function that looks into it.
    contexts = getattr(routing, "iter_route_contexts", iter)
    return list(contexts(routes))


def _route_gaps(route: Any, path: str, covered: bool) -> Iterator[Gap]:
    original = getattr(route, "original_route", route)
    endpoint = route.endpoint
    if endpoint.__module__.startswith(("fastapi.", "starlette.")):
        return  # the schema and its documentation
    where = f"{path} ({_named(endpoint)})"
    whole = covered or isinstance(original, OffloadRoute)
    if isinstance(original, WebSocketRoute):
        if not covered and not _decorated(endpoint):
            yield Gap("websocket", where, "a WebSocket; put @offload_db.offload on it")
    elif not whole and _asynchronous(endpoint) and not _decorated(endpoint):
        yield Gap("route", where, "an async def without @offload_db.offload")
    dependant = getattr(route, "dependant", None)
    if not whole:
        for dependency in _dependencies(dependant):
            if _asynchronous(dependency) and not _decorated(dependency):
                yield Gap("dependency", where, f"its dependency {_named(dependency)} needs @offload_db.offload, too")
        if getattr(dependant, "background_tasks_param_name", None):
            yield Gap("background", where, "its background tasks that are async def need @offload_db.offload")
    names = _names(endpoint)
    if _uses_decorated(endpoint, names):
        return
    generates = inspect.isasyncgenfunction(inspect.unwrap(_called(endpoint))) and not _decorated(endpoint)
    # FastAPI runs the generator of server-sent events in a task of its own, out of the route's reach.
    reached = isinstance(original, OffloadRoute) and not getattr(route, "is_sse_stream", False)
    if (generates or _STREAMS & names) and not reached:
        yield Gap("streaming", where, "the async generator of a streamed body needs @offload_db.offload")
    if _TASKS & names:
        yield Gap("task", where, "a function that runs in a task of its own needs @offload_db.offload")


def _uses_decorated(function: Any, names: set[str]) -> bool:
    """Tell whether a handler names a decorated function, which is then what it streams or starts."""
    known = getattr(inspect.unwrap(_called(function)), "__globals__", {})
    return any(callable(known.get(name)) and _decorated(known[name]) for name in names)


def _dependencies(dependant: Any) -> Iterator[Any]:
    for dependency in getattr(dependant, "dependencies", ()):
        yield dependency.call
        yield from _dependencies(dependency)


def _called(function: Any) -> Any:
    """Return what is called in the end: the function below partials, or an object's own ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) or inspect.isclass(function) else function.__call__


def _named(function: Any) -> str:
    """Name a function; the ``repr`` of a partial, or of an object that can be called, may show what is secret."""
    return str(getattr(function, "__qualname__", None) or getattr(_called(function), "__qualname__", kind_of(function)))


def _decorated(function: Any) -> bool:
    return bool(getattr(_called(function), "__offloaded__", False))


def _asynchronous(function: Any) -> bool:
    plain = inspect.unwrap(_called(function))
    return inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain)


def _names(function: Any) -> set[str]:
    """Return the names in a function's code and in that of functions inside of it, as far as it has any."""
    codes = [getattr(inspect.unwrap(_called(function)), "__code__", None)]
    names: set[str] = set()
    for code in codes:
        if code is not None:
            names |= {*code.co_names, *code.co_freevars}
            codes += [inner for inner in code.co_consts if inspect.iscode(inner)]
    return names
