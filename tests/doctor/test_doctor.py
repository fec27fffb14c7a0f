"""Claims about `offload-db doctor`: what it says of a server, and how it ends."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql
import pytest

from examples.support.mariadb import Endpoint, PrivateServer
from offload_db import ConfigurationError
from offload_db.doctor import command
from offload_db.doctor.checks import diagnose
from offload_db.doctor.facts import Facts, Plan, examine
from offload_db.doctor.galera import GaleraNode
from offload_db.doctor.logins import explain
from tests.conftest import DATABASE_VARIABLES, MySQL
from tests.faults.proxy import Proxy
from tests.logins import sha2_server
from tests.tls import certify, tls_server_in

PASSWORD = "never-to-be-shown"

NODE = GaleraNode(
    cluster="a", ready=True, local_state="4", state="Synced", size=3, sync_wait=0, paused=0.0, conflicts=0
)
VARIABLES = {"max_connections": "100", "wait_timeout": "28800", "sql_mode": "STRICT_TRANS_TABLES"}


@pytest.fixture(scope="module")
def healthy() -> Iterator[MySQL]:
    """Give a server with ordinary settings."""
    with PrivateServer(options=["--max-connections=100"]) as private:
        yield MySQL(private.endpoint)


@pytest.fixture(scope="module")
def sick() -> Iterator[MySQL]:
    """Give a server with everything that surprises people."""
    with PrivateServer(
        options=[
            "--max-connections=10",
            "--wait-timeout=5",
            "--idle-transaction-timeout=7",
            "--net-write-timeout=11",
            "--max-statement-time=3",
            "--default-time-zone=+05:30",
            "--character-set-server=latin1",
            "--sql-mode=ANSI_QUOTES,NO_BACKSLASH_ESCAPES",
            "--autocommit=0",
            "--read-only",
        ]
    ) as private:
        yield MySQL(private.endpoint)


class Answer:
    """What the command printed, and how it ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err
        assert PASSWORD not in out + err

    @property
    def problems(self) -> dict[str, str]:
        return self._lines("PROBLEM")

    @property
    def notes(self) -> dict[str, str]:
        return self._lines("note   ")

    @property
    def fine(self) -> dict[str, str]:
        return self._lines("fine   ")

    def _lines(self, kind: str) -> dict[str, str]:
        lines = [line.removeprefix(f"{kind} ") for line in self.out.splitlines() if line.startswith(kind)]
        return {name: text for name, _, text in (line.partition(": ") for line in lines)}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command against a server that the environment names."""

    def ask(where: Endpoint | None, *words: str, **environment: str) -> Answer:
        for name in ("WEB_CONCURRENCY", *DATABASE_VARIABLES):
            monkeypatch.delenv(name, raising=False)
        for name, text in {**({} if where is None else where.environment()), **environment}.items():
            monkeypatch.setenv(name, text)
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        status = command.run(parser.parse_args(words))
        shown = capsys.readouterr()
        return Answer(status, shown.out, shown.err)

    return ask


@pytest.fixture
def account(healthy: MySQL) -> Iterator[Endpoint]:
    """Give an account without any privilege."""
    with healthy.connect() as admin, admin.cursor() as cursor:
        cursor.execute(f"CREATE USER 'poor'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'")
        yield replace(healthy.endpoint, user="poor", password=PASSWORD)
        cursor.execute("DROP USER 'poor'@'127.0.0.1'")


def test_a_healthy_server(ask: Any, account: Endpoint) -> None:
    """An ordinary server and an account without privileges are fine: its own statements can be killed."""
    answer = ask(account, "--workers", "2")
    assert (answer.status, answer.problems, answer.err) == (0, {}, "")
    assert "MariaDB" in answer.out
    assert "2 workers" in answer.out
    assert "KILL QUERY ID" in answer.fine["kill"]
    assert answer.fine["max_connections"] == "40 connections at most, of 100"
    assert set(answer.fine) >= {"wait_timeout", "servers"}
    assert answer.out.rstrip().splitlines()[-1].startswith("problems: 0, notes: ")


def test_everything_that_surprises(ask: Any, sick: MySQL) -> None:
    """Too few connections and a short idle time are problems, the rest are notes; each says why and what to do."""
    answer = ask(sick.endpoint)
    assert answer.status == 1
    assert set(answer.problems) == {"max_connections", "wait_timeout"}
    assert "= 20, and the server allows 10" in answer.problems["max_connections"]
    assert "5 s" in answer.problems["wait_timeout"]
    assert set(answer.notes) >= {
        "autocommit",
        "charset",
        "idle_transaction_timeout",
        "max_statement_time",
        "net_write_timeout",
        "read_only",
        "sql_mode",
        "time_zone",
    }
    assert "+5.5 h" in answer.notes["time_zone"]
    assert "latin1" in answer.notes["charset"]
    count = len(answer.problems) + sum(line.startswith("note ") for line in answer.out.splitlines())
    assert answer.out.count("        why:    ") == answer.out.count("        remedy: ") == count
    assert "ANSI_QUOTES" in answer.out
    assert "NO_BACKSLASH_ESCAPES" in answer.out
    assert "strict mode" in answer.out
    assert sick.process_list() == []


@pytest.mark.parametrize(
    ("words", "environment", "status"),
    [
        (("--pool-size", "99"), {}, 0),
        (("--pool-size", "100"), {}, 1),
        (("--pool-size", "33", "--workers", "3"), {}, 0),
        (("--pool-size", "33", "--workers", "4"), {}, 1),
        ((), {"DB_POOL_MAX_SIZE": "50", "WEB_CONCURRENCY": "2"}, 1),
        (("--workers", "1"), {"DB_POOL_MAX_SIZE": "50", "WEB_CONCURRENCY": "2"}, 0),
        (("--pool-size", "2"), {"DB_POOL_MAX_SIZE": "500", "DB_POOL_MIN_SIZE": "10"}, 0),
    ],
)
def test_workers_times_pool_size(
    words: tuple[str, ...], environment: dict[str, str], status: int, healthy: MySQL, ask: Any
) -> None:
    """All workers' pools together, and one connection for a kill, have to fit; arguments go before the environment."""
    answer = ask(healthy.endpoint, *words, **environment)
    assert (answer.status, "max_connections" in answer.problems) == (status, bool(status))


