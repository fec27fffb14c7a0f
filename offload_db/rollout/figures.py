"""What is counted of the calls that were chosen for, and the frozen snapshot made of it.

Owns the figures of each arm. Decides nothing; ``guarding.py`` compares what it has seen itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from ..statistics import Distribution, FrozenDict, Histogram

Mode = Literal["offload", "observe", "block"]
Source = Literal["call", "file", "environment", "default"]
MODES: tuple[Mode, ...] = get_args(Mode)

MOST_ERRORS = 50
"""How many classes of errors are told apart in one arm."""
_FURTHER = "(further classes)"


@dataclass(frozen=True, slots=True)
class Arm:
    """The calls of one target that ran one way."""

    calls: int = 0
    """Those that are over."""
    errors: Mapping[str, int] = field(default_factory=FrozenDict)
    """How many ended in an error, by its class, or in an answer, as ``"HTTP 500"``. A cancelled call is one, too."""
    durations: Histogram = field(default_factory=Histogram)
    """How long they took, without the time that they were :attr:`kept_waiting`."""
    loop_time: float = 0.0
    """Seconds for which the loop stood still for their driver calls."""
    kept_waiting: float = 0.0
    """Seconds for which they waited for a connection, or for the loop: their driver calls
    could not begin, or were back.

    A call that runs as before waits for the loop as well, but before it begins, where nobody sees it. So this is left
    out of the durations: the arms could not be compared.
    """
    checkout_timeouts: int = 0
    """How often no connection came in time."""


@dataclass(frozen=True, slots=True)
class RouteRollout:
    """How one target is rolled out, and what came of it."""

    target: str
    """What a rule is for; or a route, or a function, that was called."""
    mode: Mode
    share: float
    """How many of the requests run in *mode*, from 0.0 to 1.0; the others run in the other one."""
    source: Source
    """Who said so: a call of ``rollout.set``, the file, the environment, or nobody."""
    arms: Mapping[str, Arm]
    """By mode, those that there were calls of."""
    reverted: str | None
    """Why a guard went back; None where none did."""
    matched: int
    """Requests that the rule was chosen for; of a row without a rule of its own, its calls."""
    rule: str | None
    """The target of the rule that holds; its own where the row is that of a rule, None where nothing is set."""


class ArmFigures:
    """An arm that is being filled; who adds holds the lock that guards it."""

    __slots__ = ("calls", "checkout_timeouts", "durations", "errors", "kept_waiting", "loop_time")

    def __init__(self) -> None:
        self.calls = self.checkout_timeouts = 0
        self.errors: dict[str, int] = {}
        self.durations = Distribution()
        self.loop_time = self.kept_waiting = 0.0

    def add(
        self, seconds: float, error: str | None, *, loop_time: float, kept_waiting: float, checkout_timeouts: int
    ) -> None:
        """Count one call.

        :param seconds: how long it took
        :param error: what it ended in, if that was an error
        """
        self.calls += 1
        self.durations.add(seconds)
        self.loop_time += loop_time
        self.kept_waiting += kept_waiting
        self.checkout_timeouts += checkout_timeouts
        if error is not None:
            if error not in self.errors and len(self.errors) >= MOST_ERRORS:
                error = _FURTHER
            self.errors[error] = self.errors.get(error, 0) + 1

    def snapshot(self) -> Arm:
        """Freeze it."""
        return Arm(
            self.calls,
            FrozenDict(self.errors),
            self.durations.snapshot(),
            self.loop_time,
            self.kept_waiting,
            self.checkout_timeouts,
        )


class Row:
    """The arms of one target, and how often a rule was chosen by."""

    __slots__ = ("arms", "matched")

    def __init__(self) -> None:
        self.arms: dict[Mode, ArmFigures] = {}
        self.matched = 0

    def arm(self, mode: Mode) -> ArmFigures:
        """Return the arm of a mode."""
        return self.arms.setdefault(mode, ArmFigures())

    def snapshot(self) -> Mapping[str, Arm]:
        """Freeze the arms."""
        return FrozenDict({mode: figures.snapshot() for mode, figures in self.arms.items()})
