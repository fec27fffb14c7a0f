"""For Prometheus: collectors of the statistics of pools, and of what the monitor and the rollout count.

Owns the names of the metrics and nothing else: the numbers are those of :meth:`OffloadPool.statistics`,
:func:`offload_db.monitor.snapshot` and :func:`offload_db.rollout.snapshot` at the moment of the scrape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        f"offload_db.contrib.prometheus needs prometheus_client ({error}): pip install 'offload-db[prometheus]'",
        name=error.name,
    ) from error

from .. import ConfigurationError, OffloadPool, monitor, rollout
from ..settings import shown

_GAUGES = {
    "connections_open": ("open", "Connections that are open."),
    "connections_limit": ("size", "The most connections that the pool ever has."),
    "waiting": ("waiting", "Callers that queue for a connection."),
}
_COUNTERS = {
    "checkouts": "Connections taken.",
    "checkins": "Connections that came back and were kept.",
    "statements": "Statements executed.",
    "hops": "Trips to a worker thread.",
    "kills": "Statements killed on the server.",
    "kills_failed": "Kills that did not work, after which the link was cut.",
    "timeouts": "Statements that ran past their timeout.",
    "cancelled": "Driver calls whose task was cancelled.",
    "blocking_calls": "Driver calls that blocked an event loop.",
}
_HISTOGRAMS = {
    "queue_wait": "How long checkouts waited to be admitted.",
    "statement_time": "How long statements took.",
}
_LANE_GAUGES = {
    "limit": "The most connections that calls of the lane hold.",
    "in_use": "Callers of the lane that are admitted.",
    "waiting": "Callers that queue for the lane.",
}
# Of each arm of the rollout: the metric, its field, and what it says.
_ARM_FIELDS = {
    "calls": ("calls", "Calls that took this way."),
    "loop_seconds": ("loop_time", "Seconds that an event loop stood still for their driver calls."),
    "kept_waiting_seconds": ("kept_waiting", "Seconds that their driver calls waited for the loop."),
    "checkout_timeouts": ("checkout_timeouts", "Calls for which no connection came in time."),
}


class PoolCollector(Collector):
    """Collects what pools count, for ``REGISTRY.register(PoolCollector(pool))``.

    All metrics begin with ``offload_db_`` and have a label ``pool``. A registry takes one collector: give that all of
    the pools.

    :param pool: the pool, or several by the names that become their label
    :param name: the label of a single pool
    :raises ConfigurationError: if *pool* is neither
    """

    def __init__(self, pool: OffloadPool | Mapping[str, OffloadPool], *, name: str = "default") -> None:
        pools = dict(pool) if isinstance(pool, Mapping) else {name: pool}
        if not pools or not all(isinstance(value, OffloadPool) for value in pools.values()):
            raise ConfigurationError(
                f"PoolCollector: pool={shown(pool)}; accepted are an OffloadPool and a mapping from names to them"
            )
        self._pools = pools

    def collect(self) -> Iterator[Metric]:
        """Take a snapshot of each pool; waits for nothing."""
        now = {name: pool.statistics() for name, pool in self._pools.items()}

        states = GaugeMetricFamily("offload_db_connections", "Connections by state.", labels=["pool", "state"])
        for name, snapshot in now.items():
            states.add_metric([name, "idle"], snapshot.idle)
            states.add_metric([name, "in_use"], snapshot.in_use)
        yield states

        for metric, (field, text) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"offload_db_{metric}", text, labels=["pool"])
            for name, snapshot in now.items():
                gauge.add_metric([name], getattr(snapshot, field))
            yield gauge

        for field, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"offload_db_{field}", text, labels=["pool"])
            for name, snapshot in now.items():
                counter.add_metric([name], getattr(snapshot, field))
            yield counter

        discards = CounterMetricFamily("offload_db_discards", "Connections thrown out.", labels=["pool", "reason"])
        for name, snapshot in now.items():
            for reason, number in snapshot.discards.items():
                discards.add_metric([name, reason], number)
        yield discards

        for field, text in _HISTOGRAMS.items():
            histogram = HistogramMetricFamily(f"offload_db_{field}_seconds", text, labels=["pool"])
            for name, snapshot in now.items():
                filled = getattr(snapshot, field)
                histogram.add_metric([name], _buckets(filled.buckets), filled.sum)
            yield histogram

        for field, text in _LANE_GAUGES.items():
            gauge = GaugeMetricFamily(f"offload_db_lane_{field}", text, labels=["pool", "lane"])
            for name, snapshot in now.items():
                for lane, measures in snapshot.lanes.items():
                    gauge.add_metric([name, lane], getattr(measures, field))
            yield gauge


class ProcessCollector(Collector):
    """Collects what is counted once in a process, for ``REGISTRY.register(ProcessCollector())``, beside the pools.

    That is how late the event loop is, where :func:`offload_db.monitor.watch` samples it; what blocked it; and the arms
    of each target of :mod:`offload_db.rollout`. All metrics begin with ``offload_db_``.
    """

    def collect(self) -> Iterator[Metric]:
        """Take a snapshot of the process; waits for nothing."""
        seen = monitor.snapshot()
        if seen["loop_lag"] is not None:
            lag = HistogramMetricFamily("offload_db_loop_lag_seconds", "How late the event loop was, by samples.")
            lag.add_metric([], _buckets(seen["lag_histogram"]["buckets"]), seen["lag_histogram"]["sum"])
            yield lag

        labels = ["source"]
        calls = CounterMetricFamily("offload_db_loop_blocked_calls", "Calls that blocked an event loop.", labels=labels)
        lost = CounterMetricFamily(
            "offload_db_loop_blocked_seconds", "Seconds that an event loop stood still for them.", labels=labels
        )
        for source in ("pool", "connect", "pymysql"):
            blocked = [call for call in seen["blocking_calls"] if call["source"] == source]
            calls.add_metric([source], sum(call["count"] for call in blocked))
            lost.add_metric([source], sum(call["seconds"] for call in blocked))
        yield calls
        yield lost
        yield from _rollout(rollout.snapshot())


def _rollout(routes: tuple[rollout.RouteRollout, ...]) -> Iterator[Metric]:
    share = GaugeMetricFamily(
        "offload_db_rollout_share", "Share of a target's calls that take each way.", labels=["target", "mode"]
    )
    reverted = GaugeMetricFamily(
        "offload_db_rollout_reverted", "1 where a guard has put a target back.", labels=["target"]
    )
    labels = ["target", "arm"]
    counters = {
        name: CounterMetricFamily(f"offload_db_rollout_{name}", text, labels=labels)
        for name, (_, text) in _ARM_FIELDS.items()
    }
    errors = CounterMetricFamily(
        "offload_db_rollout_errors", "Calls that ended in an error, by its class.", labels=[*labels, "error"]
    )
    durations = HistogramMetricFamily("offload_db_rollout_duration_seconds", "How long calls took.", labels=labels)
    for route in routes:
        share.add_metric([route.target, route.mode], route.share)
        reverted.add_metric([route.target], route.reverted is not None)
        for mode, arm in route.arms.items():
            for name, (field, _) in _ARM_FIELDS.items():
                counters[name].add_metric([route.target, mode], getattr(arm, field))
            for error, number in arm.errors.items():
                errors.add_metric([route.target, mode, error], number)
            durations.add_metric([route.target, mode], _buckets(arm.durations.buckets), arm.durations.sum)
    yield from (share, reverted, *counters.values(), errors, durations)


def _buckets(buckets: Iterable[Sequence[float | None]]) -> list[tuple[str, float]]:
    return [("+Inf" if bound in (None, math.inf) else str(bound), number or 0) for bound, number in buckets]
