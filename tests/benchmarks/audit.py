"""Measures the static audit on generated applications, or on trees that are there.

    python -m tests.benchmarks.audit                      # of 50,000, 200,000 and 1,000,000 lines
    python -m tests.benchmarks.audit 100000 /usr/lib/python3

Each module of a generated one has a pool's helper, a repository, a service that calls other modules' repositories,
handlers with and without queries, models and plain code. Prints for each, in a process of its own, the seconds, the
lines in each second, the most memory, and what was found.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from offload_db.audit import audit

MODULE = '''
"""Module {n} of the application."""

import logging
from typing import Any, Optional

from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel

from app.database import get_db, pool
from app.module_{other} import Repository{other}, describe_{other}

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/module{n}")
'''
BLOCK = '''

class Item{n}_{b}(BaseModel):
    name: str
    amount: float = 0.0
    note: Optional[str] = None

    def total(self, tax: float) -> float:
        return round(self.amount * (1 + tax), 2)


def parse_{b}(text: str) -> dict[str, Any]:
    """Read the lines of a report."""
    found: dict[str, Any] = {{}}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if not key.strip():
            continue
        try:
            found[key.strip().lower()] = float(value)
        except ValueError:
            found[key.strip().lower()] = value.strip() or None
    logger.debug("parsed %d keys", len(found))
    return {{key: value for key, value in sorted(found.items()) if value is not None}}


@router.get("/items{b}/{{item_id}}")
async def get_item_{b}(item_id: int, conn=Depends(get_db)):
    with conn.cursor() as cursor:
        cursor.execute("SELECT * FROM items WHERE id = %s", (item_id,))
        row = cursor.fetchone()
    if row is None:
        raise HTTPException(status_code=404, detail=f"no item {{item_id}}")
    return row


@router.get("/plain{b}")
async def plain_{b}(text: str):
    parsed = parse_{b}(text)
    items = [value for value in parsed.values() if value]
    return {{"count": len(parsed), "items": items, "who": describe_{other}(text)}}


@router.post("/other{b}")
async def other_{b}(item: Item{n}_{b}):
    repository = Repository{other}()
    return {{"total": item.total(0.2), "rows": repository.find_{b}(item.name)}}
'''
REPOSITORY = """

def describe_{n}(text: str) -> str:
    return " ".join(word.capitalize() for word in text.split())


def query_{n}(sql, args=None):
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute(sql, args)
        return cursor.fetchall()


class Repository{n}:
"""
METHOD = """
    def find_{b}(self, name: str):
        rows = query_{n}("SELECT * FROM items WHERE name = %s", (name,))
        return [dict(row, name=name) for row in rows]
"""
DATABASE = """
import pymysql
from dbutils.pooled_db import PooledDB

pool = PooledDB(creator=pymysql, maxconnections=20)


def get_db():
    conn = pool.connection()
    try:
        yield conn
    finally:
        conn.close()
"""
BLOCKS = 8


def generate(root: Path, lines: int) -> int:
    """Write an application of at least so many lines; return how many it has."""
    package = root / "app"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "database.py").write_text(DATABASE, encoding="utf-8")
    written = number = 0
    while written < lines:
        values = {"n": number, "other": max(number - 1, 0)}
        parts = [MODULE.format(**values), REPOSITORY.format(**values)]
        parts += [METHOD.format(b=b, **values) for b in range(BLOCKS)]
        parts += [BLOCK.format(b=b, **values) for b in range(BLOCKS)]
        text = "".join(parts)
        (package / f"module_{number}.py").write_text(text, encoding="utf-8")
        written += text.count("\n")
        number += 1
    return written


def measure(what: str) -> None:
    """Audit a directory, or an application of so many lines; print what that took."""
    with tempfile.TemporaryDirectory() as directory:
        if what.isdecimal():
            generate(Path(directory), int(what))
        started, cpu = time.perf_counter(), time.process_time()
        found = audit([directory if what.isdecimal() else what])
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{found.lines} lines in {found.files} files: {seconds:.1f} s ({cpu:.1f} s of CPU), "
        f"{found.lines / cpu:.0f} lines/s, at most {most} MB"
    )
    print(f"{len(found.findings)} findings, {len(found.handlers)} handlers, {len(found.errors)} errors", flush=True)


def main() -> None:
    """Measure one thing, or each in a process of its own."""
    wanted = sys.argv[1:] or ["50000", "200000", "1000000"]
    if len(wanted) == 1:
        measure(wanted[0])
    else:
        for one in wanted:
            subprocess.run([sys.executable, "-m", "tests.benchmarks.audit", one], check=True)


if __name__ == "__main__":
    main()
