"""Claims about `offload-db watch`: the figures of the live page in a terminal."""

from __future__ import annotations

import argparse
import asyncio
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

pytest.importorskip("uvicorn")

import offload_db
from offload_db import Lane, OffloadPool, rollout
from offload_db.contrib.status import StatusPage
from offload_db.monitor import watch_command
from tests.conftest import MySQL
from tests.monitor import inside
from tests.serving import served
from tests.support import in_thread, pool_of, value


class Site:
    """An application that has the page at /offload, for who says the password."""

    def __init__(self, page: StatusPage) -> None:
        self._page = page

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""
        status = 200 if (b"authorization", b"Bearer of it") in scope["headers"] else 401
        if status == 200 and scope["path"].startswith("/offload"):
            await self._page({**scope, "root_path": "/offload"}, receive, send)
            return
        await send({"type": "http.response.start", "status": 404 if status == 200 else 401, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


@offload_db.offload
async def asks(pool: OffloadPool) -> None:
    with pool.connection(lane="reports") as connection:
        value(connection, "SELECT 1, 'a value'")


@pytest.fixture(scope="module")
def address(mysql: MySQL) -> Iterator[str]:
    """Give the address of a page that has something to tell of everything."""
    with ExitStack() as stack:
        database = mysql.fresh_database()
        stack.callback(mysql.drop_database, database)
        pool = stack.enter_context(
            pool_of(2, mysql.settings(database), lanes=[Lane("reports", 1)], on_loop_call="allow")
        )
        rollout.set(f"{__name__}.asks", "observe")
        asyncio.run(asks(pool))
        yield stack.enter_context(served(Site(StatusPage(pool)))) + "/offload"


def command(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    watch_command.add_arguments(parser)
    return parser.parse_args(words)


def test_a_password_in_the_address() -> None:
    """Name and password in the address are sent as a header, and stay out of the address that errors show."""
    request = watch_command.request_of("https://an:o%40n@app.example:8443/offload/?x=1", ())
    assert request.full_url == "https://app.example:8443/offload/state.json"
    assert request.get_header("Authorization") == "Basic YW46b0Bu"


HEADER = ("--header", "Authorization: Bearer of it")


@pytest.mark.parametrize("end", ["", "/", "/state.json"])
def test_once(end: str, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It shows once what the page shows: pool and lanes, the rollout's arms, what blocks."""
    rollout.set(f"{__name__}.asks", "observe", share=0.5)
    assert watch_command.run(command(f"{address}{end}", "--once", *HEADER)) == 0
    text = capsys.readouterr().out
    for shown in ("0 of 2 in use", "reports", f"{os.getpid()} ", "observe 50.0%, call", "SELECT ?, ?", "asks, "):
        assert shown in text, shown
    assert "a value" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("url", "more", "message"),
    [
        ("{address}", (), "answers 401 Unauthorized; give --header"),
        ("{address}x", HEADER, "answers 404 Not Found; is the StatusPage mounted there?"),
        ("{nothing}", (), "can't be reached: [Errno"),
        ("{odd}", (), "can't be read: BadStatusLine"),
        ("localhost:8000", (), "accepted are addresses such as"),
        ("http://[::1", (), "accepted are addresses such as"),
        ("http://h:port/x", (), "accepted are addresses such as"),
        ("{address}", ("--header", "Bearer"), "--header: accepted are headers such as"),
        ("{address}", ("--interval", "0"), "--interval: accepted are seconds above 0"),
    ],
)
def test_errors(
    url: str, more: tuple[str, ...], message: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong is told in one line, and the status is 2; a header is not shown."""
    with socket.socket() as closed, socket.socket() as odd:
        closed.bind(("127.0.0.1", 0))
        odd.bind(("127.0.0.1", 0))
        odd.listen()
        if "{odd}" in url:
            _answer_oddly(odd)
        places = {name: f"http://127.0.0.1:{one.getsockname()[1]}" for name, one in (("nothing", closed), ("odd", odd))}
        assert watch_command.run(command(url.format(address=address, **places), *more)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("offload-db watch: ")
    assert message in line
    assert "Bearer of it" not in line


def _answer_oddly(listener: socket.socket) -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"this is no HTTP\r\n\r\n")

    in_thread(answer)


# A shell starts what it puts into the background with SIGINT ignored.
COMMAND = """
import signal, sys
from offload_db.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


def watch(address: str, **options: Any) -> subprocess.Popen[bytes]:
    words = ["watch", address, *HEADER, "--interval", "0.05"]
    return subprocess.Popen([sys.executable, "-c", COMMAND, *words], stderr=subprocess.PIPE, **options)


def test_piped(address: str) -> None:
    """Into a pipe it writes one line each time, and Ctrl-C ends it with status 130 and no traceback."""
    with watch(address, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline().decode() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == b"\n"
    for line in lines:
        assert " in use 0/2  waiting 0  " in line
        assert "\x1b" not in line


def test_in_a_terminal(address: str) -> None:
    """In a terminal it draws the screen anew each time."""
    ours, theirs = pty.openpty()
    with watch(address, stdout=theirs) as process:
        os.close(theirs)
        text = b""
        while text.count(b"\x1b[H\x1b[2J") < 3:
            text += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    os.close(ours)
    assert b"0 of 2 in use" in text


def test_a_reader_that_leaves(address: str) -> None:
    """`offload-db watch URL | head -1` ends without a traceback."""
    with watch(address, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == b""


def test_a_page_that_comes_back(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that was there and is not is waited for, and told: its application may be restarting."""
    asked = watch_command.fetch_state
    calls = iter([asked, lambda _: asked(watch_command.request_of(f"{address}x", ())), asked])

    def ask(request: Any) -> Any:
        call = next(calls, None)
        if call is None:
            raise KeyboardInterrupt
        return call(request)

    monkeypatch.setattr(watch_command, "fetch_state", ask)
    assert watch_command.run(command(address, *HEADER, "--interval", "0.001")) == 130
    first, second, third = capsys.readouterr().out.splitlines()
    assert "in use 0/2" in first
    assert "answers 401" in second
    assert "in use 0/2" in third


class Forged:
    """A server that answers what it was given, and remembers what it was asked."""

    def __init__(self, body: bytes, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self.asked: list[dict[bytes, bytes]] = []
        self._body, self._status, self._headers = body, status, headers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""
        if scope["type"] == "http":
            self.asked.append(dict(scope["headers"]))
            await send({"type": "http.response.start", "status": self._status, "headers": list(self._headers)})
            await send({"type": "http.response.body", "body": self._body})


def test_names_that_a_terminal_would_obey(address: str) -> None:
    """A name that has control characters in it is shown without them, on one line."""
    state = dict(watch_command.fetch_state(watch_command.request_of(address, HEADER[1:])))
    state["problems"] = ["\x1b]0;title\x07\n\x9b2J\u202e"]
    state["now"]["verdicts"] = [{"level": "bad", "text": "\x1b[2Jcleared"}]
    lines = [*watch_command.as_text(state, 120).split("\n"), watch_command.as_line(state)]
    assert all(line.isprintable() for line in lines)
    assert "could not read   ?]0;title???2J?" in lines


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"now": [1]}',
        b'{"now": "totals"}',
        b'{"now": {"totals": 3}}',
        b'{"now": {"totals": {}, "time": 1e300, "verdicts": 1}}',
    ],
    ids=range(5),
)
def test_answers_that_are_forged(body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """What only looks like a page's answer is told in one line."""
    with served(Forged(body)) as url:
        assert watch_command.run(command(url, "--once")) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("accepted is the address that one is mounted at")


def test_headers_are_given_to_nobody_else(capsys: pytest.CaptureFixture[str]) -> None:
    """An answer that leads to another place is not followed: that would be given the headers."""
    with served(other := Forged(b"{}")) as elsewhere:
        leads = [(b"location", f"{elsewhere}/state.json".encode())]
        with served(Forged(b"", 302, leads)) as url:
            assert watch_command.run(command(url, "--once", *HEADER)) == 2
    assert not other.asked
    assert "answers 302; accepted is the address that it leads to" in capsys.readouterr().err


def test_an_answer_by_drops(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that comes byte by byte is given up, although each byte comes in time."""
    inside.waits_for(monkeypatch, 0.2)

    class Drops:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                for _ in range(1000):
                    await send({"type": "http.response.body", "body": b"1", "more_body": True})
                    await asyncio.sleep(0.01)

    with served(Drops()) as url:
        assert watch_command.run(command(url, "--once")) == 2
    assert "has not answered within" in capsys.readouterr().err
