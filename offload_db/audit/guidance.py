"""One thing for each function that blocks: where, how badly, and what frees it.

Stands on the report alone, so that every format says the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .findings import SEVERITIES, Finding, Handler, Report

# What frees a function: a decorator in one of two modes, or somebody who changes something else first.
BRIDGE, THREAD, HAND = "bridge", "thread", "hand"
_DECORATOR = {BRIDGE: "@offload_db.offload", THREAD: '@offload_db.offload(mode="thread")'}
_BLOCKS = "ODB1"  # the rules that find a call which blocks
_TASK = "ODB302"  # that finds the start of a function which blocks
_MISUSED = "ODB2"  # those that find a decorator which does not help
_REASONS_SHOWN = 3
_Function = tuple[str, str]  # file and name


@dataclass(frozen=True, slots=True)
class Guide:
    """What to do about a function.

    *places* are the numbers, from 1, of the places that open its connections, *note* says why a decorator does not
    help, or what it leaves blocking.
    """

    handler: Handler
    first: Finding
    worst: Finding
    calls: int
    places: tuple[int, ...]
    do: str
    note: str | None

    def routes(self, most: int = 1) -> str:
        """Return the requests that it answers, or what else it is."""
        task = "task" if self.handler.is_task else ""
        if not self.handler.endpoints:
            return task or "no route"
        more = len(self.handler.endpoints) - most
        shown = ", ".join(map(str, self.handler.endpoints[:most])) + (f" and {more} more" if more > 0 else "")
        return f"{task} of {shown}" if task else shown

    def where(self) -> str:
        """Return the line of the worst call with the way from there down to the driver, and the line of the first."""
        reasons = f" ({', '.join(self.worst.reasons[:_REASONS_SHOWN])})" if self.worst.reasons else ""
        text = f"line {self.worst.line} {' > '.join(self.worst.steps)}{_end(self.worst)}{reasons}"
        if self.first.line != self.worst.line:
            text += f", first {self.first.line} {self.first.steps[0]}"
        return text


def _end(finding: Finding) -> str:
    """Return where a chain ends: the line, and the file if it is another one."""
    if not finding.chain:
        return ""
    file, _, line = finding.chain[-1].rpartition(" ")[0].rpartition(":")
    if file == finding.file:
        return f" in line {line}"
    directory = f"{finding.file.rpartition('/')[0]}/"
    return f" in {file.removeprefix(directory)}:{line}"


def decorate(do: str, places: str) -> str:
    """Say how to decorate.

    :param places: how those are named that open the connections; empty if there are none
    """
    then = f", once {places} is changed" if places else ""
    if do == THREAD and places:
        then = f", or change {places} and leave the mode out"
    return f"put {_DECORATOR[do]} directly above the def{then}"


def guides(report: Report) -> list[Guide]:
    """Return what to do about each function that blocks and is not migrated, the worst first in each file."""
    found: dict[_Function, list[Finding]] = {}
    misplaced: dict[_Function, str] = {}
    for finding in report.open:
        if finding.rule.startswith(_BLOCKS):
            found.setdefault((finding.file, finding.function), []).append(finding)
        elif finding.rule.startswith(_MISUSED):
            misplaced[finding.file, finding.function] = finding.message
    users = [frozenset(place.functions) for place in report.places]
    guided = [
        _guide(
            report,
            users,
            handler,
            found[handler.file, handler.function],
            misplaced.get((handler.file, handler.function)),
        )
        for handler in report.handlers
        if (handler.file, handler.function) in found and not handler.migrated
    ]
    return sorted(guided, key=lambda one: (one.handler.file, _rank(one.worst), one.handler.line))


def _guide(
    report: Report,
    users: list[frozenset[tuple[str, int, str]]],
    handler: Handler,
    calls: list[Finding],
    misplaced: str | None,
) -> Guide:
    place = (handler.file, handler.line, handler.function)
    numbers = tuple(number for number, one in enumerate(users, 1) if place in one)
    in_order = sorted(calls, key=lambda one: (one.line, one.column))
    heavy = [one for one in in_order if one.severity != SEVERITIES[-1]] or in_order
    worst = min(heavy, key=lambda one: (_rank(one), not one.queries, not one.reasons))
    do = _what_to_do(report, handler, numbers) if misplaced is None else HAND
    note = misplaced
    if misplaced is None and (do == HAND or (do == BRIDGE and handler.mode == "bridge")):
        note = handler.why if numbers else handler.advice or handler.why
    return Guide(handler, heavy[0], worst, len(calls), numbers, do, note)


def _what_to_do(report: Report, handler: Handler, numbers: Iterable[int]) -> str:
    by_migrate = [report.places[number - 1].by_migrate for number in numbers]
    if handler.mode in ("bridge", "either"):
        return BRIDGE
    if by_migrate and all(by_migrate) and not (handler.why or "").startswith("the lock "):
        return BRIDGE  # what a bridge does not free today is this library's by then
    return THREAD if handler.mode == "thread" else HAND


def _rank(finding: Finding) -> int:
    return SEVERITIES.index(finding.severity)


def others(report: Report) -> dict[str, list[Finding]]:
    """Return the open findings that are no blocking calls, by rule. What a guide tells of is left out."""
    guided = {(one.handler.file, one.handler.function) for one in guides(report)}
    found: dict[str, list[Finding]] = {}
    for finding in report.open:
        about = finding.via[0] if finding.rule == _TASK and finding.via else finding.function
        told = finding.rule.startswith((_TASK, _MISUSED)) and (finding.file, about) in guided
        if not finding.rule.startswith(_BLOCKS) and not told:
            found.setdefault(finding.rule, []).append(finding)
    return dict(sorted(found.items()))


def by_hand(report: Report) -> list[_Function]:
    """Return the functions that no decorator frees, and those whose decorator does not do what it should."""
    hand = {(one.handler.file, one.handler.function) for one in guides(report) if one.do == HAND}
    hand |= {(finding.file, finding.function) for finding in report.open if finding.rule.startswith(_MISUSED)}
    return sorted(hand)


def by_place(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield for each file the lines of some findings: ``app.py: 12, 40``."""
    lines: dict[str, list[int]] = {}
    for finding in findings:
        lines.setdefault(finding.file, []).append(finding.line)
    for file, numbers in lines.items():
        yield f"{file}: {', '.join(map(str, dict.fromkeys(numbers)))}"
