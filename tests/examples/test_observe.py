"""The run-time audit on the legacy backend: it sees every audited handler with its route, and none when all is done."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.fuel_copilot import generate, steps
from offload_db.monitor.report_command import join
from tests.conftest import MySQL, needs

from .fuel_copilot_client import ROOT, TIMEOUT
from .test_fuel_copilot import AUDITED, coroutines

pytestmark = [needs("fastapi"), needs("httpx"), pytest.mark.slow]

# What somebody does who observes before any line of the backend is changed.
OBSERVER = """
import asyncio, logging, sys
sys.path.insert(0, sys.argv[1])
logging.disable(logging.CRITICAL)
from offload_db import monitor
from tests.examples.fuel_copilot_client import _ask_everything
with monitor.observe_pymysql():
    asyncio.run(_ask_everything(monitor.RequestScope(__import__("main").app)))
monitor.dump(sys.argv[2])
"""


def observe(upto: int | None, directory: Path, mysql: MySQL) -> dict[str, Any]:
    """Ask the backend everything after the first *upto* steps, and return what was seen."""
    backend, seen = directory / "backend", directory / "runtime.json"
    steps.apply(upto, backend)
    database = mysql.fresh_database()
    try:
        settings = mysql.settings(database)
        generate.fill(settings, trucks=300, scale=0.1, progress=False)
        variables = {f"MYSQL_{name.upper()}": str(value) for name, value in settings.items()}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", OBSERVER, str(backend), str(seen)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **variables},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
    finally:
        mysql.drop_database(database)
    found: dict[str, Any] = json.loads(seen.read_text(encoding="utf-8"))
    return found


def routes() -> dict[str, str]:
    """Return the method and path of each handler, as its source says."""
    found = {}
    for file, prefix in (("main.py", ""), ("api_v2.py", "/v2"), ("reporting.py", "/v2/reports")):
        for name, function in coroutines(steps.LEGACY / file).items():
            for decorator in function.decorator_list:
                if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute):
                    path = decorator.args[0]
                    assert isinstance(path, ast.Constant)
                    assert isinstance(path.value, str)
                    found[name] = f"{decorator.func.attr.upper()} {prefix}{path.value}"
    return found


def test_the_legacy_backend(tmp_path: Path, mysql: MySQL) -> None:
    """Before any change each audited handler is seen with its own route and statements, and no value of a request."""
    seen = observe(0, tmp_path, mysql)
    # Connections that a handler forgot to close are rolled back wherever they are collected.
    units = [unit for unit in join(None, [seen])["migrate_next"] if unit["function"] != "__del__"]
    handlers = {unit["function"] for unit in units}
    assert handlers >= {name for names in AUDITED.values() for name in names}
    declared = routes()
    found: dict[str, set[str]] = {}
    for unit in units:
        assert unit["endpoint"] is not None, unit
        found.setdefault(unit["function"], set()).add(f"{unit['endpoint']['method']} {unit['endpoint']['path']}")
    for handler in handlers & set(declared):
        assert declared[handler] in found[handler]
    # The dashboard awaits another handler, which is what blocks then.
    assert found["get_truck_sensors"] == {declared["get_truck_sensors"], declared["get_truck_dashboard"]}
    assert {route for each in found.values() for route in each} <= set(declared.values())
    assert {call["source"] for call in seen["blocking_calls"]} == {"pymysql", "sqlalchemy"}
    assert "SELECT" in json.dumps(seen)
    assert "FL-0208" not in json.dumps(seen)
    assert seen["hops"] == 0


def test_the_migrated_backend(tmp_path: Path, mysql: MySQL) -> None:
    """After the last step nothing is seen, neither of the pool nor of raw connections."""
    seen = observe(None, tmp_path, mysql)
    assert seen["blocking_calls"] == []
    assert seen["hops"] > 100
