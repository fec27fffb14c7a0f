"""The audited backend: its migration only adds lines, changes no answer, and ends with a free loop."""

from __future__ import annotations

import ast
import re
import runpy
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
import pytest

from examples.fuel_copilot import generate, steps
from tests.conftest import MySQL, needs
from tests.faults.scripted import Scripted, usual
from tests.once import common_directory, once

from .fuel_copilot_client import READS, REQUESTS, TRUCK, Answers, ask

# The handlers that hold the audit's 17 call sites, and how many each holds.
AUDITED = {
    "main.py": {"get_truck_sensors": 1, "get_predictive_maintenance": 3},
    "api_v2.py": {
        "get_sensors_cache": 1,
        "get_truck_events": 1,
        "get_fleet_refuels": 1,
        "get_driver_scorecard": 2,
        "get_truck_specs": 1,
        "search_dtcs": 1,
        "get_truck_history": 1,
        "get_truck_detail": 1,
        "get_fleet_health": 2,
        "get_fleet_efficiency": 1,
        "get_idle_cost": 1,
    },
}
NO_DATABASE = {"health", "fetch_weather", "get_fleet_overview"}  # the last awaits two that are decorated themselves
STEPS = range(len(steps.names()) + 1)


def patch_lines(name: str) -> list[str]:
    return (steps.STEPS / f"{name}.patch").read_text(encoding="utf-8").splitlines()


def coroutines(file: Path) -> dict[str, ast.AsyncFunctionDef]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.AsyncFunctionDef)}


def decorators(function: ast.AsyncFunctionDef) -> list[str]:
    return [ast.unparse(decorator) for decorator in function.decorator_list]


def execute_calls(function: ast.AsyncFunctionDef) -> int:
    return sum(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "execute"
        for node in ast.walk(function)
    )


