"""Two threads meet at one connection, one scope or one queue, and one of them pauses at the worst of its steps."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from offload_db import BlockingCallError, ConnectionClosed, Lane, OffloadConnection
from offload_db.bridge.call_scope import BridgedCall
from offload_db.connection.call_lock import CallLock
from offload_db.connection.driver_call import DriverCall
from offload_db.connection.session_state import SessionState
from offload_db.pool.admission_queue import Admission
from offload_db.pool.lanes import Ticket
from tests.conftest import MySQL
from tests.faults.inside import give_up, lease_of, owned_by, queued, replace_lock
from tests.inside import core
from tests.pool.inside import looking
from tests.support import PATIENCE, in_thread, paused_before_step, pool_of, until, value

pytestmark = pytest.mark.timeout(60)


def on_a_loop(function: Callable[[], Any]) -> Any:
    """Call a function on the thread of an event loop, not bridged."""

    async def call() -> Any:
        return function()

    return asyncio.run(call())


def in_this_thread(function: Callable[[], Any]) -> Any:
    return function()


@pytest.mark.parametrize("closed", [in_this_thread, on_a_loop])
def test_a_connection_that_two_threads_close(closed: Callable[..., Any], database: dict[str, Any]) -> None:
    """Whichever pauses, and where, the connection comes back once, and its next user has it alone and open."""
    with pool_of(1, database, on_loop_call="allow") as pool:
        for number in itertools.count(1):
            connection = pool.connection()
            taken: list[OffloadConnection] = []

            def meanwhile(connection: OffloadConnection = connection, taken: list[Any] = taken) -> None:
                closed(connection.close)
                taken.append(pool.connection())

            if not paused_before_step(number, connection.close, meanwhile):
                break
            (other,) = taken
            assert (pool.statistics().in_use, pool.statistics().idle) == (1, 0), number
            assert value(other, "SELECT 1") == 1
            other.close()
            assert (pool.statistics().in_use, pool.statistics().idle, pool.statistics().open) == (0, 1, 1), number
        assert number > 5


def test_a_statement_on_a_connection_that_another_thread_closes(database: dict[str, Any]) -> None:
    """Whoever pauses on the way to the server, and where, sends nothing in the next user's checkout."""
    with pool_of(1, database) as pool:
        for number in itertools.count(1):
            connection = pool.connection()
            cursor = connection.cursor()
            taken: list[OffloadConnection] = []

            def late(cursor: Any = cursor) -> None:
                with suppress(ConnectionClosed):
                    cursor.execute("SET @late = 1")

            def meanwhile(connection: OffloadConnection = connection, taken: list[Any] = taken) -> None:
                connection.close()
                other = pool.connection()
                other.cursor().execute("SET @late = NULL")
                taken.append(other)

            if not paused_before_step(number, late, meanwhile):
                break
            assert value(taken[0], "SELECT @late") is None, number
            taken[0].close()
        assert number > 20


class PausingLock:
    """A lock under which who takes it first pauses, until somebody else has done something."""

    def __init__(self, lock: Any, meanwhile: Callable[[], object]) -> None:
        self._lock = lock
        self._meanwhile: Callable[[], object] | None = meanwhile

    def acquire(self, *, blocking: bool = True) -> bool:
        return bool(self._lock.acquire(blocking))

    def release(self) -> None:
        self._lock.release()

    def locked(self) -> bool:
        return bool(self._lock.locked())

    def __enter__(self) -> None:
        self._lock.acquire()
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            in_thread(meanwhile).result(PATIENCE)

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()


def test_an_owner_that_ends_while_a_waiter_gives_up() -> None:
    """Who has the lock of a shared connection just then lets in the next who waits for the owner's end."""
    owner, other = BridgedCall(), BridgedCall()
    call_lock = CallLock(owner)
    gives_up, waits = queued(call_lock, other), queued(call_lock, other)
    replace_lock(call_lock, lambda lock: PausingLock(lock, owner.end))
    assert give_up(call_lock, gives_up)
    assert waits.admitted


def test_an_owner_that_lets_go_while_the_loops_thread_is_refused() -> None:
    """Nor does the event loop's thread, which is refused the turn just then, leave those standing who wait for it."""
    call_lock = CallLock()
    owner, other = BridgedCall(), BridgedCall()  # it was there before them, so it is not one call's alone
    owned_by(call_lock, owner)
    waits = queued(call_lock, other)
    replace_lock(call_lock, lambda lock: PausingLock(lock, owner.release))
    with pytest.raises(BlockingCallError):
        on_a_loop(lambda: call_lock.acquire(None))
    assert waits.admitted


