"""The report as annotations of GitHub's workflow log."""

from __future__ import annotations

from .findings import Report

_COMMANDS = {"critical": "error", "high": "error", "medium": "warning", "low": "notice"}


def render(report: Report) -> str:
    """Return one line for each open finding, and for each file that could not be read."""
    lines = []
    for finding in report.open:
        where = f" ({', '.join(map(str, finding.endpoints))})" if finding.endpoints else ""
        lines.append(
            f"::{_COMMANDS[finding.severity]} file={_property(finding.file)},line={finding.line},col={finding.column},"
            f"title={_property(finding.rule)}::{_text(f'{finding.function}{where}: {finding.message}')}"
        )
    lines += [
        f"::error file={_property(error['file'])},line={error['line']}::{_text(error['message'])}"
        for error in report.errors
    ]
    return "".join(f"{line}\n" for line in lines)


def _text(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _text(text).replace(":", "%3A").replace(",", "%2C")
