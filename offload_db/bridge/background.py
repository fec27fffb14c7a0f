"""Threads that the library starts by itself, and what happens where the process can have no further one.

Owns the starting alone; what the threads do is whose they are.
"""

from __future__ import annotations

import threading

from ..errors import ThreadUnavailable


def start(thread: threading.Thread) -> None:
    """Start a thread.

    :raises ThreadUnavailable: if the process can have no further one
    """
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        raise ThreadUnavailable.because(f"no thread could be started: {error}") from error


def none_left(error: BaseException) -> bool:
    """Tell whether an error of somebody else's says that no thread could be started."""
    # So says Python, whoever starts it; there is no class for it.
    return isinstance(error, RuntimeError) and "start new thread" in str(error)
