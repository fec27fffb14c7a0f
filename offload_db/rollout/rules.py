"""The rules that are set, and the figures of what they were chosen for.

Owns which rule holds for a call: who set it, and how specific it is. How a call then runs is ``choice.py``'s.
"""

from __future__ import annotations

import difflib
import logging
import os
import random
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ..bridge import arms
from ..errors import ConfigurationError
from ..pool.checkout import every_pool
from ..settings import check_word, shown
from .figures import MODES, Mode, RouteRollout, Row, Source
from .targets import Request, Target, nameless

logger = logging.getLogger("offload_db.rollout")

# Of two rules for one target the one that stands first here holds.
_SOURCES: tuple[Source, ...] = ("call", "file", "environment")
MOST_ROWS = 1000
"""How many routes and functions are told apart."""
_FURTHER = "(further routes)"
# Requests of which the rule is remembered; paths come from outside, and must not fill the memory.
_MOST_REMEMBERED = 4096
UNMATCHED_AFTER = 1000
"""After how many calls the log names a rule that was chosen for none of them."""

# Not seeded by anybody else, whose own numbers it would change.
_random = random.Random()


class Rule:
    """What one target is set to.

    :param share: how many of its requests run in *mode*, from 0.0 to 1.0; the others run in :attr:`other`
    """

    __slots__ = ("mode", "reverted", "said", "share", "source", "target")

    def __init__(self, target: Target, mode: Mode, share: float, source: Source) -> None:
        self.target = target
        self.mode = mode
        self.share = share
        self.source = source
        self.said = mode, share
        """What it was set to, before a guard went back."""
        self.reverted: str | None = None

    def revert(self, reason: str) -> None:
        """Offload none of its requests any more."""
        if self.mode == "offload":
            self.mode = self.other
        self.share, self.reverted = 1.0, reason

    @property
    def other(self) -> Mode:
        """What those requests run in that do not run in *mode*."""
        return "observe" if self.mode == "offload" else "offload"

    def pick(self) -> Mode:
        """Choose for one request."""
        return self.mode if self.share >= 1.0 or _random.random() < self.share else self.other


def make_rule(where: str, target: object, mode: object, share: object, source: Source) -> Rule:
    """Check what was given, and make a rule of it.

    :param where: who asks, for errors
    :raises ConfigurationError: if one of them is not accepted
    """
    wanted = Target(where, target)
    check_word(where, "mode", mode, MODES)
    if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 <= share <= 1:
        raise ConfigurationError(f"{where}: share={shown(share)}; accepted are numbers from 0.0 to 1.0")
    return Rule(wanted, mode, float(share), source)  # type: ignore[arg-type]  # check_word has seen to it


