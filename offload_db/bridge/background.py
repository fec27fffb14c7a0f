"""Threads that the library starts by itself.

Owns starting each of them, its name, and the error where the process can have no further one. Threads that work for
tasks are anyio's, and no part of this. The names all begin with ``offload_db``:

==========  =====================================================  ===================================================
name        started by, for                                        how many, and how long they live
==========  =====================================================  ===================================================
interrupt   ``bridge/hops``: bring back one call whose task was    one for each cancelled call; the seconds that a
            cancelled                                              kill may take
stream      ``awaitable/streams``: read one chunk ahead            one for each stream; until the chunk is there
release     ``awaitable/connection``: ``release()`` where the      one for each connection; the seconds that a
            server must be asked; no daemon                        rollback may take
close       ``pool/shutdown``: bring back the calls of a pool      ``HELPERS`` for each pool; the seconds that a kill
            that is closed                                         may take
terminate   ``aio/pool``: the same in ``terminate()``              one for each pool; as above
leak watch  ``pool/leaks``: look at what is out                    one for each pool; until nothing is out
keep        ``pool/admission_queue``: stop keeping a connection     one for each pool; ``KEEP_SECONDS``
            for the event loop's own thread
limit       ``connection/executor``, ``drivers/base``: the time    one for each such call; until it has come back
            limit of a call that is made inline
(no name)   ``pool/checkin``: read out, for a finaliser, what a    one for each connection; the seconds and bytes that
            statement sends that may still write                   reading out may take
==========  =====================================================  ===================================================
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable

from ..errors import ThreadUnavailable


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

    :param name: what it is for; it stands in the table above
    """

    __slots__ = ("_thread",)

    def __init__(self, seconds: float, function: Callable[[], object], name: str) -> None:
        self._thread = threading.Timer(seconds, function)
        self._thread.name = f"offload_db {name}"
        self._thread.daemon = True

    def start(self) -> None:
        """Begin to count the seconds.

        :raises ThreadUnavailable: if the process can have no further thread
        """
        _start(self._thread)

    def end(self) -> None:
        """Call the function no more; if it is being called, wait for it. A timer that never began is fine."""
        self._thread.cancel()
        if self._thread.ident is not None:
            self._thread.join()


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
        raise ThreadUnavailable.because(f"no thread could be started: {error}") from error
