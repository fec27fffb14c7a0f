"""Owns work that is done once for all processes that the tests run in, as each would take long to do it for itself."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")


def common_directory(factory: pytest.TempPathFactory) -> Path:
    """Return a directory that all processes of this run have, and no other run."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextmanager
def one_at_a_time(directory: Path, name: str) -> Iterator[None]:
    """Keep all other processes from a block of the same name."""
    with (directory / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def once(directory: Path, name: str, make: Callable[[], T]) -> T:
    """Return what *make* gave to the first process that asked for it; one that fails leaves it to the next.

    :param directory: the processes' common one
    :param name: what is made, as part of a file's name
    """
    made = directory / f"{name}.pickle"
    with one_at_a_time(directory, name):
        if not made.exists():
            unfinished = made.with_suffix(".unfinished")
            unfinished.write_bytes(pickle.dumps(make()))
            unfinished.replace(made)
        result: T = pickle.loads(made.read_bytes())
    return result
