"""Owns HAProxy before the nodes of a cluster: one port for each way to spread connections, and what fit nodes answer.

Everything is kept in a temporary directory and ends with the process that started it.
"""

from __future__ import annotations

import csv
import io
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from examples.cluster.galera import APPLICATION, CHECK_USER, ClusterMissing, GaleraCluster, until
from examples.support.mariadb import HOST, Endpoint, ServerFailed, find_program
from examples.support.ports import free_port
from examples.support.processes import end, start

__all__ = ["FIT", "WAYS", "Balancer", "configuration"]

WAYS = {
    "roundrobin": "balance roundrobin",
    "leastconn": "balance leastconn",
    # One node takes all, the next one when it is gone: no two nodes write the same rows at once.
    "first": "balance first",
}

FIT = (
    "SELECT CONCAT('fit-', 'for-use') AS answer FROM information_schema.GLOBAL_STATUS"
    " WHERE VARIABLE_NAME = 'WSREP_LOCAL_STATE' AND VARIABLE_VALUE = '4' AND @@GLOBAL.read_only = 0"
)
"""What a health check asks: a row if the node is in its cluster, has all that the others have, and takes writes."""

# MySQL's protocol: a login without a password, a query, the end. HAProxy sends the bytes as they are.
_PROTOCOL_41, _SECURE_CONNECTION, _PLUGIN_AUTH = 0x200, 0x8000, 0x80000
_QUERY, _QUIT = b"\x03", b"\x01"


def configuration(
    servers: Mapping[str, tuple[str, int]], ports: Mapping[str, int], admin: Path, *, bind: str = HOST
) -> str:
    """Write HAProxy's configuration.

    :param servers: the address and port of each node, by its name
    :param ports: the port to listen on, by the name of a way
    :param admin: the socket that tells which nodes are in use
    :param bind: the address to listen on
    """
    flags = _PROTOCOL_41 | _SECURE_CONNECTION | _PLUGIN_AUTH
    login = flags.to_bytes(4, "little") + (1 << 24).to_bytes(4, "little") + b"\x2d" + bytes(23)
    login += CHECK_USER.encode() + b"\0" + b"\0" + b"mysql_native_password\0"
    lines = [
        "global",
        f"  stats socket {admin} level user",
        "",
        "defaults",
        "  mode tcp",
        "  timeout connect 2s",
        "  # Longer than any statement and any rest: who ends an idle connection is the pool, or the server.",
        "  timeout client 24h",
        "  timeout server 24h",
        "  timeout check 1s",
        "  option clitcpka",
        "  option srvtcpka",
        "  # Who finds a node refusing gets the next one.",
        "  retries 2",
        "  option redispatch 1",
        "  option tcp-check",
        "  tcp-check connect",
        f"  # A login as {CHECK_USER!r}, without a password.",
        f"  tcp-check send-binary {_packet(login, 1)}",
        "  # The server's OK packet.",
        "  tcp-check expect binary 0700000200",
        f"  # {FIT}",
        f"  tcp-check send-binary {_packet(_QUERY + FIT.encode(), 0)}",
        "  tcp-check expect string fit-for-use",
        f"  tcp-check send-binary {_packet(_QUIT, 0)}",
        "  # Ends what is open to a node that is taken out: those who wait for it hear of it at once.",
        "  default-server check inter 500ms fall 2 rise 2 on-marked-down shutdown-sessions",
    ]
    for way, port in ports.items():
        lines += ["", f"listen {way}", f"  bind {bind}:{port}", f"  {WAYS[way]}"]
        lines += [f"  server {name} {host}:{number}" for name, (host, number) in servers.items()]
    return "\n".join(lines) + "\n"


def _packet(content: bytes, number: int) -> str:
    return (len(content).to_bytes(3, "little") + bytes([number]) + content).hex()


class Balancer:
    """HAProxy before a cluster's nodes.

    Start and stop it from one thread: on Linux the kernel ends it with the thread that started it.
    """

    def __init__(self, cluster: GaleraCluster) -> None:
        self._servers = {node.name: (HOST, node.port) for node in cluster.nodes}
        self._directory = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self.ports: dict[str, int] = {}

    @staticmethod
    def missing() -> str | None:
        """Name what is not installed, or None."""
        return "HAProxy" if find_program("haproxy") is None else None

    def __enter__(self) -> Balancer:
        program = find_program("haproxy")
        if program is None:
            raise ClusterMissing("HAProxy")
        self._directory = Path(tempfile.mkdtemp(prefix="offload-db-"))
        try:
            self.ports = {way: free_port() for way in WAYS}
            file = self._directory / "haproxy.cfg"
            file.write_text(configuration(self._servers, self.ports, self._admin), encoding="utf-8")
            with (self._directory / "log").open("wb") as log:
                self._process = start([program, "-db", "-q", "-f", file], output=log)
            for node in self._servers:
                self.wait_until(node, "UP")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def log(self) -> str:
        """What it said."""
        return (self._directory / "log").read_text(encoding="utf-8", errors="replace")

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return None if self._process is None else self._process.pid

    def endpoint(self, way: str) -> Endpoint:
        """Where it listens, for the application's account.

        :param way: one of :data:`WAYS`
        """
        return Endpoint(HOST, self.ports[way], *APPLICATION)

    def states(self) -> dict[str, str]:
        """Return what it takes each node for, ``UP`` or ``DOWN``, by the node's name; empty if it does not answer."""
        rows = self._statistics()
        return {row["svname"]: row["status"].split()[0] for row in rows if row["svname"] in self._servers}

    def connections(self, way: str) -> dict[str, int]:
        """Return how many connections are open to each node by now, by the node's name."""
        rows = [row for row in self._statistics() if row["# pxname"] == way and row["svname"] in self._servers]
        return {row["svname"]: int(row["scur"]) for row in rows}

    def wait_until(self, node: str, state: str, timeout: float = 30.0) -> None:
        """Return when it takes *node* for *state*.

        :raises ServerFailed: if that is not so after *timeout* seconds
        """
        if not until(lambda: self.states().get(node) == state, timeout):
            raise ServerFailed(
                f"HAProxy takes {node!r} for {self.states().get(node)}, not {state}; it says:\n{self.log}"
            )

    @property
    def _admin(self) -> Path:
        return self._directory / "admin"

    def _statistics(self) -> list[dict[str, str]]:
        with socket.socket(socket.AF_UNIX) as admin:
            try:
                admin.connect(str(self._admin))
            except OSError:
                return []
            admin.sendall(b"show stat\n")
            with admin.makefile("r", encoding="utf-8") as answer:
                return list(csv.DictReader(io.StringIO(answer.read())))
