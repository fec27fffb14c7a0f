"""What the doctor concludes: from the plan and the facts to what will go wrong, why, and what to do.

Owns the judgement. Asks nobody anything.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from ..bridge.decorator import THREADS
from .clusters import CLUSTER_CHECKS
from .diagnosis import Diagnosis
from .facts import Facts, Plan

# Seconds of idleness below which the server ends connections that a backend still wants: between two peaks, or while
# a handler does something else.
SHORT_IDLE, RATHER_SHORT_IDLE = 30, 300
# Seconds of CPU that a connect may cost before it is worth a word; it holds the interpreter's lock.
COSTLY_CONNECT = 0.005
SLOW_CONNECT = 0.2
SKEWED_CLOCK = 2.0
# Files that a process has open besides its database connections: clients, logs, libraries.
OTHER_FILES = 100


def diagnose(plan: Plan, facts: Facts) -> list[Diagnosis]:
    """Return what is to be said, problems first."""
    found = [diagnosis for check in _CHECKS for diagnosis in check(plan, facts)]
    return sorted(found, key=lambda diagnosis: not diagnosis.problem)


def fine(plan: Plan, facts: Facts, diagnoses: list[Diagnosis]) -> list[str]:
    """Return what was looked at and is in order."""
    said = {diagnosis.name for diagnosis in diagnoses}
    late = 1000 * (facts.kill_seconds or 0)
    texts = {
        "max_connections": f"{plan.connections} connections at most, of {facts.variables['max_connections']}",
        "wait_timeout": f"idle connections are kept for {facts.variables['wait_timeout']} s",
        "kill": f"a statement was killed {late:.0f} ms after its timeout, with {_how(facts)}",
        "servers": "all connections lead to the same server",
        "connect": f"a connect takes {1000 * facts.connect_seconds:.1f} ms",
        "clock": "the server's clock agrees with this machine's",
    }
    return [f"{name}: {text}" for name, text in texts.items() if name not in said]


def _how(facts: Facts) -> str:
    return "KILL QUERY ID" if facts.by_query else "KILL QUERY"


def _max_connections(plan: Plan, facts: Facts) -> Iterator[Diagnosis]:
    name, most, limit = "max_connections", plan.connections, _number(facts, "max_connections")
    pools = f"{plan.shape} = {most}"
    fits = max(1, (limit - 1) // plan.workers)
    remedy = f"set max_connections to {most + facts.others + 10} or more, or make the pools smaller: {fits} each fit"
    if most + 1 > limit:
        yield Diagnosis(
            name,
            True,
            f"{pools}, and the server allows {limit}",
            "under load connects fail with error 1040, Too many connections, and so do kills, which need one more",
            remedy,
        )
    elif most + facts.others + 1 > limit:
        yield Diagnosis(
            name,
            False,
            f"{pools}, {facts.others} others are open now, and the server allows {limit}",
            "if those are not of this very backend, connects fail under load with error 1040, Too many connections",
            remedy,
        )
    elif 2 * most > limit:
        yield Diagnosis(
            name,
            False,
            f"{pools}, and the server allows {limit}",
            "during a rolling deployment old and new workers exist at once, and need twice as many",
            f"set max_connections to {2 * most + 10}, or deploy one worker at a time",
        )
    own = _number(facts, "max_user_connections")
    if own and most + 1 > own:
        yield Diagnosis(
            "max_user_connections",
            True,
            f"{pools}, and this account may have {own}",
            "under load connects fail with error 1226 or 1203, and so do kills, which need one more",
            f"allow the account {most + 10} (ALTER USER … WITH MAX_USER_CONNECTIONS), or make the pools smaller",
        )
    if facts.most_used >= 0.9 * limit > 0:
        yield Diagnosis(
            "max_used_connections",
            False,
            f"of {limit} connections {facts.most_used} have been in use at once",
            "the server was nearly full already, whoever it was",
            "see who holds them with SHOW PROCESSLIST, before these pools come on top",
        )


def _own_connects(plan: Plan, facts: Facts) -> Iterator[Diagnosis]:
    """Count what handlers in threads open that connect by themselves: the pools' size is no limit for those."""
    raw, limit = plan.workers * THREADS, _number(facts, "max_connections")
    if plan.connections < limit <= plan.connections + raw:
        yield Diagnosis(
            "own_connects",
            False,
            f"{plan.shape} = {plan.connections}, handlers with mode='thread' that connect by themselves may open "
            f"{plan.workers} × {THREADS} = {raw} more, and the server allows {limit}",  # noqa: RUF001  # a product
            "each of a worker's threads may have a connection of its own, which no pool limits",
            "where there are such handlers, have them connect through a pool, as offload-db migrate does, or set "
            f"max_connections to {plan.connections + raw + facts.others + 10} or more",
        )


