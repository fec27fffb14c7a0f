"""Owns how SQLAlchemy's own dialect tests get their engines: as ENGINES says, from SQLAlchemy or from the pool.

`plain`: SQLAlchemy's own engines. `thread`: ours, in a plain thread. `bridge`: ours, each test in a bridged task.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.engine import make_url
from sqlalchemy.testing import exclusions
from sqlalchemy.testing.plugin.pytestplugin import *  # noqa: F403  # the hooks that make a test run of SQLAlchemy's
from sqlalchemy.testing.requirements import SuiteRequirements

import offload_db
from offload_db.contrib.sqlalchemy import create_engine

ENGINES = os.environ["ENGINES"]

# What SQLAlchemy's tests give to their engines and ours refuse.
POOL_OPTIONS = ("poolclass", "pool_size", "max_overflow", "pool_timeout", "pool_recycle", "pool_reset_on_return")

_plain = sqlalchemy.create_engine
_pools: dict[str, offload_db.OffloadPool] = {}


class Requirements(SuiteRequirements):
    """What the dialect can do; the rest is what SQLAlchemy assumes."""

    # SQLAlchemy 2.0.23 asks for it without assuming anything.
    array_type = exclusions.closed()  # type: ignore[no-untyped-call]  # SQLAlchemy's own


def _engine(url: Any, **options: Any) -> sqlalchemy.Engine:
    """Make an engine on one pool for each address."""
    url = make_url(url)
    if "pool" in options or options.get("_initialize") is False:
        return _plain(url, **options)
    where = url.render_as_string(hide_password=False)
    if where not in _pools:
        _pools[where] = offload_db.OffloadPool.create(
            max_size=30,
            checkout_timeout=10,
            on_loop_call="raise",
            host=url.host,
            port=url.port,
            user=url.username,
            password=url.password or "",
            database=url.database,
            ssl_disabled=True,
        )
    return create_engine(_pools[where], **{name: options[name] for name in options if name not in POOL_OPTIONS})


if ENGINES != "plain":
    sqlalchemy.create_engine = _engine


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: Any) -> bool | None:
    """Run the test in a bridged task."""
    if ENGINES != "bridge":
        return None

    @offload_db.offload
    async def run() -> None:
        pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames})

    asyncio.run(run())
    return True