class TestSteps:
    def test_legacy_knows_nothing(self) -> None:
        """The backend as it was does not mention the library."""
        for file in steps.LEGACY.glob("*.py"):
            assert "offload" not in file.read_text(encoding="utf-8"), file

    @pytest.mark.parametrize("file", AUDITED)
    def test_audited_sites(self, file: str) -> None:
        """The backend holds the audit's call sites: 4 in main.py and 13 in api_v2.py, all in `async def` handlers."""
        found = {name: execute_calls(function) for name, function in coroutines(steps.LEGACY / file).items()}
        assert {name: found.get(name) for name in AUDITED[file]} == AUDITED[file]
        assert sum(AUDITED[file].values()) == {"main.py": 4, "api_v2.py": 13}[file]

    @pytest.mark.parametrize("name", steps.names())
    def test_only_added_lines(self, name: str) -> None:
        """A step removes and changes no line, and what it adds is an import, the wrap or a decorator."""
        added = [line[1:] for line in patch_lines(name) if line.startswith("+") and not line.startswith("+++ ")]
        assert not [line for line in patch_lines(name) if line.startswith("-") and not line.startswith("--- ")]
        assert added
        expected = re.compile(
            r"import offload_db(\.contrib\.sqlalchemy)?|pool = offload_db\.OffloadPool\(pool\)"
            r'|@offload_db\.offload(\(mode="thread"\))?'
            r"|engine = offload_db\.contrib\.sqlalchemy\.create_engine\(database_mysql\.pool\)"
        )
        assert [line for line in added if not expected.fullmatch(line)] == []

    @pytest.mark.parametrize("upto", STEPS)
    def test_steps_apply_in_order(self, tmp_path: Path, upto: int) -> None:
        """Each step applies on the one before, and without the added lines the files are what they were."""
        target = tmp_path / "backend"
        assert steps.apply(upto, target) == steps.names()[:upto]
        for file in steps.LEGACY.glob("*.py"):
            patched = (target / file.name).read_text(encoding="utf-8").splitlines()
            kept = [line for line in patched if "offload_db" not in line]
            assert kept == file.read_text(encoding="utf-8").splitlines()
            ast.parse("\n".join(patched))

    def test_none_applies_all(self, tmp_path: Path) -> None:
        """`upto=None` applies every step."""
        assert steps.apply(None, tmp_path) == steps.names()

    def test_only_what_blocks_stays_undecorated(self, tmp_path: Path) -> None:
        """At the end every coroutine is decorated directly above its `async def`, but for those without a query."""
        steps.apply(None, tmp_path)
        for file in ("main.py", "api_v2.py", "reporting.py"):
            for name, function in coroutines(tmp_path / file).items():
                offloaded = [d for d in decorators(function) if d.startswith("offload_db.offload")]
                if name in NO_DATABASE:
                    assert offloaded == []
                else:
                    assert decorators(function)[-1:] == offloaded, name

    def test_first_what_hurts_most(self, tmp_path: Path) -> None:
        """The order is the audit's: the polled endpoint, then the high ones, then the rest."""
        done: list[set[str]] = []
        for upto in STEPS:
            target = tmp_path / str(upto)
            steps.apply(upto, target)
            functions = {**coroutines(target / "main.py"), **coroutines(target / "api_v2.py")}
            done.append({name for name, f in functions.items() if any("offload" in d for d in decorators(f))})
        assert done[:3] == [set(), set(), {"get_sensors_cache"}]
        assert done[3] - done[2] == {
            "get_truck_sensors",
            "get_predictive_maintenance",
            "get_fleet_refuels",
            "get_fleet_health",
        }
        assert done[4] >= set(AUDITED["main.py"]) | set(AUDITED["api_v2.py"])

    def test_steps_out_of_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A step that does not fit the file is refused."""
        monkeypatch.setattr(steps, "names", lambda: ["01-wrap-the-pool", "03-high", "02-polled-endpoint"])
        with pytest.raises(steps.StepError, match=r"03-high: api_v2\.py line \d+ is not .*in order"):
            steps.apply(None, tmp_path)

    @pytest.mark.parametrize(
        ("body", "complaint"),
        [
            ("@@ -1,2 +1,1 @@\n-import os\n \n", "only adds lines"),
            ("@@ -1,1 +1,3 @@\n+import offload_db\n", "only adds lines"),
            ("@@ -1,3 +1,2 @@\n+import offload_db\n import os\n", "length"),
            ("@@ -1,1 +1,2 @@\n+import offload_db\n import sys\n", "line 1 is not 'import sys'"),
            ("import offload_db\n", "neither a file nor a hunk"),
        ],
    )
    def test_strict(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, complaint: str) -> None:
        """Whatever is not an added line between known ones is refused."""
        for directory in ("legacy", "steps"):
            (tmp_path / directory).mkdir()
        (tmp_path / "legacy" / "a.py").write_text("import os\n", encoding="utf-8")
        (tmp_path / "steps" / "01.patch").write_text(f"--- a/a.py\n+++ b/a.py\n{body}", encoding="utf-8")
        monkeypatch.setattr(steps, "LEGACY", tmp_path / "legacy")
        monkeypatch.setattr(steps, "STEPS", tmp_path / "steps")
        with pytest.raises(steps.StepError, match=complaint):
            steps.apply(None, tmp_path / "target")

    def test_target_in_use(self, tmp_path: Path) -> None:
        """A directory with something in it is never written to."""
        (tmp_path / "precious.txt").write_text("keep", encoding="utf-8")
        with pytest.raises(steps.StepError, match="exists already"):
            steps.apply(None, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]

    def test_too_many_steps(self, tmp_path: Path) -> None:
        """More steps than there are is an error that says how many there are."""
        with pytest.raises(steps.StepError, match="there are 5 steps"):
            steps.apply(6, tmp_path)

    def test_command_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The command lists the steps, writes the backend, and reports a mistake with status 1."""
        assert steps.main([]) == 0
        assert capsys.readouterr().out.split() == steps.names()
        assert steps.main([str(tmp_path / "backend"), "--upto", "2"]) == 0
        assert "02-polled-endpoint" in capsys.readouterr().out
        assert steps.main([str(tmp_path / "backend")]) == 1
        assert "exists already" in capsys.readouterr().err


class Backend:
    """Asks the backend after each step; once only in all processes of the tests, because it takes some seconds."""

    def __init__(self, mysql: MySQL, directory: Path, common: Path) -> None:
        self.mysql = mysql
        self.directory = directory
        self.common = common
        self._filled: str | None = None

    def close(self) -> None:
        """Drop the database that others were copied from."""
        if self._filled is not None:
            self.mysql.drop_database(self._filled)

    def after(self, upto: int) -> Answers:
        """Return what the backend answers after the first *upto* steps."""
        return once(self.common, f"fuel-copilot-{upto}", lambda: self.ask(upto))

    def fill(self, settings: dict[str, Any]) -> None:
        """Put enough trucks for FL-0208 into a database, and enough readings for the report of 10,000 rows.

        They are generated once, and copied from then on.
        """
        if self._filled is None:
            self._filled = self.mysql.fresh_database()
            generate.fill(self.mysql.settings(self._filled), trucks=300, scale=0.3, progress=False)
        with self.mysql.connect(database=settings["database"]) as connection, connection.cursor() as cursor:
            cursor.execute(f"SHOW TABLES FROM {self._filled}")
            for (table,) in cursor.fetchall():
                cursor.execute(f"CREATE TABLE {table} LIKE {self._filled}.{table}")
                cursor.execute(f"INSERT INTO {table} SELECT * FROM {self._filled}.{table}")

    def ask(self, upto: int, addition: str = "", **environment: str) -> Answers:
        target = Path(tempfile.mkdtemp(dir=self.directory, prefix=f"{upto}-"))
        steps.apply(upto, target)
        with (target / "main.py").open("a", encoding="utf-8") as file:
            file.write(addition)
        database = self.mysql.fresh_database()
        try:
            settings = self.mysql.settings(database)
            self.fill(settings)
            return ask(target, settings, **environment)
        finally:
            self.mysql.drop_database(database)


