"""For any ASGI application: bridge every request, answer 503 when overloaded, open and close pools.

Owns the middleware and the lifespan helper. Knows no framework. What they cannot reach is said by the coverage table
in the guide's chapter on whole applications and, for FastAPI, by ``contrib/fastapi.py``.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from .. import CheckoutTimeout, ConfigurationError, LaneFull, OffloadPool, offload
from ..bridge.call_scope import name_call, pause_call
from ..bridge.place import Place, current_task, place
from ..bridge.portal import abridged
from ..connection.call_sites import endpoint_of
from ..settings import kind_of, shown

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]

OVERLOAD_ERRORS = (CheckoutTimeout, LaneFull)
OVERLOADED = "the database is overloaded, try again later"
RETRY_AFTER = 1

_BEGINNINGS = ("http.response.start", "websocket.accept", "websocket.close", "websocket.http.response.start")

logger = logging.getLogger("offload_db")


def bridged(app: ASGIApp, *, lane: str | None = None, timeout: float | None = None) -> ASGIApp:
    """Make an ASGI application of which each request is one bridged call.

    A shared connection belongs to the request that uses it until the request ends. A WebSocket and a streamed body may
    last for hours; they let go of it, and their time begins anew, whenever they send something or wait for their
    client.

    :param lane: name of the lane that a request's connections count against
    :param timeout: seconds that all database calls of one request may take together
    :raises ConfigurationError: if a setting is bad
    """

    @offload(lane=lane, timeout=timeout)
    async def bridged_app(scope: Scope, receive: Receive, send: Send) -> None:
        streams = False
        name_call(functools.partial(_request, scope))

        async def pausing_receive() -> Message:
            pause_call()
            return await receive()

        async def pausing_send(message: Message) -> None:
            nonlocal streams
            if message["type"] == "http.response.start":
                # A body of known length may come in pieces, too, and is no reason to let go before the request's end.
                streams = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
            elif message["type"] == "websocket.send" or (streams and message.get("more_body")):
                pause_call()
            await send(message)

        await app(scope, pausing_receive if scope["type"] == "websocket" else receive, pausing_send)

    return bridged_app


def _request(scope: Scope) -> str:
    """Tell which route a request belongs to; its path itself shows values."""
    endpoint = endpoint_of(scope)
    kind = "a WebSocket" if scope["type"] == "websocket" else "a request"
    return kind if endpoint is None else f"{kind} of {endpoint}"


class OffloadMiddleware:
    """Bridge every request of an application: driver calls in it suspend its task and leave the event loop free.

    It covers everything that runs in the request's own task: handlers, dependencies and their ``yield`` exits,
    background tasks, WebSockets, start and stop of the application. What runs in a task of its own is not covered:
    streamed bodies, children of ``create_task`` and ``gather``, and what stands below a ``BaseHTTPMiddleware``. So
    among middlewares it should be the innermost, which with ``app.add_middleware`` is the one that is added first. It
    may be there twice, innermost and outermost.

    A :class:`CheckoutTimeout` or :class:`LaneFull` that the application leaves unhandled becomes a response 503 with
    ``Retry-After``, also where a framework has made an error 500 of it. It is raised again if the response has begun.

    If a request's task is cancelled, its statement is killed on the server; that of a ``def`` handler, which the
    framework runs in a thread, only if the handler is decorated.

    :param app: the ASGI application
    :param lane: name of the lane that a request's connections count against
    :param timeout: seconds that all database calls of one request may take together
    :param paths: where a request's path must begin for the request to be bridged, such as ``["/v2"]``; None bridges
        all of them
    :param exclude: where the path begins of requests that are not bridged
    :param retry_after: whole seconds after which a client that got a 503 may try again
    :raises ConfigurationError: if a setting is bad
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        lane: str | None = None,
        timeout: float | None = None,
        paths: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        retry_after: int = RETRY_AFTER,
    ) -> None:
        if not callable(app):
            raise ConfigurationError(f"OffloadMiddleware: app={shown(app)}; accepted are ASGI applications")
        check_retry_after("OffloadMiddleware", retry_after)
        self.app = app
        self._paths = None if paths is None else _prefixes("paths", paths)
        self._exclude = _prefixes("exclude", exclude)
        self._retry_after = retry_after
        self._bridged = bridged(app, lane=lane, timeout=timeout)

    def covers(self, path: str) -> bool:
        """Tell whether requests of this path are bridged."""
        return (self._paths is None or _begins(path, self._paths)) and not _begins(path, self._exclude)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the start and stop of the application."""
        if scope["type"] not in ("http", "websocket"):
            # Not as one bridged call: a connection that is opened at the start would belong to it until the stop.
            await (
                abridged(self.app, (scope, receive, send), {}, current_task())
                if place() is Place.LOOP
                else self.app(scope, receive, send)
            )
        elif not self.covers(scope["path"]):
            await self.app(scope, receive, send)
        else:
            answer = _Answer(scope, send, self._retry_after)
            try:
                await self._bridged(scope, receive, answer.send)
            except OVERLOAD_ERRORS as error:
                if not await answer.refuse(error):
                    raise


class _Answer:
    """What is sent to the client of one request: the application's messages, or a refusal in their place."""

    def __init__(self, scope: Scope, send: Send, retry_after: int) -> None:
        self._send = send
        self._retry_after = retry_after
        self._prefix = {"http": "http.response", "websocket": "websocket.http.response"}[scope["type"]]
        self._can_refuse = scope["type"] == "http" or "websocket.http.response" in (scope.get("extensions") or {})
        self._begun = self._refused = False

    async def send(self, message: Message) -> None:
        """Pass the application's message on."""
        if message["type"] in _BEGINNINGS and not self._begun:
            # A framework that answers errors with a 500 does so in its `except`, so that the error can be seen here.
            handled = sys.exc_info()[1]
            if message.get("status") == 500 and isinstance(handled, OVERLOAD_ERRORS):
                await self.refuse(handled)
            self._begun = True
        if not self._refused:
            await self._send(message)

    async def refuse(self, error: BaseException) -> bool:
        """Answer 503; False if there was, or can be, no such answer."""
        if self._can_refuse and not self._begun:
            self._begun = self._refused = True
            logger.warning("answered 503: %s", error)
            body = json.dumps({"detail": OVERLOADED}).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"retry-after", str(self._retry_after).encode()),
            ]
            await self._send({"type": f"{self._prefix}.start", "status": 503, "headers": headers})
            await self._send({"type": f"{self._prefix}.body", "body": body})
        return self._refused


