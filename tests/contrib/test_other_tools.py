"""Claims of the documents about habits and tools that meet the library: bare except clauses, alarms, coverage.

What alarms and coverage do belongs to a whole process, so they are tried in processes of their own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import anyio
import pytest

import offload_db
from offload_db import OffloadPool, offload
from tests.evidence import GUIDE
from tests.support import PATIENCE, pool_of, settled

# A bare except clause around a driver call


def query(pool: OffloadPool, sql: str) -> None:
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute(sql)


@offload
async def keeps_on(pool: OffloadPool, caught: list[BaseException], sql: str) -> str:
    """Query as legacy code does that lets no error through."""
    for statement in (sql, "SELECT 1"):
        try:
            query(pool, statement)
        except:  # noqa: E722  # what it is about
            error = sys.exc_info()[1]
            assert error is not None
            caught.append(error)
    return "went on"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_bare_except_takes_a_cancellation_of_asyncio(database: dict[str, Any]) -> None:
    """The statement is killed, the handler goes on as if nothing had been, and its task is not cancelled."""
    caught: list[BaseException] = []
    with pool_of(1, database) as pool:
        task = asyncio.ensure_future(keeps_on(pool, caught, "SELECT SLEEP(60)"))
        await settled(lambda: pool.statistics().in_use == 1 and pool.statistics().hops > 1)
        await asyncio.sleep(0.05)
        task.cancel()
        assert await asyncio.wait_for(task, PATIENCE) == "went on"
        assert [type(error) for error in caught] == [asyncio.CancelledError]
        assert pool.statistics().kills == 1
        assert pool.statistics().statements == 2


@pytest.mark.anyio
async def test_a_cancelled_scope_is_told_again(database: dict[str, Any]) -> None:
    """Where the cancellation is that of an anyio scope, or of trio, the next driver call raises it again."""
    caught: list[BaseException] = []
    with pool_of(1, database) as pool:
        with anyio.move_on_after(0.2):
            await keeps_on(pool, caught, "SELECT SLEEP(60)")
        cancelled = anyio.get_cancelled_exc_class()
        assert [type(error) for error in caught] == [cancelled, cancelled]
        assert pool.statistics().statements == 1


# Alarms

ALARM = """
    import asyncio, signal, sys, time
    import offload_db

    class TooLate(Exception):
        pass

    def ring(*_):
        raise TooLate

    def query():
        signal.setitimer(signal.ITIMER_REAL, 1.5)
        try:
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.execute("SELECT SLEEP(8)")
                return "came to its end"
        except TooLate:
            return "was interrupted"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    async def handler():
        return query()

    pool = offload_db.OffloadPool.from_env()
    with pool.connection() as connection:
        connection.ping()  # it is open before the alarm is set
    signal.signal(signal.SIGALRM, ring)
    mode = sys.argv[1]
    try:
        told = query() if mode == "none" else asyncio.run(offload_db.offload(mode=mode)(handler)())
    except TooLate:
        told = "ended the event loop"
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    print(told, dict(pool.statistics().discards) if mode == "none" else "")
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGALRM")
@pytest.mark.parametrize(
    ("mode", "told"),
    [("none", "was interrupted {'lost': 1}"), ("bridge", "ended the event loop"), ("thread", "ended the event loop")],
)
def test_alarms(mode: str, told: str, database: dict[str, Any], tmp_path: Path) -> None:
    """In a script an alarm interrupts the driver call; in a backend it hits the event loop and not the handler."""
    done = run_script(tmp_path, ALARM, [mode], database)
    assert done.stdout.strip() == told, done.stderr


# coverage


def told_of_coverage() -> str:
    """Return the setting that the guide gives."""
    found = re.search(r"^concurrency = (.*)$", (GUIDE / "monitoring.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


MEASURED = """
    import asyncio
    import offload_db

    def helper():
        first = offload_db.blocking(int)("1")
        second = 2
        return first + second

    @offload_db.offload
    async def bridged():
        found = helper()
        return found

    @offload_db.offload(mode="thread")
    async def in_a_thread():
        number = 3
        return number

    async def main():
        await asyncio.gather(bridged(), bridged(), in_a_thread())

    asyncio.run(main())
"""


@pytest.mark.skipif(importlib.util.find_spec("coverage") is None, reason="coverage is not installed")
@pytest.mark.parametrize(("concurrency", "whole"), [(told_of_coverage(), True), ("thread", False)])
def test_coverage(concurrency: str, whole: bool, database: dict[str, Any], tmp_path: Path) -> None:
    """With the settings that the guide gives, coverage sees every line; with its own it loses some."""
    (tmp_path / "settings").write_text(f"[run]\nconcurrency = {concurrency}\n", encoding="utf-8")
    run_script(tmp_path, MEASURED, [], database, "-m", "coverage", "run", "--rcfile=settings")
    subprocess.run([sys.executable, "-m", "coverage", "json", "-q", "--include=script.py"], cwd=tmp_path, check=True)
    report = json.loads((tmp_path / "coverage.json").read_text(encoding="utf-8"))
    missing = report["files"]["script.py"]["missing_lines"]
    assert (missing == []) == whole


def run_script(
    tmp_path: Path, source: str, arguments: list[str], database: dict[str, Any], *python: str
) -> subprocess.CompletedProcess[str]:
    """Run source code in a process of its own."""
    (tmp_path / "script.py").write_text(textwrap.dedent(source), encoding="utf-8")
    names = ("host", "port", "user", "password", "database")
    environ = {f"MYSQL_{name.upper()}": str(database[name]) for name in names}
    environ["PYTHONPATH"] = str(Path(offload_db.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *python, "script.py", *arguments],
        cwd=tmp_path,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
