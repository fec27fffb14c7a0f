"""Claims about weak sets that other threads add to: to list one never fails."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from offload_db.bridge.weak_sets import members
from offload_db.rollout import room
from offload_db.rollout.targets import Request
from tests.inside import core
from tests.support import pool_of


class Growing(weakref.WeakSet[Any]):
    """A set to which somebody adds the moment that it is looked through for the first time."""

    def __init__(self, one: Any, more: Any) -> None:
        super().__init__([one])
        self.more = [more]

    def __iter__(self) -> Iterator[Any]:
        for one in super().__iter__():
            if self.more:
                self.add(self.more.pop())
            yield one


class Thing:
    """What can be in a weak set."""


def test_one_that_grows() -> None:
    """What was there is listed, and nothing is raised."""
    one, more = Thing(), Thing()
    assert set(members(Growing(one, more))) == {one, more}


def test_connections_are_counted_while_one_is_opened(database: dict[str, Any]) -> None:
    """A pool's status does not fail where another thread opens a connection just then."""
    with pool_of(2, database) as pool:
        with pool.connection(), pool.connection():
            pass
        idle = core(pool).idle
        links = list(idle.links)
        idle.links = Growing(*links)
        assert idle.count_kind(core(pool).connector) == (2, 0)


def test_room_is_waited_for_while_a_connection_becomes_shared(
    database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that runs as before does not fail where another thread begins to share a connection just then."""
    with pool_of(3, database) as pool, pool.connection(), pool.connection():
        locks = [link.call_lock for link in core(pool).links]
        monkeypatch.setattr(room, "shared_locks", Growing(*locks))
        assert anyio.run(room.wait_for_room, Request(("nobody.knows",))) == []