def test_an_account_with_one_connection(ask: Any, healthy: MySQL, account: Endpoint) -> None:
    """Where the server refuses a second connection nothing can be killed, and the doctor says so."""
    with healthy.connect() as admin, admin.cursor() as cursor:
        cursor.execute("ALTER USER 'poor'@'127.0.0.1' WITH MAX_USER_CONNECTIONS 1")
    answer = ask(account)
    assert answer.status == 1
    assert set(answer.problems) == {"kill", "max_user_connections"}
    assert "the server refuses it: (1226" in answer.out
    assert "this account may have 1" in answer.problems["max_user_connections"]


def test_a_balancer(ask: Any, healthy: MySQL, sick: MySQL) -> None:
    """Two servers behind one address are told apart, and one of them being read-only is a problem then."""
    with Proxy((healthy.host, healthy.port), (sick.host, sick.port)) as proxy:
        answer = ask(replace(healthy.endpoint, port=proxy.port), "--pool-size", "2")
    assert answer.status == 1
    assert "2 different servers" in answer.problems["servers"]
    assert "1 of 2 servers are read-only" in answer.problems["read_only"]
    assert "servers" not in answer.fine


def test_a_server_that_says_nothing(ask: Any, healthy: MySQL) -> None:
    """A server that accepts and stays silent costs a bounded wait, and ends the command with 2."""
    with Proxy((healthy.host, healthy.port)) as proxy:
        proxy.deaf = True
        answer = ask(replace(healthy.endpoint, port=proxy.port), "--connect-timeout", "1")
    assert (answer.status, answer.out) == (2, "")
    assert "said nothing" in answer.err


def test_no_way_in(ask: Any, healthy: MySQL, account: Endpoint) -> None:
    """What keeps one out ends the command with 2 and is explained, without the password."""
    for where, words, explanation in (
        (replace(account, password=f"{PASSWORD}-wrong"), (), "check MYSQL_USER and MYSQL_PASSWORD"),
        (replace(account, port=1), (), "Nothing answers there"),
        (replace(account, host="no-such-host.invalid"), (), "Nothing answers there"),
        (account, ("--database", "missing"), "GRANT it"),
        (healthy.endpoint, ("--database", "missing"), "There is no such database"),
    ):
        answer = ask(where, *words)
        assert (answer.status, answer.out) == (2, "")
        assert explanation in answer.err


def test_a_full_server(ask: Any, sick: MySQL) -> None:
    """A server without a free connection ends the command with 2, and the doctor says who has them all."""
    with sick.connect() as admin, admin.cursor() as cursor:
        cursor.execute(f"CREATE USER 'poor'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'")
    held = [sick.connect() for _ in range(10)]
    try:
        answer = ask(replace(sick.endpoint, user="poor", password=PASSWORD))
    finally:
        for link in held:
            link.close()
        with sick.connect() as admin, admin.cursor() as cursor:
            cursor.execute("DROP USER 'poor'@'127.0.0.1'")
    assert answer.status == 2
    assert "The server is full" in answer.err


