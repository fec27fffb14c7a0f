"""The report as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from .findings import Finding, Place, Report

_WIDTH = 20
_USERS = 3  # of a place that are named


def render(report: Report) -> str:
    """Return the open findings by file and function, and the totals."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    if report.places:
        yield report.opened()
        for place in report.places:
            yield f"  {place.file}:{place.line}  {place.call}()  {_users(place)}"
            yield f"    {place.write}"
        yield ""
    for file, (found, migrated, blocking) in report.by_file().items():
        if not found and not blocking:
            continue
        yield f"{file}  {bar(migrated, blocking)} {migrated} of {blocking} blocking functions migrated, {found} open"
        last = None
        for finding in report.findings:
            if finding.file != file or not finding.open:
                continue
            if finding.function != last:
                last = finding.function
                yield f"  {_head(finding)}"
                if finding.advice is not None:
                    yield f"    neither mode fits: {finding.advice}"
            via = f"  via {' > '.join(finding.via)}" if finding.via else ""
            yield f"    {finding.line}:{finding.column}  {finding.rule}  {finding.severity:8}  {finding.message}{via}"
        yield ""
    for error in report.errors:
        yield f"{error['file']}:{error['line']}: {error['message']}"
    migrated, blocking = report.progress()
    totals = report.summary()
    yield (
        f"{bar(migrated, blocking)} {migrated} of {blocking} blocking functions migrated; "
        f"{totals['open']} open findings in {totals['files']} files, {totals['lines']} lines"
    )
    severities = ", ".join(f"{count} {name}" for name, count in totals["by_severity"].items() if count)
    others = [f"{totals[name]} {name}" for name in ("migrated", "suppressed", "baselined", "errors") if totals[name]]
    if severities or others:
        yield "; ".join(part for part in (severities, ", ".join(others)) if part)
    if report.stale:
        yield f"{len(report.stale)} findings of the baseline are gone: write it anew"


def _users(place: Place) -> str:
    more = f" and {len(place.functions) - _USERS} more" if len(place.functions) > _USERS else ""
    return f"for {', '.join(name for _, _, name in place.functions[:_USERS])}{more}"


def _head(finding: Finding) -> str:
    where = ", ".join(map(str, finding.endpoints[:3])) or "no route"
    more = f" and {len(finding.endpoints) - 3} more" if len(finding.endpoints) > 3 else ""
    mode = f", mode {finding.mode}" if finding.mode else ""
    return f"{finding.function}  ({where}{more}{mode})"


def bar(done: int, total: int) -> str:
    """Return a bar of a fixed width; a full one where there is nothing to do."""
    filled = _WIDTH * done // total if total else _WIDTH
    return f"[{'#' * filled}{'.' * (_WIDTH - filled)}]"
