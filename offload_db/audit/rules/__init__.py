"""The rules, one file each. A rule looks at the context and yields findings; it decides nothing that others need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..context import Context
from ..findings import Finding
from . import (
    odb101,
    odb102,
    odb103,
    odb104,
    odb105,
    odb106,
    odb107,
    odb201,
    odb202,
    odb203,
    odb301,
    odb302,
    odb303,
    odb304,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: its code, what it finds, what to do in one line, and why that matters."""

    code: str
    name: str
    summary: str
    remedy: str
    explanation: str
    check: Callable[[Context], Iterator[Finding]]


RULES = tuple(
    Rule(
        module.CODE, module.NAME, module.SUMMARY, module.REMEDY, " ".join((module.__doc__ or "").split()), module.check
    )
    for module in (
        odb101, odb102, odb103, odb104, odb105, odb106, odb107, odb201, odb202, odb203, odb301, odb302, odb303, odb304,
    )
)  # fmt: skip
CODES = tuple(rule.code for rule in RULES)
SUMMARIES = {rule.code: rule.summary for rule in RULES}
