"""Rules from a TOML file, which is read again when it changes.

Owns what such a file says, and when it is looked at. What its rules do is ``rules.py``'s.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bridge.background import Timer
from ..errors import ConfigurationError, ThreadUnavailable
from ..settings import check_known, kind_of
from .rules import RULES, Rule, make_rule
from .targets import nameless

logger = logging.getLogger("offload_db.rollout")

LOOK_EVERY = 1.0
"""Seconds between two looks at the file."""

Signature = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class RulesFile:
    """The file that rules are read from, and how that went last."""

    path: str
    problem: str | None
    """Why the rules of an earlier version hold on, or none; None if the file was read."""


class FileWatch:
    """Reads a file, and again whenever it has changed.

    :param where: who asks, for errors
    """

    def __init__(self, where: str, path: str) -> None:
        self.path = path
        self.problem: str | None = None
        self._where = where
        self._seen: Signature | None = None
        self._timer: Timer | None = None
        self._ended = False

    def start(self) -> None:
        """Look at the file now and from now on."""
        self.look()
        self.wait()

    def wait(self) -> None:
        """Look again later."""
        self._timer = Timer(LOOK_EVERY, self._look_again, "rules file")
        self._timer.start()

    def end(self) -> None:
        """Look no more; a look that is under way is waited for."""
        self._ended = True
        if self._timer is not None:
            self._timer.end()

    def _look_again(self) -> None:
        try:
            self.look()
        finally:
            if not self._ended:
                with suppress(ThreadUnavailable):  # it waits all the same, for when there is a thread
                    self.wait()

    def look(self) -> None:
        """Read the file if it has changed; one that is wrong leaves things as they are."""
        try:
            signature: Signature | None = _signature(self.path)
            if signature == self._seen:
                return
            if not Path(self.path).is_file():  # a pipe would be waited for without end
                raise ConfigurationError(f"{self._where}: it is no file; accepted are paths of TOML files")
            rules = _rules(self._where, Path(self.path).read_text(encoding="utf-8"))
            if _signature(self.path) != signature:
                return  # it is being written just now
        except (OSError, RecursionError, ValueError) as error:  # ConfigurationError and TOMLDecodeError are ValueErrors
            signature = _signature_or_none(self.path)
            problem = f"{type(error).__name__}: {error.strerror if isinstance(error, OSError) else error}"
            if problem != self.problem or signature != self._seen:
                logger.warning("%s was not read, and the rules stay as they are: %s", self.path, problem)
            self._seen, self.problem = signature, problem
            return
        RULES.replace("file", rules)
        logger.info("%s was read: %d rules", self.path, len(rules))
        self._seen, self.problem = signature, None


def _signature(path: str) -> Signature:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino


def _signature_or_none(path: str) -> Signature | None:
    try:
        return _signature(path)
    except OSError:
        return None


def _rules(where: str, text: str) -> list[Rule]:
    """Read what a file says.

    :raises ValueError: if that is nothing whole
    """
    if not text.strip():
        # Whoever writes a file begins with an empty one. To take all rules away, a comment is enough.
        raise ConfigurationError(f"{where}: the file is empty; accepted are tables such as ['GET:/v2/*'], and comments")
    rules: dict[str, Rule] = {}
    for target, table in parser().loads(text).items():
        if not isinstance(table, Mapping):
            raise ConfigurationError(f"{where}: {target} is {kind_of(table)}; accepted are tables with mode and share")
        check_known(f"{where}: {target}", table, ("mode", "share"), "mode and share")
        rule = make_rule(f"{where}: {target}", target, table.get("mode"), table.get("share", 1.0), "file")
        if (other := rules.setdefault(nameless(rule.target.text), rule)) is not rule:
            raise ConfigurationError(
                f"{where}: {target} is the same as {other.target.text}; accepted is one table for each target"
            )
    return list(rules.values())


def parser() -> Any:
    """Return what parses TOML.

    :raises ConfigurationError: if that is not installed
    """
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"rollout: a file is given, which on Python 3.10 needs {name}; accepted are files where that is there: "
            "pip install 'offload-db[rollout]'"
        ) from error


_watch: FileWatch | None = None


def watch_file(where: str, path: str | None) -> None:
    """Take rules from a file from now on, in place of another one; None takes them from none."""
    global _watch
    if path is not None:
        parser()
    if _watch is not None:
        _watch.end()
    if path is None:
        _watch = None
        RULES.replace("file", ())
    else:
        _watch = FileWatch(where, path)
        _watch.start()


def watched_file() -> RulesFile | None:
    """Tell which file rules are read from, and how that went last; None where there is none."""
    return None if _watch is None else RulesFile(_watch.path, _watch.problem)


def _after_fork() -> None:
    if _watch is not None:
        with suppress(ThreadUnavailable):  # as above
            _watch.wait()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
