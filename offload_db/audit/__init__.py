"""The static audit: which calls in ``async def`` functions block the event loop, through whom, and for which request.

``audit`` reads files and returns a report; the ``offload-db`` command prints it. Nothing that is audited is imported
or executed, and nothing of the rest of the library is needed. The way through the files:

``project`` finds and ``scan`` reads them (``trees``); ``interpret`` learns what names may be (``worklist``, ``lookup``,
``calling``, ``outside``, ``annotations``, ``expressions``, ``imports``, ``decorators``) and notes the calls; ``graph``,
``routes`` and ``coverage`` connect them; ``origins`` (with ``bindings``, ``makers``, ``singles``) follows connections
back to what makes them, ``ownership`` says whether they are a call's own, ``advice`` which mode fits, ``remedies`` and
``places`` what to change; ``context`` answers what the ``rules`` ask. ``wording`` names expressions in reports.
On the report stands ``guidance``: one thing to do for each function; ``terminal`` has colours and width.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from . import model
from .context import Context
from .converting import convertible
from .findings import Endpoint, Finding, Handler, Place, Report, fingerprinted
from .interpret import Interpreter
from .places import find_places
from .project import Project, load
from .rules import CODES, RULES, Rule
from .wrapping import wrapping_of

__all__ = [
    "CODES",
    "RULES",
    "Context",
    "Endpoint",
    "Finding",
    "Handler",
    "Place",
    "Report",
    "Rule",
    "audit",
    "examine",
    "report",
]

Progress = Callable[[str, int, int, str], None]


def audit(
    paths: Iterable[str | Path],
    *,
    exclude: Sequence[str] = (),
    select: Collection[str] | None = None,
    progress: Progress | None = None,
    partial: bool = False,
) -> Report:
    """Audit files and directories.

    :param paths: files, and directories whose Python files are read
    :param exclude: patterns of paths or file names to leave out, as the shell knows them
    :param select: codes of the rules to check; None checks all
    :param progress: is told the stage, how much of it is done, how much there is, and what is next
    :param partial: whether an interrupt (Ctrl-C) leads to a report of what is known by then, instead of being raised
    :returns: the findings, sorted by place
    :raises FileNotFoundError: if one of the paths is not there
    """
    with _uncollected():
        context = examine(paths, exclude=exclude, progress=progress, partial=partial)
        try:
            return report(context, select=select)
        finally:
            model.forget()


def examine(
    paths: Iterable[str | Path],
    *,
    exclude: Sequence[str] = (),
    converted: frozenset[tuple[str, int, int]] = frozenset(),
    progress: Progress | None = None,
    partial: bool = False,
) -> Context | Project:
    """Read files and learn what the rules ask; see `audit`.

    :param converted: file, line and column of the calls to look at as if they were offload_db.connect's
    :returns: the context, or the project alone if it has no module that can be read
    """
    given = [Path(path) for path in paths]
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there; name files and directories that are")
    with _uncollected():
        project = load(given, exclude, _stage(progress, "reading"), partial=partial)
        if not project.modules:
            return project
        interpreter = Interpreter(project)
        interpreter.converted = converted
        interpreter.run(_stage(progress, "following"), partial=partial)
        return Context(interpreter)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage: syntax trees are millions of objects and none, and looking takes as long as the audit."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int, str], None] | None:
    if progress is None:
        return None
    return lambda done, total, what: progress(stage, done, total, what)


def report(context: Context | Project, *, select: Collection[str] | None = None) -> Report:
    """Check the rules; see `audit`."""
    project = context if isinstance(context, Project) else context.project
    errors = [{"file": error.file, "line": error.line, "message": error.message} for error in project.errors]
    if isinstance(context, Project):
        return Report([], [], errors, len(errors), 0, interrupted=project.interrupted)
    found = [finding for rule in RULES if select is None or rule.code in select for finding in rule.check(context)]
    ignores = {module.shown: module.ignores for module in project.modules}
    kept = [finding for finding in found if not _ignored(finding, ignores.get(finding.file, {}))]
    return Report(
        fingerprinted(kept),
        context.handlers(),
        errors,
        len({module.shown for module in project.modules} | {error.file for error in project.errors}),
        sum(module.lines for module in project.modules),
        suppressed=len(found) - len(kept),
        places=_places(context),
        interrupted=project.interrupted,
    )


def _places(context: Context) -> list[Place]:
    """Return where connections are made, each with a mark of whether a migration changes it."""
    found = find_places(context)
    if not found:
        return found
    lines = {(shown, line) for shown, line, _ in convertible(context)}
    lines |= {(module.shown, call.lineno) for module, call in wrapping_of(context).pools}
    return [replace(place, by_migrate=(place.file, place.line) in lines) for place in found]


def _ignored(finding: Finding, ignores: dict[int, frozenset[str]]) -> bool:
    return any(finding.rule in ignores.get(line, ()) for line in range(finding.line, finding.end_line + 1))
