"""What the doctor asks: the server, the way to it, and this machine.

Owns the questions and the trial kill. Judges nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql

from ..connection.opening import remedies_named
from ..drivers.pymysql import PYMYSQL
from ..drivers.pymysql_connection import fast_creator
from ..errors import OffloadError, StatementTimeout
from ..pool.pool import OffloadPool
from .galera import GaleraNode, ask_node

# Not on Windows.
resource: Any = importlib.import_module("resource") if importlib.util.find_spec("resource") else None

# Connections that are opened to see whether they lead to the same server, and how long that takes.
CONNECTIONS = 4
# Seconds after which the trial statement is killed, and that it would take.
TRIAL_TIMEOUT, TRIAL_SECONDS = 0.3, 15

_VARIABLES = (
    "autocommit",
    "character_set_database",
    "have_ssl",
    "hostname",
    "idle_transaction_timeout",
    "interactive_timeout",
    "max_connections",
    "max_execution_time",
    "max_statement_time",
    "max_user_connections",
    "net_write_timeout",
    "read_only",
    "require_secure_transport",
    "skip_name_resolve",
    "sql_mode",
    "system_time_zone",
    "time_zone",
    "wait_timeout",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to run against the server."""

    settings: Mapping[str, Any] = field(repr=False)  # the password is in it
    """The keyword arguments of ``pymysql.connect``."""
    size: int
    """Connections of each pool."""
    workers: int
    """Processes that have a pool each."""
    connect_timeout: float = 10.0
    """Seconds that the server may take to answer."""

    @property
    def connections(self) -> int:
        """The most connections of all pools together."""
        return self.size * self.workers

    @property
    def shape(self) -> str:
        """The pools in words."""
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        return f"{workers} × {self.size} connections"  # noqa: RUF001  # a product

    def __str__(self) -> str:
        return f"{self.settings['user']}@{self.settings['host']}:{self.settings['port']}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found."""

    version: str
    variables: Mapping[str, str]
    """Those of the server's variables that matter, as this account's sessions have them; by name."""
    others: int
    """Connections that others have open now."""
    most_used: int
    """The most connections that the server has had since its start."""
    refused: str | None
    """Why no more than one connection could be opened at once; None if it could."""
    servers: int
    """How many different servers answered."""
    read_only_servers: int
    nodes: tuple[GaleraNode, ...]
    """Those of the servers that are nodes of a Galera cluster."""
    by_query: bool
    """Whether the server can kill a query by its own id."""
    identified: bool
    """Whether the server's number for a session is the one that the client was told."""
    connect_seconds: float
    connect_cpu: float
    """Seconds of this process's CPU that a connect took."""
    plain_cpu: float | None
    """The same without TLS; None where the server refuses that."""
    encrypted: bool
    kill_seconds: float | None
    """How long after its timeout the last trial statement came back killed; None if not all could be killed."""
    kills_tried: int
    kills_failed: int
    clock_skew: float
    """Seconds that the server's clock is ahead of this machine's."""
    utc_offset: float
    """Seconds that the server's ``NOW()`` is ahead of UTC."""
    most_files: int | None
    """Files and sockets that a process may have open here; None where that is not limited or not known."""
    most_threads: int | None
    """Threads that the processes of this user, or of this container, may have."""

    @property
    def is_mysqls(self) -> bool:
        """Whether it is MySQL's own server, and not MariaDB's."""
        return "mariadb" not in self.version.lower()

    @property
    def is_one_cluster(self) -> bool:
        """Whether all servers that answered are nodes of the same Galera cluster."""
        return len(self.nodes) == self.servers and len({node.cluster for node in self.nodes}) == 1


