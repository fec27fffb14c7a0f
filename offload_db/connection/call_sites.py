"""Which line of the user's code a call comes from, and for which request.

Owns what the stack says of a call. ``bridge/stack.py`` walks up it, and only where a call blocks the event loop
anyway. No framework is imported: whatever speaks ASGI has the request's scope in the frame that serves it.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from types import FrameType
from typing import Any

from ..bridge.stack import frames_from, module_of
from ..statistics import CallPath, Endpoint, SourceLine

# What stands between the user's line and the server: their lines say nothing.
LIBRARIES = frozenset(
    {
        "MySQLdb",
        "contextlib",
        "dbutils",
        "greenback",
        "mysql",
        "offload_db",
        "pandas",
        "peewee",
        "pymysql",
        "sqlalchemy",
    }
)
# What calls the user's code: there it begins.
FRAMEWORKS = frozenset(
    {
        "aiohttp",
        "anyio",
        "asyncio",
        "fastapi",
        "quart",
        "sanic",
        "starlette",
        "tornado",
        "trio",
        "uvicorn",
        "uvloop",
    }
)
ASYNCHRONOUS = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
# Recursive code must not make long reports.
_LONGEST = 32

request_scope: ContextVar[Mapping[str, Any] | None] = ContextVar("offload_db_request_scope", default=None)
"""The ASGI scope of the request, for tasks that its handler starts; see :class:`offload_db.monitor.RequestScope`."""


def call_path() -> CallPath:
    """Return the lines that lead to the caller, from the innermost of the user's up to the ``async def``."""
    lines: list[SourceLine] = []
    first = last = sys._getframe(1)
    frames = frames_from(first)
    for frame in frames:
        if frame.f_code.co_name == "__del__":
            # Who happens to run while something is collected has nothing to do with it.
            return CallPath((_line(frame),), None)
        module = module_of(frame)
        last = frame
        if module in FRAMEWORKS or len(lines) == _LONGEST:
            break
        first = frame
        if module not in LIBRARIES:
            lines.append(_line(frame))
            if frame.f_code.co_flags & ASYNCHRONOUS:
                break
    return CallPath(tuple(lines) or (_line(first),), _endpoint(itertools.chain((last,), frames)))


def _line(frame: FrameType) -> SourceLine:
    # A frame that is just being left has no line any more.
    return SourceLine(frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name)


def _endpoint(frames: Iterable[FrameType]) -> Endpoint | None:
    scope = scope_in(frames) or request_scope.get()
    return None if scope is None else endpoint_of(scope)


def scope_in(frames: Iterable[FrameType]) -> Mapping[str, Any] | None:
    """Return the request that is being served, as the innermost ASGI application among the frames has it."""
    for frame in frames:
        code = frame.f_code
        # To look at the variables of a frame can keep them alive for longer: only at those of ASGI applications.
        if code.co_flags & inspect.CO_COROUTINE and "receive" in code.co_varnames[:3]:
            scope = frame.f_locals.get("scope")
            if isinstance(scope, Mapping) and "type" in scope:
                return scope
    return None


def endpoint_of(scope: Mapping[str, Any]) -> Endpoint | None:
    """Return the route of an ASGI scope, with the names of its parameters in place of what they hold.

    None before a router has chosen the endpoint: the bare path would show values.
    """
    if scope.get("type") not in ("http", "websocket") or scope.get("endpoint") is None:
        return None
    path = path_below_root(scope)
    parameters = scope.get("path_params") or {}
    end = len(path)
    for name, value in reversed(parameters.items()):
        begin = path.rfind(str(value), 0, end) if str(value) else -1
        if begin < 0:  # the router has converted it to something that is written otherwise
            path = str(getattr(scope.get("route"), "path", "…"))
            break
        path, end = f"{path[:begin]}{{{name}}}{path[begin + len(str(value)) :]}", begin
    return Endpoint(str(scope.get("method") or "WEBSOCKET"), path)


def path_below_root(scope: Mapping[str, Any]) -> str:
    """Return the path below where the server has put the application; routers differ in what they leave of it."""
    path, root = str(scope.get("path", "")), str(scope.get("root_path") or "")
    outside = str(scope.get("app_root_path", root) or "")
    mounted = root[len(outside) :]
    path = path.removeprefix(outside)
    return path if path.startswith(mounted) else mounted + path
