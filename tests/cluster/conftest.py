"""What the tests of a cluster share: one cluster, and HAProxy before it, for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from examples.cluster.galera import GaleraCluster
from examples.cluster.haproxy import Balancer


@pytest.fixture(scope="session")
def cluster() -> Iterator[GaleraCluster]:
    """Give three nodes that are all there; who disturbs one waits until it is back."""
    missing = GaleraCluster.missing() or Balancer.missing()
    if missing is not None:
        pytest.skip(f"{missing} is not installed")
    with GaleraCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def balancer(cluster: GaleraCluster) -> Iterator[Balancer]:
    """Give HAProxy before the three nodes."""
    with Balancer(cluster) as balancer:
        yield balancer