def examine(plan: Plan) -> Facts:
    """Ask the server and this machine; takes a few seconds, and a few connections.

    :raises pymysql.MySQLError: if the server can't be reached, as PyMySQL raises it
    """
    settings = {
        **plan.settings,
        "charset": "utf8mb4",
        "autocommit": True,
        "connect_timeout": plan.connect_timeout,
        "read_timeout": plan.connect_timeout,
    }
    with _opened(settings) as (links, seconds, cpu, refused):
        first = links[0]
        identities = [PYMYSQL.identity(link) for link in links]
        servers = {identity.server: link for identity, link in zip(identities, links, strict=True) if identity}
        variables = {name: text for name, text in _rows(first, "SHOW VARIABLES") if name in _VARIABLES}
        # The session's own is what was asked for on connecting.
        variables |= dict(_rows(first, "SHOW GLOBAL VARIABLES LIKE 'autocommit'"))
        status = dict(
            _rows(first, "SHOW GLOBAL STATUS WHERE Variable_name IN ('Threads_connected', 'Max_used_connections')")
        )
        cipher = dict(_rows(first, "SHOW SESSION STATUS LIKE 'Ssl_cipher'"))
        skew, offset = _clock(first)
        version = str(_rows(first, "SELECT VERSION()")[0][0])
        each_once = list(servers.values()) or [first]
        read_only = [_rows(link, "SELECT @@read_only, @@innodb_read_only")[0] for link in each_once]
        nodes = tuple(node for node in map(ask_node, each_once) if node is not None)
        opened = len(links)
    kill_seconds, tried, failed = _trial(settings, 1 if len(servers) < 2 else opened)
    return Facts(
        version=version,
        variables=variables,
        others=max(0, int(status.get("Threads_connected", opened)) - opened),
        most_used=int(status.get("Max_used_connections", 0)),
        refused=refused,
        servers=max(1, len(servers)),
        read_only_servers=sum(any(str(each).upper() not in ("0", "OFF") for each in row) for row in read_only),
        nodes=nodes,
        by_query=any(identity is not None and identity.by_query for identity in identities),
        identified=all(identity is not None for identity in identities),
        connect_seconds=seconds,
        connect_cpu=cpu,
        plain_cpu=_plain_cpu(settings),
        encrypted=bool(cipher.get("Ssl_cipher")),
        kill_seconds=kill_seconds,
        kills_tried=tried,
        kills_failed=failed,
        clock_skew=skew,
        utc_offset=offset,
        most_files=_limit("RLIMIT_NOFILE"),
        most_threads=min((limit for limit in (_limit("RLIMIT_NPROC"), _pids()) if limit is not None), default=None),
    )


@contextmanager
def _opened(settings: Mapping[str, Any]) -> Iterator[tuple[list[Any], float, float, str | None]]:
    """Open a few connections at once; gives them, the medians of seconds and CPU, and why there is but one."""
    links: list[Any] = []
    taken: list[tuple[float, float]] = []
    refused: str | None = None
    try:
        for _ in range(CONNECTIONS):
            before = time.perf_counter(), time.process_time()
            try:
                links.append(_connect(settings))
            except pymysql.MySQLError as error:
                if not links:
                    raise
                refused = str(error) if len(links) == 1 else None
                break
            taken.append((time.perf_counter() - before[0], time.process_time() - before[1]))
        seconds, cpu = (statistics.median(each) for each in zip(*taken, strict=True))
        yield links, seconds, cpu, refused
    finally:
        for link in links:
            PYMYSQL.close(link)


def _connect(settings: Mapping[str, Any]) -> Any:
    """Connect as a pool does."""
    creator = fast_creator(pymysql)
    with remedies_named():
        return getattr(creator, "connect", creator)(**settings)


def _rows(link: Any, query: str) -> list[Any]:
    with link.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def _clock(link: Any) -> tuple[float, float]:
    before = time.time()
    [(now, offset)] = _rows(link, "SELECT UNIX_TIMESTAMP(SYSDATE(6)), TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW())")
    return float(now) - (before + time.time()) / 2, float(offset)


def _plain_cpu(settings: Mapping[str, Any]) -> float | None:
    """Return the seconds of CPU that connecting without TLS takes, None where the server refuses."""
    taken = []
    for _ in range(3):
        before = time.process_time()
        try:
            link = _connect({**settings, "ssl_disabled": True})
        except pymysql.MySQLError:
            return None
        taken.append(time.process_time() - before)
        PYMYSQL.close(link)
    return statistics.median(taken)


def _trial(settings: Mapping[str, Any], number: int) -> tuple[float | None, int, int]:
    """Let a pool kill statements that run out of time.

    :param number: how many at once: behind a balancer each may run on another server
    :return: how long the last one took to come back, None if not all were killed; how many there were, and failed
    """
    pool = OffloadPool.create(min_size=0, max_size=number, statement_timeout=TRIAL_TIMEOUT, **settings)
    late: list[float] = []

    def wait(connection: Any) -> None:
        started = time.monotonic()
        with suppress(StatementTimeout, pymysql.MySQLError), connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT SLEEP({TRIAL_SECONDS:d})")
        late.append(time.monotonic() - started - TRIAL_TIMEOUT)

    try:
        threads = [threading.Thread(target=wait, args=(pool.connection(),)) for _ in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        failed = number - pool.statistics().kills
        return (None if failed else max(0.0, *late), number, failed)
    except (pymysql.MySQLError, OffloadError):
        return None, number, number  # not even those connections
    finally:
        pool.close()


def _limit(name: str) -> int | None:
    if resource is None or not hasattr(resource, name):
        return None
    soft: int = resource.getrlimit(getattr(resource, name))[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _pids() -> int | None:
    """Return how many threads a container may have."""
    try:
        text = Path("/sys/fs/cgroup/pids.max").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
