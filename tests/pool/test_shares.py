"""Connections of several kinds in one pool do not throw each other out without need."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any

import anyio
import pymysql
import pytest
from pymysql.converters import conversions
from pymysql.cursors import DictCursor, SSCursor

from offload_db import OffloadPool, offload
from offload_db.pool import idle
from tests.conftest import needs
from tests.pool.inside import waiting_for_share
from tests.support import PATIENCE, PLACES, in_thread, outcome, pool_of, run_at, settled, together, until, value

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    with pool_of(2, database) as pool:
        yield pool


def opened(pool: OffloadPool) -> int:
    """Return how many connections the pool has opened so far."""
    now = pool.statistics()
    return now.open + sum(now.discards.values())


@pytest.mark.parametrize("place", PLACES)
async def test_what_only_the_client_knows_of(place: str, pool: OffloadPool, database: dict[str, Any]) -> None:
    """Cursor classes, converters and timeouts need no connection of their own, and each caller has its own ones."""
    settings = {**database, "autocommit": True, "ssl_disabled": True}
    shout = {**conversions, pymysql.constants.FIELD_TYPE.VAR_STRING: lambda text: text.upper()}
    asked: dict[str, tuple[Callable[[], Any], Any]] = {
        "own": (pool.connection, ("a",)),
        "dict": (lambda: pool.connect(**settings, cursorclass=DictCursor), {"a": "a"}),
        "converters": (lambda: pool.connect(**settings, conv=shout), ("A",)),
        "new converters": (lambda: pool.connect(**settings, conv={**shout}, cursorclass=DictCursor), {"a": "A"}),
        "unbuffered": (pool.variant(cursorclass=SSCursor, read_timeout=9, use_unicode=False).connection, (b"a",)),
    }
    read_timeouts = set()

    def use() -> None:
        for name in [*asked, *reversed(asked), *asked]:
            connect, row = asked[name]
            with connect() as connection, connection.cursor() as cursor:
                cursor.execute("SELECT 'a' AS a")
                assert cursor.fetchone() == row, name
                assert type(cursor.connection.cursorclass) is type
                read_timeouts.add((name == "unbuffered", connection._read_timeout))

    await run_at(place, use)
    assert read_timeouts == {(False, None), (True, 9)}
    assert opened(pool) == 1


def test_converters_that_are_changed(pool: OffloadPool, database: dict[str, Any]) -> None:
    """What a caller changes in the very dictionary that was passed before holds for the next connection, and no other.

    So it is where each connection is a new one.
    """
    changing = {**conversions}
    settings = {**database, "autocommit": True, "ssl_disabled": True, "conv": changing}
    other = pool.variant(conv=changing).connection
    for text in ("a", "A"):
        for connect in (other, other, partial(pool.connect, **settings)):
            with connect() as connection:
                assert value(connection, "SELECT 'a'") == ("a" if connect == other else text)
        changing[pymysql.constants.FIELD_TYPE.VAR_STRING] = str.upper
    assert opened(pool) == 1


def test_a_bad_argument_of_the_clients(pool: OffloadPool, database: dict[str, Any]) -> None:
    """PyMySQL's own error is raised for it, and the idle connection stays."""
    pool.connection().close()
    with pytest.raises(TypeError):
        pool.connect(**database, autocommit=True, ssl_disabled=True, connect_timeout="ten")
    now = pool.statistics()
    assert (now.idle, now.in_use, dict(now.discards)) == (1, 0, {})


def test_a_subclass_keeps_its_own_ways(database: dict[str, Any]) -> None:
    """Where a class of the user's makes connections, other settings are for it to see: they get their own."""

    class Own(pymysql.connections.Connection):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**{**kwargs, "cursorclass": DictCursor})

    with pool_of(2, database, creator=SimpleNamespace(connect=Own, threadsafety=1)) as pool:
        pool.connection().close()
        with pool.variant(cursorclass=SSCursor).connection() as connection:
            assert connection.cursorclass is DictCursor
        assert pool.statistics().open == 2


