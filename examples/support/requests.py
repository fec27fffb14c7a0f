"""Owns the clients of the small examples: ten requests at once, over real sockets."""

from __future__ import annotations

import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

__all__ = ["ten_requests"]


def ten_requests(url: str) -> float:
    """Ask for *url* ten times at once, and return the seconds until the last answer was there."""

    def ask(number: int) -> int:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return int(answer.status)

    started = time.perf_counter()
    with ThreadPoolExecutor(max_workers=10) as clients:
        assert set(clients.map(ask, range(10))) == {200}
    return time.perf_counter() - started
