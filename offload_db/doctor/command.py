"""The ``offload-db doctor`` command: what will go wrong with these settings on this server, and why.

Owns the command's arguments, its output and its exit code. What is asked of the server is ``facts.py``'s, what
follows from it ``checks.py``'s. The password is read from the environment alone, and never shown.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pymysql

from ..errors import ConfigurationError
from ..settings import read_environment, shown
from .checks import Diagnosis, diagnose, explain, fine
from .facts import Facts, Plan, examine

FINE, PROBLEMS, UNUSABLE = 0, 1, 2
MOST = 65535
# The environment need not name a database here: most of what is asked needs none.
NO_DATABASE = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``offload-db doctor``."""
    parser.add_argument("--host", help="the server; default: MYSQL_HOST")
    parser.add_argument("--port", type=_count, help="its port; default: MYSQL_PORT, 3306")
    parser.add_argument("--user", help="as whom to log in; default: MYSQL_USER. MYSQL_PASSWORD holds the password")
    parser.add_argument("--database", help="the database; default: MYSQL_DATABASE, none")
    parser.add_argument("--pool-size", type=_count, help="connections of each pool; default: DB_POOL_MAX_SIZE, 20")
    parser.add_argument("--workers", type=_count, help="processes with a pool each; default: WEB_CONCURRENCY, 1")
    parser.add_argument(
        "--connect-timeout", type=_count, default=10, help="seconds that the server may take to answer; default: 10"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= MOST):
        raise argparse.ArgumentTypeError(f"{shown(text)}; accepted are whole numbers from 1 to {MOST}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Examine the server and print what is found.

    :return: 0 if all is fine, 1 if there are problems, 2 if the settings are unusable or the server can't be reached
    """
    try:
        plan = read_plan(arguments)
    except ConfigurationError as error:
        print(f"offload-db doctor: {error}", file=sys.stderr)
        return UNUSABLE
    try:
        facts = examine(plan)
    except (pymysql.MySQLError, OSError) as error:
        print(f"offload-db doctor: {plan}: {error}\n{explain(error)}", file=sys.stderr)
        return UNUSABLE
    diagnoses = diagnose(plan, facts)
    shown = _as_json(plan, facts, diagnoses) if arguments.format == "json" else _as_text(plan, facts, diagnoses)
    print(shown)
    return PROBLEMS if any(diagnosis.problem for diagnosis in diagnoses) else FINE


def read_plan(arguments: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Plan:
    """Put the arguments together with the environment.

    :raises ConfigurationError: naming everything that is missing or wrong
    """
    given = {
        "MYSQL_HOST": arguments.host,
        "MYSQL_PORT": arguments.port,
        "MYSQL_USER": arguments.user,
        "MYSQL_DATABASE": arguments.database or environ.get("MYSQL_DATABASE") or NO_DATABASE,
        "DB_POOL_MAX_SIZE": arguments.pool_size,
        # The environment's would belong to another size.
        "DB_POOL_MIN_SIZE": None if arguments.pool_size is None else 0,
    }
    merged = {
        "MYSQL_PASSWORD": "",
        **environ,
        **{name: str(value) for name, value in given.items() if value is not None},
    }
    _, size, settings = read_environment(merged, where="the settings (--host and the like, or the environment)")
    if settings["database"] == NO_DATABASE:
        settings["database"] = None
    workers = arguments.workers
    if workers is None:
        try:
            workers = _count(environ.get("WEB_CONCURRENCY") or "1")
        except argparse.ArgumentTypeError as error:
            raise ConfigurationError(f"the settings: WEB_CONCURRENCY={error}") from None
    return Plan(settings=settings, size=size, workers=workers, connect_timeout=arguments.connect_timeout)


def _as_json(plan: Plan, facts: Facts, diagnoses: list[Diagnosis]) -> str:
    shown: dict[str, Any] = {
        "host": plan.settings["host"],
        "port": plan.settings["port"],
        "user": plan.settings["user"],
        "pool_size": plan.size,
        "workers": plan.workers,
        "server": asdict(facts),
        "diagnoses": [asdict(diagnosis) for diagnosis in diagnoses],
        "problems": sum(diagnosis.problem for diagnosis in diagnoses),
    }
    return json.dumps(shown, indent=1, default=str)


def _as_text(plan: Plan, facts: Facts, diagnoses: list[Diagnosis]) -> str:
    lines = [f"{plan}: {facts.version}", plan.shape, ""]
    for diagnosis in diagnoses:
        lines.append(f"{'PROBLEM' if diagnosis.problem else 'note   '} {diagnosis.name}: {diagnosis.finding}")
        lines.append(f"        why:    {diagnosis.why}")
        lines.append(f"        remedy: {diagnosis.remedy}")
    lines += [f"fine    {text}" for text in fine(plan, facts, diagnoses)]
    problems = sum(diagnosis.problem for diagnosis in diagnoses)
    lines += ["", f"problems: {problems}, notes: {len(diagnoses) - problems}"]
    return "\n".join(lines)
