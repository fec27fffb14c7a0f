"""Owns a Galera cluster on loopback: its nodes are private servers that can be killed, frozen, parted and healed.

Everything is kept in temporary directories and ends with the process that started it. Does not know who connects, and
puts no balancer before it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pymysql

from examples.support.mariadb import HOST, Endpoint, PrivateServer, ServerFailed, find_program, user_option
from examples.support.ports import free_port

__all__ = ["APPLICATION", "CHECK_USER", "DATABASE", "ClusterMissing", "GaleraCluster", "Node", "until"]

PROVIDERS = (
    Path("/usr/lib/galera/libgalera_smm.so"),
    Path("/usr/lib/libgalera_smm.so"),
    Path("/usr/lib64/galera-4/libgalera_smm.so"),
    Path("/usr/lib64/galera/libgalera_smm.so"),
)

DATABASE = "shop"
# No administrator: what makes a node read-only does not hold for those.
APPLICATION = ("app", "loopback-only")
# Health checks send no password; all that this account may see is whether the node is fit.
CHECK_USER = "health"

# Small and quick to start, and patient for a machine that does other things besides.
NODE_OPTIONS = (
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=16M",
    "--max-connections=300",
    "--binlog-format=ROW",
    "--innodb-autoinc-lock-mode=2",
    "--wsrep-on=ON",
    "--wsrep-sst-method=increment",
)
PROVIDER_OPTIONS = {
    "gcache.size": "32M",
    "evs.keepalive_period": "PT0.5S",
    "evs.inactive_check_period": "PT0.5S",
    "evs.suspect_timeout": "PT3S",
    "evs.inactive_timeout": "PT6S",
    "evs.install_timeout": "PT5S",
}

STATE = "grastate.dat"
"""Where a node that has ended in order keeps its position."""

# How a node that joins is told that it gets what it missed, and nothing else: who starts from the same data never
# needs a whole copy. The protocol is that of wsrep_sst_method: lines on standard output.
TRANSFER = """#!/bin/sh
role= address= gtid= domain=0 parent=$$ bypass=
while [ $# -gt 0 ]; do
  case $1 in
    --role) role=$2 ;;
    --address) address=$2 ;;
    --gtid) gtid=$2 ;;
    --gtid-domain-id) domain=$2 ;;
    --parent) parent=$2 ;;
    --bypass) bypass=1 ;;
  esac
  shift
