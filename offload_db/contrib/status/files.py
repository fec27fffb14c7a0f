"""The files that the live page reads: of other processes, and of audits.

Owns finding them, and reading each again when it has changed. Waits for the disk: it is called in a thread.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from ... import ConfigurationError
from ...settings import shown

Json = dict[str, Any]

# Files of one kind that are looked at, the newest; and how large one may be.
_MOST, _LARGEST = 200, 32_000_000
# A day, perhaps with hour and minute, in a file's name.
_WHEN = re.compile(r"(20\d\d)-?([01]\d)-?([0-3]\d)(?:[T_ -]?([0-2]\d)[:.-]?([0-5]\d))?")


class Files:
    """The JSON files in one place.

    :param name: of the setting, for errors
    :param where: a file, a directory whose ``*.json`` are meant, or a pattern such as ``"audits/*.json"``; None is none
    :param read: reads one
    :raises ConfigurationError: if *where* is none of these
    """

    def __init__(self, name: str, where: str | os.PathLike[str] | None, read: Callable[[Path], Any]) -> None:
        if where is not None and not isinstance(where, (str, os.PathLike)):
            raise ConfigurationError(
                f"StatusPage: {name}={shown(where)}; accepted are paths of files and directories, and patterns"
            )
        self._where = None if where is None else os.path.abspath(os.fspath(where))
        self._read = read
        self._known: dict[Path, tuple[tuple[int, int], Any]] = {}

    @property
    def directory(self) -> Path | None:
        """Where they are; None where there is no place or the pattern may mean several."""
        if self._where is None:
            return None
        directory = self._where if os.path.splitext(self._where)[1] != ".json" else os.path.dirname(self._where)
        return None if glob.has_magic(directory) else Path(directory)

    def now(self) -> tuple[list[tuple[Path, float, Any]], list[str]]:
        """Read what has changed; return each file with the time it was written and its content, and what is wrong."""
        if self._where is None:
            return [], []
        found: list[tuple[Path, float, Any]] = []
        problems: list[str] = []
        known: dict[Path, tuple[tuple[int, int], Any]] = {}
        for path, state in self._newest():
            try:
                mark = (state.st_mtime_ns, state.st_size)
                kept = self._known.get(path)
                if state.st_size > _LARGEST:
                    problems.append(f"{path} is larger than {_LARGEST // 1_000_000} MB")
                    continue
                if kept is None or kept[0] != mark:
                    kept = (mark, self._read(path))
                known[path] = kept
                found.append((path, state.st_mtime, kept[1]))
            except ConfigurationError as error:
                problems.append(str(error))
        self._known = known
        return found, problems

    def _newest(self) -> list[tuple[Path, os.stat_result]]:
        assert self._where is not None
        pattern = os.path.join(glob.escape(self._where), "*.json") if os.path.isdir(self._where) else self._where
        found = []
        for name in [self._where] if os.path.isfile(self._where) else glob.iglob(pattern):
            try:
                state = os.stat(name)
            except OSError:  # it has gone meanwhile
                continue
            if stat.S_ISREG(state.st_mode):  # a pipe, say, would be waited for without end
                found.append((Path(name), state))
        return sorted(found, key=lambda each: each[1].st_mtime, reverse=True)[:_MOST]


def time_of(path: Path, written: float) -> float:
    """Return when an audit was made: the day in its file's name, or else when the file was written."""
    match = _WHEN.search(path.name)
    if match is None:
        return written
    try:
        year, month, date, hour, minute = (int(number) for number in match.groups("12"))  # at noon, if not told
        return datetime(year, month, date, hour, minute if match[4] else 0).timestamp()  # noqa: DTZ001  # of this place
    except ValueError:  # no day after all
        return written
