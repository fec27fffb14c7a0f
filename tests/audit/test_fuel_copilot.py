"""The audited backend: all that the audit by hand found, all that it did not, and the migration of it."""

from __future__ import annotations

import re
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from examples.fuel_copilot import steps
from offload_db.__main__ import main
from offload_db.audit import Context, Report, audit, examine
from offload_db.audit.migrate import migrate
from tests.conftest import MySQL, needs
from tests.examples.fuel_copilot_client import ask
from tests.examples.test_fuel_copilot import AUDITED, NO_DATABASE, Backend, coroutines, decorators
from tests.once import common_directory

ROUTES = {
    "get_truck_sensors": "GET /api/truck/{truck_id}/sensors",
    "get_predictive_maintenance": "GET /api/truck/{truck_id}/maintenance/predictive",
    "get_sensors_cache": "GET /v2/truck/{truck_id}/sensors/cache",
    "get_truck_events": "GET /v2/truck/{truck_id}/events",
    "get_fleet_refuels": "GET /v2/fleet/refuels",
    "get_driver_scorecard": "GET /v2/fleet/drivers/scorecard",
    "get_truck_specs": "GET /v2/truck/{truck_id}/specs",
    "search_dtcs": "GET /v2/dtcs",
    "get_truck_history": "GET /v2/truck/{truck_id}/history",
    "get_truck_detail": "GET /v2/truck/{truck_id}",
    "get_fleet_health": "GET /v2/fleet/health",
    "get_fleet_efficiency": "GET /v2/fleet/efficiency",
    "get_idle_cost": "GET /v2/truck/{truck_id}/idle-cost",
}
# Coroutines that block, by whatever way.
BLOCKING = 36
# What blocks besides the seventeen, through helpers and a repository.
HIDDEN = {
    "list_terminals": ("TruckRepository.terminals",),
    "get_dtc_summary": ("TruckRepository.exists",),
    "get_truck_dashboard": ("TruckRepository.get",),
    "report_inspection": ("TruckRepository.exists",),
    "get_fleet_summary": ("build_fleet_summary", "_consumption", "_query"),
    "get_last_refuels": ("last_refuel",),
}


