"""Finds the files to audit, gives them module names and resolves imports between them.

Owns nothing of what stands in the files.
"""

from __future__ import annotations

import fnmatch
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .model import Module
from .scan import scan

SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that could not be audited."""

    file: str
    line: int
    message: str


@dataclass(slots=True)
class Project:
    """The audited files, by name."""

    modules: list[Module] = field(default_factory=list)
    errors: list[Unreadable] = field(default_factory=list)
    by_tail: dict[str, list[Module]] = field(default_factory=dict)  # last part of the name -> modules
    packages: set[Path] = field(default_factory=set)
    directories: set[Path] = field(default_factory=set)

    def find(self, name: str, importer: Module) -> Module | None:
        """Return the audited module that *importer* gets for an absolute dotted name."""
        parts = name.split(".")
        if parts[0] == "offload_db":
            return None  # known as it is documented, also where its source is among the files
        best: tuple[int, Module] | None = None
        for module in self.by_tail.get(parts[-1], ()):
            base = _base(module)
            if list(base[-len(parts) :]) != parts:
                continue
            root = base[: len(base) - len(parts)]
            depth = _common(root, importer.path.parent.parts)
            if depth < len(root) and not self._is_root(Path(*root), module, name):
                continue
            if best is None or depth > best[0]:
                best = (depth, module)
        return best[1] if best else None

    def _is_root(self, root: Path, module: Module, name: str) -> bool:
        """Tell whether imports of a file elsewhere may start from *root*."""
        if name.partition(".")[0] in sys.stdlib_module_names:
            return False
        return root == module.root or root.name == "src" or ("." in name and root not in self.packages)

    def relative(self, name: str | None, level: int, importer: Module) -> str:
        """Return the path-like dotted name that a relative import means."""
        directory = importer.path.parent
        for _ in range(level - 1):
            directory = directory.parent
        parts = [*directory.parts, *(name.split(".") if name else [])]
        return "\0".join(parts)

    def at(self, path_name: str) -> Module | None:
        """Return the module that a relative import leads to, see `relative`."""
        parts = tuple(path_name.split("\0"))
        return next((module for module in self.by_tail.get(parts[-1], ()) if _base(module) == parts), None)


def _base(module: Module) -> tuple[str, ...]:
    path = module.path
    return path.parent.parts if path.name == "__init__.py" else (*path.parent.parts, path.stem)


def _common(root: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for one, two in zip(root, other, strict=False):
        if one != two:
            break
        count += 1
    return count


def load(paths: Iterable[Path], exclude: Sequence[str] = (), progress: Progress | None = None) -> Project:
    """Read every Python file below *paths*.

    :param exclude: patterns of paths to leave out, as the shell knows them
    :param progress: is told how many files are read, how many there are, and which is next
    :returns: the modules, and the files that could not be read
    """
    project = Project()
    files = list(_files(paths, exclude))
    for number, (file, root) in enumerate(files):
        if progress is not None:
            progress(number, len(files), str(file))
        shown = _shown(file)
        try:
            module = scan(file, shown, _name(file, root), root)
        except SyntaxError as error:
            project.errors.append(Unreadable(shown, error.lineno or 1, f"it does not parse: {error.msg}"))
        except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
            project.errors.append(Unreadable(shown, 1, f"it cannot be read: {error}"))
        else:
            project.modules.append(module)
            project.by_tail.setdefault(_base(module)[-1], []).append(module)
            project.directories.update(file.parents)
            if file.name == "__init__.py":
                project.packages.add(file.parent)
    return project


def _files(paths: Iterable[Path], exclude: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    seen: set[Path] = set()
    for given in paths:
        top = given.resolve()
        if top.is_file():
            found: Iterable[Path] = [top]
            root = top.parent
        else:
            found = _below(top)
            root = top
        for file in found:
            relative = file.relative_to(root).as_posix()
            if file in seen or any(fnmatch.fnmatch(relative, p) or fnmatch.fnmatch(file.name, p) for p in exclude):
                continue
            seen.add(file)
            yield file, root


def _below(top: Path) -> Iterator[Path]:
    for directory, subdirectories, names in os.walk(top):
        subdirectories[:] = sorted(d for d in subdirectories if d not in SKIPPED and not d.startswith("."))
        if "pyvenv.cfg" in names:
            subdirectories.clear()
            continue
        for name in sorted(names):
            file = Path(directory, name)
            # A pipe would wait for its writer; a link that leads nowhere is reported when it is read.
            if name.endswith(".py") and (file.is_file() or not file.exists()):
                yield file


def _name(file: Path, root: Path) -> str:
    parts = list(file.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def _shown(file: Path) -> str:
    try:
        return file.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return file.as_posix()
