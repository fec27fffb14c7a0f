"""Owns the procedures that tests leave in the middle, and the look at what they have written by then."""

from __future__ import annotations

from typing import Any

import pymysql
from pymysql.constants import CLIENT

from .conftest import MySQL
from .support import QUICK

PROCEDURES = {
    # What comes after the first result takes a while and has nothing to send.
    "quiet": (
        "SELECT 'started'; DO SLEEP(0.1); INSERT INTO t SELECT seq FROM mysql.seq_1_to_2000; INSERT INTO t VALUES (-1)"
    ),
    # A closed link would end this one with its second result.
    "talkative": (
        "SELECT 'started'; DO SLEEP(0.02); INSERT INTO t SELECT seq FROM mysql.seq_1_to_2000; SELECT seq FROM "
        "mysql.seq_1_to_5000; SELECT 'next'; SELECT 'last'; INSERT INTO t VALUES (-1)"
    ),
    "wide": "SELECT seq FROM mysql.seq_1_to_5000; DO SLEEP(0.02); INSERT INTO t VALUES (-1)",
    "short": "SELECT 1",
    "failing": "SELECT 1; INSERT INTO t VALUES (1); INSERT INTO nowhere VALUES (1)",
    "half": "START TRANSACTION; INSERT INTO t VALUES (1); INSERT INTO nowhere VALUES (1)",
    "endless": "SELECT 1; DO SLEEP(600); INSERT INTO t VALUES (-1)",
    "large": "SELECT 1; SELECT REPEAT('x', 1000) FROM mysql.seq_1_to_10000; INSERT INTO t VALUES (-1)",
}
WRITTEN = {"quiet": (2001, 1), "talkative": (2001, 1), "wide": (1, 1)}


def with_procedures(mysql: MySQL, database: dict[str, Any]) -> dict[str, Any]:
    """Make the procedures, and the table that they write into; returns settings that allow several statements."""
    with mysql.connect(**database) as plain, plain.cursor() as cursor:
        cursor.execute("CREATE TABLE t (a INT)")
        cursor.execute("CREATE FUNCTION noted(n INT) RETURNS INT BEGIN INSERT INTO t VALUES (n); RETURN n; END")
        for name, body in PROCEDURES.items():
            cursor.execute(f"CREATE PROCEDURE {name}() BEGIN {body}; END")
    return {**database, "client_flag": CLIENT.MULTI_STATEMENTS}


def written(settings: dict[str, Any]) -> tuple[int, int]:
    """Return how many rows there are, and how many of them are the last one of a procedure."""
    with pymysql.connect(**{**QUICK, **settings}) as plain, plain.cursor() as cursor:
        cursor.execute("SELECT COUNT(*), COALESCE(SUM(a = -1), 0) FROM t")
        rows, last = cursor.fetchone() or (0, 0)
    return int(rows), int(last)
