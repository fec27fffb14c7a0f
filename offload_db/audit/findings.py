"""A finding, and the report that holds all of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

SEVERITIES = ("critical", "high", "medium", "low")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A request: its method and its path."""

    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def as_dict(self) -> dict[str, str]:
        """Return it as JSON has it."""
        return {"method": self.method, "path": self.path}


@dataclass(frozen=True, slots=True)
class Finding:
    """One place in the source, and what is the matter with it. Lines and columns count from 1."""

    rule: str
    file: str
    line: int
    column: int
    function: str
    call: str
    severity: str
    message: str
    endpoints: tuple[Endpoint, ...] = ()
    via: tuple[str, ...] = ()
    chain: tuple[str, ...] = ()  # the same with places, down to the driver
    steps: tuple[str, ...] = ()  # from this call down to the driver's, as people read them
    queries: bool = False  # these end with a statement
    driver: str | None = None
    mode: str | None = None
    advice: str | None = None  # what to change, where neither mode fits
    reasons: tuple[str, ...] = ()
    migrated: bool = False
    stays: bool = False  # is open although its handler is offloaded
    end_line: int = 0
    fingerprint: str = ""
    baselined: bool = False

    @property
    def open(self) -> bool:
        """Whether there is something left to do, and the audit fails for it."""
        return (self.stays or not self.migrated) and not self.baselined

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "rule": self.rule,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "function": self.function,
            "endpoint": self.endpoints[0].as_dict() if self.endpoints else None,
            "call": self.call,
            "severity": self.severity,
            "via": list(self.via),
            "migrated": self.migrated,
            "open": self.open,
            "message": self.message,
            "endpoints": [endpoint.as_dict() for endpoint in self.endpoints],
            "chain": list(self.chain),
            "driver": self.driver,
            "mode": self.mode,
            "advice": self.advice,
            "reasons": list(self.reasons),
            "fingerprint": self.fingerprint,
            "baselined": self.baselined,
        }


@dataclass(frozen=True, slots=True)
class Handler:
    """An asynchronous function that answers requests, or that blocks."""

    function: str
    file: str
    line: int
    endpoints: tuple[Endpoint, ...]
    blocking: bool
    migrated: bool
    awaits: bool
    mode: str
    obtained: str | None  # how it gets its connection
    closed: bool | None  # on every path; None where it opens none
    shared: bool
    advice: str | None = None  # what to change, where neither mode fits
    why: str | None = None  # a mode fits, or goes on blocking, or neither fits
    is_task: bool = False  # it is started as a task of its own

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "function": self.function,
            "file": self.file,
            "line": self.line,
            "endpoint": self.endpoints[0].as_dict() if self.endpoints else None,
            "endpoints": [endpoint.as_dict() for endpoint in self.endpoints],
            "blocking": self.blocking,
            "migrated": self.migrated,
            "awaits": self.awaits,
            "mode": self.mode,
            "why": self.why,
            "advice": self.advice,
            "is_task": self.is_task,
            "connection": {"obtained": self.obtained, "closed": self.closed, "shared": self.shared},
        }


@dataclass(frozen=True, slots=True)
class Place:
    """A call that makes connections which a bridge does not free, what to write there, and who uses them."""

    file: str
    line: int
    call: str
    write: str
    functions: tuple[tuple[str, int, str], ...]  # file, line and name of each
    by_migrate: bool = False  # `offload-db migrate` writes it

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "file": self.file,
            "line": self.line,
            "call": self.call,
            "write": self.write,
            "by_migrate": self.by_migrate,
            "functions": [{"file": file, "line": line, "function": name} for file, line, name in self.functions],
        }


@dataclass(slots=True)
class Report:
    """What an audit found."""

    findings: list[Finding]
    handlers: list[Handler]
    errors: list[dict[str, Any]]
    files: int
    lines: int
    suppressed: int = 0
    places: list[Place] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)  # what a baseline lists and is gone
    interrupted: bool = False  # it says what was known then

    @property
    def open(self) -> list[Finding]:
        """The findings that are left to do."""
        return [finding for finding in self.findings if finding.open]

    def progress(self) -> tuple[int, int]:
        """Return how many of the handlers that block are migrated, and how many there are."""
        blocking = [handler for handler in self.handlers if handler.blocking]
        return sum(handler.migrated for handler in blocking), len(blocking)

    def limit_to(self, files: Iterable[str]) -> None:
        """Keep what is in these files, named as findings name theirs, or leads through them."""
        names = frozenset(files)
        steps = tuple(f"{name}:" for name in names)
        self.findings = [
            finding
            for finding in self.findings
            if finding.file in names or any(step.startswith(steps) for step in finding.chain)
        ]
        kept = {(finding.file, finding.function) for finding in self.findings}
        self.handlers = [handler for handler in self.handlers if (handler.file, handler.function) in kept]
        self.places = [
            place
            for place in self.places
            if place.file in names or any((file, name) in kept for file, _, name in place.functions)
        ]

    def opened(self) -> str:
        """Return how many places open the connections of how many functions."""
        functions = {function for place in self.places for function in place.functions}
        return (
            f"Places that open connections: {len(self.places)}, for {len(functions)} of the functions below. "
            "What to write there first, so that a bridge frees them:"
        )

    def by_file(self) -> dict[str, tuple[int, int, int]]:
        """Return for each file its open findings, and its blocking handlers: migrated ones, and all."""
        table: dict[str, list[int]] = {}
        for finding in self.findings:
            table.setdefault(finding.file, [0, 0, 0])[0] += finding.open
        for handler in self.handlers:
            if handler.blocking:
                row = table.setdefault(handler.file, [0, 0, 0])
                row[1] += handler.migrated
                row[2] += 1
        return {file: (row[0], row[1], row[2]) for file, row in sorted(table.items())}

    def summary(self) -> dict[str, Any]:
        """Return the totals as JSON has them."""
        migrated, blocking = self.progress()
        return {
            "files": self.files,
            "lines": self.lines,
            "errors": len(self.errors),
            "findings": len(self.findings),
            "open": len(self.open),
            "migrated": sum(finding.migrated for finding in self.findings),
            "suppressed": self.suppressed,
            "baselined": sum(finding.baselined for finding in self.findings),
            "handlers": len(self.handlers),
            "handlers_blocking": blocking,
            "handlers_migrated": migrated,
            "migrated_share": round(migrated / blocking, 4) if blocking else 1.0,
            "by_rule": dict(sorted(Counter(finding.rule for finding in self.findings).items())),
            "by_severity": {
                severity: sum(finding.severity == severity for finding in self.open) for severity in SEVERITIES
            },
            "by_file": {
                file: {"open": row[0], "handlers_migrated": row[1], "handlers_blocking": row[2]}
                for file, row in self.by_file().items()
            },
        }


def fingerprinted(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings by place, and give each a name that outlives a change of lines."""
    ordered = sorted(findings, key=lambda f: (f.file, f.line, f.column, f.rule, f.call))
    seen: Counter[str] = Counter()
    named = []
    for finding in ordered:
        text = f"{finding.rule}\0{finding.file}\0{finding.function}\0{finding.call}"
        name = hashlib.sha256(f"{text}\0{seen[text]}".encode()).hexdigest()[:16]
        seen[text] += 1
        named.append(replace(finding, fingerprint=name))
    return named
