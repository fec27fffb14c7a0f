"""Owns the command: a cluster to try things on, cancelled statements, a node's death, HAProxy's configuration."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from examples.cluster.cancelled_statements import cancel_statements
from examples.cluster.galera import DATABASE, ClusterMissing, GaleraCluster
from examples.cluster.haproxy import WAYS, Balancer, configuration
from examples.cluster.node_death import SCENARIOS, play
from examples.support.mariadb import ServerFailed, ServerMissing
from examples.support.processes import end_in_order

OUTPUT = Path(__file__).resolve().parents[2] / "demo-output" / "node_death.png"


def serve(given: argparse.Namespace) -> int:
    """Run a cluster until Ctrl-C."""
    with _cluster() as (cluster, balancer):
        for node in cluster.nodes:
            say(f"# {node.name}: port {node.port}, pid {node.pid} (kill -STOP freezes it, kill -CONT thaws it)")
        for way in WAYS:
            say(f"# HAProxy, {way}: port {balancer.ports[way]}")
        variables = balancer.endpoint(given.way).environment(DATABASE)
        for name, value in variables.items():
            say(f"export {name}={value}")
        say("# Ctrl-C ends it")
        while True:
            time.sleep(1)


def kills(given: argparse.Namespace) -> int:
    """Measure what becomes of cancelled statements."""
    worst = 0
    with _cluster() as (cluster, balancer):
        for way in WAYS if given.way == "all" else [given.way]:
            for size in given.sizes:
                found = cancel_statements(cluster, balancer, way=way, size=size, statements=given.statements)
                say(f"{way}, {size} connections: {found}")
                worst = max(worst, found.still_running)
    return 1 if worst else 0


def death(given: argparse.Namespace) -> int:
    """Play a node's death."""
    scenario = SCENARIOS[given.scenario]
    with _cluster() as (cluster, balancer):
        say(f"{given.users} users on {given.size} connections, {given.way}; a node is {scenario.title}")
        played = play(
            cluster,
            balancer,
            scenario,
            way=given.way,
            users=given.users,
            size=given.size,
            seconds=(given.seconds, given.seconds, 2 * given.seconds),
            max_age=given.max_age,
            statement_timeout=given.statement_timeout,
        )
    say(f"\n{played.table()}\n\n{played.writes}; {played.in_use} slots are stuck")
    try:
        from examples.cluster.plot import draw  # noqa: PLC0415  # the play says enough where matplotlib is missing
    except ImportError:
        say("no picture: matplotlib is not installed")
    else:
        draw(
            played,
            f"One of three nodes is {scenario.title}: {given.users} users, {given.size} connections, {given.way}",
            given.output,
        )
        say(f"\npicture: {given.output}")
    return 0 if played.writes.well and not played.in_use else 1


def haproxy(given: argparse.Namespace) -> int:
    """Write a configuration for nodes elsewhere."""
    servers = {}
    for number, address in enumerate(given.address, start=1):
        host, _, port = address.rpartition(":")
        servers[f"node{number}"] = (host or address, int(port) if host else 3306)
    sys.stdout.write(
        configuration(servers, {given.way: given.port}, Path("/run/haproxy/admin.sock"), bind="*")  # all interfaces
    )
    return 0


def say(text: str) -> None:
    """Show something at once."""
    print(text, flush=True)


@contextmanager
def _cluster() -> Iterator[tuple[GaleraCluster, Balancer]]:
    say("# starting three nodes and HAProxy ...")
    with GaleraCluster() as cluster, Balancer(cluster) as balancer:
        yield cluster, balancer


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.cluster",
        description="A Galera cluster of three nodes behind HAProxy, on this machine only; it ends with the command.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serving = commands.add_parser("serve", help="run a cluster until Ctrl-C, and print where it listens")
    serving.set_defaults(run=serve)
    serving.add_argument("--way", choices=WAYS, default="roundrobin", help="whose port to print (%(default)s)")

    killing = commands.add_parser("kills", help="cancel statements, and count those that run on in a node")
    killing.set_defaults(run=kills)
    killing.add_argument(
        "--way", choices=[*WAYS, "all"], default="all", help="how connections are spread (%(default)s)"
    )
    killing.add_argument("--statements", type=int, default=500, metavar="N", help="how many (%(default)s)")
    killing.add_argument("--sizes", type=int, nargs="+", default=[20, 40], metavar="N", help="of the pools (20 40)")

    dying = commands.add_parser("death", help="let a node go under load, and come back")
    dying.set_defaults(run=death)
    dying.add_argument("--scenario", choices=SCENARIOS, default="kill", help="how it goes (%(default)s)")
    dying.add_argument("--way", choices=WAYS, default="roundrobin", help="how connections are spread (%(default)s)")
    dying.add_argument("--users", type=int, default=20, metavar="N", help="who read and write (%(default)s)")
    dying.add_argument("--size", type=int, default=12, metavar="N", help="the pool's connections (%(default)s)")
    dying.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="before it goes, and so on (%(default)s)"
    )
    dying.add_argument("--max-age", type=float, metavar="S", help="the pool's: after it connections are renewed")
    dying.add_argument("--statement-timeout", type=float, metavar="S", help="the pool's")
    dying.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE.png", help="the picture (%(default)s)")

    writing = commands.add_parser("haproxy", help="write HAProxy's configuration for nodes elsewhere")
    writing.set_defaults(run=haproxy)
    writing.add_argument("address", nargs="+", metavar="HOST[:PORT]", help="of each node")
    writing.add_argument("--way", choices=WAYS, default="roundrobin", help="how connections are spread (%(default)s)")
    writing.add_argument("--port", type=int, default=3306, help="where HAProxy listens (%(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands."""
    given = _parse(argv)
    end_in_order()
    try:
        status: int = given.run(given)
    except KeyboardInterrupt:
        say("ended by Ctrl-C; nothing is left running")
        return 130
    except (ClusterMissing, ServerMissing, ServerFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    raise SystemExit(main())
