"""``offload-db audit``: its arguments, its exit status, and where its report goes."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import (
    CODES,
    RULES,
    Progress,
    audit,
    baseline,
    report_github,
    report_json,
    report_markdown,
    report_sarif,
    report_table,
)
from .findings import Report
from .project import display_path
from .terminal import Terminal, terminal

TABLE = "table"
FORMATS: dict[str, Callable[[Report], str]] = {
    TABLE: report_table.render,
    "json": report_json.render,
    "sarif": report_sarif.render,
    "github": report_github.render,
    "markdown": report_markdown.render,
}
EXIT_STATUS = (
    "exit status: 0 nothing is open, 1 open findings, 2 a usage error, or a file that could not be read, 130 "
    "interrupted (the report says what was known by then)"
)
COLOURS = "A terminal gets lines of its width, and colours unless NO_COLOR is set; FORCE_COLOR gives colours to a pipe"
INTERRUPTED = 130
# What to say of Ctrl-C where files may have been changed.
HALF_DONE = "interrupted: files that are named above are changed, the others are not"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = f"{EXIT_STATUS}. {COLOURS}"
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files, and directories whose Python files are read")
    parser.add_argument("--format", choices=FORMATS, default=TABLE, help="of the report (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="list each call that blocks, not only the worst")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the report goes (default: standard output)")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="let only findings fail that FILE does not list")
    parser.add_argument(
        "--write-baseline", type=Path, metavar="FILE", help="list the open findings in FILE, and succeed"
    )
    parser.add_argument(
        "--select", metavar="CODES", help="the rules to check, separated by commas (default: all; see offload-db rules)"
    )
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="paths to leave out, such as 'tests/*'"
    )
    parser.add_argument(
        "--changed",
        nargs="*",
        metavar="FILE",
        help="of what PATH holds report only what is in these files, or leads through them; stands last",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument(
        "--explain",
        nargs="?",
        const="",
        metavar="CODES",
        help="say what these rules find and what to do (default: all), and read nothing",
    )


def run(arguments: argparse.Namespace) -> int:
    """Audit and report; return the exit status."""
    if arguments.explain is not None:
        codes = ",".join(filter(None, [arguments.explain, *arguments.paths]))
        return exit_status(partial(_explain, codes), interrupted="interrupted")
    if not arguments.paths:
        print("error: PATH is missing: name the directory of the application, such as .", file=sys.stderr)
        return 2
    return exit_status(partial(_audit, arguments), interrupted="interrupted: there is nothing to report yet")


def exit_status(work: Callable[[], int], *, interrupted: str) -> int:
    """Do the work of a command, and say in a line what ended it early; return the exit status.

    :param interrupted: what to say after Ctrl-C
    """
    try:
        return work()
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        clear_line()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        clear_line()
        print(interrupted, file=sys.stderr)
        return INTERRUPTED


def _audit(arguments: argparse.Namespace) -> int:
    select = _selected(arguments.select)
    _check_files(arguments)
    report = audit(
        arguments.paths,
        exclude=arguments.exclude,
        select=select,
        progress=progress_line(quiet=arguments.quiet),
        partial=True,
    )
    clear_line()
    if arguments.baseline is not None:
        baseline.apply(report, arguments.baseline)
    if arguments.write_baseline is not None and not report.interrupted:
        count = baseline.write(report, arguments.write_baseline)
        print(f"{arguments.write_baseline}: {count} findings", file=sys.stderr)
        return 0
    if arguments.changed is not None:
        report.limit_to(display_path(Path(file).resolve()) for file in arguments.changed)
    text = _text(report, arguments)
    if arguments.output is not None:
        arguments.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    if arguments.output is not None or arguments.format != TABLE:
        for failed in report.errors:
            print(f"{failed['file']}:{failed['line']}: {failed['message']}", file=sys.stderr)
    if report.interrupted:
        print("interrupted: the report says what was known by then, and is not complete", file=sys.stderr)
        return INTERRUPTED
    if report.open:
        return 1
    return 2 if report.errors else 0


def _text(report: Report, arguments: argparse.Namespace) -> str:
    if arguments.format == "markdown":
        return report_markdown.render(report, verbose=arguments.verbose)
    if arguments.format != TABLE:
        return FORMATS[arguments.format](report)
    look = terminal(sys.stdout) if arguments.output is None else Terminal()
    return report_table.render(report, look, verbose=arguments.verbose, target=words(arguments))


def words(arguments: argparse.Namespace) -> str:
    """Return the paths that are audited, and those that are left out, as one types them."""
    excluded = [word for pattern in arguments.exclude for word in ("--exclude", pattern)]
    return shlex.join([*arguments.paths, *excluded])


def _explain(codes: str) -> int:
    """Print one line for each rule, and what to do; return the exit status."""
    chosen = _selected(codes or None, "--explain")
    look = terminal(sys.stdout)
    for rule in RULES:
        if chosen is None or rule.code in chosen:
            code = look.paint(rule.code, "bold")
            print("\n".join(look.lines(f"{rule.name}: {rule.summary}", f"{code}  ", 8)))
            print("\n".join(look.lines(look.paint(rule.remedy, "cyan"), "", 8)))
    return 0


def _check_files(arguments: argparse.Namespace) -> None:
    """Notice before the work, and not after it, that a file cannot be read or written.

    :raises OSError: if that is so
    """
    for option, file in (("--output", arguments.output), ("--write-baseline", arguments.write_baseline)):
        if file is not None and not file.parent.is_dir():
            raise FileNotFoundError(f"{option} {file}: there is no directory {file.parent}")
        if file is not None and file.is_dir():
            raise IsADirectoryError(f"{option} {file}: it is a directory; name a file")
    if arguments.baseline is not None and not arguments.baseline.is_file():
        raise FileNotFoundError(f"--baseline {arguments.baseline}: there is no such file; --write-baseline makes it")


def _selected(codes: str | None, option: str = "--select") -> frozenset[str] | None:
    if codes is None:
        return None
    chosen = frozenset(code.strip().upper() for code in codes.split(",") if code.strip())
    if unknown := sorted(chosen.difference(CODES)):
        raise ValueError(f"{option}: there is no rule {', '.join(unknown)}; accepted are {', '.join(CODES)}")
    return chosen


def progress_line(*, quiet: bool) -> Progress | None:
    """Return what shows progress on standard error; None if that is no terminal."""
    if quiet or not sys.stderr.isatty():
        return None
    shown = 0.0

    def show(stage: str, done: int, total: int, what: str) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown > 0.1:
            shown = now
            line = f"{stage} {report_table.bar(done, total)} {done}/{total} {what}"
            sys.stderr.write(f"\r\x1b[K{line[:100]}")
            sys.stderr.flush()

    return show


def clear_line() -> None:
    """Remove the progress from the terminal."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
