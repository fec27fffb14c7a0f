"""``offload-db init``: what a project has, and which commands come next, in their order.

Changes nothing without ``--write``; then it does what ``migrate --write`` does, and lists in a baseline what is left.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import Context, baseline, examine, report as reported
from .findings import SEVERITIES, Report
from .guidance import HAND, Guide, by_hand, guides, others
from .inventory import Made, inventory, other_drivers
from .run_audit import HALF_DONE, clear_line, exit_status, progress_line, words
from .terminal import Terminal, terminal

BASELINE = Path("offload-db-baseline.json")
NOTHING = 1
EXIT_STATUS = (
    "exit status: 0 the steps are shown or done, or all is migrated, 1 no async function reaches a database, 2 a usage "
    "error, no Python file, or a file that could not be changed, 130 interrupted"
)
_LABELS = {"pool": "pools", "engine": "engines", "connect": "connects", "offload_db": "offload_db"}
_INDENT = 14
_SHOWN = 3  # places of a kind
_LOOKED_FOR = "PyMySQL, mysqlclient, mysql-connector, MariaDB's connector, DBUtils, SQLAlchemy, pandas or peewee"
_ELSEWHERE = "elsewhere, name that directory, too: offload-db init . PATH"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EXIT_STATUS
    parser.add_argument("paths", nargs="*", metavar="PATH", help="the directory of the project (default: this one)")
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"make the changes that are certain, and list in {BASELINE} what is left (default: change nothing)",
    )
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="paths to leave out (default: tests)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(arguments: argparse.Namespace) -> int:
    """Say what there is and what comes next; return the exit status."""
    arguments.paths = arguments.paths or ["."]
    arguments.exclude = arguments.exclude or list(_tests(arguments.paths))
    return exit_status(partial(_run, arguments), interrupted=HALF_DONE)


def _tests(paths: Iterable[str]) -> Iterator[str]:
    """Yield the patterns of tests that are there: nobody migrates these."""
    for pattern in ("tests/*", "test/*", "test_*.py", "conftest.py"):
        if any(next(Path(path).glob(pattern), None) for path in paths):
            yield pattern


def _run(arguments: argparse.Namespace) -> int:
    context = examine(arguments.paths, exclude=arguments.exclude, progress=progress_line(quiet=arguments.quiet))
    report = reported(context)
    clear_line()
    for error in report.errors:
        print(f"{error['file']}:{error['line']}: {error['message']}", file=sys.stderr)
    if not isinstance(context, Context):
        return 2
    look = terminal(sys.stdout)
    made = inventory(context)
    _print(_found(report, made, look))
    if not report.progress()[1] and all(one.kind != "offload_db" for one in made):
        _print(_nothing(made, other_drivers(context), look))
        return NOTHING
    if arguments.write:
        if status := _migrate(arguments, report):
            return status
        report = reported(examine(arguments.paths, exclude=arguments.exclude))
        if report.open and not BASELINE.exists():
            print(f"wrote {BASELINE}: {_count(baseline.write(report, BASELINE), 'finding')} that are left")
        print()
    _print(_next(report, words(arguments), look))
    return 0


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


# --- what there is


def _found(report: Report, made: list[Made], look: Terminal) -> Iterator[str]:
    yield look.paint(f"Read {_count(report.files, 'Python file')}, {report.lines} lines:", "bold")
    for kind, label in _LABELS.items():
        found = [str(one) for one in made if one.kind == kind]
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        yield from look.lines(f"{', '.join(found[:_SHOWN])}{more}" if found else "none", f"  {label}", _INDENT)
    yield from look.lines(_handlers(report), "  handlers", _INDENT)
    yield ""


def _handlers(report: Report) -> str:
    migrated, blocking = report.progress()
    guided = guides(report)
    if not blocking:
        return "no async function reaches the database"
    text = f"{blocking} of {_count(len(report.handlers), 'async function')} reach the database"
    if migrated:
        text += f", {migrated} of them are migrated"
    if in_vain := len(report.in_vain()):
        text += f", {in_vain} decorated in vain (what they use is not freed yet)"
    if guided:
        worst = min(guided, key=lambda one: SEVERITIES.index(one.worst.severity))
        text += f"; {len(guided)} block the event loop, worst of all {worst.handler.function} ({worst.routes()})"
    return text


def _nothing(made: list[Made], drivers: list[str], look: Terminal) -> Iterator[str]:
    if made:
        why = "No async function reaches these: they block no event loop, there is nothing to migrate. If handlers are"
    else:
        why = f"No database code was found, nothing of {_LOOKED_FOR}. If it is"
    yield from look.lines(f"{why} {_ELSEWHERE}")
    if drivers:
        yield from look.lines(f"Other drivers are imported, which this library does not free: {', '.join(drivers)}.")


# --- what comes next


@dataclass(frozen=True, slots=True)
class _Step:
    what: str
    commands: tuple[str, ...]
    writes: str = ""  # what --write does of it


def _next(report: Report, target: str, look: Terminal) -> Iterator[str]:
    if not report.open:
        migrated = report.progress()[0]
        done = f": {_count(migrated, 'function')} migrated" if migrated else ""
        yield look.paint(f"Nothing here blocks the event loop{done}.", "bold")
    yield look.paint("Next, in this order:", "bold")
    steps = list(_steps(report, target))
    for number, step in enumerate(steps, 1):
        yield from look.lines(step.what, f"  {number}.", 5)
        for command in step.commands:
            yield f"       {look.paint(command, 'green')}"
    writes = [f"{step.writes} of step {number}" for number, step in enumerate(steps, 1) if step.writes]
    if writes:
        yield ""
        yield from look.lines(f"Nothing is changed yet: offload-db init {target} --write {' and '.join(writes)}.")


def _steps(report: Report, target: str) -> Iterator[_Step]:
    audit = f"offload-db audit {target}"
    guided = guides(report)
    if guided or report.places:
        yield _Step("See what blocks, and what to do about each function:", (audit,))
    if _is_certain(report, guided):
        extra = () if importlib.util.find_spec("libcst") else ("python -m pip install 'offload-db[audit]'",)
        migrate = f"offload-db migrate {target}"
        yield _Step(
            f"Look at the changes that are certain ({_changes(report, guided)}), and make them:",
            (*extra, migrate, f"{migrate} --write"),
            "makes the changes",
        )
    if hand := by_hand(report):
        yield _Step(
            f"Change by hand what no decorator frees ({_count(len(hand), 'function')}), and look again:", (audit,)
        )
    if left := others(report):
        count = _count(sum(map(len, left.values())), "finding")
        yield _Step(
            f"Read what to do about {count} of another kind:", (f"offload-db audit --explain {','.join(left)}",)
        )
    yield _Step(
        "Ask what will go wrong on the server that MYSQL_HOST, MYSQL_USER and MYSQL_PASSWORD name:",
        ("offload-db doctor",),
    )
    is_listed = BASELINE.exists()
    to_list = bool(report.open) and not is_listed
    check = f"{audit} --baseline {BASELINE}" if report.open or is_listed else audit
    yield _Step(
        "List what is left, and let a check of each change fail where something new blocks:"
        if to_list
        else "Let a check of each change fail where something new blocks:",
        (f"{audit} --write-baseline {BASELINE}", check) if to_list else (check,),
        "writes the list" if to_list else "",
    )
    yield _Step(
        "When it has run for a day, see what cost the most time (offload_db.monitor.dump() writes runtime.json):",
        (f"{audit} --format json --output audit.json", "offload-db report audit.json runtime.json"),
    )


def _is_certain(report: Report, guided: list[Guide]) -> bool:
    """Tell whether a migration has something to write."""
    return any(one.do != HAND for one in guided) or any(place.by_migrate for place in report.places)


def _changes(report: Report, guided: list[Guide]) -> str:
    decorated = _count(sum(one.do != HAND for one in guided), "decorator")
    places = sum(place.by_migrate for place in report.places)
    return f"{decorated}, {_count(places, 'place')} where connections are made" if places else decorated


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# --- --write


def _migrate(arguments: argparse.Namespace, report: Report) -> int:
    """Make the changes that are certain; return the exit status."""
    if not _is_certain(report, guides(report)):
        return 0
    try:
        from . import run_migrate  # noqa: PLC0415  # it needs an extra, which nothing else here does
    except ModuleNotFoundError as error:
        print(f"error: --write needs {error.name}: pip install 'offload-db[audit]'", file=sys.stderr)
        return 2
    wanted = argparse.Namespace(
        paths=arguments.paths,
        exclude=arguments.exclude,
        write=True,
        only=[],
        step="handlers",
        verbose=False,
        quiet=True,
    )
    status = run_migrate.run(wanted)
    if status == 2:
        print(f"error: not all was changed; offload-db migrate {words(arguments)} says why", file=sys.stderr)
    return status