def _idle(plan: Plan, facts: Facts) -> Iterator[Diagnosis]:
    seconds = _number(facts, "wait_timeout")
    if seconds < RATHER_SHORT_IDLE:
        yield Diagnosis(
            "wait_timeout",
            seconds < SHORT_IDLE,
            f"the server ends connections that are idle for {seconds} s",
            f"a pooled one is then replaced at its next checkout, {1000 * facts.connect_seconds:.0f} ms later; one that"
            " a module keeps, or that a handler holds while it does something else, is lost with error 2006 or 2013",
            "set wait_timeout to 600 or more; call ping(reconnect=True) on connections that are kept",
        )
    transaction = _number(facts, "idle_transaction_timeout")
    if transaction:
        yield Diagnosis(
            "idle_transaction_timeout",
            False,
            f"the server ends connections whose transaction is idle for {transaction} s",
            "a handler that awaits something else within a transaction may lose it",
            "keep transactions short: no calls of other services between BEGIN and COMMIT",
        )


def _connect(plan: Plan, facts: Facts) -> Iterator[Diagnosis]:
    if facts.connect_seconds > SLOW_CONNECT:
        names = (
            "" if facts.variables.get("skip_name_resolve") == "ON" else ", mostly for a look-up of the client's name"
        )
        yield Diagnosis(
            "connect",
            False,
            f"a connect takes {1000 * facts.connect_seconds:.0f} ms{names}",
            "whoever finds no idle connection waits that long, at most 4 at a time",
            "set skip_name_resolve; open connections ahead of need with min_size and `async with pool:`",
        )
    plain = facts.plain_cpu
    if plain is not None and facts.connect_cpu > COSTLY_CONNECT and facts.connect_cpu > 3 * plain:
        yield Diagnosis(
            "tls",
            False,
            f"a connect costs {1000 * facts.connect_cpu:.0f} ms of CPU, {1000 * plain:.1f} ms without TLS",
            "PyMySQL loads the certificates each time, and the event loop waits for the interpreter meanwhile",
            "pass ssl=context with one ssl.SSLContext for all connections"
            + ("" if facts.is_mysqls else "; ssl_disabled=True where the network is safe"),
        )
    if not facts.encrypted and not _is_local(str(plan.settings["host"])):
        yield Diagnosis(
            "encryption",
            False,
            "the connection is not encrypted",
            "everybody between this machine and the server can read what is sent",
            "set MYSQL_SSL_CA, or pass ssl=context, and require it for the account: ALTER USER … REQUIRE SSL",
        )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _text_and_time(plan: Plan, facts: Facts) -> Iterator[Diagnosis]:
    charset = facts.variables.get("character_set_database", "utf8mb4")
    if charset != "utf8mb4":
        yield Diagnosis(
            "charset",
            False,
            f"new tables of this database hold {charset}",
            "what a client sends beyond that is refused, or becomes question marks: emoji, other scripts",
            "ALTER DATABASE … CHARACTER SET utf8mb4, and convert the tables that hold text of users",
        )
    if abs(facts.clock_skew) > SKEWED_CLOCK:
        yield Diagnosis(
            "clock",
            False,
            f"the server's clock is {facts.clock_skew:+.0f} s off this machine's",
            "rows that are stamped by the server and compared with the application's clock look too new or too old",
            "run NTP on both, or take all times from one of them",
        )
    if facts.utc_offset:
        zone = facts.variables.get("time_zone", "")
        yield Diagnosis(
            "time_zone",
            False,
            f"the server's NOW() is {facts.utc_offset / 3600:+.1f} h off UTC (time_zone={zone})",
            "a datetime column does not say which zone it is in, and where the clocks change an hour comes twice",
            "set time_zone='+00:00' for the sessions: init_command=\"SET time_zone = '+00:00'\"",
        )