class Rules:
    """All rules of the process, and the rows of figures; any thread may ask and change them."""

    def __init__(self) -> None:
        # Taken for a few instructions only, never while anything else is waited for.
        self.lock = threading.Lock()
        self.watching = False
        """Whether calls are counted that no rule is set for."""
        self.active = False
        """Whether there is anything to choose or to count."""
        self._layers: dict[Source, dict[str, Rule]] = {source: {} for source in _SOURCES}
        self._ordered: tuple[Rule, ...] = ()
        self._found: dict[Request, Rule | None] = {}
        self.rows: dict[str, Row] = {}
        """Figures by rules' targets."""
        self.calls: dict[str, Row] = {}
        """Figures by routes and functions."""
        self._requests: dict[str, Request] = {}
        self._unmatched: dict[str, int] = {}

    def after_fork(self) -> None:
        """Begin to count anew in a child process; what is set stays set."""
        self.lock = threading.Lock()
        self.rows, self.calls = {key: Row() for key in self.rows}, {}
        _random.seed()

    def put(self, *rules: Rule) -> None:
        """Set rules, in place of those that the same source has for the same targets."""
        with self._changing():
            for rule in rules:
                self._layers[rule.source][_key(rule.target)] = rule

    def replace(self, source: Source, rules: Iterable[Rule]) -> None:
        """Set all rules of one source; one that says what it said before stays, and stays reverted."""
        with self._changing():
            known, fresh = self._layers[source], {_key(rule.target): rule for rule in rules}
            for key, rule in fresh.items():
                before = known.get(key)
                if before is not None and before.said == rule.said:
                    fresh[key] = before
            self._layers[source] = fresh

    def remove(self, target: Target | None) -> None:
        """Take away the rules for one target, or all of them, whoever set them."""
        with self._changing():
            for layer in self._layers.values():
                if target is None:
                    layer.clear()
                else:
                    layer.pop(_key(target), None)

    def revert(self, target: Target, rule: Rule | None, reason: str) -> list[str]:
        """Offload none of a rule's requests any more; returns what targets run as before now.

        :param target: the guard's, to whose requests this is limited where the rule is for others as well
        :param rule: None is what no rule is set for
        """
        with self._changing():
            reverted = []
            inside = rule is not None and target.covers(rule.target)
            if rule is not None and (inside or rule.target.order < target.order):
                rule.revert(reason)
                reverted.append(rule.target.text)
            if not inside:
                own = Rule(target, "observe", 1.0, "call")
                own.revert(reason)
                self._layers["call"][_key(target)] = own
                reverted.append(target.text)
        return reverted

    def watch(self) -> None:
        """Count also calls that no rule is set for."""
        with self._changing():
            self.watching = True

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Change rules in the block, and let all who ask know afterwards."""
        expected = arms.expects_inline
        with self.lock:
            yield
            self._arrange()
        if expected and not arms.expects_inline:  # no connection is kept any more for calls that run as before
            for pool in every_pool():
                pool.admission.let_others()

    def _arrange(self) -> None:
        layers = [self._layers[source] for source in reversed(_SOURCES)]
        holding: dict[str, Rule] = {}
        for layer in layers:
            holding.update(layer)
        self._ordered = tuple(sorted(holding.values(), key=lambda rule: rule.target.order))
        self._found = {}
        self.rows = {key: self.rows.get(key) or Row() for key in holding}
        self._unmatched = {key: self._unmatched.get(key, 0) for key in holding if not self.rows[key].matched}
        self.active = self.watching or bool(holding)
        arms.expects_inline = any(rule.mode != "offload" or rule.share < 1.0 for rule in holding.values())

    def all(self) -> tuple[Rule, ...]:
        """List the rules that hold, the most specific first."""
        return self._ordered

    def find(self, request: Request) -> Rule | None:
        """Return the rule that holds for a request, None where none is set."""
        found = self._found
        try:
            return found[request]
        except KeyError:
            pass
        rule = next((rule for rule in self._ordered if rule.target.matches(request)), None)
        if len(found) >= _MOST_REMEMBERED:
            found.clear()
        found[request] = rule
        return rule

    def rows_of(self, name: str, request: Request, rule: Rule | None, *, first: bool) -> list[Row]:
        """Return the rows that a call counts in; who asks holds the lock.

        :param name: the route or function that was called
        :param first: whether it was the first of its request, for which the choice was made
        """
        if name not in self.calls:
            if len(self.calls) >= MOST_ROWS:
                name, request = _FURTHER, Request(())
            self._requests[name] = request
        own = self.calls.setdefault(name, Row())
        own.matched += 1
        row = None if rule is None else self.rows.get(_key(rule.target))
        if row is None:
            return [own]
        row.matched += first
        if rule is not None and self._unmatched:
            self._unmatched.pop(_key(rule.target), None)
        return [own, row]

    def unmatched(self) -> list[str]:
        """Return what the log is to say now of rules that matched no call so far; who asks holds the lock."""
        messages = []
        for key, number in self._unmatched.items():
            self._unmatched[key] = number + 1
            if number + 1 == UNMATCHED_AFTER:
                text = next(rule.target.text for rule in self._ordered if _key(rule.target) == key)
                near = difflib.get_close_matches(text, list(self.calls), 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                messages.append(f"the target {text} has matched none of {UNMATCHED_AFTER} calls{hint}")
        return messages

    def snapshot(self) -> tuple[RouteRollout, ...]:
        """Freeze rules and figures."""
        with self.lock:
            rows = [
                RouteRollout(
                    target=rule.target.text,
                    mode=rule.mode,
                    share=rule.share,
                    source=rule.source,
                    arms=self.rows[_key(rule.target)].snapshot(),
                    reverted=rule.reverted,
                    matched=self.rows[_key(rule.target)].matched,
                    rule=rule.target.text,
                )
                for rule in self._ordered
            ]
            own = {_key(rule.target) for rule in self._ordered}
            for name, row in sorted(self.calls.items()):
                if nameless(name) in own:
                    continue
                rule = self.find(self._requests[name])
                rows.append(
                    RouteRollout(
                        target=name,
                        mode="offload" if rule is None else rule.mode,
                        share=1.0 if rule is None else rule.share,
                        source="default" if rule is None else rule.source,
                        arms=row.snapshot(),
                        reverted=None if rule is None else rule.reverted,
                        matched=row.matched,
                        rule=None if rule is None else rule.target.text,
                    )
                )
        return tuple(rows)


def _key(target: Target) -> str:
    """Tell one target from others: parameters may be named differently."""
    return nameless(target.text)


RULES = Rules()


def _after_fork() -> None:
    RULES.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
