"""What the doctor asks the nodes of a Galera cluster. Judges nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SYNCED = "4"


@dataclass(frozen=True, slots=True)
class GaleraNode:
    """What one node says of itself."""

    cluster: str
    """The cluster's own id."""
    ready: bool
    """Whether it takes statements."""
    local_state: str
    state: str
    """The same in words."""
    size: int
    """How many nodes it sees, itself among them."""
    sync_wait: int
    """For which statements it waits until it has what the others have."""
    paused: float
    """The share of its time that the cluster has waited for the slowest, as it has seen."""
    conflicts: int
    """Its transactions that lost against another node's, since its start."""

    @property
    def fit(self) -> bool:
        """Whether it takes statements, and has what the others have."""
        return self.ready and self.local_state == SYNCED


def ask_node(link: Any) -> GaleraNode | None:
    """Ask a server for its place in a cluster; None if it is in none."""
    variables = _texts(link, "SHOW VARIABLES LIKE 'wsrep%'")
    if variables.get("wsrep_on", "OFF").upper() != "ON":
        return None
    status = _texts(link, "SHOW GLOBAL STATUS LIKE 'wsrep%'")
    if "wsrep_local_state" not in status:
        return None
    return GaleraNode(
        cluster=status.get("wsrep_cluster_state_uuid", ""),
        ready=status.get("wsrep_ready", "").upper() == "ON",
        local_state=status["wsrep_local_state"],
        state=status.get("wsrep_local_state_comment", ""),
        size=int(status.get("wsrep_cluster_size") or 0),
        sync_wait=int(variables.get("wsrep_sync_wait") or 0),
        paused=float(status.get("wsrep_flow_control_paused") or 0),
        conflicts=sum(int(status.get(f"wsrep_local_{what}") or 0) for what in ("cert_failures", "bf_aborts")),
    )


def _texts(link: Any, query: str) -> dict[str, str]:
    with link.cursor() as cursor:
        cursor.execute(query)
        return {str(name): str(value) for name, value in cursor.fetchall()}