def test_settings_that_are_no_use(ask: Any) -> None:
    """Settings that are missing or wrong end the command with 2 and are all named."""
    answer = ask(None, DB_POOL_MAX_SIZE="many", MYSQL_PORT="0")
    assert (answer.status, answer.out) == (2, "")
    for name in (
        "MYSQL_HOST is not set",
        "MYSQL_USER is not set",
        "DB_POOL_MAX_SIZE=<builtins.str object>",
        "MYSQL_PORT='0'",
    ):
        assert name in answer.err
    answer = ask(None, "--host", "h", "--user", "u", WEB_CONCURRENCY="x", MYSQL_PASSWORD=PASSWORD)
    assert answer.status == 2
    assert "WEB_CONCURRENCY" in answer.err


@pytest.mark.parametrize("words", [("--pool-size", "0"), ("--workers", "-1"), ("--port", "65536"), ("--format", "x")])
def test_bad_arguments(words: tuple[str, ...], ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ask(None, *words)
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_json(ask: Any, account: Endpoint) -> None:
    """The same as JSON, for machines."""
    answer = ask(account, "--format", "json", "--pool-size", "200")
    assert answer.status == 1
    shown = json.loads(answer.out)
    assert shown["problems"] == 1
    assert shown["server"]["variables"]["max_connections"] == "100"
    [problem] = [diagnosis for diagnosis in shown["diagnoses"] if diagnosis["problem"]]
    assert problem["name"] == "max_connections"
    assert set(problem) == {"name", "problem", "finding", "why", "remedy"}


@pytest.fixture(scope="module")
def facts(healthy: MySQL) -> tuple[Plan, Facts]:
    """Give what was found of the healthy server."""
    plan = Plan({**healthy.settings(), "database": None}, size=20, workers=2)
    return plan, examine(plan)


@pytest.mark.parametrize(
    ("changes", "name", "problem"),
    [
        ({"most_files": 110}, "open_files", True),
        ({"most_threads": 100}, "threads", True),
        ({"kill_seconds": None, "identified": False}, "kill", True),
        ({"kill_seconds": None}, "kill", True),
        ({"clock_skew": -30.0}, "clock", False),
        ({"connect_seconds": 0.5}, "connect", False),
        ({"connect_cpu": 0.02, "plain_cpu": 0.001}, "tls", False),
        ({"most_used": 95}, "max_used_connections", False),
        ({"others": 70}, "max_connections", False),
        ({"servers": 2}, "servers", True),
        ({"servers": 2}, "max_age", False),
        ({"servers": 2}, "statement_timeout", False),
        ({"servers": 2}, "health_check", False),
        ({"servers": 2, "nodes": (NODE, NODE)}, "servers", False),
        ({"servers": 2, "nodes": (NODE, replace(NODE, cluster="another"))}, "servers", True),
        ({"servers": 2, "nodes": (NODE, NODE)}, "wsrep_sync_wait", False),
        ({"servers": 2, "nodes": (NODE, NODE)}, "conflicts", False),
        ({"nodes": (replace(NODE, conflicts=1),)}, "conflicts", False),
        ({"nodes": (replace(NODE, ready=False),)}, "galera", True),
        ({"nodes": (replace(NODE, local_state="2", state="Donor/Desynced"),)}, "galera", True),
        ({"servers": 2, "nodes": (NODE, replace(NODE, size=1))}, "galera_size", True),
        ({"nodes": (replace(NODE, size=2),)}, "galera_size", False),
        ({"nodes": (replace(NODE, paused=0.2),)}, "flow_control", False),
    ],
)
def test_what_this_machine_does_not_have(
    changes: dict[str, Any], name: str, problem: bool, facts: tuple[Plan, Facts]
) -> None:
    """What no test server shows is concluded from facts that are changed."""
    plan, found = facts
    before = {diagnosis.name for diagnosis in diagnose(plan, replace(found, connect_cpu=0.0, most_files=None))}
    after = {diagnosis.name: diagnosis for diagnosis in diagnose(plan, replace(found, **changes))}
    assert name not in before
    assert after[name].problem is problem
    remote = replace(plan, settings={**plan.settings, "host": "db.example.com"})
    assert "encryption" in {diagnosis.name for diagnosis in diagnose(remote, found)}
    assert "encryption" not in before


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"servers": 3, "kill_seconds": None, "kills_tried": 4, "kills_failed": 3}, "kill", "3 of 4 statements"),
        ({"servers": 3, "kill_seconds": None, "kills_tried": 4, "kills_failed": 3}, "kill", "balance roundrobin"),
        ({"kill_seconds": None, "identified": False}, "kill", "ProxySQL"),
        ({"nodes": (replace(NODE, state="Initialized", ready=False),)}, "galera", "1 of 1 nodes that answered is not"),
        ({"nodes": (NODE,)}, "health_check", "wsrep_local_state = 4"),
        ({"servers": 2, "version": "8.4.0"}, "health_check", "super_read_only"),
        (
            {"version": "8.4.0", "connect_cpu": 0.02, "plain_cpu": 0.001},
            "tls",
            "one ssl.SSLContext for all connections",
        ),
        ({"variables": {**VARIABLES, "max_execution_time": "3000"}}, "max_execution_time", "and no others"),
    ],
)
def test_the_reason_and_the_remedy_fit(
    changes: dict[str, Any], name: str, words: str, facts: tuple[Plan, Facts]
) -> None:
    """What is said of clusters, of balancers and of MySQL's own servers is what holds there."""
    plan, found = facts
    [diagnosis] = [each for each in diagnose(plan, replace(found, **changes)) if each.name == name]
    assert words in f"{diagnosis.finding} {diagnosis.why} {diagnosis.remedy}"
    if changes.get("version") == "8.4.0":
        assert "ssl_disabled" not in diagnosis.remedy  # without TLS its logins need a further package


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1129, "host_cache"),
        (1820, "expired"),
        (1862, "expired"),
        (2059, "offload-db[rsa]"),
        (3032, "offline mode"),
        (3118, "locked"),
        (4151, "locked"),
        (9999, "The server's log says more"),
    ],
)
def test_what_keeps_one_out_of_mysqls_own_servers(code: int, words: str) -> None:
    """Errors of a login that only one kind of server has are explained, too."""
    assert words in explain(pymysql.err.OperationalError(code, "what it says"))


