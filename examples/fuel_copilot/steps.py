"""Owns the migration: copies the legacy backend and applies the first steps of it.

A step is a unified diff in `steps/` that only adds lines. It does not start the backend.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["LEGACY", "STEPS", "StepError", "apply", "names"]

LEGACY = Path(__file__).parent / "legacy"
STEPS = Path(__file__).parent / "steps"

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class StepError(RuntimeError):
    """Raised when a step cannot be applied, or would do more than add lines."""


def names() -> list[str]:
    """Return the names of the steps in their order."""
    return sorted(patch.stem for patch in STEPS.glob("*.patch"))


def apply(upto: int | None, target: Path) -> list[str]:
    """Copy the legacy backend to *target* and apply the first *upto* steps.

    :param upto: how many steps; 0 for the backend as it was, None for all
    :param target: a directory that does not exist yet, or is empty
    :returns: the names of the steps that were applied
    :raises StepError: if there are fewer steps, the target is in use, or a step does not fit
    """
    steps = names()
    count = len(steps) if upto is None else upto
    if not 0 <= count <= len(steps):
        raise StepError(f"upto={upto}: there are {len(steps)} steps")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StepError(f"{target} exists already: name a new or an empty directory")
    shutil.copytree(LEGACY, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    for name in steps[:count]:
        _apply_patch((STEPS / f"{name}.patch").read_text(encoding="utf-8"), target, name)
    return steps[:count]


def _apply_patch(patch: str, target: Path, name: str) -> None:
    lines = iter(enumerate(patch.splitlines(), 1))
    path: Path | None = None
    old: list[str] = []
    new: list[str] = []
    used = 0  # how many lines of `old` are in `new` already
    for number, line in lines:
        if line.startswith("--- a/"):
            _save(path, new + old[used:])
            _, header = next(lines, (0, ""))
            if header != f"+++ b/{line[6:]}":
                raise StepError(f"{name}:{number}: a step changes a file where it is")
            path = target / line[6:]
            old, new, used = path.read_text(encoding="utf-8").splitlines(), [], 0
        elif path is not None and (hunk := _HUNK.match(line)):
            start, *lengths = (1 if group is None else int(group) for group in hunk.group(1, 2, 4))
            new += old[used : start - 1]
            used = start - 1
            for kept in _hunk(lines, lengths[0], lengths[1], new, name):
                if old[used : used + 1] != [kept]:
                    raise StepError(f"{name}: {path.name} line {used + 1} is not {kept!r}: apply the steps in order")
                used += 1
        else:
            raise StepError(f"{name}:{number}: neither a file nor a hunk begins with {line!r}")
    _save(path, new + old[used:])


def _hunk(
    lines: Iterator[tuple[int, str]], old_length: int, new_length: int, new: list[str], name: str
) -> Iterator[str]:
    """Append a hunk's lines to *new*, and yield those that must be in the old file."""
    while new_length > 0:
        number, line = next(lines, (0, "\\"))
        if line[:1] not in ("+", " ", ""):
            raise StepError(f"{name}:{number}: a step only adds lines, and this is neither added nor context: {line!r}")
        new.append(line[1:])
        new_length -= 1
        if not line.startswith("+"):
            old_length -= 1
            yield line[1:]
    if old_length:
        raise StepError(f"{name}: a hunk has not the length that its header says")


def _save(path: Path | None, lines: Sequence[str]) -> None:
    if path is not None:
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the backend as it is after some of the steps."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.fuel_copilot.steps",
        description="Copy the legacy backend to a directory and apply the first steps of its migration.",
    )
    parser.add_argument("target", nargs="?", type=Path, help="a new or empty directory; without it, list the steps")
    parser.add_argument("--upto", type=int, help="how many steps, 0 for the backend as it was (default: all)")
    arguments = parser.parse_args(argv)
    if arguments.target is None:
        print("\n".join(names()))
        return 0
    try:
        applied = apply(arguments.upto, arguments.target)
    except (StepError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.target}: {', '.join(applied) or 'as it was'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