@pytest.mark.parametrize("patience", [None, PATIENCE])
def test_a_slot_that_comes_back_while_the_loops_thread_looks(patience: float | None) -> None:
    """The event loop's own thread, which waits for a slot, gets one that comes back while it looks for hope."""
    lanes = Admission(Lane("the pool", 1, checkout_timeout=patience), ())
    held = in_thread(lambda: lanes.acquire(None)).result(PATIENCE)
    looked = threading.Event()

    def look(refuse: Callable[..., None], slot: Ticket, *args: Any, look_at_threads: bool = False) -> None:
        if look_at_threads and not looked.is_set():
            looked.set()
            in_thread(lambda: lanes.release(held)).result(PATIENCE)
        elif look_at_threads:
            refuse(slot, *args, look_at_threads=look_at_threads)

    looking(lanes, look)
    waiting = in_thread(lambda: on_a_loop(lambda: lanes.acquire(None)))
    lanes.release(waiting.result(3.0))
    assert looked.is_set()
    assert lanes.in_use == 0


class PausingDict(dict[Any, None]):
    """A dictionary that lets somebody do something just when it has been looked at, or added to."""

    after_look: Callable[[], object] | None = None
    after_add: Callable[[], object] | None = None

    def __bool__(self) -> bool:
        full = len(self) > 0
        if self.after_look is not None:
            self.after_look()
        return full

    def __setitem__(self, key: Any, value: None) -> None:
        super().__setitem__(key, value)
        if self.after_add is not None:
            self.after_add()


def test_a_connection_that_is_closed_while_its_call_ends() -> None:
    """A call that ends takes no notice of a connection of its own that another thread closes just then."""
    scope = BridgedCall()
    scope.owned = owned = PausingDict()
    call_lock = CallLock(scope)
    owned.after_look = call_lock.close
    scope.end()
    assert not scope.owned


def test_a_call_that_ends_while_a_thread_of_its_own_takes_a_connection() -> None:
    """A connection that a call's helper takes when the call ends belongs to nobody, and the call ends well."""
    scope = BridgedCall()
    scope.owned = owned = PausingDict()
    owned.after_add = scope.end
    call_lock = CallLock(scope)
    assert call_lock.owner is None
    assert in_thread(lambda: call_lock.acquire(None)).result(PATIENCE)


def test_a_connection_that_is_closed_while_a_statement_runs(database: dict[str, Any], mysql: MySQL) -> None:
    """Its next user has none of that statement's transaction: the event loop's thread may close what others use."""
    with mysql.connect(**database) as admin, admin.cursor() as cursor:
        cursor.execute("CREATE TABLE t (a INT)")
    with pool_of(1, database, on_loop_call="allow", autocommit=False) as pool:
        connection = pool.connection()
        running = in_thread(partial(value, connection, "INSERT INTO t SELECT SLEEP(0.5)"))
        until(lambda: any(link.busy for link in core(pool).links))
        on_a_loop(connection.close)
        with pool.connection() as other:
            assert value(other, "SELECT COUNT(*) FROM t") == 0
        assert running.exception(PATIENCE) is not None
        assert pool.statistics().discards == {"closed": 1}


def test_a_statement_that_has_not_begun_when_the_connection_is_closed(
    database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not sent: by the time that it is on its way the connection may be its next user's."""
    on_its_way, closed = threading.Event(), threading.Event()
    make = DriverCall.make

    def paused(call: DriverCall, *args: Any) -> Any:
        if not closed.is_set() and threading.current_thread() is not threading.main_thread():
            on_its_way.set()
            assert closed.wait(PATIENCE)
        return make(call, *args)

    with pool_of(1, database, on_loop_call="allow") as pool:
        connection = pool.connection()
        cursor = connection.cursor()
        monkeypatch.setattr(DriverCall, "make", paused)
        late = in_thread(lambda: cursor.execute("SET @late = 1"))
        assert on_its_way.wait(PATIENCE)
        on_a_loop(connection.close)
        other = pool.connection()
        closed.set()
        with pytest.raises(ConnectionClosed):
            late.result(PATIENCE)
        assert value(other, "SELECT @late") is None
        other.close()
        assert pool.statistics().discards == {}


def test_two_who_take_the_same_connection_back(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of a closed loop's statement, and who throws its coroutine away: it comes to rest once."""
    looked, go_on = threading.Event(), threading.Event()
    discard_reason = SessionState.discard_reason

    def paused(state: SessionState) -> str | None:
        if threading.current_thread() is not threading.main_thread():
            looked.set()
            assert go_on.wait(PATIENCE)
        return discard_reason(state)

    with pool_of(1, database) as pool:
        connection = pool.connection()
        lease = lease_of(connection)
        monkeypatch.setattr(SessionState, "discard_reason", paused)
        late = in_thread(lease.drop)
        assert looked.wait(PATIENCE)
        lease.drop()
        go_on.set()
        late.result(PATIENCE)
        statistics = pool.statistics()
        assert (statistics.checkins, statistics.idle, statistics.in_use, statistics.discards) == (1, 1, 0, {})
