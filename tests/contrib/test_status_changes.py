"""Claims about changing the rollout on the live page: by whom, from where, and in which processes."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offload_db import OffloadPool, rollout
from offload_db.contrib.status import StatusPage
from offload_db.contrib.status.changes import Change
from offload_db.contrib.status.shared import SharedChanges
from tests.contrib.test_status import Answer, ask, written
from tests.support import pool_of, until

SITE = {"host": "app.example", "origin": "http://app.example"}
TARGET = "GET:/v2/*"


def everybody(scope: Any) -> bool:
    return True


async def tokens(app: StatusPage) -> dict[str, str]:
    """Load the page as a browser does, and return the headers that its script then sends."""
    answer = await ask(app, "/")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
    [token] = re.findall(r'name="offload-db-token" content="([\w-]+)"', answer.body.decode())
    return {"cookie": cookie.partition(";")[0], "x-offload-db-token": token}


async def post(app: StatusPage, headers: dict[str, str], **change: Any) -> Answer:
    return await ask(app, "/rollout", "POST", headers=headers, body=json.dumps(change).encode())


def setting(target: str = TARGET) -> tuple[str, float] | None:
    return next(((route.mode, route.share) for route in rollout.snapshot() if route.target == target), None)


@pytest.mark.parametrize("site", [SITE, {"host": "inner:8000", "sec-fetch-site": "same-origin"}], ids=["http", "https"])
@pytest.mark.anyio
async def test_a_change(site: dict[str, str]) -> None:
    """Who may sets mode and share, and takes them away again, from the page itself."""
    app = StatusPage(allow_changes=everybody)
    headers = {**site, **await tokens(app)}
    answer = await post(app, headers, target=TARGET, mode="offload", share=0.25)
    assert (answer.status, answer.json) == (200, {"done": f"{TARGET}: offload, 25 % of the requests", "others": None})
    assert setting() == ("offload", 0.25)
    assert (await post(app, headers, target=TARGET, mode="block")).status == 200
    assert setting() == ("block", 1.0)
    state = (await ask(app, "/state.json")).json
    assert state["may"] == {"change": True}
    assert [(route["target"], route["mode"]) for route in state["routes"] if route["target"] == TARGET] == [
        (TARGET, "block")
    ]
    assert (await post(app, headers, target=TARGET, mode=None)).status == 200
    assert setting() is None


@pytest.mark.anyio
async def test_a_second_window_has_the_same_token() -> None:
    """A page that is loaded again leaves the one that is open already as good as it was."""
    app = StatusPage(allow_changes=everybody)
    first = await tokens(app)
    again = await ask(app, "/", headers={"cookie": first["cookie"]})
    assert again.headers["set-cookie"].partition(";")[0] == first["cookie"]


@pytest.mark.parametrize("text", ['\\"><b>', r"\015\012x: y"], ids=["markup", "a header"])
@pytest.mark.anyio
async def test_a_cookie_of_a_neighbour(text: str) -> None:
    """A cookie that another name's server has set, and that is no token, gets neither into the page nor its headers."""
    length = len(text.replace("\\015\\012", "rn").replace('\\"', "q"))
    cookie = f'offload_db_page="{text}{"x" * (43 - length)}"'
    answer = await ask(StatusPage(allow_changes=everybody), "/", headers={"cookie": cookie})
    assert "xxx" not in answer.body.decode()
    assert "xxx" not in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"sec-fetch-site": "cross-site"}, id="another site, says the browser"),
        pytest.param({"sec-fetch-site": "same-site"}, id="a neighbour, says the browser"),
        pytest.param({"origin": "http://evil.example"}, id="another origin"),
        pytest.param({"origin": "null"}, id="a sandbox"),
        pytest.param({"origin": ""}, id="an empty origin"),
        pytest.param({"origin": None}, id="no origin"),
        pytest.param({"origin": "http://["}, id="an origin that is none"),
        pytest.param({"x-offload-db-token": None}, id="no token"),
        pytest.param({"x-offload-db-token": "x" * 43}, id="a wrong token"),
        pytest.param({"cookie": None}, id="no cookie"),
        pytest.param({"cookie": "offload_db_page=", "x-offload-db-token": ""}, id="empty tokens"),
        pytest.param({"cookie": "offload_db_page=a", "x-offload-db-token": "a"}, id="short tokens"),
        pytest.param({"x-offload-db-token": "ü" * 43}, id="a token of other letters"),
    ],
)
@pytest.mark.anyio
async def test_requests_of_other_sites(changed: dict[str, str | None]) -> None:
    """A request that is not the page's own changes nothing, whatever its browser's user may do."""
    app = StatusPage(allow_changes=everybody)
    headers = {**SITE, **await tokens(app), **changed}
    kept = {name: text for name, text in headers.items() if text is not None}
    answer = await ask(
        app,
        "/rollout",
        "POST",
        headers={name: text.encode().decode("latin-1") for name, text in kept.items()},
        body=b'{"target": "GET:/v2/*", "mode": "block"}',
    )
    assert answer.status == 403
    assert setting() is None


