"""For Prometheus: a collector of the statistics of pools.

Owns the names of the metrics and nothing else: the numbers are those of :meth:`OffloadPool.statistics` at the moment of
the scrape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        f"offload_db.contrib.prometheus needs prometheus_client ({error}): pip install 'offload-db[prometheus]'",
        name=error.name,
    ) from error

from .. import ConfigurationError, OffloadPool
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
                buckets = [("+Inf" if bound == math.inf else str(bound), number) for bound, number in filled.buckets]
                histogram.add_metric([name], buckets, filled.sum)
            yield histogram

        for field, text in _LANE_GAUGES.items():
            gauge = GaugeMetricFamily(f"offload_db_lane_{field}", text, labels=["pool", "lane"])
            for name, snapshot in now.items():
                for lane, measures in snapshot.lanes.items():
                    gauge.add_metric([name, lane], getattr(measures, field))
            yield gauge
