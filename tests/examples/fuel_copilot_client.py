"""Asks the fuel_copilot backend for everything it serves, in a process of its own.

Its modules have the same names after every step, so each state of it needs an interpreter of its own. Run as a
script, it takes the backend's directory as its argument and prints what it got as one JSON object.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 50.0

TRUCK = "FL-0208"  # has a week of metrics
POOR = "FL-0003"  # has none
NOBODY = "FL-9999"

SERVICE = {
    "component": "turbocharger",
    "service_type": "REPAIR",
    "engine_hours": 9123.5,
    "cost_usd": 812.4,
    "notes": "boost leak — «fixed»",
}

# Each is (method, path, body). Every route is here, with its error paths.
READS: tuple[tuple[str, str, Any], ...] = tuple(
    ("GET", path, None)
    for path in (
        "/health",
        "/api/trucks",
        "/api/trucks?terminal=Dallas&limit=5",
        "/api/trucks?limit=0",
        "/api/terminals",
        f"/api/truck/{TRUCK}/sensors",
        f"/api/truck/{POOR}/sensors",
        f"/api/truck/{TRUCK}/odometer",
        f"/api/truck/{NOBODY}/odometer",
        f"/api/truck/{TRUCK}/refuels",
        f"/api/truck/{NOBODY}/refuels",
        f"/api/truck/{TRUCK}/dtc-summary",
        f"/api/truck/{NOBODY}/dtc-summary",
        f"/api/truck/{TRUCK}/location",
        f"/api/truck/{POOR}/location",
        f"/api/truck/{NOBODY}/location",
        f"/api/truck/{TRUCK}/dashboard",
        f"/api/truck/{POOR}/dashboard",
        f"/api/truck/{TRUCK}/metric/coolant_temp_f?points=30",
        f"/api/truck/{TRUCK}/metric/no_such_column",
        f"/api/truck/{TRUCK}/metric/Not-A-Name",
        f"/api/truck/{TRUCK}/cost-per-mile",
        f"/api/truck/{NOBODY}/cost-per-mile",
        f"/api/truck/{TRUCK}/fuel-trend?points=120",
        f"/api/truck/{POOR}/fuel-trend",
        f"/api/truck/{TRUCK}/maintenance/predictive",
        f"/api/truck/{POOR}/maintenance/predictive?days=365",
        f"/api/truck/{NOBODY}/maintenance/predictive",
        f"/api/truck/{TRUCK}/maintenance/predictive?days=soon",
        f"/api/truck/{TRUCK}/components",
        f"/api/truck/{NOBODY}/components",
        f"/api/truck/{TRUCK}/service-history",
        "/api/audit-log",
        "/api/fleet/summary",
        "/api/fleet/summary?days=1",
        "/api/fleet/last-refuels?limit=12",
        "/api/fleet/overview",
        "/api/reports/metrics",
        f"/v2/truck/{TRUCK}/sensors/cache",
        f"/v2/truck/{NOBODY}/sensors/cache",
        f"/v2/truck/{TRUCK}/events?days=30&limit=3",
        f"/v2/truck/{TRUCK}/events?limit=501",
        "/v2/fleet/refuels",
        "/v2/fleet/refuels?days=3&min_gallons=60&terminal=Laredo",
        "/v2/fleet/drivers/scorecard",
        "/v2/fleet/drivers/scorecard?days=2&top=5",
        f"/v2/truck/{TRUCK}/specs",
        f"/v2/truck/{NOBODY}/specs",
        "/v2/dtcs",
        f"/v2/dtcs?truck_id={TRUCK}&severity=warning&only_open=true",
        "/v2/dtcs?system=Cool&limit=4",
        f"/v2/truck/{TRUCK}/history?days=2",
        f"/v2/truck/{POOR}/history",
        f"/v2/truck/{TRUCK}",
        f"/v2/truck/{NOBODY}",
        "/v2/fleet/health",
        "/v2/fleet/efficiency",
        "/v2/reports/refuels?limit=5",
        f"/v2/reports/truck/{TRUCK}/refuels",
        f"/v2/reports/truck/{NOBODY}/refuels",
        f"/v2/truck/{TRUCK}/idle-cost",
        f"/v2/truck/{POOR}/idle-cost",
        "/no/such/route",
    )
)
WRITES: tuple[tuple[str, str, Any], ...] = (
    ("POST", f"/api/truck/{TRUCK}/service", SERVICE),
    ("POST", f"/api/truck/{TRUCK}/service", {**SERVICE, "component": "flux_capacitor"}),
    ("POST", f"/api/truck/{TRUCK}/service", {**SERVICE, "service_type": "PRAYER"}),
    # The model lets 60 characters through, the column holds 30: the server refuses inside the transaction.
    ("POST", f"/api/truck/{TRUCK}/service", {**SERVICE, "component": "x" * 40}),
    ("PUT", f"/api/truck/{TRUCK}/component/brakes/interval", {"service_interval_hours": 1750}),
    ("PUT", f"/api/truck/{NOBODY}/component/brakes/interval", {"service_interval_hours": 1750}),
    ("PUT", f"/api/truck/{TRUCK}/component/brakes/interval", {}),
    # Too large for an INT column: the server refuses, and nobody catches the error.
    ("PUT", f"/api/truck/{TRUCK}/component/brakes/interval", {"service_interval_hours": 3_000_000_000}),
    ("POST", f"/api/truck/{TRUCK}/inspection", {"inspector_code": "I-07", "passed": True}),
    ("POST", f"/api/truck/{POOR}/inspection", {"inspector_code": "I-11", "passed": False}),
    ("POST", f"/api/truck/{NOBODY}/inspection", {"inspector_code": "I-07", "passed": True}),
)
REQUESTS = (*READS, *WRITES, *READS)  # the second time, the reads show what the writes did

# The pool has 20 connections, and the legacy backend deadlocks when as many requests hold one and one more asks.
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Answers:
    """What a backend said, one (status, body) for each request, and what its pool counted."""

    in_turn: list[Any]
    at_once: list[Any]
    seconds: list[float]
    blocking_functions: list[str]
    in_use: int | None
    statements: int


def ask(backend: Path, settings: dict[str, Any], **environment: str) -> Answers:
    """Run the backend in *backend* on the database that *settings* name, and ask it everything."""
    variables = {f"MYSQL_{name.upper()}": str(value) for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, str(backend)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **variables, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"the backend ended with status {done.returncode}:\n{done.stderr[-4000:]}")
    return Answers(**json.loads(done.stdout))


async def _ask_everything(app: Any) -> tuple[list[Any], list[Any], list[float]]:
    import httpx

    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://backend", timeout=None) as client:

        async def one(method: str, path: str, body: Any) -> list[Any]:
            response = await client.request(method, path, json=body)
            is_json = response.headers.get("content-type") == "application/json"
            return [response.status_code, response.json() if is_json else response.text]

        in_turn, seconds = [], []
        for request in REQUESTS:
            started = time.perf_counter()
            in_turn.append(await one(*request))
            seconds.append(time.perf_counter() - started)

        slots = asyncio.Semaphore(AT_ONCE)

        async def one_of_many(request: tuple[str, str, Any]) -> list[Any]:
            async with slots:
                return await one(*request)

        at_once = await asyncio.gather(*map(one_of_many, READS))
    return in_turn, list(at_once), seconds


def main() -> None:
    """Import the backend in the directory that is the first argument, ask it everything and print the answers."""
    sys.path.insert(0, sys.argv[1])
    logging.disable(logging.CRITICAL)  # the errors are provoked, and compared
    main_module = __import__("main")
    in_turn, at_once, seconds = asyncio.run(_ask_everything(main_module.app))
    # Error paths that do not close their connection leave it to Python, and old frameworks keep the error in a cycle.
    gc.collect()
    pool = __import__("database_mysql").pool
    wrapped = hasattr(pool, "statistics")
    answers = {
        "in_turn": in_turn,
        "at_once": at_once,
        "seconds": seconds,
        "blocking_functions": sorted({call.function for call in pool.blocking_calls()}) if wrapped else [],
        "in_use": pool.statistics().in_use if wrapped else None,
        "statements": pool.statistics().statements if wrapped else 0,
    }
    sys.stdout.write(json.dumps(answers))  # json.dump() writes each of its 400,000 parts by itself


if __name__ == "__main__":
    main()
