"""Claims about the report that joins the static audit with what was seen at run time."""

from __future__ import annotations

import argparse
import asyncio
import copy
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from offload_db import ConfigurationError, OffloadPool, monitor
from offload_db.monitor import report_command
from offload_db.monitor.report_command import join
from tests.support import pool_of


def ask(pool: OffloadPool, seconds: float) -> None:
    """Query two calls below the handlers."""
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(%s)", (seconds,))


async def slow(pool: OffloadPool) -> None:
    ask(pool, 0.05)


async def quick(pool: OffloadPool) -> None:
    ask(pool, 0.001)
    ask(pool, 0.001)


async def unknown(pool: OffloadPool) -> None:
    ask(pool, 0.002)


def finding(function: Any, *, line: int = 0, file: str = __file__, **changes: Any) -> dict[str, Any]:
    """Make a finding of the shape that `offload-db audit --format json` prints."""
    return {
        "rule": "ODB101",
        "file": file,
        "line": inspect.getsourcelines(function)[1] + line,
        "column": 4,
        "function": function.__name__,
        "endpoint": None,
        "call": "cursor.execute",
        "severity": "high",
        "via": ["ask"],
        "migrated": False,
        **changes,
    }


@pytest.fixture
def runtime(database: dict[str, Any]) -> dict[str, Any]:
    """Give what a process has seen in which all three handlers ran."""
    with pool_of(1, database, on_loop_call="allow") as pool:

        async def handle() -> None:
            for handler in (quick, slow, unknown):
                await handler(pool)

        asyncio.run(handle())
        snapshot = monitor.snapshot()
    calls = [call for call in snapshot["blocking_calls"] if call["file"] == __file__ and call["call"] == "execute"]
    return {**snapshot, "blocking_calls": calls}


def names(units: list[dict[str, Any]]) -> list[str]:
    return [unit["function"] for unit in units]


def test_what_to_migrate_next(runtime: dict[str, Any]) -> None:
    """Handlers come by the time lost, with the audit's rules; what only one side knows is said."""
    audit = {"findings": [finding(slow, line=1), finding(quick, line=1), finding(join, line=1)], "summary": {}}
    joined = join(audit, [runtime])
    assert names(joined["migrate_next"])[0] == "slow"
    assert set(names(joined["migrate_next"])) == {"slow", "quick", "unknown"}
    first = joined["migrate_next"][0]
    assert first["rules"] == ["ODB101"]
    assert first["seconds"] >= 0.05
    assert first["share"] > 0.5
    assert first["remedy"] == "put @offload_db.offload on it"
    [site] = first["sites"]
    assert (site["function"], site["statement"], site["count"]) == ("ask", "SELECT SLEEP(%s)", 1)
    assert names(joined["not_in_audit"]) == ["unknown"]
    assert names(joined["not_seen"]) == ["join"]
    assert joined["migrated_but_blocking"] == []
    assert (joined["summary"]["findings"], joined["summary"]["findings_seen"]) == (3, 2)
    quick_one = next(unit for unit in joined["migrate_next"] if unit["function"] == "quick")
    assert quick_one["count"] == 2


def test_findings_at_the_helper(runtime: dict[str, Any]) -> None:
    """A finding that names the helper's line belongs to its own handler, not to each that calls the helper."""
    audit = {"findings": [finding(slow, line=0, migrated=True), finding(quick, line=0)]}
    for each in audit["findings"]:
        each["line"] = inspect.getsourcelines(ask)[1] + 3
    joined = join(audit, [runtime])
    assert names(joined["migrated_but_blocking"]) == ["slow"]
    assert {unit["function"]: unit["rules"] for unit in joined["migrate_next"]}["quick"] == ["ODB101"]
    assert joined["not_seen"] == []