@pytest.fixture(scope="module")
def backend(mysql: MySQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with closing(Backend(mysql, tmp_path_factory.mktemp("backend"), common_directory(tmp_path_factory))) as backend:
        yield backend


@needs("fastapi")
@needs("httpx")
@pytest.mark.timeout(180)  # the first may have to wait for what another process asks
class TestAnswers:
    def test_requests_cover_every_route(self) -> None:
        """Every route of the backend is asked for, and has answered well at least once."""
        declared = set()
        for file, prefix in (("main.py", ""), ("api_v2.py", "/v2"), ("reporting.py", "/v2/reports")):
            text = (steps.LEGACY / file).read_text(encoding="utf-8")
            for method, path in re.findall(r'^@(?:app|router)\.(\w+)\("([^"]+)"', text, re.MULTILINE):
                declared.add((method.upper(), re.compile(re.sub(r"\{\w+\}", "[^/]+", prefix + path) + r"(\?.*)?")))
        assert len(declared) > 30
        for method, pattern in declared:
            assert [r for r in REQUESTS if r[0] == method and pattern.fullmatch(r[1])], pattern.pattern

    def test_before(self, backend: Backend) -> None:
        """The backend as it was serves data, and its error paths: 404, 422 and 500."""
        before = backend.after(0)
        first = dict(zip([path for _, path, _ in READS], before.in_turn, strict=False))
        assert {status for status, _ in before.in_turn} == {200, 201, 202, 404, 422, 500}
        assert len(first[f"/v2/truck/{TRUCK}/sensors/cache"][1]) == 23
        assert first["/api/reports/metrics"][1]["count"] == 10_000
        assert first[f"/api/truck/{TRUCK}/maintenance/predictive"][1]["open_codes"]
        # The reads after the writes show the committed service, not those that were rolled back, and the audit log.
        later = dict(zip([path for _, path, _ in reversed(READS)], reversed(before.in_turn), strict=False))
        services = f"/api/truck/{TRUCK}/service-history"
        assert len(later[services][1]["services"]) == len(first[services][1]["services"]) + 1
        assert len(later["/api/audit-log"][1]) == 2

    @pytest.mark.parametrize("upto", STEPS[1:])
    def test_same_answers(self, backend: Backend, upto: int) -> None:
        """After every step each request gets the status and the JSON it got before, in turn and eight at once."""
        before, after = backend.after(0), backend.after(upto)
        for request, old, new in zip(REQUESTS, before.in_turn, after.in_turn, strict=True):
            assert new == old, request
        for request, old, new in zip(READS, before.at_once, after.at_once, strict=True):
            assert new == old, request
        # The repository keeps its connection for good; everything else came back.
        assert after.in_use == 1

    def test_nothing_blocks_at_the_end(self, backend: Backend) -> None:
        """Each step shortens the list of functions that block the loop, and after the last it is empty."""
        blocking = [set(backend.after(upto).blocking_functions) for upto in STEPS[1:]]
        assert "get_sensors_cache" in blocking[0]
        assert blocking[0] > blocking[1] > blocking[2] > blocking[3] == blocking[4] == set()

    def test_the_engine_is_the_pools_at_the_end(self, backend: Backend) -> None:
        """Before the last step the SQLAlchemy part queries past the pool, unseen; then it counts that, too."""
        statements = [backend.after(upto).statements for upto in STEPS[1:]]
        assert len(set(statements[:4])) == 1
        assert statements[4] > statements[3]

    def test_the_middleware_instead_of_decorators(self, backend: Backend) -> None:
        """One line frees all of the wrapped backend but for the tasks that a handler starts, and changes no answer."""
        line = "\nfrom offload_db.contrib.asgi import OffloadMiddleware\napp.add_middleware(OffloadMiddleware)\n"
        before, after = backend.after(0), backend.ask(1, line)
        assert after.in_turn == before.in_turn
        assert after.at_once == before.at_once
        assert after.in_use == 1
        # Where no connection is idle just then, these tasks have one opened by the helper that they call.
        assert set(after.blocking_functions) - {"get_db_connection"} == {"count_open_codes", "count_moving"}

    def test_delay(self, backend: Backend) -> None:
        """FUEL_QUERY_DELAY slows each SELECT once, however many rows it returns, and changes no answer."""
        slowed = backend.ask(len(STEPS) - 1, FUEL_QUERY_DELAY="0.01")
        assert slowed.in_turn == backend.after(0).in_turn
        seconds = {path: duration for (_, path, _), duration in zip(REQUESTS, slowed.seconds, strict=True)}
        assert seconds[f"/v2/truck/{TRUCK}/sensors/cache"] >= 0.01
        assert seconds[f"/api/truck/{TRUCK}/maintenance/predictive"] >= 0.03  # three statements
        assert seconds["/api/reports/metrics"] < 10  # 10,000 rows: once per row would take 100 s


def test_the_delay_on_mysql(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server is not MariaDB, the delay is spent in a statement of its own, right before each SELECT."""
    with Scripted(usual) as server:
        for name in ("host", "port", "user", "password"):
            monkeypatch.setenv(f"MYSQL_{name.upper()}", str(server.address[name]))
        monkeypatch.setenv("FUEL_QUERY_DELAY", "0.01")
        pool = runpy.run_path(str(steps.LEGACY / "database_mysql.py"))["pool"]
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 7")
            assert cursor.fetchone() == ("7",)
        pool.close()
    assert [command[1:] for command in server.commands][-3:-1] == [b"DO SLEEP(0.01)", b"SELECT 7"]


class TestGenerate:
    def checksums(self, settings: dict[str, Any]) -> dict[str, int]:
        with pymysql.connect(**settings, ssl_disabled=True) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW TABLES")
            tables = [table for (table,) in cursor.fetchall()]
            cursor.execute(f"CHECKSUM TABLE {', '.join(tables)}")
            return {table.split(".")[1]: checksum for table, checksum in cursor.fetchall()}

    def fill(self, settings: dict[str, Any], **options: Any) -> dict[str, int]:
        return generate.fill(settings, **{"trucks": 40, "scale": 0.1, "progress": False, **options})

    def test_reproducible(self, database: dict[str, Any]) -> None:
        """The same seed gives the same tables, byte for byte, and another seed others."""
        counts = self.fill(database)
        first = self.checksums(database)
        assert self.fill(database) == counts
        assert self.checksums(database) == first
        self.fill(database, seed=1)
        other = self.checksums(database)
        assert {table for table in first if first[table] == other[table]} == {"ingest_status", "audit_log"}

    def test_fleet(self, database: dict[str, Any]) -> None:
        """By default 1,000 trucks have a row in the sensors cache, and 20 a week of readings every 5 minutes."""
        counts = generate.fill(database, progress=False)
        assert counts["trucks"] == counts["truck_sensors_cache"] == 1000
        assert counts["fuel_metrics"] == 20 * 7 * 24 * 12
        with pymysql.connect(**database, ssl_disabled=True) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT COUNT(*), MAX(timestamp_utc) FROM fuel_metrics WHERE truck_id = %s", (TRUCK,))
            assert cursor.fetchone() == (2016, generate.LAST_INGEST)

    def test_missing_database(self, mysql: MySQL) -> None:
        """The database is created if it is missing."""
        name = mysql.fresh_database()
        mysql.drop_database(name)
        try:
            assert self.fill(mysql.settings(name))["trucks"] == 40
        finally:
            mysql.drop_database(name)

    def test_unreachable(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A server that cannot be reached is named, with what to check."""
        nowhere = {"host": "127.0.0.1", "port": 1, "user": "root", "password": "", "database": "fuel"}
        with pytest.raises(generate.GenerateError, match=r"no connection to root@127\.0\.0\.1:1: .*--host, --port"):
            self.fill(nowhere)
        assert generate.main(["--host", "127.0.0.1", "--port", "1", "--quiet"]) == 1
        assert "check that the server runs" in capsys.readouterr().out

    @pytest.mark.parametrize("options", [{"trucks": 0}, {"scale": 0}])
    def test_bad_volume(self, options: dict[str, Any]) -> None:
        """No trucks and no scale are refused before anything is connected."""
        with pytest.raises(generate.GenerateError, match="accepted are"):
            self.fill({"database": "fuel"}, **options)

    @needs("tqdm")
    def test_progress(self, database: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        """The command shows a bar on standard error and the counts on standard output."""
        options = [f"--{name}={value}" for name, value in database.items()]
        assert generate.main([*options, "--trucks", "5", "--scale", "0.05"]) == 0
        shown = capsys.readouterr()
        assert "100%" in shown.err
        assert re.search(r"truck_sensors_cache +5 rows", shown.out)
