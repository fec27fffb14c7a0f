"""What is sent over HTTP: the answers of the live page, and who may change something.

Owns the headers of every answer, and the protection against requests that another site has a browser make.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[str, str]]

# Nothing but what this page serves itself may be loaded, run, framed, or sent to.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = (
    ("content-security-policy", _POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    # Also not compressed on the way: an event that waits for more of its kind comes late.
    ("cache-control", "no-store, no-transform"),
)
COOKIE, TOKEN_HEADER = "offload_db_page", "x-offload-db-token"
_TOKEN = re.compile(r"[\w-]{43}", re.ASCII)  # as secrets.token_urlsafe(32) makes them
# Bytes of a request's body that are read.
MOST_BODY = 4096


async def start(send: Send, status: int, kind: str, headers: Headers = ()) -> None:
    """Send the beginning of an answer."""
    everything = [("content-type", kind), *_ALWAYS, *headers]
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in everything]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def answer(scope: Scope, send: Send, status: int, kind: str, body: bytes, *, headers: Headers = ()) -> None:
    """Send an answer, for HEAD without its body."""
    await start(send, status, kind, [("content-length", str(len(body))), *headers])
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def answer_json(scope: Scope, send: Send, status: int, value: object) -> None:
    """Send a JSON value."""
    await answer(scope, send, status, "application/json", json.dumps(value).encode())


async def refuse(scope: Scope, send: Send, status: int, detail: str, headers: Headers = ()) -> None:
    """Say why there is no other answer."""
    await answer(scope, send, status, "application/json", json.dumps({"detail": detail}).encode(), headers=headers)


async def body_of(receive: Receive) -> bytes | None:
    """Read a request's body; None if it is too long, or its client has gone."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += bytes(message.get("body", b""))
        if len(body) > MOST_BODY:
            return None
        if not message.get("more_body"):
            return body


def path_of(scope: Scope) -> str:
    """Return the path below where the page is mounted; frameworks differ in what they leave of it."""
    path, root = str(scope["path"]), str(scope.get("root_path") or "").rstrip("/")
    return path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path


def header(scope: Scope, name: str) -> str | None:
    """Return a header of the request."""
    wanted = name.encode("latin-1")
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == wanted), None)


def token_of(scope: Scope) -> str | None:
    """Return the token that the browser was given with the page.

    Whoever serves a neighbouring name may have set another cookie, and this one is written into the page.
    """
    try:
        morsel = SimpleCookie(header(scope, "cookie") or "").get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel is not None and _TOKEN.fullmatch(morsel.value) else None


def new_token() -> str:
    """Make a token."""
    return secrets.token_urlsafe(32)


def cookie(scope: Scope, token: str) -> tuple[str, str]:
    """Return the header that gives a browser its token; no script sees it, and no other site has it sent."""
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    return ("set-cookie", f"{COOKIE}={token}; HttpOnly; SameSite=Strict{secure}")


def foreign(scope: Scope) -> str | None:
    """Return why a request may be another site's; None if it is the page's own."""
    site, origin = header(scope, "sec-fetch-site"), header(scope, "origin")
    if site is not None and site != "same-origin":
        return "the request comes from another site"
    if site is None and origin is None:
        return "the request does not say which site it comes from"
    if site is None:
        # Browsers tell the site on https alone. A script of another site can set none of these headers.
        hosts = {header(scope, "host"), header(scope, "x-forwarded-host")}
        if _place(origin or "") not in hosts - {None}:
            return "the request comes from another site"
    known, sent = token_of(scope), header(scope, TOKEN_HEADER)
    if known is None or sent is None or not hmac.compare_digest(known.encode(), sent.encode("latin-1")):
        return "the request has not the token of the page; load the page again"
    return None


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # it is none
        return "?"