@pytest.mark.parametrize(
    "file",
    [
        "tests/monitor/test_monitor_report.py",
        "./tests/monitor/test_monitor_report.py",
        "/ci/x/tests/monitor/test_monitor_report.py",
    ],
)
def test_paths_of_another_place(file: str, runtime: dict[str, Any]) -> None:
    """The audit may have been made in another directory than the application runs in."""
    assert names(join({"findings": [finding(slow, file=file)]}, [runtime])["not_in_audit"]) != []
    assert join({"findings": [finding(slow, file=file)]}, [runtime])["summary"]["findings_seen"] == 1
    assert join({"findings": [finding(slow, file="other/views.py")]}, [runtime])["summary"]["findings_seen"] == 0


def test_several_processes(runtime: dict[str, Any]) -> None:
    """What several workers saw is added up."""
    one, two = join(None, [runtime]), join(None, [runtime, copy.deepcopy(runtime)])
    assert two["summary"]["seconds_lost"] == pytest.approx(2 * one["summary"]["seconds_lost"])
    assert [unit["count"] for unit in two["migrate_next"]] == [2 * unit["count"] for unit in one["migrate_next"]]
    assert two["migrate_next"][0]["max_seconds"] == one["migrate_next"][0]["max_seconds"]
    assert (one["summary"]["findings"], one["not_in_audit"], one["not_seen"]) == (None, [], [])


def command(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    report_command.add_arguments(parser)
    return parser.parse_args(words)


def test_the_command(tmp_path: Path, runtime: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints text, or JSON of the same, from files."""
    audit, seen = tmp_path / "audit.json", tmp_path / "runtime.json"
    audit.write_text(json.dumps({"findings": [finding(slow, line=1), finding(join)]}), encoding="utf-8")
    seen.write_text(json.dumps(runtime), encoding="utf-8")
    assert report_command.run(command(str(audit), str(seen))) == 0
    text = capsys.readouterr().out
    assert text.index("slow, ") < text.index("quick, ")
    assert "[ODB101]" in text
    assert "[not in the audit]" in text
    assert "execute: SELECT SLEEP(%s)" in text
    assert "In the audit, and not seen blocking yet:\n  ODB101 join, " in text
    assert report_command.run(command(str(audit), str(seen), str(seen), "--format", "json")) == 0
    assert json.loads(capsys.readouterr().out) == join(json.loads(audit.read_text()), [runtime, runtime])
    assert report_command.run(command("-", str(seen))) == 0
    assert "audit" not in capsys.readouterr().out
    assert monitor.report(audit, runtime) == text.rstrip("\n")
    assert json.loads(monitor.report(None, runtime, format="json"))["summary"]["findings"] is None


@pytest.mark.parametrize("content", [None, "", "[1]", '{"findings": 5}', "\udcff"])
def test_files_that_are_no_reports(content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is missing or something else ends the command with 2 and says what was expected."""
    file = tmp_path / "wrong.json"
    if content is not None:
        file.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert report_command.run(command(str(file), str(file))) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "wrong.json" in shown.err
    assert "offload-db audit --format json" in shown.err
    with pytest.raises(ConfigurationError, match=r"monitor\.dump"):
        report_command.read_runtime(file)
    with pytest.raises(ConfigurationError, match=r"wrong\.json"):
        monitor.report(file)


def test_bad_format() -> None:
    with pytest.raises(ConfigurationError, match=r"format=<text, not shown>; accepted are 'text' and 'json'"):
        monitor.report(format="html")  # type: ignore[arg-type]  # what is tested


def test_nothing_seen() -> None:
    """Where nothing blocked the report says so, and no more."""
    empty: dict[str, Any] = {"format": 1, "pid": 1, "loop_lag": None, "hops": 7, "blocking_calls": []}
    text = monitor.report({"findings": []}, empty)
    assert text.splitlines()[0] == (
        "The event loop stood still for 0.00 s in 0 calls; 7 trips to a worker thread left it free."
    )
    assert "Migrate next" not in text
