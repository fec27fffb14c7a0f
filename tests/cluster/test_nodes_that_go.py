"""A node goes while a pool is used: what was acknowledged is there once, and the pool serves on."""

from __future__ import annotations

import pytest

from examples.cluster.galera import GaleraCluster
from examples.cluster.haproxy import Balancer
from examples.cluster.node_death import SCENARIOS, play

SIZE = 6

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.mark.parametrize("scenario", ["kill", "freeze", "part", "read-only"])
def test_nothing_is_lost_or_doubled(scenario: str, cluster: GaleraCluster, balancer: Balancer) -> None:
    """Acknowledged writes are there once, those that say that they did not run are not, and no slot is stuck."""
    played = play(
        cluster,
        balancer,
        SCENARIOS[scenario],
        way="roundrobin",
        users=12,
        size=SIZE,
        seconds=(0.5, 0.5, 0.5),
        statement_timeout=5.0,
    )
    assert played.writes.acknowledged > 100
    assert played.writes.well, str(played.writes)
    assert played.in_use == 0
    # Who was in the middle of something, and who took a connection just then: not everybody who came while it was away.
    assert sum(answer.error is not None for answer in played.load.answers) <= 4 * SIZE
    begin, end = played.phases["back"]
    assert any(answer.error is None for answer in played.load.between(begin, end))
