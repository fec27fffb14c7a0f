"""Plays a node's death under load: users who read and write through the balancer, a node that goes, and comes back."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
import pymysql

from examples.cluster.galera import DATABASE, GaleraCluster, Node
from examples.cluster.haproxy import Balancer
from offload_db import OffloadPool

__all__ = ["SCENARIOS", "Answer", "Load", "Play", "Writes", "check_writes", "play", "under_load"]

# Seconds that a user rests after an answer: the load is bounded, and the machine has time for its servers.
REST = 0.02
# How many of a user's requests are reads, for each that writes.
READS = 3
# Seconds between looks at how many connections lead to each node.
GLANCE = 0.25


@dataclass(frozen=True, slots=True)
class Scenario:
    """How a node goes, and how it comes back."""

    title: str
    goes: Callable[[Node], None]
    returns: Callable[[GaleraCluster, Node], None]
    leaves: bool = True
    """Whether the others go on without it."""


SCENARIOS: Mapping[str, Scenario] = {
    "kill": Scenario("killed (SIGKILL)", Node.kill, lambda cluster, node: cluster.restart(node)),
    "freeze": Scenario("frozen (SIGSTOP)", Node.freeze, lambda _, node: node.thaw()),
    "part": Scenario("cut off from the others (1047)", Node.part, lambda _, node: node.heal()),
    "read-only": Scenario("made read-only (1290)", Node.read_only, lambda _, node: node.read_only(False), False),
    "desync": Scenario("desynchronised", Node.desync, lambda _, node: node.desync(False), False),
    "stop": Scenario("shut down in order", Node.stop, lambda cluster, node: cluster.restart(node)),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it was answered, counted from the load's begin, and how; durations are seconds."""

    at: float
    seconds: float
    error: str | None