async def nobody(scope: Any) -> bool:
    return False


def fails(scope: Any) -> bool:
    raise ZeroDivisionError


async def by_header(scope: Any) -> bool:
    return (b"x-role", b"operator") in scope["headers"]


@pytest.mark.parametrize(("allow", "status"), [(None, 403), (nobody, 403), (fails, 403), (by_header, 200)])
@pytest.mark.anyio
async def test_who_may(allow: Any, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody may without `allow_changes`, nor whom that does not allow; an error in it is told, and allows nothing."""
    headers = {**SITE, "x-role": "operator", **await tokens(StatusPage(allow_changes=everybody))}
    app = StatusPage(allow_changes=allow)
    assert (await post(app, headers, target=TARGET, mode="block")).status == status
    assert setting() == (("block", 1.0) if status == 200 else None)
    assert ("allow_changes failed" in caplog.text) == (allow is fails)
    assert (await ask(app, "/state.json", headers=headers)).json["may"] == {"change": status == 200}


@pytest.mark.anyio
async def test_a_plain_function_is_asked_off_the_loop() -> None:
    """What tells who may change something may take its time: a plain function is called in a thread."""
    asked: list[int] = []

    def allow(scope: Any) -> bool:
        asked.append(threading.get_ident())
        return False

    await ask(StatusPage(allow_changes=allow), "/state.json")
    assert len(asked) == 1
    assert threading.get_ident() not in asked


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "a JSON object"),
        (b"[" * 4000, 400, "a JSON object"),
        (rb'{"target": "GET:/\ud800", "mode": "block"}', 400, "target="),
        (rb'{"target": "GET:/\u001b[2J", "mode": "block"}', 400, "target="),
        (b'{"target": "*"}', 400, "a JSON object"),
        (b'{"target": "*", "mode": "of"}', 400, "mode="),
        (b'{"target": "GET /x", "mode": "block"}', 400, "target="),
        (b'{"target": "*", "mode": "block", "share": 1.5}', 400, "share=1.5"),
        (b'{"target": "*", "mode": "block", "share": NaN}', 400, "share="),
        (b'{"target": "*", "mode": "block", "share": "1"}', 400, "share="),
        (b'{"target": "*", "mode": "block"}' + b" " * 5000, 413, "at most"),
    ],
)
@pytest.mark.anyio
async def test_what_is_no_change(body: bytes, status: int, message: str) -> None:
    """What is not accepted is told, and changes nothing."""
    app = StatusPage(allow_changes=everybody)
    answer = await ask(app, "/rollout", "POST", headers={**SITE, **await tokens(app)}, body=body)
    assert answer.status == status
    assert message in answer.json["detail"]
    assert setting("*") is None


# Other processes


@pytest.fixture
def pool() -> Iterator[OffloadPool]:
    """Give a pool that is never connected."""
    with pool_of(1, {"host": "127.0.0.1"}) as pool:
        yield pool


@pytest.mark.anyio
async def test_a_change_reaches_other_processes(tmp_path: Path, pool: OffloadPool) -> None:
    """What is changed on the page of one process is made in the others within a second or so, once."""
    written(tmp_path / "1.json", pool)  # another process is there
    StatusPage(pool, dumps=tmp_path, allow_changes=everybody)
    app = StatusPage(pool, dumps=tmp_path, allow_changes=everybody)
    headers = {**SITE, **await tokens(app)}
    answer = await post(app, headers, target=TARGET, mode="block")
    assert answer.json["others"] == "other processes follow within a second"
    rollout.clear()  # as if this were another process, in which nothing is set
    other = SharedChanges(tmp_path)
    other.look()
    assert setting() == ("block", 1.0)
    rollout.clear()
    other.look()
    assert setting() is None  # what was made once is not made again
    await post(app, headers, target=TARGET, mode="observe", share=0.5)
    other.look()
    assert setting() == ("observe", 0.5)


def test_it_is_looked_for(tmp_path: Path, pool: OffloadPool) -> None:
    """A page that may change something looks for the changes of other processes by itself."""
    app = StatusPage(pool, dumps=tmp_path, allow_changes=everybody)
    SharedChanges(tmp_path).tell(Change(TARGET, "block", 1.0))
    until(lambda: setting() == ("block", 1.0))
    del app


def test_what_an_earlier_start_was_told(tmp_path: Path, pool: OffloadPool) -> None:
    """A change holds for processes that are started later, until all have ended."""
    SharedChanges(tmp_path).tell(Change(TARGET, "block", 1.0))
    written(tmp_path / "1.json", pool, pid=os.getpid() + 1)
    StatusPage(pool, dumps=tmp_path, allow_changes=everybody)
    assert list(tmp_path.glob("*.change"))
    written(tmp_path / "1.json", pool, pid=os.getpid() + 1, again_in=None)
    StatusPage(pool, dumps=tmp_path, allow_changes=everybody)
    assert not list(tmp_path.glob("*.change"))


@pytest.mark.anyio
async def test_a_directory_that_cannot_be_written(tmp_path: Path, pool: OffloadPool) -> None:
    """Where other processes can't be told, the change is made here, and the answer says so."""
    app = StatusPage(pool, dumps=tmp_path / "gone", allow_changes=everybody)
    answer = await post(app, {**SITE, **await tokens(app)}, target=TARGET, mode="block")
    assert answer.json["others"].startswith("but other processes could not be told (")
    assert setting() == ("block", 1.0)


def test_a_file_that_is_no_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is no change is told once, and changes nothing."""
    (tmp_path / "x.change").write_text('{"target": 3}', encoding="utf-8")
    shared = SharedChanges(tmp_path)
    shared.look()
    shared.look()
    assert caplog.text.count("a change of the rollout was not made here") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_files_that_somebody_else_put_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may write into the directory may not change the rollout by that, nor keep others from being heard."""
    change = json.dumps({"target": TARGET, "mode": "block"})
    (tmp_path / "1.change").write_text("[" * 4000, encoding="utf-8")
    os.mkfifo(tmp_path / "2.change")
    (tmp_path / "elsewhere").write_text(change, encoding="utf-8")
    (tmp_path / "3.change").symlink_to(tmp_path / "elsewhere")
    SharedChanges(tmp_path).look()
    assert caplog.text.count("a change of the rollout was not made here") == 3
    assert setting() is None
    (tmp_path / "4.change").write_text(change, encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        SharedChanges(tmp_path).look()
    assert setting() is None
    SharedChanges(tmp_path).look()
    assert setting() == ("block", 1.0)