done
note=${0%/*}/joiner-${address##*:}
if [ "$role" = donor ]; then
  [ -n "$bypass" ] || exit 22 # the joiner missed more than the others remember
  echo "$gtid $domain" >"$note.new"
  mv "$note.new" "$note"
  echo "done $gtid"
else
  rm -f "$note"
  echo "ready $address"
  until [ -e "$note" ]; do
    kill -0 "$parent" || exit 32
    sleep 0.05
  done
  cat "$note"
fi
"""


class ClusterMissing(RuntimeError):
    """Raised when a program that the cluster needs is not installed."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} was not found: install it (Debian and Ubuntu: apt-get install mariadb-server galera-4 haproxy)"
        )


class Node:
    """One server of the cluster.

    :param name: what it is called in the cluster, and by the balancer
    """

    def __init__(self, name: str, server: PrivateServer, address: str, options: Sequence[str]) -> None:
        self.name = name
        self.address = address
        """Where the other nodes reach it."""
        self._server = server
        self._options = (*options, f"--wsrep-node-name={name}")
        self._frozen = False

    def __repr__(self) -> str:
        return f"<Node {self.name!r} {self._server!r}>"

    @property
    def port(self) -> int:
        """Where clients reach it, on 127.0.0.1."""
        return self._server.endpoint.port

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._server.pid

    @property
    def running(self) -> bool:
        """Whether its process is alive, frozen or not."""
        return self._server.running

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens, for the application's account."""
        return Endpoint(HOST, self.port, *APPLICATION)

    def start(self, cluster_address: str, position: str, *, first: bool = False) -> None:
        """Start its process and wait until it accepts clients, which is before it has joined.

        :param position: what it has of the cluster's transactions, as ``<uuid>:<number>``
        :param first: whether it is a new cluster's first node
        """
        self._server.options = (
            *self._options,
            f"--wsrep-cluster-address={cluster_address}",
            *(["--wsrep-new-cluster"] if first else []),
        )
        self._server.prepare()
        _write_state(self._server.directory / "data", position, first=first)
        self._server.start()

    def stop(self) -> None:
        """Shut it down in order."""
        self.thaw()
        self._server.stop()

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._frozen = False
        self._server.kill()

    def freeze(self) -> None:
        """Stop its process in mid-air (SIGSTOP): it accepts, and never answers."""
        self._signal(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        if self._frozen:
            self._signal(signal.SIGCONT)
        self._frozen = False

    def read_only(self, on: bool = True) -> None:
        """Let it refuse writes of the application (error 1290), or take them again."""
        self.execute(f"SET GLOBAL read_only = {int(on)}")

    def desync(self, on: bool = True) -> None:
        """Let it fall behind without slowing the others down (``wsrep_desync``), or catch up."""
        self.execute(f"SET GLOBAL wsrep_desync = {int(on)}")

    def part(self) -> None:
        """Cut it off from the other nodes: it refuses whatever needs a table (error 1047)."""
        self.execute("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'")

    def heal(self) -> None:
        """Let it find the other nodes again."""
        self.execute("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'")

    def execute(self, statement: str, *, first: str | None = None) -> tuple[tuple[Any, ...], ...]:
        """Run a statement there as the administrator, and return its rows.

        :param first: a statement to prepare the session with
        """
        with (
            pymysql.connect(
                **self._server.endpoint.settings(),
                autocommit=True,
                init_command=first,
                connect_timeout=5,
                read_timeout=30,
                ssl_disabled=True,
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
            return cursor.fetchall()

    def status(self, name: str) -> str:
        """Return one of its status variables, such as ``wsrep_cluster_size``; empty if it does not answer."""
        with suppress(pymysql.MySQLError, OSError):
            for _, value in self.execute(f"SHOW GLOBAL STATUS LIKE '{name}'"):
                return str(value)
        return ""

    def running_statements(self, text: str) -> int:
        """Count the statements with *text* in them that run there now."""
        ((number,),) = self.execute(
            "SELECT COUNT(*) FROM information_schema.processlist"
            f" WHERE id <> CONNECTION_ID() AND command = 'Query' AND info LIKE '%{text}%'"
        )
        return int(number)

    def position(self) -> str:
        """Return what its data has of the cluster's transactions; it must not run."""
        program = find_program("mariadbd")
        directory = self._server.directory
        done = subprocess.run(
            [
                str(program),
                "--no-defaults",
                f"--datadir={directory / 'data'}",
                f"--tmpdir={directory / 'tmp'}",
                f"--socket={directory / 'sock'}",
                "--skip-networking",
                *self._options,
                "--wsrep-cluster-address=gcomm://",
                "--wsrep-recover",
                *user_option(),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        log = done.stdout.decode(errors="replace")
        found = re.findall(r"Recovered position: (\S+:\d+)", log)
        if done.returncode or not found:
            raise ServerFailed(f"node {self.name!r} does not know its position; its log:\n{log[-2000:]}")
        return str(found[-1])

    def _signal(self, number: signal.Signals) -> None:
        if self._server.pid is None:
            raise ServerFailed(f"node {self.name!r} does not run")
        os.kill(self._server.pid, number)


class GaleraCluster:
    """A cluster whose nodes begin with the same data: a database, an account for the application, one for checks.

    Start and stop it from one thread, as any private server.

    :param size: how many nodes
    :param options: more server options for each, as one word each
    :param provider_options: more of Galera's own, such as ``{"gcs.fc_limit": "16"}``
    """

    def __init__(
        self, size: int = 3, *, options: Sequence[str] = (), provider_options: Mapping[str, str] | None = None
    ) -> None:
        self._size = size
        self._options = (*NODE_OPTIONS, *options)
        self._provider_options = {**PROVIDER_OPTIONS, **(provider_options or {})}
        self._stack = ExitStack()
        self.nodes: tuple[Node, ...] = ()

    @staticmethod
    def missing() -> str | None:
        """Name what is not installed, or None."""
        if find_program("mariadbd") is None:
            return "MariaDB's server program (mariadbd)"
        if _provider() is None:
            return "Galera's library (libgalera_smm.so)"
        return None

    def __enter__(self) -> GaleraCluster:
        missing = self.missing()
        if missing is not None:
            raise ClusterMissing(missing)
        with self._stack as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @property
    def address(self) -> str:
        """Where a node finds the others."""
        return "gcomm://" + ",".join(node.address for node in self.nodes)

    def wait_until_whole(self, timeout: float = 60.0) -> None:
        """Return when every node has joined and takes statements.

        :raises ServerFailed: if that is not so after *timeout* seconds
        """
        for node in self.nodes:
            self.wait_until_synced(node, timeout, size=self._size)

    def wait_until_synced(self, node: Node, timeout: float = 60.0, *, size: int | None = None) -> None:
        """Return when *node* is in the cluster and has all that the others have.

        :param size: how many nodes it must see; None is content with any number that has a majority
        :raises ServerFailed: if that is not so after *timeout* seconds
        """
        wanted = {"wsrep_ready": "ON", "wsrep_local_state_comment": "Synced"}
        if size is not None:
            wanted["wsrep_cluster_size"] = str(size)
        if not until(lambda: all(node.status(name) == value for name, value in wanted.items()), timeout):
            raise ServerFailed(f"{node!r} has not joined its cluster; its log:\n{node._server.log[-3000:]}")

    def restart(self, node: Node) -> None:
        """Start a node that has ended, however it did, and wait until it has what it missed.

        :raises ServerFailed: if it does not come back
        """
        node.kill()
        node.start(self.address, node.position())
        self.wait_until_synced(node)

    def _start(self, stack: ExitStack) -> None:
        data, position = stack.enter_context(_template(self._options))
        program = data.parent / "wsrep_sst_increment"
        program.write_text(TRANSFER, encoding="utf-8")
        program.chmod(0o700)
        env = {**os.environ, "PATH": os.pathsep.join([str(data.parent), os.environ.get("PATH", os.defpath)])}
        for number in range(1, self._size + 1):
            server = stack.enter_context(_not_running(PrivateServer(data=data, env=env)))
            self.nodes = (*self.nodes, self._node(f"node{number}", server))
        for number, node in enumerate(self.nodes):
            node.start(self.address, position, first=number == 0)
            self.wait_until_synced(node)
        self.wait_until_whole()

    def _node(self, name: str, server: PrivateServer) -> Node:
        group, increments, transfer = (f"{HOST}:{free_port()}" for _ in range(3))
        provider_options = {
            **self._provider_options,
            "gmcast.listen_addr": f"tcp://{group}",
            "ist.recv_addr": increments,
        }
        options = (
            *self._options,
            f"--wsrep-provider={_provider()}",
            f"--wsrep-node-address={group}",
            f"--wsrep-sst-receive-address={transfer}",
            "--wsrep-provider-options=" + ";".join(f"{key}={value}" for key, value in provider_options.items()),
        )
        return Node(name, server, group, options)


def until(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait until *condition* holds; False if it does not after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _provider() -> Path | None:
    return next((path for path in PROVIDERS if path.exists()), None)


@contextmanager
def _not_running(server: PrivateServer) -> Iterator[PrivateServer]:
    """Give a server that is yet to be started, and remove it afterwards."""
    try:
        yield server
    finally:
        server.remove()


@contextmanager
def _template(options: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Give a data directory for all nodes to begin with, and the position in it: a cluster of one has made it."""
    alone = (
        *options,
        f"--wsrep-provider={_provider()}",
        "--wsrep-cluster-address=gcomm://",
        "--wsrep-new-cluster",
        f"--wsrep-provider-options=gmcast.listen_addr=tcp://{HOST}:{free_port()}",
        f"--wsrep-node-address={HOST}",
    )
    user, password = APPLICATION
    with PrivateServer(options=alone) as server:
        with (
            pymysql.connect(**server.endpoint.settings(), ssl_disabled=True) as connection,
            connection.cursor() as cursor,
        ):
            for statement in (
                f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4",
                f"CREATE USER '{user}'@'{HOST}' IDENTIFIED BY '{password}'",
                f"GRANT ALL ON {DATABASE}.* TO '{user}'@'{HOST}'",
                f"CREATE USER '{CHECK_USER}'@'{HOST}'",
            ):
                cursor.execute(statement)
        server.stop()
        data = server.directory / "data"
        state = dict(re.findall(r"^(uuid|seqno): +(\S+)", (data / STATE).read_text(encoding="utf-8"), re.MULTILINE))
        yield data, f"{state['uuid']}:{state['seqno']}"


def _write_state(data: Path, position: str, *, first: bool) -> None:
    """Tell a node what it has, and whether it may begin a cluster alone."""
    group, number = position.split(":")
    state = {"version": "2.1", "uuid": group, "seqno": number, "safe_to_bootstrap": str(int(first))}
    lines = [f"{name}: {value}\n" for name, value in state.items()]
    (data / STATE).write_text("# GALERA saved state\n" + "".join(lines), encoding="utf-8")
