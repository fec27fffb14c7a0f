"""What the doctor concludes where more than one server may answer: kills, balancers, Galera.

Owns the judgement of what was found of the servers beside each other. Asks nobody anything.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..connection.kill_connections import TRIES
from .diagnosis import Diagnosis
from .facts import Facts, Plan

# The share of its time that a cluster may wait for its slowest node before it is worth a word.
PAUSED = 0.05


def _kill(plan: Plan, facts: Facts) -> Iterator[Diagnosis]:
    if facts.kill_seconds is not None:
        return
    if facts.refused is not None:
        why = f"a kill needs a second connection, and the server refuses it: {facts.refused}"
        remedy = "allow the account more connections than the pools have: one for each of up to 4 kills at once"
    elif not facts.identified:
        why = "the server's connection ids are not those that a client is told: a proxy between them has its own"
        remedy = (
            "connect to the server itself, or let the proxy pass connections through one to one, as HAProxy does;"
            " ProxySQL, which does not, kills what it runs for a client whose link is cut"
        )
    elif facts.servers > 1:
        why = (
            f"connections lead to {facts.servers} servers, and none of up to {TRIES} for the kill led to the one that"
            " runs the statement"
        )
        remedy = "let the balancer take turns, or lead all to one server (HAProxy: balance roundrobin, balance first)"
    else:
        why = "the statement did not come back; the account, or something between, keeps KILL from working"
        remedy = "try KILL QUERY by hand with this account; its own statements need no privilege"
    some = (
        "a statement that ran out of time could not be killed; its link was"
        if facts.kills_tried == 1
        else f"{facts.kills_failed} of {facts.kills_tried} statements that ran out of time could not be killed;"
        " their links were"
    )
    yield Diagnosis(
        "kill",
        True,
        f"{some} cut instead",
        f"{why}. Cancelled and timed-out statements run on in the server, and each costs a connection",
        remedy,
    )


def _servers(plan: Plan, facts: Facts) -> Iterator[Diagnosis]:
    if facts.servers > 1 and facts.is_one_cluster:
        yield Diagnosis(
            "servers",
            False,
            f"connections lead to {facts.servers} nodes of one Galera cluster",
            "GET_LOCK, LOCK TABLES and temporary tables hold on one node only, and two nodes may change the same rows",
            "where that matters lead all connections to one node, and to the next when it is gone (HAProxy: balance"
            " first)",
        )
    elif facts.servers > 1:
        yield Diagnosis(
            "servers",
            True,
            f"connections lead to {facts.servers} different servers: a balancer stands between",
            "a handler may read on one what it has not written there; GET_LOCK and temporary tables hold on one only;"
            f" a kill tries up to {TRIES} connections to reach the right one, and cuts the link if it does not",
            "use the address of one server, also where a cluster replicates: then all of the application has the same",
        )
    if facts.read_only_servers:
        some = "the server is" if facts.servers == 1 else f"{facts.read_only_servers} of {facts.servers} servers are"
        yield Diagnosis(
            "read_only",
            facts.read_only_servers < facts.servers,
            f"{some} read-only",
            "writes there fail with error 1290; the pool discards that connection, and the error reaches the handler",
            "for writes use the address of the primary",
        )


def _galera(plan: Plan, facts: Facts) -> Iterator[Diagnosis]:
    nodes = facts.nodes
    unfit = [node for node in nodes if not node.fit]
    if unfit:
        states = ", ".join(sorted({node.state for node in unfit}))
        yield Diagnosis(
            "galera",
            True,
            f"{len(unfit)} of {len(nodes)} nodes that answered {'is' if len(unfit) == 1 else 'are'} not fit: {states}",
            "a node without its cluster refuses statements with error 1047, one that catches up answers from the past",
            "let the balancer's health check read wsrep_ready = ON and wsrep_local_state = 4",
        )
    sizes = {node.size for node in nodes}
    if len(sizes) > 1:
        yield Diagnosis(
            "galera_size",
            True,
            f"the nodes see clusters of different sizes: {', '.join(map(str, sorted(sizes)))}",
            "they are parted, or were a moment ago: those without a majority refuse statements with error 1047",
            "see why they lose each other: wsrep_cluster_status, their logs, the network between them",
        )
    elif sizes and not max(sizes) % 2:
        yield Diagnosis(
            "galera_size",
            False,
            f"the cluster has {max(sizes)} nodes",
            "when it falls into halves neither has a majority, and both refuse statements with error 1047",
            "have an odd number of nodes, or an arbitrator (garbd) besides",
        )
    paused = max((node.paused for node in nodes), default=0.0)
    if paused > PAUSED:
        yield Diagnosis(
            "flow_control",
            False,
            f"the cluster has waited {100 * paused:.0f} % of its time for its slowest node (wsrep_flow_control_paused)",
            "every COMMIT waits meanwhile, on all nodes, with its connection in the application's hands",
            "find the node with the highest wsrep_local_recv_queue_avg; give it more appliers (wsrep_slave_threads);"
            " commit in smaller pieces",
        )
    if facts.servers > 1 and any(not node.sync_wait for node in nodes):
        yield Diagnosis(
            "wsrep_sync_wait",
            False,
            "a node answers before it has what the others have (wsrep_sync_wait=0)",
            "what one request has written, the next one may not find yet, on another node",
            'for pools where that matters: init_command="SET SESSION wsrep_sync_wait = 1"; each read then waits'
            " until the node is up to date",
        )
    conflicts = sum(node.conflicts for node in nodes)
    if nodes and (facts.servers > 1 or conflicts):
        yield Diagnosis(
            "conflicts",
            False,
            f"transactions of two nodes that change the same rows meet at COMMIT ({conflicts} did on these nodes)",
            "the later one is rolled back with error 1213, also a single statement, or a COMMIT, that had no other"
            " chance to fail",
            "put them into pool.run_transaction(), which runs them again; or let one node take all writes",
        )


def _balancer(plan: Plan, facts: Facts) -> Iterator[Diagnosis]:
    if facts.servers == 1 and not facts.nodes:
        return
    yield Diagnosis(
        "max_age",
        False,
        "connections stay with the server that they were opened to",
        "one that comes back gets none until others are replaced; after a failover the old ones stay where they are",
        "set max_age to some minutes: connections are then replaced in turn, and spread again",
    )
    yield Diagnosis(
        "statement_timeout",
        False,
        "a balancer may keep a connection to a server that has died or hangs",
        "a statement on it waits until somebody ends it; a call without a limit waits as long",
        "set statement_timeout, for the pool or its lanes; HAProxy: on-marked-down shutdown-sessions",
    )
    reads = (
        "wsrep_ready = ON, wsrep_local_state = 4 (Synced), and read_only = OFF"
        if facts.nodes
        else "read_only and super_read_only = OFF, and offline_mode = OFF"
        if facts.is_mysqls
        else "read_only = OFF"
    )
    yield Diagnosis(
        "health_check",
        False,
        "a health check that only logs in takes a server for fit that refuses every statement",
        "new connections lead there, fail one after the other, and are replaced by others that do",
        f"let it read that {reads}; and run every second or two",
    )


CLUSTER_CHECKS = (_kill, _servers, _galera, _balancer)
