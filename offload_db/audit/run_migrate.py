"""``offload-db migrate``: its arguments, its exit status, and what it says."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from . import Context, examine
from .converting import Call, Conversion, convertible
from .migrate import STEPS, migrate
from .plan import chosen_by
from .project import Project
from .run_audit import HALF_DONE, clear_line, exit_status, progress_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "exit status: 0 done, 2 a usage error, no file that can be read, or one that could not be changed"
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files and directories; name the whole application")
    parser.add_argument("--write", action="store_true", help="change the files (default: print the diff)")
    parser.add_argument(
        "--step",
        choices=STEPS,
        default=STEPS[-1],
        help="the last step to take: connections, engines and pools alone, or handlers after these (default)",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="METHOD:/PATH", help="migrate this route alone; may be repeated"
    )
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="paths to leave alone")
    parser.add_argument("--verbose", action="store_true", help="tell also of the handlers that need nothing")
    parser.add_argument("--quiet", action="store_true", help="explain nothing, and show no progress")


def run(arguments: argparse.Namespace) -> int:
    """Migrate; return the exit status. The diff goes to standard output, explanations to standard error."""
    return exit_status(partial(_migrate, arguments), interrupted=HALF_DONE)


def _migrate(arguments: argparse.Namespace) -> int:
    progress = progress_line(quiet=arguments.quiet)
    context = examine(arguments.paths, exclude=arguments.exclude, progress=progress)
    converted: dict[Call, Conversion] = {}
    while isinstance(context, Context):
        # Connections come first: with these handlers need no threads, and what is shared is protected.
        more = convertible(context, chosen_by(context, arguments.only) if arguments.only else None)
        if more.keys() <= converted.keys():
            break
        converted |= more
        context = examine(arguments.paths, exclude=arguments.exclude, converted=converted, progress=progress)
    project = context if isinstance(context, Project) else context.project
    clear_line()
    for error in project.errors:
        print(f"{error.file}:{error.line}: {error.message}", file=sys.stderr)
    if isinstance(context, Project):
        return 2 if project.errors else 0
    migration = migrate(context, arguments.only, arguments.step)
    if arguments.write:
        for change in migration.changes():
            change.path.write_bytes(change.after)
            print(f"changed {change.shown}")
    else:
        for step in migration.steps:
            sys.stdout.write(step.diff())
    if not arguments.quiet:
        explained = list(migration.explain(verbose=arguments.verbose))
        for line in explained or ["nothing to change: of what was read nothing blocks, or it is migrated already"]:
            print(line, file=sys.stderr)
    return 2 if migration.failures else 0
