"""Threads that the library starts by itself.

Owns starting one, and the error where the process can have no further one. What the threads do is not known here.
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
