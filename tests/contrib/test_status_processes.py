"""Claims about the live page of an application that several processes serve."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from tests.evidence import ROOT
from tests.support import until

pytestmark = pytest.mark.slow

WORKER = """
import contextlib, socket, sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
import offload_db
from offload_db import monitor
from offload_db.contrib.status import StatusPage

dumps = sys.argv[1]

@offload_db.offload
async def hello(request):
    return PlainTextResponse("hello")

@contextlib.asynccontextmanager
async def lifespan(app):
    async with monitor.watch(dump_to=dumps + "/{host}-{pid}.json", dump_every=0.2):
        yield

page = StatusPage(dumps=dumps, allow_changes=lambda scope: True)
app = Starlette(routes=[Route("/hello", hello), Mount("/offload", page)], lifespan=lifespan)
with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listener])
"""

Worker = tuple[int, str]


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Worker]]:
    """Give the process numbers and addresses of two workers."""
    with ExitStack() as stack:
        started: list[Worker] = []
        for _ in range(2):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
                )
            )
            stack.callback(process.terminate)
            assert process.stdout is not None
            started.append((process.pid, f"http://127.0.0.1:{process.stdout.readline().strip()}"))
            until(functools.partial(_answers, started[-1][1]))
        yield started


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/hello", timeout=20):
            return True
    except OSError:
        return False


def state(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}/offload/state.json", timeout=20) as response:
        found: dict[str, Any] = json.loads(response.read())
    return found


def change(address: str, **asked: object) -> dict[str, Any]:
    """Make a change as the page does."""
    with urllib.request.urlopen(f"{address}/offload/", timeout=20) as response:
        cookie = response.headers["set-cookie"].partition(";")[0]
        [token] = re.findall(r'token" content="([\w-]+)"', response.read().decode())
    headers = {"cookie": cookie, "x-offload-db-token": token, "sec-fetch-site": "same-origin"}
    request = urllib.request.Request(f"{address}/offload/rollout", json.dumps(asked).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as response:
        done: dict[str, Any] = json.loads(response.read())
    return done


def _shows_both(address: str) -> bool:
    return len(state(address)["now"]["processes"]) == 2


def test_each_shows_all_and_a_change_reaches_all(workers: list[Worker]) -> None:
    """Whichever process answers shows both, and what is changed on the page of one holds in the other."""
    pids = {pid for pid, _ in workers}
    for pid, address in workers:
        until(functools.partial(_shows_both, address))
        shown = state(address)["now"]["processes"]
        assert {each["pid"] for each in shown if each["state"] == "live"} == pids
        assert [each["pid"] for each in shown if each["mine"]] == [pid]
    (_, first), (_, second) = workers
    assert change(first, target="GET:/hello", mode="block")["others"] == "other processes follow within a second"

    def set_to() -> list[tuple[str, bool]]:
        return [(each["mode"], each["differs"]) for each in state(second)["routes"] if each["target"] == "GET:/hello"]

    until(lambda: set_to() == [("block", False)])
    with urllib.request.urlopen(f"{second}/hello", timeout=20):
        pass

    def ran() -> set[str]:
        [route] = [each for each in state(first)["routes"] if each["target"] == "GET:/hello"]
        return {arm["mode"] for arm in route["arms"] if arm["ever"]["calls"]}

    until(lambda: ran() == {"block"})
