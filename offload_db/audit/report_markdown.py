"""The report as a Markdown document: a summary, what was found by file, and a checklist to burn down."""

from __future__ import annotations

from collections.abc import Iterator

from .findings import SEVERITIES, Finding, Handler, Report


def render(report: Report) -> str:
    """Return the document."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    migrated, blocking = report.progress()
    share = round(100 * migrated / blocking) if blocking else 100
    totals = report.summary()
    yield "# Blocking I/O audit"
    yield ""
    yield "## Summary"
    yield ""
    yield f"**Blocking I/O found:** {totals['findings']} places, {totals['open']} of them open  "
    yield f"**Blocking functions:** {blocking} of {totals['handlers']} that answer requests or block  "
    yield f"**Migrated:** {migrated} of {blocking} ({share} %)  "
    yield f"**Read:** {totals['files']} files, {totals['lines']} lines"
    yield ""
    yield "| severity | open |"
    yield "|---|---|"
    for severity in SEVERITIES:
        yield f"| {severity} | {totals['by_severity'][severity]} |"
    if report.places:
        yield ""
        yield "## Where connections are made"
        yield ""
        yield report.opened()
        yield ""
        yield "| place | call | functions | write |"
        yield "|---|---|---|---|"
        for place in report.places:
            yield f"| {place.file}:{place.line} | `{place.call}()` | {len(place.functions)} | {place.write} |"
    yield ""
    yield "## Blocking I/O found"
    for file in report.by_file():
        found = [finding for finding in report.findings if finding.file == file]
        if found:
            yield ""
            yield f"### {file} ({len(found)} places)"
            for number, finding in enumerate(found, 1):
                yield ""
                yield from _finding(number, finding)
    yield ""
    yield "## Migration checklist"
    yield ""
    yield from _checklist(report)
    if report.errors:
        yield ""
        yield "## Not audited"
        yield ""
        for error in report.errors:
            yield f"- {error['file']}:{error['line']}: {error['message']}"


def _finding(number: int, finding: Finding) -> Iterator[str]:
    done = "" if finding.open else " (done)"
    reasons = f" ({', '.join(finding.reasons)})" if finding.reasons else ""
    yield f"#### {number}. Line {finding.line} - `{finding.function}()`{done}"
    yield ""
    yield f"**Rule:** {finding.rule}  "
    yield f"**Severity:** {finding.severity}{reasons}  "
    if finding.endpoints:
        yield f"**Endpoints:** {', '.join(f'`{endpoint}`' for endpoint in finding.endpoints)}  "
    if finding.chain:
        yield f"**Via:** {' > '.join(f'`{step}`' for step in finding.chain)}  "
    yield f"**What:** {finding.message}" + ("  " if finding.advice else "")
    if finding.advice:
        yield f"**Neither mode fits:** {finding.advice}"


def _checklist(report: Report) -> Iterator[str]:
    worst = {
        (finding.file, finding.function): SEVERITIES.index(finding.severity) for finding in reversed(report.findings)
    }
    for finding in report.findings:
        place = (finding.file, finding.function)
        worst[place] = min(worst[place], SEVERITIES.index(finding.severity))
    for number, severity in enumerate(SEVERITIES):
        rows = [h for h in report.handlers if h.blocking and worst.get((h.file, h.function), 3) == number]
        if rows:
            yield f"### {severity.capitalize()}"
            yield ""
            for handler in rows:
                yield _row(handler)
            yield ""


def _row(handler: Handler) -> str:
    where = ", ".join(f"`{endpoint}`" for endpoint in handler.endpoints) or "no route"
    mode = "" if handler.migrated else f", mode: {handler.mode}"
    box = "x" if handler.migrated else " "
    return f"- [{box}] `{handler.function}()` in {handler.file}:{handler.line} - {where}{mode}"