@pytest.mark.parametrize("mix", [(1, 1), (9, 1), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("callers", [8, 16])
async def test_few_are_thrown_out(mix: tuple[int, ...], callers: int, database: dict[str, Any]) -> None:
    """Callers that ask for several kinds at random open a few connections in a hundred checkouts, not each third."""
    with pool_of(8, database) as pool:
        kinds = (pool.connection, pool.variant(charset="latin1").connection, pool.variant(autocommit=False).connection)
        bag: list[Callable[[], Any]] = [kind for weight, kind in zip(mix, kinds, strict=False) for _ in range(weight)]
        dice = random.Random(7)
        calls = itertools.count(1)

        @offload
        async def call() -> None:
            with dice.choice(bag)() as connection:
                value(connection, "SELECT SLEEP(0.003)")

        async def keep_calling() -> None:
            while next(calls) <= 300:
                await call()

        await together(*[keep_calling] * callers)
        now = pool.statistics()
        assert now.checkouts == 300
        assert now.in_use == 0
        assert opened(pool) - 8 <= 24, "8 in 100; it was 18 to 60"


@needs("sqlalchemy")
async def test_sqlalchemy_beside_plain_code(database: dict[str, Any]) -> None:
    """The same for an engine on the pool and code that uses the pool itself."""
    import sqlalchemy as sa

    from offload_db.contrib.sqlalchemy import create_engine

    with pool_of(4, database) as pool:
        engine = create_engine(pool)

        @offload
        async def call(number: int) -> None:
            if number % 2:
                with engine.connect() as connection:
                    connection.execute(sa.text("SELECT SLEEP(0.002)"))
            else:
                with pool.connection() as plain:
                    value(plain, "SELECT SLEEP(0.002)")

        async def keep_calling(first: int) -> None:
            for number in range(first, first + 25):
                await call(number // 2)

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(keep_calling, number)
        assert pool.statistics().checkouts == 200
        assert opened(pool) - 4 <= 16


def held_in_thread(stack: ExitStack, connect: Callable[[], Any]) -> Future[int]:
    """Check a connection out in a thread, to be given back at the end; gives its number on the server."""

    def hold() -> int:
        connection = stack.enter_context(connect())
        return int(value(connection, "SELECT CONNECTION_ID()"))

    return in_thread(hold)


def test_a_kind_with_its_share_waits_for_its_own(pool: OffloadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the connection of its kind that comes back, and another kind's idle one stays."""
    monkeypatch.setattr(idle, "DISPLACE_AFTER", PATIENCE)
    other = pool.variant(autocommit=False).connection
    with ExitStack() as first, ExitStack() as last:
        other().close()
        session = held_in_thread(first, pool.connection).result(PATIENCE)
        waiting = held_in_thread(last, pool.connection)
        until(lambda: waiting_for_share(pool) == 1)
        first.close()
        assert waiting.result(PATIENCE) == session
        assert (pool.statistics().idle, dict(pool.statistics().discards)) == (1, {})


def test_what_nobody_uses_makes_room(pool: OffloadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing of its kind comes back, another kind's connection goes when it has rested for a while."""
    monkeypatch.setattr(idle, "DISPLACE_AFTER", 0.1)
    with ExitStack() as stack:
        pool.variant(autocommit=False).connection().close()
        sessions = {held_in_thread(stack, pool.connection).result(PATIENCE) for _ in range(2)}
        assert len(sessions) == 2
        assert dict(pool.statistics().discards) == {"displaced": 1}


def test_a_kind_below_its_share_need_not_wait(pool: OffloadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that has none yet gets room at once."""
    monkeypatch.setattr(idle, "DISPLACE_AFTER", PATIENCE)
    with pool.connection(), pool.connection():
        pass
    with pool.variant(autocommit=False).connection() as connection:
        assert value(connection, "SELECT @@autocommit") == 0
    assert dict(pool.statistics().discards) == {"displaced": 1}


def test_who_waits_lets_other_kinds_pass(pool: OffloadPool) -> None:
    """In the queue a caller whose kind is in use is passed by one whose kind has come back, and is served next."""
    other = pool.variant(autocommit=False).connection
    with ExitStack() as mine, ExitStack() as others, ExitStack() as stack:
        session = held_in_thread(mine, pool.connection).result(PATIENCE)
        second = held_in_thread(others, other).result(PATIENCE)
        first_in_queue = held_in_thread(stack, pool.connection)
        until(lambda: pool.statistics().waiting == 1)
        next_in_queue = held_in_thread(stack, other)
        until(lambda: pool.statistics().waiting == 2)
        others.close()
        assert next_in_queue.result(PATIENCE) == second
        assert not first_in_queue.done()
        mine.close()
        assert first_in_queue.result(PATIENCE) == session
        assert dict(pool.statistics().discards) == {}


def test_who_waits_is_not_passed_for_ever(pool: OffloadPool) -> None:
    """A caller is passed as often as the pool has connections; then one of another kind makes room for it."""
    other = pool.variant(autocommit=False).connection
    with ExitStack() as mine, ExitStack() as others, ExitStack() as stack:
        session = held_in_thread(mine, pool.connection).result(PATIENCE)
        held_in_thread(others, other).result(PATIENCE)
        passed = held_in_thread(stack, pool.connection)
        until(lambda: pool.statistics().waiting == 1)
        stacks = [stack.enter_context(ExitStack()) for _ in range(3)]
        later = []
        for number, each in enumerate(stacks, 2):
            later.append(held_in_thread(each, other))
            until(lambda: pool.statistics().waiting == number)  # noqa: B023  # it is called at once
        for before, after in zip([others, *stacks], later[:2], strict=False):
            before.close()
            after.result(PATIENCE)
        stacks[1].close()
        assert passed.result(PATIENCE) != session
        assert not later[2].done()
        assert dict(pool.statistics().discards) == {"displaced": 1}
        mine.close()
        later[2].result(PATIENCE)


async def test_cancelled_while_it_waits_for_its_kind(pool: OffloadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slot is free again, and nothing was thrown out."""
    monkeypatch.setattr(idle, "DISPLACE_AFTER", PATIENCE)
    with ExitStack() as stack:

        def hold() -> None:
            pool.variant(autocommit=False).connection().close()
            stack.enter_context(pool.connection())

        await outcome(in_thread(hold))

        @offload
        async def handler() -> None:
            pool.connection()

        async with anyio.create_task_group() as group:
            group.start_soon(handler)
            await settled(lambda: waiting_for_share(pool) == 1)
            group.cancel_scope.cancel()
        now = pool.statistics()
        assert (now.in_use, now.idle, waiting_for_share(pool), dict(now.discards)) == (1, 1, 0, {})
        await outcome(in_thread(stack.close))
