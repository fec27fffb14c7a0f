"""The report as text for a terminal: one thing for each function, or each call with ``verbose``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from .findings import SEVERITIES, Finding, Place, Report
from .guidance import BRIDGE, HAND, THREAD, Guide, by_hand, by_place, decorate, guides, others
from .rules import SUMMARIES
from .terminal import UNBROKEN, Terminal

_WIDTH = 20
_FEW = 3  # users of a place, or findings of a rule, that are told one by one
_COLOURS = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "dim"}
_SEVERE = ("critical", "high")
# What else is counted of the findings.
_ALSO = {
    "migrated": "of migrated functions",
    "suppressed": "switched off by comments",
    "baselined": "in the baseline",
    "errors": "not read",
}
_INDENT = 12  # of what belongs to a function
_LABEL = 24  # width of the names in the summary


def render(report: Report, look: Terminal | None = None, *, verbose: bool = False, target: str = "PATH") -> str:
    """Return what is open, and the totals.

    :param look: width and colour; None has neither
    :param verbose: list every call that blocks, by file and function
    :param target: the paths that are audited, as one types them
    """
    return "\n".join(_lines(report, look or Terminal(), verbose, target)) + "\n"


def _lines(report: Report, look: Terminal, verbose: bool, target: str) -> Iterator[str]:
    yield from _places(report, look)
    yield from _by_call(report, look) if verbose else _by_function(report, look)
    for error in report.errors:
        yield f"{error['file']}:{error['line']}: {error['message']}"
    if report.errors:
        yield ""
    yield from _summary(report, look, target)
    yield from _totals(report, look, verbose=verbose)


def _places(report: Report, look: Terminal) -> Iterator[str]:
    if not report.places:
        return
    yield from look.lines(look.paint(report.opened(), "bold"))
    for number, place in enumerate(report.places, 1):
        who = "migrate writes" if place.by_migrate else "write by hand"
        text = f"{place.file}:{place.line}  {place.call}()  {_users(place)}; {who}:"
        yield from look.lines(text, f"  {look.paint(f'[{number}]', 'bold')} ", 6)
        following = report.places[number] if number < len(report.places) else None
        if following is None or (following.write, following.by_migrate) != (place.write, place.by_migrate):
            yield from look.lines(look.paint(place.write, "cyan"), "", 8)
    yield ""


def _users(place: Place) -> str:
    if len(place.functions) > _FEW:
        return f"for {len(place.functions)} functions"
    return f"for {', '.join(name for _, _, name in place.functions)}"


# --- one thing for each function


def _by_function(report: Report, look: Terminal) -> Iterator[str]:
    guided = guides(report)
    for do in (BRIDGE, THREAD, HAND):
        group = [guide for guide in guided if guide.do == do]
        if group:
            yield from look.lines(look.paint(_heading(group), "bold"))
            numbered = len({guide.places for guide in group}) > 1
            file = None
            for guide in group:
                if guide.handler.file != file:
                    file = guide.handler.file
                    yield f"  {file}"
                yield from _function(guide, look, numbered=numbered)
            yield ""
    yield from _others(report, look)


def _heading(group: list[Guide]) -> str:
    """Say what to do with some functions, and which places come first if these are the same for all."""
    count = _functions(len(group))
    places = {guide.places for guide in group}
    which = "the place in brackets" if len(places) > 1 else _brackets(group[0].places)
    if group[0].do == HAND:
        then = f" until {which} is changed" if which else ": change by hand"
        return f"{count} that no decorator frees{then}"
    return f"{count}: {decorate(group[0].do, which)}"


def _brackets(numbers: Iterable[int]) -> str:
    return " and ".join(f"[{number}]" for number in numbers)


def _functions(count: int) -> str:
    return f"{count} function{'' if count == 1 else 's'}"


def _function(one: Guide, look: Terminal, *, numbered: bool) -> Iterator[str]:
    severity = one.worst.severity
    numbers = "".join(f"  [{number}]" for number in one.places) if numbered else ""
    routes = one.routes().replace(" /", f"{UNBROKEN}/")
    head = f"{look.paint(one.handler.function, 'bold')}  {routes}{numbers}"
    yield from look.lines(head, f"  {look.paint(severity, _COLOURS[severity])}", _INDENT)
    yield from look.lines(one.where(), "", _INDENT)
    if one.note is not None:
        yield from look.lines(look.paint(one.note, "dim"), "", _INDENT)


def _others(report: Report, look: Terminal) -> Iterator[str]:
    found = others(report)
    if not found:
        return
    yield from look.lines(look.paint("Look at these, too: offload-db audit --explain CODE says more", "bold"))
    for rule, findings in found.items():
        worst = min((finding.severity for finding in findings), key=SEVERITIES.index)
        head = f"{look.paint(rule, 'bold')}  {SUMMARIES[rule]}"
        yield from look.lines(f"{head}: {len(findings)}", f"  {look.paint(worst, _COLOURS[worst])}", _INDENT)
        if len(findings) > _FEW and worst not in _SEVERE:
            texts = list(by_place(findings))
        else:
            texts = [f"{finding.file}:{finding.line} {finding.message}" for finding in findings]
        for text in texts:
            yield from look.lines(text, "", _INDENT)
    yield ""


# --- each call


def _by_call(report: Report, look: Terminal) -> Iterator[str]:
    for file, (found, migrated, blocking) in report.by_file().items():
        if not found and not blocking:
            continue
        done = f"{bar(migrated, blocking)} {migrated} of {blocking} blocking functions migrated, {found} open"
        yield f"{look.paint(file, 'bold')}  {done}"
        last = None
        for finding in report.findings:
            if finding.file != file or not finding.open:
                continue
            if finding.function != last:
                last = finding.function
                yield from look.lines(_head(finding), "", 2)
                if finding.advice is not None:
                    yield from look.lines(f"neither mode fits: {finding.advice}", "", 4)
            via = f"  via {' > '.join(finding.via)}" if finding.via else ""
            severity = look.paint(f"{finding.severity:8}", _COLOURS[finding.severity])
            place = f"    {finding.line}:{finding.column}  {finding.rule}  {severity}  "
            yield from look.lines(f"{finding.message}{via}", place, 8)
        yield ""


def _head(finding: Finding) -> str:
    where = ", ".join(map(str, finding.endpoints[:3])) or "no route"
    more = f" and {len(finding.endpoints) - 3} more" if len(finding.endpoints) > 3 else ""
    mode = f", mode {finding.mode}" if finding.mode else ""
    return f"{finding.function}  ({where}{more}{mode})"


# --- what to do now


def _summary(report: Report, look: Terminal, target: str) -> Iterator[str]:
    guided = guides(report)
    migrated, blocking = report.progress()
    counts = Counter(guide.worst.severity for guide in guided)
    worst = ", ".join(f"{counts[severity]} {severity}" for severity in SEVERITIES if counts[severity])
    of_all = f"{len(guided)} of {len(report.handlers)} async functions"
    rows = [("block the event loop", f"{of_all} ({worst})" if worst else of_all)]
    if migrated:
        rows.append(("migrated already", str(migrated)))
    if left_out := blocking - migrated - len(guided):
        rows.append(("left out", f"{left_out}, by the baseline, by comments or by --select"))
    if guided:
        decorated = [guide for guide in guided if guide.do != HAND]
        partly = sum(guide.note is not None for guide in decorated)
        in_part = f", {partly} of them in part" if partly else ""
        rows.append(("a decorator frees", f"{len(decorated)}{_first(decorated)}{in_part}"))
    hand = by_hand(report)
    if guided or hand:
        rows.append(("need a hand", f"{len(hand)}{_at(report, hand, guided)}"))
    left = others(report)
    if left:
        rows.append(("to be looked at", ", ".join(f"{len(findings)} {rule}" for rule, findings in left.items())))
    yield look.paint("Summary", "bold")
    for label, text in rows:
        yield from look.lines(text, f"  {label}", _LABEL)
    for command, what in _next(report, guided, target):
        yield from look.lines(look.paint(command, "bold green"), "  next", _LABEL)
        yield from look.lines(look.paint(what, "dim"), "", _LABEL)


def _first(guided: list[Guide]) -> str:
    """Say which places have to be changed before a bridge frees some functions."""
    which = _which(number for guide in guided if guide.do == BRIDGE for number in guide.places)
    return f", once {which} changed" if which else ""


def _which(numbers: Iterable[int], verb: str = " is", verbs: str = " are") -> str:
    """Name some places: each if they are few."""
    ordered = sorted(set(numbers))
    if len(ordered) > _FEW:
        return f"the places above{verbs}"
    return f"{_brackets(ordered)}{verb if len(ordered) == 1 else verbs}" if ordered else ""


def _at(report: Report, hand: list[tuple[str, str]], guided: list[Guide]) -> str:
    """Say where functions are to be changed by hand: at the places that open their connections, or which they are."""
    places = {
        (guide.handler.file, guide.handler.function): [
            number for number in guide.places if not report.places[number - 1].by_migrate
        ]
        for guide in guided
    }
    if hand and all(places.get(function) for function in hand):
        return f", at {_which((number for function in hand for number in places[function]), '', '')}"
    more = f" and {len(hand) - _FEW} more" if len(hand) > _FEW else ""
    return f": {', '.join(name for _, name in hand[:_FEW])}{more}" if hand else ""


def _next(report: Report, guided: list[Guide], target: str) -> Iterator[tuple[str, str]]:
    """Yield the next command to type, and what it does."""
    migrated, blocking = report.progress()
    rules = ",".join(others(report))
    left = [number for number, place in enumerate(report.places, 1) if not place.by_migrate]
    if any(guide.do != HAND for guide in guided) or len(left) < len(report.places):
        more = f". Change {_which(left, '', '')} by hand first, and fewer need a thread" if left else ""
        yield f"offload-db migrate {target}", f"shows the changes as a diff; with --write it makes them{more}"
    elif guided or report.places:
        yield f"offload-db audit {target}", "again, when what is named above is changed by hand"
    elif rules:
        yield f"offload-db audit --explain {rules}", "says what to do about what is left"
    elif blocking and migrated == blocking:
        yield "offload-db doctor", "reads the settings and the server, and says what will go wrong there"


def _totals(report: Report, look: Terminal, *, verbose: bool) -> Iterator[str]:
    migrated, blocking = report.progress()
    totals = report.summary()
    listed = " (--verbose lists them)" if totals["open"] and not verbose else ""
    yield from look.lines(
        f"{bar(migrated, blocking)} {migrated} of {blocking} blocking functions migrated; "
        f"{totals['open']} open findings{listed} in {totals['files']} files, {totals['lines']} lines"
    )
    if totals["open"] and verbose:
        yield ", ".join(f"{count} {name}" for name, count in totals["by_severity"].items() if count)
    counts = [f"{totals[name]} {what}" for name, what in _ALSO.items() if totals[name]]
    if counts:
        yield from look.lines(f"also: {', '.join(counts)}")
    if report.stale:
        yield f"{len(report.stale)} findings of the baseline are gone: write it anew"


def bar(done: int, total: int) -> str:
    """Return a bar of a fixed width; a full one where there is nothing to do."""
    filled = _WIDTH * done // total if total else _WIDTH
    return f"[{'#' * filled}{'.' * (_WIDTH - filled)}]"
