"""What the doctor says of a cluster behind a balancer."""

from __future__ import annotations

import pytest

from examples.cluster.galera import DATABASE, GaleraCluster
from examples.cluster.haproxy import Balancer
from offload_db.doctor.checks import diagnose
from offload_db.doctor.facts import Facts, Plan, examine
from tests.support import until

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def _ask(balancer: Balancer, way: str) -> tuple[Facts, dict[str, bool]]:
    plan = Plan(balancer.endpoint(way).settings(DATABASE), size=20, workers=1)
    facts = examine(plan)
    return facts, {diagnosis.name: diagnosis.problem for diagnosis in diagnose(plan, facts)}


def test_a_cluster_that_is_well(cluster: GaleraCluster, balancer: Balancer) -> None:
    """Three nodes behind a balancer are no problem, kills reach each of them, and there is something to know."""
    facts, said = _ask(balancer, "roundrobin")
    assert (facts.servers, len(facts.nodes), facts.is_one_cluster) == (3, 3, True)
    assert {node.size for node in facts.nodes} == {3}
    assert all(node.fit for node in facts.nodes)
    assert (facts.kills_tried, facts.kills_failed) == (4, 0)
    assert not any(said.values())
    assert set(said) >= {"servers", "wsrep_sync_wait", "conflicts", "max_age", "statement_timeout", "health_check"}


def test_a_node_that_falls_behind(cluster: GaleraCluster, balancer: Balancer) -> None:
    """A node that is not synchronised any more, and that no health check has taken out yet, is a problem."""
    node = cluster.nodes[1]
    node.desync()
    try:
        plan = Plan(node.endpoint.settings(DATABASE), size=20, workers=1)
        [problem] = [each for each in diagnose(plan, examine(plan)) if each.problem]
    finally:
        node.desync(False)
    assert problem.name == "galera"
    assert "Donor/Desynced" in problem.finding
    until(lambda: set(balancer.states().values()) == {"UP"})