def test_a_login_that_needs_a_package(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a login needs cryptography, and it is not installed, the command says so, and ends in order."""
    with sha2_server(monkeypatch) as settings:
        answer = ask(Endpoint(settings["host"], settings["port"], settings["user"], PASSWORD))
    assert (answer.status, answer.out) == (2, "")
    assert "'offload-db[rsa]'" in answer.err


@pytest.fixture(scope="module")
def encrypting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MySQL, Path]]:
    """Give a server that speaks TLS, and the folder of its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    with tls_server_in(folder) as server:
        yield server, folder


def test_a_connect_costs_what_it_costs_the_pool(encrypting: tuple[MySQL, Path]) -> None:
    """A connect over TLS is measured as a pool makes it: the certificates of the system are not read each time."""
    server, _ = encrypting
    found = examine(Plan({**server.settings(), "database": None}, size=2, workers=1))
    assert found.encrypted
    assert found.plain_cpu is not None
    assert found.connect_cpu < 0.01  # of PyMySQL's own 0.02 and more


def test_tls_by_the_environment(ask: Any, encrypting: tuple[MySQL, Path]) -> None:
    """The doctor connects with the TLS settings of the environment, and says what is wrong with them."""
    server, folder = encrypting
    answer = ask(server.endpoint, MYSQL_SSL_CA=str(folder / "cert"))
    assert "encryption" not in {**answer.problems, **answer.notes}
    refused = ask(server.endpoint, MYSQL_SSL_CA=str(certify(folder, "another")))
    assert refused.status == 2
    assert "CERTIFICATE_VERIFY_FAILED" in refused.err
    assert "MYSQL_SSL_CA does not name" in ask(server.endpoint, MYSQL_SSL_CA=str(folder / "nothing")).err


@pytest.mark.parametrize(("workers", "told"), [(1, False), (2, True), (9, False)])
def test_connections_beside_the_pools(workers: int, told: bool, facts: tuple[Plan, Facts]) -> None:
    """What handlers in threads may open by themselves is counted where the pools fit and these would not."""
    plan, found = facts
    roomy = replace(found, variables={**found.variables, "max_connections": "100"})
    diagnoses = {one.name: one for one in diagnose(replace(plan, size=20, workers=workers), roomy)}
    assert ("own_connects" in diagnoses) == told
    if told:
        assert not diagnoses["own_connects"].problem
        assert "may open 2 × 40 = 80 more, and the server allows 100" in diagnoses["own_connects"].finding  # noqa: RUF001


def test_the_password_is_in_no_representation(facts: tuple[Plan, Facts]) -> None:
    plan, found = facts
    plan = replace(plan, settings={**plan.settings, "password": PASSWORD})
    assert PASSWORD not in repr(plan) + str(plan) + repr(found)


def test_the_plan() -> None:
    """Arguments go before the environment, and no database is needed."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    plan = command.read_plan(parser.parse_args(["--host", "h", "--port", "5"]), {"MYSQL_HOST": "x", "MYSQL_USER": "u"})
    assert (plan.settings["host"], plan.settings["port"], plan.settings["database"]) == ("h", 5, None)
    assert (plan.size, plan.workers, plan.connections) == (20, 1, 20)
    with pytest.raises(ConfigurationError, match="DB_POOL_MIN_SIZE=9 is more than DB_POOL_MAX_SIZE=3"):
        command.read_plan(
            parser.parse_args(["--host", "h", "--user", "u"]), {"DB_POOL_MIN_SIZE": "9", "DB_POOL_MAX_SIZE": "3"}
        )
