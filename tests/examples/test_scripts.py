"""Each small script of the examples runs, shows what its docstring promises, and says nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MySQL

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "examples" / "README.md"
SCRIPTS = sorted(script.stem for script in (ROOT / "examples").glob("*.py") if script.stem != "__init__")

# What the script is there to show: one pattern for each line that makes the point.
POINTS = {
    "wrap_the_pool": (
        r"from a script: .*\{'version': '",
        r"from an undecorated handler: \{'version': '",
        r"wrap_the_pool\.py:\d+: execute\(\) in get_version blocks the event loop; put @offload_db\.offload",
        r"2 statements, 1 of the driver's calls blocked the loop",
    ),
    "first_decorator": (r"before: 10 calls in", r"after : 10 calls in"),
    "both_modes": (
        r"mode=\"bridge\": the handler's code ran on 'MainThread'",
        r"mode=\"thread\": the handler's code ran on 'AnyIO worker thread'",
        r"BridgeError: .*both_modes\.py:\d+, but mode='thread' .* use mode='bridge'",
    ),
    "lanes": (
        r"without lanes: .*polls",
        r"with a lane  : .*polls",
        r"LaneFull: lane 'reports': 6 callers wait already",
    ),
    "helper_deep_below": (
        r"in ten handlers at once: \{15000\}",
        r"in a script: +15000",
        r"in a plain thread: +15000",
        r"calls that blocked the event loop: 0",
    ),
    "shared_connection": (
        r"(?s)Ana: leg 1\n  Ana: leg 2\n  Ana: leg 3\n  Ben: leg 1\n  Ben: leg 2\n  Ben: leg 3",
        r"statement by statement: \[0, 1, 2, 3, 4\]",
        r"what is in offload_db_example_\w+\.trips, Ben having rolled back: \(\('Ana', 3\),\)",
    ),
    "find_what_blocks": (
        r"BlockingCallWarning: .*find_what_blocks\.py:\d+: execute\(\) in load_settings blocks the event loop",
        r"find_what_blocks\.py:\d+ load_settings: execute\(\) stopped the loop for \d+ ms in 3 calls",
        r"BlockingCallError: .*find_what_blocks\.py:\d+: connect\(\) in load_settings blocks the event loop",
        r"silent, but counted: \d+ calls",
    ),
    **dict.fromkeys(
        ("with_aiohttp", "with_quart", "with_sanic", "with_tornado"),
        (
            r"before: ten requests in \d+ ms, [1-9]\d* calls blocked the event loop",
            r"after : ten requests in \d+ ms, 0 calls blocked the event loop",
        ),
    ),
    "what_next": (
        r"(?s)Migrate next.* 1 .*dashboard, examples/what_next\.py:\d+.* 2 .*status, ",
        r"what_next\.py:\d+ query: SELECT SLEEP\(\?\)",
        r"before: the loop was late by \d+ ms",
        r"after : the loop was late by \d+ ms",
        r"calls that still block: 0",
    ),
    "ask_the_doctor": (
        r"PROBLEM max_connections: 4 workers × 20 connections = 80, and the server allows 10",  # noqa: RUF001  # a product
        r"PROBLEM wait_timeout: the server ends connections that are idle for 5 s",
        r"fine    kill: a statement was killed \d+ ms after its timeout",
        r"exit code: 1",
    ),
    "blocking_anything": (
        r"'mail to user 0 sent from a worker thread' and nine more",
        r"'mail to me sent from a main thread'",
    ),
    "migration_stages": (
        r"blocking : \d+ ms for trucks \[0, 1, 2, 3, 4\]",
        r"decorated: \d+ ms for trucks \[0, 1, 2, 3, 4\]",
        r"awaitable: \d+ ms for trucks \[0, 1, 2, 3, 4\]",
        r"all three at once: 18 checkouts in all, 18 came back",
    ),
    "streaming_csv": (
        r"downloaded 50001 lines, the last is '50000,truck 50000'",
        r"another client leaves after '10,truck 10'",
        r"connections still in use: 0",
    ),
    "transaction": (
        r"(?s)30 litres: committed.*no note: Duplicate entry.*30 litres: committed.*80 litres: rolled back",
        r"tanks: \[\(40,\), \(60,\)\]",
        r"notes: \[\('30 litres moved',\)\]",
    ),
    "from_aiomysql": (
        r"size 2, free 2, at most 10",
        r"as before: \[\{'number': 2\}, \{'number': 3\}\]",
        r"ProgrammingError: 1146",
        r"a legacy handler on the same pool: \{'trucks': 3\}",
        r"size 2 still",
    ),
}


def run(script: str, mysql: MySQL) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{script}"],
        cwd=ROOT,
        env={**os.environ, **mysql.endpoint.environment()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_makes_its_point(script: str, mysql: MySQL) -> None:
    if script.startswith("with_"):
        pytest.importorskip(script.removeprefix("with_"))
    output = run(script, mysql)
    for point in POINTS[script]:
        assert re.search(point, output), f"{point!r} is not in:\n{output}"
    milliseconds = [int(number) for number in re.findall(r"(\d+) ms", output)]
    if script in ("first_decorator", "lanes") or script.startswith("with_"):
        before, after = milliseconds
        assert after < before / 2, output


def test_each_script_is_explained() -> None:
    """The guide lists each script, and each says how to run it."""
    assert set(SCRIPTS) == set(POINTS)
    for script in SCRIPTS:
        command = f"python -m examples.{script}"
        assert f"`{command}`" in GUIDE.read_text(encoding="utf-8")
        assert f"``{command}``" in (ROOT / "examples" / f"{script}.py").read_text(encoding="utf-8")


def test_script_leaves_nothing_behind(mysql: MySQL) -> None:
    """The script that needs a database drops it."""
    found = re.search(r"offload_db_example_\w+", run("shared_connection", mysql))
    assert found
    with mysql.connect() as connection, connection.cursor() as cursor:
        assert cursor.execute("SHOW DATABASES LIKE %s", (found[0],)) == 0
