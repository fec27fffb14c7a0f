"""A list of known findings, so that only new ones fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from .findings import Report

_VERSION = 1


class BaselineError(ValueError):
    """Raised when a baseline cannot be read."""


def write(report: Report, path: Path) -> int:
    """Write the open findings to a file; return how many there are."""
    known = {
        finding.fingerprint: f"{finding.rule} {finding.file} {finding.function}: {finding.call}"
        for finding in report.open
    }
    path.write_text(json.dumps({"version": _VERSION, "findings": known}, indent=2) + "\n", encoding="utf-8")
    return len(known)


def apply(report: Report, path: Path) -> None:
    """Mark the findings that a file lists, and note which of them are gone.

    :raises BaselineError: if the file is not there, or is no baseline
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = dict(content["findings"])
        version = content["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaselineError(f"{path} cannot be used as a baseline ({error}); make it with --write-baseline") from error
    if version != _VERSION:
        raise BaselineError(f"{path} is a baseline of version {version!r}; accepted is {_VERSION}: make it anew")
    report.findings = [
        replace(finding, baselined=True) if finding.fingerprint in known else finding for finding in report.findings
    ]
    there = {finding.fingerprint for finding in report.findings}
    report.stale = sorted(str(text) for name, text in known.items() if name not in there)
