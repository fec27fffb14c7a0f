"""Owns what tests of the rollout look at behind the public names, and how one leaves nothing behind for the next."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from offload_db import rollout
from offload_db.bridge import arms
from offload_db.rollout import choice, control, guarding, room, rules, rules_file
from offload_db.rollout.rules import RULES, Rules

_PICK = rules.Rule.pick


def forget_everything() -> None:
    """Take away all rules, guards and figures, as before anything was set."""
    rollout.load(None)
    RULES.__init__()  # type: ignore[misc]  # as in a new process
    arms.choose, arms.expects_inline = None, False
    choice.watchers.clear()
    room._known.clear()
    rules.Rule.pick = _PICK  # type: ignore[method-assign]  # see choose_next()


def from_environment(environ: Mapping[str, str]) -> None:
    """Set what the environment says, as importing the package does."""
    control.from_environment(environ)


def tells_after(patch: pytest.MonkeyPatch, calls: int) -> None:
    """Have the log name rules that match nothing after fewer calls."""
    patch.setattr(rules, "UNMATCHED_AFTER", calls)


def most_rows(patch: pytest.MonkeyPatch, number: int) -> None:
    """Have fewer routes told apart."""
    patch.setattr(rules, "MOST_ROWS", number)


def look_at_file() -> None:
    """Look at the file now, whenever the next look is due."""
    watch = rules_file._watch
    assert watch is not None
    watch.look()


def looks_every(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have the file looked at more often."""
    patch.setattr(rules_file, "LOOK_EVERY", seconds)


def seeded(patch: pytest.MonkeyPatch, values: Callable[[], float]) -> None:
    """Have the choices made by these numbers."""
    patch.setattr(rules, "_random", type("Numbers", (), {"random": staticmethod(values)}))


def after_fork() -> None:
    """Do what a forked child does."""
    RULES.after_fork()
    guarding._after_fork()


def hold(guard: guarding.Guard) -> None:
    """Hold a guard's lock, as a thread does that notes a call."""
    guard._lock.acquire()


def held(guard: guarding.Guard) -> bool:
    """Tell whether anybody holds a guard's lock."""
    return guard._lock.locked()


def rules_of() -> Rules:
    """Return all rules."""
    return RULES


def chooses(function: Any, *args: Any) -> Any:
    """Ask for the way of a call, as a decorated function does."""
    return None if arms.choose is None else arms.choose(function, args)


def clocked(patch: pytest.MonkeyPatch, clock: Callable[[], float]) -> None:
    """Have calls timed by another clock, and guards find a second gone with each call."""
    patch.setattr(choice, "time", SimpleNamespace(perf_counter=clock))
    looks = itertools.count()
    patch.setattr(guarding, "time", SimpleNamespace(monotonic=lambda: next(looks)))


def choose_next(mode: str) -> None:
    """Have a mode chosen for each call, whatever the share is."""
    rules.Rule.pick = lambda rule: mode  # type: ignore[method-assign,assignment,return-value]  # until undone


def on_judging(patch: pytest.MonkeyPatch, then: Callable[[int], object]) -> None:
    """Have *then* called for each comparison, with the number of offloaded calls."""
    judge = guarding.Guard._judge

    def judging(one: guarding.Guard, offloaded: Any, before: Any) -> str | None:
        then(len(offloaded))
        return judge(one, offloaded, before)

    patch.setattr(guarding.Guard, "_judge", judging)
