"""Claims about the guide's chapter on the live page, and about the page in aiohttp."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient

from offload_db import OffloadPool
from offload_db.contrib.status import page as page_module
from tests.evidence import ROOT
from tests.support import pool_of

CHAPTER = ROOT / "examples" / "guide" / "live_page.md"


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    """Give a pool."""
    with pool_of(2, database) as pool:
        yield pool


def test_the_guard(pool: OffloadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chapter's guard lets in who says the token, and lets operators alone change something."""
    module = types.ModuleType("database_mysql")
    module.pool = pool  # type: ignore[attr-defined]  # the module of the chapter on migrating
    monkeypatch.setitem(sys.modules, "database_mysql", module)
    monkeypatch.setenv("STATUS_TOKEN", "of it")
    [source] = re.findall(r"```python\n(# guarded_page\.py\n.*?)```", CHAPTER.read_text(encoding="utf-8"), re.DOTALL)
    space: dict[str, Any] = {"__name__": "guarded_page"}
    exec(compile(source, "guarded_page.py", "exec"), space)  # noqa: S102  # the guide's own
    with TestClient(space["app"]) as client:
        assert client.get("/offload/").status_code == 401
        assert client.get("/offload/", headers={"authorization": "Bearer of others"}).status_code == 401
        told = {"authorization": "Bearer of it"}
        assert client.get("/offload/state.json", headers=told).json()["may"] == {"change": False}
        told["x-auth-role"] = "operator"
        assert client.get("/offload/state.json", headers=told).json()["may"] == {"change": True}


def test_the_page_in_aiohttp(pool: OffloadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An aiohttp application serves the page with its files, its events, and its refusals, by the example's handler."""
    monkeypatch.setattr(page_module, "STREAM_SECONDS", 0.1)
    web = pytest.importorskip("aiohttp.web")
    from examples.monitoring.aiohttp_page import make_app

    def get(address: str, method: str = "GET") -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method=method), timeout=20) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    async def check() -> None:
        runner = web.AppRunner(make_app(pool))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        address = f"http://{host}:{port}/offload"
        try:
            assert (await asyncio.to_thread(get, address))[1].startswith(b"<!doctype html>")
            assert (await asyncio.to_thread(get, f"{address}/page.css"))[0] == 200
            assert (await asyncio.to_thread(get, f"{address}/page.css", "HEAD")) == (200, b"")
            assert (await asyncio.to_thread(get, f"{address}/nothing"))[0] == 404
            assert (await asyncio.to_thread(get, f"{address}/rollout"))[0] == 405
            status, begun = await asyncio.to_thread(get, f"{address}/events")
            assert (status, begun[:11]) == (200, b"retry: 100\n")
            state = json.loads((await asyncio.to_thread(get, f"{address}/state.json"))[1])
            assert state["now"]["totals"]["size"] == 2
        finally:
            await runner.cleanup()

    asyncio.run(check())
