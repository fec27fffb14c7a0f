"""Claims about the dashboard and the alert rules for Prometheus: they ask for what the collectors export."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import anyio
import pytest

pytest.importorskip("prometheus_client")

import prometheus_client
from prometheus_client.parser import text_string_to_metric_families

import offload_db
from offload_db import Lane, OffloadPool, monitor, rollout
from offload_db.contrib.prometheus import PoolCollector, ProcessCollector
from tests.evidence import ROOT
from tests.support import pool_of, value

FILES = ROOT / "examples" / "monitoring"
ALERTS = FILES / "alerts.yaml"
# What Prometheus itself adds to each series, and the bounds of a histogram.
EVERYWHERE = {"job", "instance", "le"}


@offload_db.offload
async def seen(pool: OffloadPool, statement: str) -> None:
    with pool.connection(lane="reports") as connection:
        value(connection, statement)


@pytest.fixture
def exported(database: dict[str, Any]) -> dict[str, set[str]]:
    """Give each series that the collectors export when there is something of everything, with its labels."""
    found: dict[str, set[str]] = {}

    async def something_of_everything() -> None:
        with pool_of(2, database, lanes=[Lane("reports", 1)], on_loop_call="allow") as pool:
            async with monitor.watch():
                await seen(pool, "SELECT 1")
                rollout.set(f"{__name__}.seen", "observe")
                await seen(pool, "SELECT 1")
                for statement in ("SELECT wrong", "KILL CONNECTION_ID()"):
                    with pytest.raises(Exception, match=r"wrong|interrupted|Lost connection|killed"):
                        await seen(pool, statement)
                registry = prometheus_client.CollectorRegistry()
                registry.register(PoolCollector(pool))
                registry.register(ProcessCollector())
                text = prometheus_client.generate_latest(registry).decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)

    anyio.run(something_of_everything)
    return found


def expressions() -> dict[str, str]:
    """Return what is asked for, by panel and by alert."""
    dashboard = json.loads((FILES / "grafana_dashboard.json").read_text(encoding="utf-8"))
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            found[f"variable {variable['name']}"] = f"{metric}{{{label}=~'.*'}}"
    for alert in re.split(r"^ *- alert: ", ALERTS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        name, _, rest = alert.partition("\n")
        found[f"alert {name}"] = rest.partition("expr: ")[2].partition("\n        labels:")[0]
    return found


def test_each_expression_is_of_what_is_exported(exported: dict[str, set[str]]) -> None:
    """Each metric that a panel, a variable or an alert asks for is exported, with the labels that it uses."""
    asked = set()
    for where, expression in expressions().items():
        names = set(re.findall(r"\boffload_db_\w+", expression))
        assert names, where
        assert names <= set(exported), where
        labels = set().union(*(exported[name] for name in names)) | EVERYWHERE
        used = {label.strip() for inside in re.findall(r"by \(([^)]*)\)", expression) for label in inside.split(",")}
        used |= set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!=|!~|=)", expression))
        assert used <= labels, where
        asked |= names
    families = {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in exported}
    left_out = families - {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in asked}
    # What says nothing by itself that another one does not say better.
    assert left_out <= {
        *("offload_db_connections_open", "offload_db_checkouts", "offload_db_checkins", "offload_db_hops"),
        *("offload_db_cancelled", "offload_db_blocking_calls", "offload_db_lane_limit", "offload_db_lane_in_use"),
        *("offload_db_rollout_kept_waiting_seconds", "offload_db_rollout_checkout_timeouts"),
    }


def test_the_process_figures(exported: dict[str, set[str]]) -> None:
    """Lag, blocking calls and the rollout's arms are exported, by target and way, as Prometheus names things."""
    assert exported["offload_db_loop_lag_seconds_bucket"] == {"le"}
    assert exported["offload_db_loop_blocked_seconds_total"] == {"source"}
    assert exported["offload_db_rollout_share"] == {"target", "mode"}
    assert exported["offload_db_rollout_calls_total"] == {"target", "arm"}
    assert exported["offload_db_rollout_errors_total"] == {"target", "arm", "error"}
    assert exported["offload_db_rollout_duration_seconds_bucket"] == {"target", "arm", "le"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_rules() -> None:
    """Prometheus' own checker accepts the alert rules."""
    done = subprocess.run(
        ["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
