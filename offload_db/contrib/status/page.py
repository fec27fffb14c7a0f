"""The ASGI application of the live page.

Owns its paths, its viewers and the events that they are sent, and who may look and change. What is shown is
``figures.py``'s; the page itself is in ``page.html``, ``page.css`` and ``page.js``.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable
from importlib import resources

import anyio
import anyio.to_thread

from ... import ConfigurationError, OffloadPool
from ...settings import kind_of, shown
from . import answers
from .answers import Receive, Scope, Send, answer, answer_json, refuse, start
from .changes import Change
from .figures import TICK, Figures
from .shared import SharedChanges

logger = logging.getLogger("offload_db")

AllowChanges = Callable[[Scope], "bool | Awaitable[bool]"]

# Viewers at the same time; more are told to come back.
MOST_VIEWERS = 32
# Seconds after which a stream of events ends. The browser asks again at once, and a server that stops, and waits for
# its requests to end, waits no longer than that.
STREAM_SECONDS = 6.0
# Seconds beyond that in which a viewer has to take what it was sent. One that does not, such as a machine that sleeps,
# would keep the place of another, and a server from stopping.
TO_TAKE_IT = 10.0

# Seconds between two samples, as a multiple of what one takes: a hundredth of a core for them all, but for the longest.
_SAMPLING_COSTS, LONGEST_PAUSE = 100, 5.0
# Who looks once a second may come a little early.
_EARLY = 0.05

_FILES = {
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/elements.js": ("elements.js", "text/javascript; charset=utf-8"),
    "/past.js": ("past.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HTML = "text/html; charset=utf-8"
_METHODS = {"/": "GET, HEAD", "/events": "GET, HEAD", "/state.json": "GET, HEAD", "/rollout": "POST"}


class StatusPage:
    """A page that shows live what the event loop and the pools do, for a browser or ``offload-db watch``.

    It is an ASGI application: mount it, ``app.mount("/offload", StatusPage(pool))``, where only those who may see it
    get to. It shows files, functions, routes and statements without their values, and never settings. It takes no
    connection and no thread from a pool, and takes samples only while somebody looks. Several worker processes are
    shown by whichever answers, from the files that :func:`offload_db.monitor.watch` has each of them write.

    :param pools: the pools to tell of; none tells of all in the process
    :param audit: what ``offload-db audit --format json`` printed over time: a file, a directory whose ``*.json`` are
        meant, or a pattern such as ``"audits/*.json"``; the day in a file's name counts, or else when it was written
    :param dumps: the files of ``monitor.watch(dump_to=…)`` of all processes, in the same way; a change of the rollout
        is written beside them, for the other processes
    :param allow_changes: is given the ASGI scope of a request, and tells, at once or awaited, whether it may change
        modes and shares of the rollout; a plain function is called in a thread. None lets nobody
    :param link: the address of a line of the source, with ``{file}`` or, below the working directory, ``{path}``, and
        ``{line}``; None links nothing
    :raises ConfigurationError: if a setting is bad
    """

    def __init__(
        self,
        *pools: OffloadPool,
        audit: str | os.PathLike[str] | None = None,
        dumps: str | os.PathLike[str] | None = None,
        allow_changes: AllowChanges | None = None,
        link: str | None = "vscode://file{file}:{line}",
    ) -> None:
        for pool in pools:
            if not isinstance(pool, OffloadPool):
                raise ConfigurationError(f"StatusPage: got {shown(pool)}; accepted are OffloadPool objects")
        if allow_changes is not None and not callable(allow_changes):
            raise ConfigurationError(
                f"StatusPage: allow_changes={kind_of(allow_changes)}; accepted are functions of an ASGI scope, and None"
            )
        self._allow_changes = allow_changes
        self._figures = Figures(pools, audit, dumps, link)
        self._shared: SharedChanges | None = None
        if allow_changes is not None and self._figures.directory is not None:
            self._shared = SharedChanges(self._figures.directory)
            if not self._figures.others_live():
                self._shared.forget()  # what was changed holds until all processes have ended
            self._shared.keep_looking()
        self._viewers = 0
        self._sampling = False
        self._next_sample = 0.0
        here = resources.files(__package__)
        self._files = {path: (kind, (here / name).read_bytes()) for path, (name, kind) in _FILES.items()}
        self._html = (here / "page.html").read_text(encoding="utf-8")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = answers.path_of(scope), scope["method"]
        if path == "":  # relative addresses in the page need the slash
            name = str(scope["path"]).rpartition("/")[2]
            await answer(scope, send, 307, "text/plain", b"", headers=[("location", f"{name}/")])
            return
        methods = "GET, HEAD" if path in _FILES else _METHODS.get(path)
        if methods is None:
            await refuse(scope, send, 404, "there is no such page")
        elif method not in methods.split(", "):
            await refuse(scope, send, 405, f"accepted is {methods}", [("allow", methods)])
        elif path in _FILES:
            await answer(scope, send, 200, *self._files[path])
        elif path == "/":
            await self._page(scope, send)
        elif path == "/rollout":
            await self._change(scope, receive, send)
        elif path == "/events":
            await self._events(scope, receive, send)
        else:
            await self._refresh()
            body = _joined({"may": await self._may(scope), **self._everything()})
            await answer(scope, send, 200, "application/json", body.encode())

    async def _page(self, scope: Scope, send: Send) -> None:
        token, headers = "", []
        if self._allow_changes is not None:
            token = answers.token_of(scope) or answers.new_token()
            headers = [answers.cookie(scope, token)]
        await answer(scope, send, 200, _HTML, self._html.replace("{{token}}", token).encode(), headers=headers)

    async def _allowed(self, scope: Scope) -> bool:
        if self._allow_changes is None:
            return False
        try:
            if inspect.iscoroutinefunction(self._allow_changes):
                return bool(await self._allow_changes(scope))
            said = await anyio.to_thread.run_sync(self._allow_changes, scope, limiter=anyio.CapacityLimiter(1))
            return bool(await said if inspect.isawaitable(said) else said)
        except Exception:
            logger.exception("StatusPage: allow_changes failed, so nothing may be changed")
            return False

    async def _may(self, scope: Scope) -> str:
        return json.dumps({"change": await self._allowed(scope)})

    async def _change(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._allow_changes is None:
            await refuse(scope, send, 403, "this page is read-only: StatusPage has no allow_changes")
        elif (why := answers.foreign(scope)) is not None:
            await refuse(scope, send, 403, why)
        elif not await self._allowed(scope):
            await refuse(scope, send, 403, "changes are not allowed to you")
        elif (body := await answers.body_of(receive)) is None:
            await refuse(scope, send, 413, f"accepted are at most {answers.MOST_BODY} bytes")
        else:
            try:
                change = Change.read(body)
                done = change.make()
            except ConfigurationError as error:
                await refuse(scope, send, 400, str(error))
                return
            self._figures.renew()  # whoever looks is to see it at once
            self._next_sample = 0.0
            await answer_json(scope, send, 200, {"done": done, "others": await self._tell(change)})

    async def _tell(self, change: Change) -> str | None:
        """Let the other processes know; return how that went."""
        if self._shared is None:
            return None
        try:
            await anyio.to_thread.run_sync(self._shared.tell, change, limiter=anyio.CapacityLimiter(1))
        except OSError as error:
            logger.warning("the other processes don't know of what was changed on the live page: %s", error)
            return f"but other processes could not be told ({error.strerror})"
        return "other processes follow within a second"

    async def _refresh(self) -> None:
        """Take a sample if the last one is too old; whoever comes meanwhile is shown the one before."""
        while self._sampling and not self._figures.parts:  # noqa: ASYNC110  # the first sample, for all who came at once
            await anyio.sleep(0.01)
        if self._sampling:
            return
        began = time.monotonic()
        if began < self._next_sample:
            return
        self._sampling, self._next_sample = True, math.inf
        took = 0.0
        try:
            # A place of its own: the application's threads may all be waiting.
            took = await anyio.to_thread.run_sync(self._figures.tick, limiter=anyio.CapacityLimiter(1))
        finally:
            self._sampling = False
            if self._next_sample == math.inf:  # nothing was changed meanwhile
                self._next_sample = began + min(max(TICK, _SAMPLING_COSTS * took), LONGEST_PAUSE) - _EARLY

    def _everything(self) -> dict[str, str]:
        texts = {name: text for name, text in self._figures.parts.items() if name != "point"}
        return {**texts, "points": self._figures.history()}

    async def _events(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._viewers >= MOST_VIEWERS:
            await refuse(scope, send, 503, f"{self._viewers} others look at the page already", [("retry-after", "10")])
            return
        self._viewers += 1
        try:
            may = await self._may(scope)
            await start(send, 200, "text/event-stream; charset=utf-8", [("x-accel-buffering", "no")])
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            with anyio.move_on_after(STREAM_SECONDS + TO_TAKE_IT):
                async with anyio.create_task_group() as group:

                    async def until_it_leaves() -> None:
                        while (await receive())["type"] != "http.disconnect":
                            pass
                        group.cancel_scope.cancel()

                    group.start_soon(until_it_leaves)
                    await self._stream(may, send)
                    group.cancel_scope.cancel()
        finally:
            self._viewers -= 1

    async def _stream(self, may: str, send: Send) -> None:
        async def event(name: str, parts: dict[str, str]) -> None:
            text = f"event: {name}\ndata: {_joined(parts)}\n\n"
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

        try:
            await send({"type": "http.response.body", "body": b"retry: 100\n\n", "more_body": True})
            await self._refresh()
            parts = dict(self._figures.parts)
            await event("all", {"may": may, **self._everything()})
            until = time.monotonic() + STREAM_SECONDS
            while time.monotonic() < until:
                await anyio.sleep(TICK)
                await self._refresh()
                seen, parts = parts, dict(self._figures.parts)
                await event("some", {name: text for name, text in parts.items() if text != seen.get(name)})
            await send({"type": "http.response.body", "body": b""})
        except OSError:  # it has left
            pass


async def _lifespan(receive: Receive, send: Send) -> None:
    for kind in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{kind}.complete"})


def _joined(parts: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{text}' for name, text in parts.items()) + "}"
