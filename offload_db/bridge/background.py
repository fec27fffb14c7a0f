"""Threads that the library starts by itself.

Owns starting each of them, its name, and the error where the process can have no further one. Threads that work for
tasks are anyio's, and no part of this. The names all begin with ``offload_db``:

==========  =====================================================  ===================================================
name        started by, for                                        how many, and how long they live
==========  =====================================================  ===================================================
interrupt   ``bridge/hops``: bring back one call whose task was    one for each cancelled call; the seconds that a
            cancelled                                              kill may take
aside       ``bridge/reactor``: make a call that would keep the    one for each such call; until it is back
            shared thread from the others
kill        ``connection/killer``: end the sessions whose links    one for each pool; some seconds after the last link
            were cut                                               was cut, and no longer than the pool is open
stream      ``awaitable/streams``: read one chunk ahead            one for each stream; until the chunk is there
release     ``awaitable/connection``: ``release()`` where the      one for each connection; the seconds that a
            server must be asked; no daemon                        rollback may take
close       ``pool/shutdown``: bring back the calls of a pool      ``HELPERS`` for each pool; the seconds that a kill
            that is closed                                         may take
terminate   ``aio/pool``: the same in ``terminate()``              one for each pool; as above
timer       here: wait for all timers                              one; at most twice ``STAYS`` longer than they are
                                                                   in use
limit       ``connection/executor``, ``drivers/base``: bring back  one for each such call; the seconds that a kill
            a call that is made inline, whose time is over         may take
leak watch  ``pool/leaks``: report what is out for too long        one for each report; for a moment
keep        ``pool/admission_queue``: stop keeping a connection    one for each pool; for a moment
            for the event loop's own thread
rules file  ``rollout/rules_file``: look whether it has changed    one a second, while there is one; for a moment
rollout     ``contrib/status``: look for what was changed on the   one a second, for each page that can change
changes     page of another process                                something; for a moment
(no name)   ``pool/checkin``: read out, for a finaliser, what a    one for each connection; the seconds and bytes that
            statement sends that may still write                   reading out may take
==========  =====================================================  ===================================================
"""

from __future__ import annotations

import _thread
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ..errors import ThreadUnavailable

# Seconds that the thread which waits for timers sleeps at most. It ends when none was in use for so long.
STAYS = 10.0


def start_thread(function: Callable[[], object], name: str, *, daemon: bool = True) -> threading.Thread:
    """Start a thread.

    :param name: what it is for; it stands in the table above
    :param daemon: whether the interpreter exits without waiting for it
    :raises ThreadUnavailable: if the process can have no further one
    """
    thread = threading.Thread(target=function, name=f"offload_db {name}", daemon=daemon)
    _start(thread)
    return thread


class Timer:
    """Calls a function in a thread of its own once the seconds are over.

    To start and end one takes no lock and mostly wakes nobody, so that every statement may have a limit. Where no
    thread can be had when the time is over, the function is called by the one that waits for all timers.

    :param name: what it is for; it stands in the table above
    """

    __slots__ = ("_function", "_name", "_over", "_seconds", "_waiter")

    def __init__(self, seconds: float, function: Callable[[], object], name: str) -> None:
        self._seconds = seconds
        self._function = function
        self._name = name
        self._over = threading.Lock()  # held from before the function is called until it has come back
        self._waiter = _waiter

    def start(self) -> None:
        """Begin to count the seconds.

        :raises ThreadUnavailable: if nobody waits for timers yet, and the process can have no further thread; this one
            is waited for as soon as it can and another is started, unless it is ended
        """
        waiter = self._waiter
        waiter.due[self] = due = time.monotonic() + self._seconds
        waiter.used = True
        if due < waiter.looks_at:
            waiter.wake()

    def cancel(self) -> bool:
        """Call the function no more; False if there is no calling it any more. Takes no lock."""
        return self._waiter.due.pop(self, None) is not None

    def end(self) -> None:
        """Call the function no more; if it is being called, wait for it. A timer that never began is fine."""
        if not self.cancel() and self._waiter is _waiter:  # else it is called in the process that this one is forked of
            with self._over:
                pass

    def expire(self) -> None:
        """Call the function, unless the timer was ended."""
        if not self._over.acquire(blocking=False):
            return
        if not self.cancel():
            self._over.release()
            return
        try:
            start_thread(self._call, self._name)
        except (ThreadUnavailable, MemoryError):
            with suppress(Exception):  # the other timers have to be waited for
                self._call()

    def _call(self) -> None:
        try:
            self._function()
        finally:
            self._over.release()


class _Waiter:
    """Waits for all timers of the process, in one thread, which is there while they are in use.

    No heap: those that wait belong to the statements that run just now, and are looked through far less often than one
    begins or ends. One step puts it into the dictionary and one takes it out, whatever a finaliser does meanwhile.
    """

    def __init__(self) -> None:
        self.due: dict[Timer, float] = {}
        """When the time of each is over. Who takes it out decides what becomes of it."""
        self.used = False
        """Whether one was started since that was asked last."""
        self.looks_at = math.inf
        """When the thread looks next; infinite while it does, and while there is none."""
        self._bell = threading.Lock()
        self._bell.acquire()
        self._runs = False
        # Held while the thread is started, or decides to end. A finaliser may come by in the middle.
        self._lock = threading.RLock()

    def wake(self) -> None:
        """Have the thread look now; start it if there is none."""
        with self._lock:
            if not self._runs:
                self._runs = True
                try:
                    start_thread(self._run, "timer")
                except BaseException:
                    self._runs = False
                    raise
                return
        with suppress(RuntimeError):  # somebody else has woken it
            self._bell.release()

    def _run(self) -> None:
        try:
            woken = True
            while woken or self._in_use():
                now = time.monotonic()
                self.looks_at = looks_at = min(self.look(now), now + STAYS)
                # Who started a timer before that has found nobody asleep, and rung.
                woken = self._bell.acquire(timeout=max(0.0, looks_at - time.monotonic()))
                self.looks_at = math.inf
        except BaseException:  # such as too little memory
            self._runs, self.looks_at = False, math.inf  # the next timer starts another
            raise

    def look(self, now: float) -> float:
        """See to the timers whose time is over; returns when the next one is."""
        soonest = math.inf
        for timer, due in self.due.copy().items():
            if due <= now:
                timer.expire()
            else:
                soonest = min(soonest, due)
        return soonest

    def _in_use(self) -> bool:
        """Tell whether a timer is there, or was meanwhile; else the thread has to end."""
        with self._lock:
            self._runs, self.used = self.used or bool(self.due), False
            return self._runs


_waiter = _Waiter()


def _after_fork() -> None:
    global _waiter
    _waiter = _Waiter()  # the thread is the parent's, and so are those that the timers belong to


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def start_from_finaliser(function: Callable[[], object]) -> bool:
    """Start a thread without waiting for a lock; False if the process can have no further one."""
    try:
        # Not by `threading`, which takes locks: the finaliser may have come in their middle.
        _thread.start_new_thread(function, ())
    except RuntimeError:
        return False
    return True


def none_left(error: BaseException) -> bool:
    """Tell whether an error of somebody else's says that no thread could be started."""
    # So says Python, whoever starts it; there is no class for it.
    return isinstance(error, RuntimeError) and "start new thread" in str(error)


def _start(thread: threading.Thread) -> None:
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        raise ThreadUnavailable.after(error) from error
