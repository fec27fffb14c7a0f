"""What is changed on the page of one process, for the others that serve the same application.

Owns the files by which they know of it: one for each target, beside what ``monitor.watch`` has each process write.
Every process that has such a page looks for them once a second.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

from ... import ConfigurationError, ThreadUnavailable
from ...bridge.background import Timer
from .changes import Change

logger = logging.getLogger("offload_db")

LOOK_EVERY = 1.0
"""Seconds between two looks."""
_SUFFIX = ".change"
_LARGEST = 4096
# Not by a link, and without waiting for who writes into a pipe.
_ONLY_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class SharedChanges:
    """The changes that were made in any process.

    :param directory: where the processes write what they have seen
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: dict[str, tuple[int, int]] = {}
        _all.add(self)

    def forget(self) -> None:
        """Take away what was changed before any process that runs was started; waits for the disk."""
        for path in self._files():
            with suppress(OSError):
                path.unlink()

    def tell(self, change: Change) -> None:
        """Let the other processes know of a change that is made already; waits for the disk.

        :raises OSError: if it can't be written
        """
        name = hashlib.sha256(change.target.encode()).hexdigest()[:32] + _SUFFIX
        text = json.dumps({"target": change.target, "mode": change.mode, "share": change.share})
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=self._directory, delete=False) as file:
            try:
                file.write(text)
                file.close()
                self._seen[name] = _mark(Path(file.name))
                os.replace(file.name, self._directory / name)
            except BaseException:
                os.unlink(file.name)
                raise

    def look(self) -> None:
        """Make the changes of other processes that are new; waits for the disk."""
        for path in self._files():
            try:
                mark = _mark(path)
                if self._seen.get(path.name) == mark:
                    continue
                self._seen[path.name] = mark
                Change.read(_own(path)).make()
            except (OSError, ConfigurationError) as error:  # it may be another version's
                logger.warning("a change of the rollout was not made here: %s", error)

    def keep_looking(self) -> None:
        """Look now and then, for as long as somebody holds this."""
        _look_later(weakref.ref(self))

    def _files(self) -> list[Path]:
        try:
            return sorted(path for path in self._directory.iterdir() if path.suffix == _SUFFIX)
        except OSError:  # nobody has made the directory yet
            return []


def _mark(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_mtime_ns, state.st_ino


def _own(path: Path) -> bytes:
    """Read a file, if it is one that a process of this user has written.

    Others may write into the directory as well, and have no say in how this application runs.

    :raises OSError: if it can't be read
    :raises ConfigurationError: if it is somebody else's
    """
    with open(os.open(path, _ONLY_READ), "rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode) or (hasattr(os, "geteuid") and state.st_uid != os.geteuid()):
            raise ConfigurationError(f"{path} is not of this user; accepted are files that such a page has written")
        return file.read(_LARGEST)


def _look_later(reference: weakref.ref[SharedChanges]) -> None:
    def look() -> None:
        changes = reference()
        if changes is not None:
            try:
                changes.look()
            finally:
                del changes
                _look_later(reference)

    with suppress(ThreadUnavailable):  # it waits all the same, for when there is a thread
        Timer(LOOK_EVERY, look, "rollout changes").start()


_all: weakref.WeakSet[SharedChanges] = weakref.WeakSet()


def _after_fork() -> None:
    for each in list(_all):
        each.keep_looking()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