@pytest.fixture(scope="module")
def legacy() -> Report:
    return audit([steps.LEGACY])


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    """Copy the backend as it was."""
    return shutil.copytree(steps.LEGACY, tmp_path / "backend", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.mark.parametrize("file", AUDITED)
def test_the_seventeen(legacy: Report, file: str) -> None:
    """Each of the seventeen audited sites is found at its line, with its route."""
    for name, count in AUDITED[file].items():
        found = [f for f in legacy.findings if f.function == name and f.rule == "ODB101"]
        assert len(found) == count
        for finding in found:
            source = (steps.LEGACY / file).read_text(encoding="utf-8").splitlines()[finding.line - 1]
            assert source[finding.column - 1 :].startswith("cursor.execute(")
            assert Path(finding.file).name == file
            assert str(finding.endpoints[0]) == ROUTES[name]
            assert (finding.call, finding.via, finding.migrated) == ("cursor.execute", (), False)


def test_the_hidden_ones(legacy: Report) -> None:
    """What the audit by hand missed is found through helpers, with the chain to the driver."""
    for name, via in HIDDEN.items():
        assert via in [f.via for f in legacy.findings if f.function == name and f.rule == "ODB104"], name
    # Everything that the steps decorate blocks, and nothing else does.
    every = {name for file in ("main.py", "api_v2.py", "reporting.py") for name in coroutines(steps.LEGACY / file)}
    assert {handler.function for handler in legacy.handlers if handler.blocking} == every - NO_DATABASE
    assert {f.function for f in legacy.findings if f.rule == "ODB302"} == {"get_fleet_overview"}
    assert [f.file.rsplit("/", 1)[-1] for f in legacy.findings if f.rule == "ODB304"] == ["repository.py"]


def test_severity(legacy: Report) -> None:
    """The polled endpoint is the worst; a scan of the fleet is worse than a look-up."""
    worst = [f.function for f in legacy.findings if f.severity == "critical" and f.rule == "ODB101"]
    assert worst == ["get_sensors_cache"]
    severities = {f.function: f.severity for f in legacy.findings if f.rule == "ODB101"}
    assert severities["get_truck_specs"] == "medium"
    assert {f.severity for f in legacy.findings if f.function == "get_fleet_health"} >= {"high"}


@pytest.mark.parametrize("upto", range(len(steps.names()) + 1))
def test_burn_down(tmp_path: Path, upto: int) -> None:
    """Each step leaves fewer open findings, and after the last one there is none: no false alarm."""
    steps.apply(upto, tmp_path / "after")
    report = audit([tmp_path / "after"])
    done, blocking = report.progress()
    assert blocking == BLOCKING
    # The decorators of two that go through the engine are in vain until that is changed.
    assert done == [0, 0, 1, 5, BLOCKING - 2, BLOCKING][upto]
    if upto == len(steps.names()):
        assert report.open == []
        assert {finding.migrated for finding in report.findings} == {True}
    else:
        assert report.open


def test_migrated_like_the_steps(backend: Path, tmp_path: Path) -> None:
    """The migration gives what the steps give, but for two things that a tool does not do.

    `get_fuel_trend` has mode="thread" in the steps, because its calculation is long. The handlers that read through
    SQLAlchemy's own engine get mode="thread" here, where the steps put an engine on the pool.
    """
    assert main(["migrate", str(backend), "--write", "--quiet"]) == 0
    steps.apply(None, tmp_path / "by_hand")
    for file in sorted(steps.LEGACY.glob("*.py")):
        by_hand = (tmp_path / "by_hand" / file.name).read_text(encoding="utf-8")
        by_hand = "".join(line for line in by_hand.splitlines(keepends=True) if "contrib.sqlalchemy" not in line)
        migrated = (backend / file.name).read_text(encoding="utf-8")
        assert migrated.count('(mode="thread")') == (2 if file.name == "reporting.py" else 0), file.name
        assert migrated.replace('(mode="thread")', "") == by_hand.replace('(mode="thread")', ""), file.name
    after = audit([backend])
    assert after.open == []
    assert after.places == []


def test_migrating_again(backend: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second migration changes nothing."""
    assert main(["migrate", str(backend), "--write", "--quiet"]) == 0
    before = {path.name: path.read_bytes() for path in backend.glob("*.py")}
    capsys.readouterr()
    assert main(["migrate", str(backend), "--write"]) == 0
    assert {path.name: path.read_bytes() for path in backend.glob("*.py")} == before
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "decorated" not in re.sub(r"offloaded already|is decorated itself", "", shown.err)


def test_diff(backend: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --write the diff is printed, which only adds lines, and no file is changed."""
    assert main(["migrate", str(backend), "--verbose"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line for line in lines if line.startswith("-") and not line.startswith("---")] == []
    assert sum(line.startswith("+@offload_db.offload") for line in lines) == BLOCKING
    for file in steps.LEGACY.glob("*.py"):
        assert (backend / file.name).read_bytes() == file.read_bytes()
    for name in ("health", "list_trucks", "get_fleet_overview"):
        assert re.search(rf"left alone .*\b{name}: ", shown.err), name


def test_one_route(backend: Path) -> None:
    """--only decorates the handler of one route, and wraps the pool."""
    assert (
        main(["migrate", str(backend), "--write", "--quiet", "--only", "GET:/v2/truck/{truck_id}/sensors/cache"]) == 0
    )
    done = {
        name
        for file in ("main.py", "api_v2.py")
        for name, function in coroutines(backend / file).items()
        if decorators(function)[-1:] == ["offload_db.offload"]
    }
    assert done == {"get_sensors_cache"}
    assert "pool = offload_db.OffloadPool(pool)" in (backend / "database_mysql.py").read_text(encoding="utf-8")
    context = examine([backend])
    assert isinstance(context, Context)
    overview = migrate(context, ["GET:/api/fleet/overview"])
    assert {decorate.scope.name for decorate in overview.plan.decorate} == {"count_open_codes", "count_moving"}


@pytest.mark.slow
@needs("fastapi")
@needs("httpx")
@pytest.mark.timeout(180)  # the other tests of the backend may be asking just then
def test_same_answers(
    backend: Path, mysql: MySQL, database: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The migrated backend gives the answers of the one before, and nothing in it blocks."""
    with closing(Backend(mysql, tmp_path_factory.mktemp("legacy"), common_directory(tmp_path_factory))) as legacy:
        before = legacy.after(0)
        legacy.fill(database)
    assert main(["migrate", str(backend), "--write", "--quiet"]) == 0
    after = ask(backend, database)
    assert after.in_turn == before.in_turn
    assert after.at_once == before.at_once
    assert after.blocking_functions == []
    assert after.in_use == 1  # the repository keeps its connection