def lifespan(
    *pools: OffloadPool, inner: Lifespan | None = None, drain_timeout: float = 10.0, freeze: bool = False
) -> Lifespan:
    """Make a lifespan that opens pools with their ``min_size`` connections, and closes them in the end.

    It is for ``Starlette(lifespan=…)`` and ``FastAPI(lifespan=…)``. At the stop callers may finish what they do.

    :param pools: the pools to open, in their order; they are closed in the reverse order
    :param inner: the application's own lifespan, a function of the application that returns an async context manager;
        it runs while the pools are open, and its code is bridged
    :param drain_timeout: seconds to let callers finish that hold a connection; 0 does not wait
    :param freeze: let Python's garbage collector leave out, from the start until the stop, what the process has by
        then (``gc.freeze()``): a full collection, during which no request goes on, takes a tenth of the time. What of
        that is dropped later is not found if it refers to itself
    :raises pymysql.err.OperationalError: at the start, if the server can't be reached and ``min_size`` is above 0
    """
    for pool in pools:
        if not isinstance(pool, OffloadPool):
            raise ConfigurationError(f"lifespan: got {shown(pool)}; accepted are OffloadPool objects")

    @asynccontextmanager
    @offload
    async def open_pools(app: Any) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            for pool in pools:
                stack.push_async_callback(pool.aclose, drain_timeout)
                await pool.__aenter__()
            state = None if inner is None else await stack.enter_async_context(inner(app))
            if freeze:
                gc.collect()
                gc.freeze()
                stack.callback(gc.unfreeze)
            yield state

    return open_pools


def check_retry_after(where: str, value: object) -> None:
    """Raise :class:`ConfigurationError` unless *value* is a whole number of seconds."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigurationError(f"{where}: retry_after={shown(value)}; accepted are whole seconds from 0 up")


def _prefixes(name: str, values: Any) -> tuple[str, ...]:
    prefixes = () if isinstance(values, str) else tuple(values)
    if isinstance(values, str) or not all(isinstance(prefix, str) and prefix.startswith("/") for prefix in prefixes):
        raise ConfigurationError(
            f"OffloadMiddleware: {name}={kind_of(values)}; accepted are lists of paths that begin with '/'"
        )
    return tuple(prefix.rstrip("/") for prefix in prefixes)


def _begins(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)
