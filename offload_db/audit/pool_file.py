"""The file that a migration adds where code connects anew for each call: one pool for all who connect alike.

Owns its text, its place, and how others import it. Which calls go through it is decided in ``converting.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from .model import Module, ModuleRef
from .project import Project

NAME = "offload_pools"
# The module that has connect(), and the function that takes its place.
FUNCTIONS = {
    "pymysql": "connect",
    "mysql.connector": "connect_by_connector",
    "MySQLdb": "connect_by_mysqlclient",
}

_HEAD = '''\
"""The database connections of this application: one pool for all code that connects with the same settings."""

import threading

import offload_db

# The most connections of one pool: whoever comes then waits until one is closed. Code that has two open at once needs
# twice as many as there are callers.
MAX_SIZE = 20
_pools = {}
_lock = threading.Lock()


def _pool(key, driver, size, settings):
    with _lock:
        if key not in _pools:
            _pools[key] = offload_db.OffloadPool.create(driver, max_size=size, **settings)
        return _pools[key]
'''
_PYMYSQL = '''

def connect(**settings):
    """Do what pymysql.connect does, with a connection of the pool for this server, user and database."""
    import pymysql

    names = ("host", "port", "unix_socket", "user", "password", "passwd", "database", "db", "read_default_file")
    key = ("pymysql", *(settings.get(name) for name in names))
    return _pool(key, pymysql, MAX_SIZE, settings).connect(**settings)
'''
_OTHER = '''

def {function}(**settings):
    """Do what {driver}.connect does, with a connection of the pool for these settings."""
    import {driver}

    size = settings.pop("pool_size", MAX_SIZE)
    for name in ("pool_name", "pool_reset_session"):
        settings.pop(name, None)
    key = ("{driver}", repr(sorted(settings.items())))
    return _pool(key, {driver}, size, settings).connection()
'''


@dataclass(frozen=True, slots=True)
class Home:
    """Where the file stands, and the line that imports it."""

    path: Path
    line: str


def text(before: str, drivers: Iterable[str]) -> str:
    """Return the file with the functions that are needed; what it has already stays as it is."""
    written = before or _HEAD
    for driver in sorted(drivers):
        if f"def {FUNCTIONS[driver]}(" not in written:
            made = _PYMYSQL if driver == "pymysql" else _OTHER.format(function=FUNCTIONS[driver], driver=driver)
            written += made
    return written


def home(modules: Collection[Module], project: Project) -> Home | None:
    """Return where the file goes that some files share; None where they start from different directories."""
    places = {project.start_of(module) for module in modules}
    if len(places) != 1:
        return None
    [(start, package)] = places
    line = f"from {package} import {NAME}" if package else f"import {NAME}"
    return Home(start / f"{NAME}.py", line)


def is_free(module: Module) -> bool:
    """Tell whether a file has the name for nothing else."""
    cell = module.scope.cells.get(NAME)
    return NAME not in module.scope.bound_names or (
        cell is not None and any(isinstance(v, ModuleRef) and v.module.path.stem == NAME for v in cell.values)
    )
