"""Claims about the Prometheus collector: a scrape says what the statistics say."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

import prometheus_client
from prometheus_client.parser import text_string_to_metric_families

from offload_db import ConfigurationError, Lane, LaneStatistics, OffloadPool, PoolStatistics
from offload_db.contrib.prometheus import PoolCollector
from tests.support import pool_of, value

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(registry: Any) -> Samples:
    """Read what Prometheus would read: the text that the registry exposes."""
    text = prometheus_client.generate_latest(registry).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"offload_db_{name}", frozenset(labels.items())]


@pytest.fixture
def used_pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    """Give a pool that has counted something of most kinds, and has a connection out."""
    lanes = [Lane("reports", 2), Lane("imports", 1)]
    with pool_of(3, database, lanes=lanes, max_age=3600.0) as pool:
        with pool.connection(lane="reports") as connection, pool.connection():
            for _ in range(5):
                value(connection, "SELECT SLEEP(0.002)")
        dropped = pool.connection()
        try:
            value(dropped, "KILL CONNECTION_ID()")
        except Exception:
            dropped.close()
        held = pool.connection(lane="imports")
        yield pool
        held.close()


def test_each_number_of_the_statistics(used_pool: OffloadPool) -> None:
    """Every field of PoolStatistics and LaneStatistics is a metric with the pool's label, and has its value."""
    registry = prometheus_client.CollectorRegistry()
    registry.register(PoolCollector(used_pool, name="main"))
    samples, now = scrape(registry), used_pool.statistics()
    assert now.discards
    assert now.in_use == 1

    checked = set()
    for state in ("idle", "in_use"):
        assert of(samples, "connections", pool="main", state=state) == getattr(now, state)
        checked.add(state)
    for field, metric in {"open": "connections_open", "size": "connections_limit", "waiting": "waiting"}.items():
        assert of(samples, metric, pool="main") == getattr(now, field)
        checked.add(field)
    for reason, number in now.discards.items():
        assert of(samples, "discards_total", pool="main", reason=reason) == number
    for field in ("queue_wait", "statement_time"):
        histogram = getattr(now, field)
        assert histogram.count > 0
        assert of(samples, f"{field}_seconds_count", pool="main") == histogram.count
        assert of(samples, f"{field}_seconds_sum", pool="main") == pytest.approx(histogram.sum)
        buckets = {
            float(dict(labels)["le"]): number
            for (name, labels), number in samples.items()
            if name == f"offload_db_{field}_seconds_bucket"
        }
        assert buckets == dict(histogram.buckets)
    for lane, measures in now.lanes.items():
        for lane_field in dataclasses.fields(LaneStatistics):
            sample = of(samples, f"lane_{lane_field.name}", pool="main", lane=lane)
            assert sample == getattr(measures, lane_field.name)
    checked |= {"discards", "queue_wait", "statement_time", "lanes"}
    for item in dataclasses.fields(PoolStatistics):
        if item.name not in checked:
            assert of(samples, f"{item.name}_total", pool="main") == getattr(now, item.name)


def test_names_and_types(used_pool: OffloadPool) -> None:
    """Names follow Prometheus' conventions: a common prefix, `_total` for counters, base units for durations."""
    registry = prometheus_client.CollectorRegistry()
    registry.register(PoolCollector(used_pool))
    text = prometheus_client.generate_latest(registry).decode()
    families = list(text_string_to_metric_families(text))
    assert all(family.name.startswith("offload_db_") and family.documentation for family in families)
    assert {family.type for family in families} == {"gauge", "counter", "histogram"}
    assert all(family.name.endswith("_seconds") for family in families if family.type == "histogram")
    for family in families:
        assert {sample.labels["pool"] for sample in family.samples} == {"default"}
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)


def test_several_pools(database: dict[str, Any]) -> None:
    """One collector shows several pools, told apart by their label; a scrape shows what has changed since."""
    registry = prometheus_client.CollectorRegistry(auto_describe=True)
    with pool_of(1, database) as one, pool_of(2, database) as two:
        registry.register(PoolCollector({"one": one, "two": two}))
        samples = scrape(registry)
        assert [of(samples, "connections_limit", pool=name) for name in ("one", "two")] == [1, 2]
        with two.connection():
            samples = scrape(registry)
            assert [of(samples, "checkouts_total", pool=name) for name in ("one", "two")] == [0, 1]
            assert of(samples, "connections", pool="two", state="in_use") == 1


def test_bad_pools(database: dict[str, Any]) -> None:
    """What is no pool is named."""
    for bad in (None, {}, {"one": "pool"}):
        with pytest.raises(ConfigurationError, match="PoolCollector: pool="):
            PoolCollector(bad)  # type: ignore[arg-type]  # the mistake that is tested


def test_without_prometheus_client() -> None:
    """Where prometheus_client is missing the error names the extra."""
    code = "import sys; sys.modules['prometheus_client'] = None; import offload_db.contrib.prometheus"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert "pip install 'offload-db[prometheus]'" in done.stderr.splitlines()[-1]
