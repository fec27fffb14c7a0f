"""The demo runs from end to end, shows what it promises, and leaves nothing running however it ends."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MySQL

pytest.importorskip("matplotlib", reason="the extra `examples` is not installed")

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "examples.fuel_copilot.demo", "--quick", "--output"]
MARK = "OFFLOAD_DB_DEMO_TEST"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Mark the demo and all that it starts; fail if any of it is left."""
    mark = secrets.token_hex(8)
    yield {**os.environ, MARK: mark}
    deadline = time.monotonic() + 5
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)  # a process that was killed takes a moment to vanish
    assert left == []


def marked(mark: str) -> list[str]:
    """Return the command lines of the processes that have *mark* in their environment, where /proc tells."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def point(numbers: dict[str, Any], backend: str, users: int) -> dict[str, Any]:
    """Return the measurement with the delay for *backend* and *users*."""
    chosen: list[dict[str, Any]] = [
        point
        for point in numbers["points"]
        if (point["backend"], point["users"]) == (backend, users) and point["query_delay"] > 0
    ]
    assert len(chosen) == 1
    return chosen[0]


def run_demo(mysql: MySQL, environment: dict[str, str], *words: str, timeout: float) -> str:
    """Run the quick demo to its good end; return what it printed."""
    done = subprocess.run(
        [*COMMAND, *words],
        cwd=ROOT,
        env={**environment, **mysql.endpoint.environment()},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.alone
@pytest.mark.timing_bound("it measures requests per second, and how long others wait for their answer")
def test_quick_demo(mysql: MySQL, environment: dict[str, str], tmp_path: Path) -> None:
    """The quick demo prints the table, saves picture and numbers, and the freed backend is many times faster."""
    picture = tmp_path / "new" / "demo.png"
    printed = run_demo(mysql, environment, str(picture), timeout=150)
    assert "/health p99 ms" in printed
    assert str(picture) in printed
    for drawn in (picture, tmp_path / "new" / "demo-dark.png"):
        assert drawn.read_bytes().startswith(b"\x89PNG")

    numbers = json.loads(picture.with_suffix(".json").read_text())
    assert [point["errors"] for point in numbers["points"]] == [0] * len(numbers["points"])
    # Nearly ten times on an idle machine; a loose bound, because this one may be busy.
    assert point(numbers, "after", 10)["factor"] > 4
    assert point(numbers, "before", 10)["health_p99"] > 0.3
    assert point(numbers, "after", 10)["health_p99"] < 0.3
    assert databases(mysql) == []


@pytest.mark.alone
@pytest.mark.timing_bound("it compares how long calls take, while the machine may be busy with others")
def test_rollout(mysql: MySQL, environment: dict[str, str], tmp_path: Path) -> None:
    """From none of the requests to all of them; the guard goes back at the lock, and nobody fails before or after."""
    picture = tmp_path / "rollout.png"
    run_demo(mysql, environment, str(picture), "--rollout", timeout=170)
    assert picture.read_bytes().startswith(b"\x89PNG")
    course = json.loads(picture.with_suffix(".json").read_text())
    assert [phase["name"] for phase in course["phases"]] == [
        "as before",
        "10% offloaded",
        "50% offloaded",
        "the table is locked",
        "the guard went back",
        "100% offloaded",
    ]
    assert re.match(r"\d+ (CheckoutTimeouts in|of) the last \d+ offloaded calls", course["reverted"])

    def answered(phase: dict[str, Any]) -> float:
        count = sum(phase["started"] <= at < phase["ended"] for at, _, _ in course["answers"])
        return float(count / (phase["ended"] - phase["started"]))

    assert answered(course["phases"][-1]) > 2 * answered(course["phases"][0])
    assert databases(mysql) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"MYSQL_PORT": "1"}, "127.0.0.1:1, does not let in"),
        ({"MYSQL_PORT": "80x"}, "MYSQL_PORT='80x' is not a port"),
        ({"MYSQL_USER": "nobody_of_this_name"}, "does not let in 'nobody_of_this_name'"),
    ],
    ids=["refused", "no port", "no such user"],
)
def test_a_server_that_cannot_be_used(
    mysql: MySQL, environment: dict[str, str], tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    """Where MYSQL_HOST names a server that is not there, or lets nobody in, one sentence says so."""
    done = subprocess.run(
        [*COMMAND, str(tmp_path / "demo.png")],
        cwd=ROOT,
        env={**environment, **mysql.endpoint.environment(), "MYSQL_HOST": "127.0.0.1", **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def databases(mysql: MySQL) -> list[str]:
    """Return the demo's databases that are left on the server."""
    with mysql.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SHOW DATABASES LIKE 'fuel_copilot_demo%'")
        return [name for (name,) in cursor.fetchall()]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_ended_early(environment: dict[str, str], tmp_path: Path, number: signal.Signals, status: int) -> None:
    """Ctrl-C and SIGTERM under load end the private server, the backend and the load generator."""
    with subprocess.Popen(
        [*COMMAND, str(tmp_path / "demo.png")],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        try:
            for line in process.stdout:
                lines.append(line)
                if "before: 10 users" in line:
                    time.sleep(0.5)  # let the load begin
                    break
            process.send_signal(number)
            rest = process.stdout.read()
            assert process.wait(30) == status, "".join(lines) + rest
        finally:
            process.kill()
    if "no MariaDB server program" in rest:
        pytest.skip("no MariaDB server program is installed")
    assert "Traceback" not in rest