@dataclass(slots=True)
class Load:
    """What the users got, and what was seen meanwhile."""

    began: float = field(default_factory=time.monotonic)
    answers: list[Answer] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)
    """The numbers that were certainly written."""
    refused: set[int] = field(default_factory=set)
    """Those that were certainly not written, as their errors say."""
    in_doubt: set[int] = field(default_factory=set)
    connections: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    """How many led to each node, by time."""

    @property
    def now(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self.began

    def between(self, begin: float, end: float) -> list[Answer]:
        """Return the answers of a time."""
        return [answer for answer in self.answers if begin <= answer.at < end]


@dataclass(frozen=True, slots=True)
class Writes:
    """What the nodes hold of what was written."""

    acknowledged: int
    lost: int
    doubled: int
    refused_but_there: int
    in_doubt: int
    in_doubt_and_there: int
    nodes_differ: bool

    @property
    def well(self) -> bool:
        """Whether everything is as the users were told."""
        return not (self.lost or self.doubled or self.refused_but_there or self.nodes_differ)

    def __str__(self) -> str:
        same = "differ" if self.nodes_differ else "are the same on all nodes"
        return (
            f"{self.acknowledged} acknowledged writes: {self.lost} lost, {self.doubled} doubled; the rows {same}; "
            f"{self.in_doubt} errors left it open whether they had written, {self.in_doubt_and_there} of them had; "
            f"{self.refused_but_there} that said they had not were there all the same"
        )


@dataclass(frozen=True, slots=True)
class Play:
    """A load, and the times at which things happened to the node."""

    load: Load
    scenario: Scenario
    node: str
    gone: float
    returning: float
    back: float
    writes: Writes
    in_use: int
    """Connections that are still out after the load: slots that are stuck."""

    @property
    def phases(self) -> dict[str, tuple[float, float]]:
        """The times between the events."""
        ended = self.load.answers[-1].at if self.load.answers else self.back
        return {
            "before": (min(1.0, self.gone / 2), self.gone),
            "gone": (self.gone, self.returning),
            "on its way back": (self.returning, self.back),
            "back": (self.back, ended),
        }

    def table(self) -> str:
        """Write what the users got, phase by phase."""
        lines = [f"{'':16} {'requests/s':>10} {'errors':>7} {'p50':>8} {'p99':>8} {'longest':>8}"]
        for name, (begin, end) in self.phases.items():
            answers = self.load.between(begin, end)
            if not answers or end <= begin:
                continue
            times = sorted(answer.seconds for answer in answers)
            shown = [times[len(times) // 2], times[len(times) * 99 // 100], times[-1]]
            errors = sum(answer.error is not None for answer in answers)
            lines.append(
                f"{name:16} {len(answers) / (end - begin):10.0f} {errors:7d} "
                + " ".join(f"{1000 * seconds:5.0f} ms" for seconds in shown)
            )
        kinds = Counter(answer.error for answer in self.load.answers if answer.error is not None)
        if kinds:
            lines.append("errors: " + ", ".join(f"{number} x {kind}" for kind, number in kinds.most_common()))
        return "\n".join(lines)


def play(
    cluster: GaleraCluster,
    balancer: Balancer,
    scenario: Scenario,
    *,
    way: str,
    users: int,
    size: int,
    seconds: tuple[float, float, float],
    max_age: float | None = None,
    statement_timeout: float | None = None,
) -> Play:
    """Let a node go under load and come back; call it in the main thread.

    :param seconds: how long the load lasts before the node goes, after that was noticed, and after it is back
    :param max_age: the pool's
    :param statement_timeout: the pool's
    """
    cluster.wait_until_whole()
    node = cluster.nodes[0]
    settings = balancer.endpoint(way).settings(DATABASE)
    pool = OffloadPool.create(
        min_size=0,
        max_size=size,
        max_age=max_age,
        statement_timeout=statement_timeout,
        checkout_timeout=10.0,
        autocommit=True,
        ssl_disabled=True,
        **settings,
    )
    # No key: what is written twice must show.
    cluster.nodes[0].execute(f"CREATE OR REPLACE TABLE {DATABASE}.orders (number INT, KEY (number)) ENGINE=InnoDB")
    with under_load(pool, balancer, way, users) as load:
        time.sleep(seconds[0])
        gone = load.now
        scenario.goes(node)
        balancer.wait_until(node.name, "DOWN")
        if scenario.leaves:
            cluster.wait_until_synced(cluster.nodes[1], size=len(cluster.nodes) - 1)
        time.sleep(seconds[1])
        returning = load.now
        scenario.returns(cluster, node)
        cluster.wait_until_synced(node, size=len(cluster.nodes))
        balancer.wait_until(node.name, "UP")
        back = load.now
        time.sleep(seconds[2])
    in_use = pool.statistics().in_use
    pool.close()
    return Play(load, scenario, node.name, gone, returning, back, check_writes(cluster, load), in_use)


@contextmanager
def under_load(pool: OffloadPool, balancer: Balancer, way: str, users: int) -> Iterator[Load]:
    """Let users read and write in a thread of their own, until the block ends and each has its last answer."""
    load, over = Load(), threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            anyio.run(_users, pool, load, over, users)
        except BaseException as error:
            failed.append(error)

    def watch() -> None:
        while not over.wait(GLANCE):
            load.connections.append((load.now, balancer.connections(way)))

    threads = [threading.Thread(target=run), threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]


async def _users(pool: OffloadPool, load: Load, over: threading.Event, users: int) -> None:
    numbers = itertools.count(1)

    async def user() -> None:
        while not over.is_set():
            await _write(pool, load, next(numbers))
            for _ in range(READS):
                await _answered(load, lambda: pool.fetch_value("SELECT COUNT(*) FROM orders WHERE number = 1"))

    async with anyio.create_task_group() as group:
        for _ in range(users):
            group.start_soon(user)


async def _write(pool: OffloadPool, load: Load, number: int) -> None:
    error = await _answered(load, lambda: pool.execute("INSERT INTO orders VALUES (%s)", (number,)))
    if error is None:
        load.acknowledged.add(number)
    elif getattr(error, "may_have_run", False):
        load.in_doubt.add(number)
    else:
        load.refused.add(number)


async def _answered(load: Load, ask: Callable[[], Awaitable[object]]) -> Exception | None:
    """Note one request, and rest; give its error."""
    began, failure = time.monotonic(), None
    try:
        await ask()
    except (pymysql.MySQLError, TimeoutError) as error:
        failure = error
    seconds = time.monotonic() - began
    load.answers.append(Answer(load.now, seconds, None if failure is None else _name(failure)))
    await anyio.sleep(REST)
    return failure


def _name(error: Exception) -> str:
    """Name an error's class and code, never its text."""
    code = error.args[0] if error.args and isinstance(error.args[0], int) else ""
    return f"{type(error).__name__} {code}".strip()


def check_writes(cluster: GaleraCluster, load: Load) -> Writes:
    """Compare what the users were told with what the nodes hold."""
    held = [_numbers(cluster, node) for node in cluster.nodes]
    rows = held[0]
    return Writes(
        acknowledged=len(load.acknowledged),
        lost=len(load.acknowledged - set(rows)),
        doubled=sum(number > 1 for number in rows.values()),
        refused_but_there=len(load.refused & set(rows)),
        in_doubt=len(load.in_doubt),
        in_doubt_and_there=len(load.in_doubt & set(rows)),
        nodes_differ=any(other != rows for other in held),
    )


def _numbers(cluster: GaleraCluster, node: Node) -> Counter[int]:
    """Return what a node holds, once it has applied all that the others have."""
    for tries_left in range(5, -1, -1):
        cluster.wait_until_synced(node)
        try:
            rows = node.execute(f"SELECT number FROM {DATABASE}.orders", first="SET wsrep_sync_wait = 1")
        except pymysql.err.OperationalError:  # it has lost the others once more, on a machine without time for it
            if not tries_left:
                raise
        else:
            return Counter(int(number) for (number,) in rows)
    raise AssertionError("unreachable: the last try returns or raises")