def _statements(plan: Plan, facts: Facts) -> Iterator[Diagnosis]:
    modes = set(facts.variables.get("sql_mode", "").split(","))
    if not modes & {"STRICT_TRANS_TABLES", "STRICT_ALL_TABLES"}:
        yield Diagnosis(
            "sql_mode",
            False,
            "the server is not in strict mode",
            "values that do not fit are cut or set to 0 with a warning that nobody reads",
            "add STRICT_TRANS_TABLES to sql_mode, after a look at what the application writes",
        )
    for mode, consequence in (
        ("ANSI_QUOTES", "text in double quotes is a name there, and statements written for MySQL's default fail"),
        ("NO_BACKSLASH_ESCAPES", "statements that escape by backslash themselves are open to injection"),
    ):
        if mode in modes:
            yield Diagnosis(
                "sql_mode", False, f"sql_mode has {mode}", consequence, "pass every value as a parameter, never as text"
            )
    if facts.variables.get("autocommit") == "OFF":
        yield Diagnosis(
            "autocommit",
            False,
            "sessions begin with autocommit off",
            "code that connects with autocommit=None and forgets commit() loses its writes; a read holds its snapshot",
            "say autocommit=True or commit() where the pool is made",
        )
    for name, unit, what in (
        ("max_statement_time", 1.0, "statements"),
        ("max_execution_time", 1000.0, "SELECT statements, and no others,"),
    ):
        limit = float(facts.variables.get(name) or 0) / unit
        if limit:
            yield Diagnosis(
                name,
                False,
                f"the server ends {what} after {limit:g} s",
                "it does so by an error of its own, not StatementTimeout, whatever statement_timeout says",
                f"set statement_timeout below {limit:g} s, which holds for all statements",
            )
    seconds = _number(facts, "net_write_timeout")
    if 0 < seconds < SHORT_IDLE:
        yield Diagnosis(
            "net_write_timeout",
            False,
            f"the server waits {seconds} s for a client that does not read",
            "stream() and unbuffered cursors lose the connection when their reader pauses for longer",
            "set net_write_timeout to 60 or more",
        )


def _machine(plan: Plan, facts: Facts) -> Iterator[Diagnosis]:
    files = plan.size + OTHER_FILES
    if facts.most_files is not None and files > facts.most_files:
        yield Diagnosis(
            "open_files",
            True,
            f"a process may open {facts.most_files} files here, and needs about {files}",
            "connects, and accepting clients, fail with 'Too many open files'",
            f"raise the limit (ulimit -n, LimitNOFILE=) to {max(4096, 2 * files)}",
        )
    threads = plan.workers * (plan.size + 2 * THREADS)
    if facts.most_threads is not None and threads > facts.most_threads:
        yield Diagnosis(
            "threads",
            True,
            f"up to {threads} threads may be needed, and {facts.most_threads} are allowed here",
            f"each worker has one per connection, and up to {THREADS} each for mode='thread' and blocking()",
            "raise the limit (ulimit -u, TasksMax=, the container's pids limit), or make the pools smaller",
        )


_CHECKS = (_max_connections, _own_connects, _idle, *CLUSTER_CHECKS, _connect, _text_and_time, _statements, _machine)


def _number(facts: Facts, name: str) -> int:
    return int(float(facts.variables.get(name) or 0))
