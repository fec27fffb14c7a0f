"""The report as a Markdown document: a summary, what was found by file, and a checklist to burn down.

As in the table there is one thing for each function, or each call with ``verbose``.
"""

from __future__ import annotations

from collections.abc import Iterator

from .findings import SEVERITIES, Finding, Handler, Report
from .guidance import HAND, Guide, by_hand, decorate, guides, others


def render(report: Report, *, verbose: bool = False) -> str:
    """Return the document.

    :param verbose: list every call, by file
    """
    return "\n".join(_lines(report, verbose)) + "\n"


def _lines(report: Report, verbose: bool) -> Iterator[str]:
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
    yield f"**Freed by a decorator:** {sum(guide.do != HAND for guide in guides(report))}  "
    yield f"**Need a hand:** {len(by_hand(report))}  "
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
        yield "| | place | call | functions | write | who |"
        yield "|---|---|---|---|---|---|"
        for number, place in enumerate(report.places, 1):
            who = "migrate" if place.by_migrate else "by hand"
            where = f"{place.file}:{place.line} | `{place.call}()` | {len(place.functions)}"
            yield f"| {number} | {where} | {place.write} | {who} |"
    yield ""
    yield "## Blocking I/O found"
    yield from _by_call(report) if verbose else _by_function(report)
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


def _by_function(report: Report) -> Iterator[str]:
    guided = guides(report)
    for file in report.by_file():
        found = [guide for guide in guided if guide.handler.file == file]
        if found:
            yield ""
            yield f"### {file} ({len(found)} functions)"
            for number, guide in enumerate(found, 1):
                yield ""
                yield from _guide(number, guide)
    left = [finding for findings in others(report).values() for finding in findings]
    if left:
        yield ""
        yield "### To be looked at"
        yield ""
        for finding in left:
            yield f"- {finding.rule} ({finding.severity}): {finding.file}:{finding.line}: {finding.message}"


def _guide(number: int, guide: Guide) -> Iterator[str]:
    handler, worst = guide.handler, guide.worst
    reasons = f" ({', '.join(worst.reasons)})" if worst.reasons else ""
    yield f"#### {number}. Line {handler.line} - `{handler.function}()`"
    yield ""
    yield f"**Severity:** {worst.severity}{reasons}  "
    if handler.endpoints:
        yield f"**Endpoints:** {', '.join(f'`{endpoint}`' for endpoint in handler.endpoints)}  "
    yield f"**Worst:** line {worst.line}, {' > '.join(f'`{step}`' for step in (worst.steps[0], *worst.chain))}  "
    yield f"**First:** line {guide.first.line}, `{guide.first.steps[0]}`; {guide.calls} calls in all  "
    if guide.do == HAND:
        yield f"**By hand:** {handler.advice or guide.note}"
    else:
        places = f"place {' and '.join(map(str, guide.places))}" if guide.places else ""
        yield f"**Do:** {decorate(guide.do, places)}" + (f"; {guide.note}" if guide.note else "")


def _by_call(report: Report) -> Iterator[str]:
    for file in report.by_file():
        found = [finding for finding in report.findings if finding.file == file]
        if found:
            yield ""
            yield f"### {file} ({len(found)} places)"
            for number, finding in enumerate(found, 1):
                yield ""
                yield from _finding(number, finding)


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
