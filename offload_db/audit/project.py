"""Finds the files to audit, gives them module names and resolves imports between them.

Owns nothing of what stands in the files.
"""

from __future__ import annotations

import fnmatch
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .libraries import is_library
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
    packages: set[Path] = field(default_factory=set)
    directories: set[Path] = field(default_factory=set)
    interrupted: bool = False
    # by the directories and the last part of its name
    _by_base: dict[tuple[str, ...], Module] = field(default_factory=dict)
    _by_tail: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    _imported: set[str] = field(default_factory=set)  # every dotted name that is imported, and what is before its dots
    _own: dict[tuple[Module, str], bool] = field(default_factory=dict)
    _roots: dict[Path, tuple[list[Path], list[Path]]] = field(default_factory=dict)

    def fail(self, shown: str, message: str, line: int = 1) -> None:
        """Note that something could not be audited."""
        self.errors.append(Unreadable(shown, line, _printable(message)))

    def add(self, module: Module) -> None:
        """Add a module that is read."""
        base = _base(module)
        self.modules.append(module)
        self._by_tail.setdefault(base[-1], []).append(base)
        if base not in self._by_base or module.path.name == "__init__.py":
            self._by_base[base] = module  # a package comes before a module of its name
        self.directories.update(module.path.parents)
        if module.path.name == "__init__.py":
            self.packages.add(module.path.parent)
        for name in module.imported:
            parts = name.split(".")
            self._imported.update(".".join(parts[:count]) for count in range(1, len(parts) + 1))

    def is_name(self, name: str) -> bool:
        """Tell whether a module has this as the last part of its name."""
        return name in self._by_tail

    def is_own(self, name: str, importer: Module) -> bool:
        """Tell whether a dotted name is of the application, though its file is not among those that are read."""
        first, dot, _ = name.partition(".")
        known = self._own.get((importer, first))
        if known is None:
            around = [importer.path.parent, *importer.path.parent.parents]
            known = not is_library(first) and any(one / first in self.directories for one in around)
            self._own[importer, first] = known
        return bool(dot) and known

    def find(self, name: str, importer: Module) -> Module | None:
        """Return the audited module that *importer* gets for an absolute dotted name, as Python looks for it."""
        parts = tuple(name.split("."))
        if parts[0] == "offload_db":
            return None  # known as it is documented, also where its source is among the files
        if parts[-1] not in self._by_tail:
            return None
        roots, packages = self._around(importer.path.parent)
        for root in roots:
            if (found := self._by_base.get((*root.parts, *parts))) is not None:
                return found
        if parts[0] in sys.stdlib_module_names or is_library(parts[0]):
            return None
        # Only a script has the modules beside it, but who starts it nobody knows.
        for root in packages:
            if (found := self._by_base.get((*root.parts, *parts))) is not None:
                return found
        return self._elsewhere(parts, importer)

    def _around(self, directory: Path) -> tuple[list[Path], list[Path]]:
        """Return the directories around a file that imports start from, and those that are packages: nearest first."""
        found = self._roots.get(directory)
        if found is None:
            above = [directory, *directory.parents]
            packages = [one for one in above if self._is_package(one)]
            found = self._roots[directory] = ([one for one in above if one not in packages], packages)
        return found

    def _is_package(self, directory: Path) -> bool:
        """Tell whether a directory is imported: it says so itself, or somebody imports it by its name."""
        parts = directory.parts
        return directory in self.packages or any(
            ".".join(parts[start:]) in self._imported for start in range(max(len(parts) - 4, 1), len(parts))
        )

    def _elsewhere(self, parts: tuple[str, ...], importer: Module) -> Module | None:
        """Return a module that is found from a directory which is not around the importer, the nearest there is."""
        best: tuple[int, Module] | None = None
        for base in self._by_tail[parts[-1]]:
            root = base[: len(base) - len(parts)]
            if base[len(root) :] != parts:
                continue
            module = self._by_base[base]
            starts = root == module.root.parts or root[-1:] == ("src",) or len(parts) > 1
            depth = _common(root, importer.path.parent.parts)
            if starts and Path(*root) not in self.packages and (best is None or depth > best[0]):
                best = (depth, module)
        return best[1] if best else None

    def relative(self, name: str | None, level: int, importer: Module) -> str:
        """Return the path-like dotted name that a relative import means."""
        directory = importer.path.parent
        for _ in range(level - 1):
            directory = directory.parent
        parts = [*directory.parts, *(name.split(".") if name else [])]
        return "\0".join(parts)

    def at(self, path_name: str) -> Module | None:
        """Return the module that a relative import leads to, see `relative`."""
        return self._by_base.get(tuple(path_name.split("\0")))


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


def load(
    paths: Sequence[Path], exclude: Sequence[str] = (), progress: Progress | None = None, *, partial: bool = False
) -> Project:
    """Read every Python file below *paths*.

    :param exclude: patterns of paths to leave out, as the shell knows them
    :param progress: is told how many files are read, how many there are, and which is next
    :param partial: whether an interrupt ends the reading and leaves what is read, instead of being raised
    :returns: the modules, and the files that could not be read
    """
    project = Project()
    files: list[tuple[Path, Path]] = []
    try:
        for given in paths:
            files += _files(given, exclude, project, {file for file, _ in files})
        for number, (file, root) in enumerate(files):
            if progress is not None:
                progress(number, len(files), display_path(file))
            _read(file, root, project)
    except KeyboardInterrupt:
        if not partial:
            raise
        project.interrupted = True
        project.fail(
            display_path(paths[0].resolve()), f"interrupted: {len(project.modules)} of {len(files)} files are read"
        )
    return project


def _read(file: Path, root: Path, project: Project) -> None:
    shown = display_path(file)
    try:
        module = scan(file, shown, _name(file, root), root)
    except SyntaxError as error:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        message = f"it does not parse: {error.msg} (read by Python {version}; run the audit with what runs the code)"
        project.fail(shown, message, error.lineno or 1)
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, MemoryError) as error:
        project.fail(shown, f"it cannot be read: {error}")
    else:
        project.add(module)


def _files(
    given: Path, exclude: Sequence[str], project: Project, known: Collection[Path]
) -> Iterator[tuple[Path, Path]]:
    top = given.resolve()
    root = top.parent if top.is_file() else top
    any_there = False
    for file in [top] if top.is_file() else _below(top, project):
        any_there = True
        relative = file.relative_to(root).as_posix()
        if file not in known and not any(fnmatch.fnmatch(one, p) for one in (relative, file.name) for p in exclude):
            yield file, root
    if not any_there:
        project.fail(display_path(top), "there is no Python file in it: is it the directory that was meant?")


def _below(top: Path, project: Project) -> Iterator[Path]:
    def failed(error: OSError) -> None:
        project.fail(display_path(Path(error.filename or top)), f"its files cannot be listed: {error.strerror}")

    for directory, subdirectories, names in os.walk(top, onerror=failed):
        subdirectories[:] = sorted(d for d in subdirectories if d not in SKIPPED and not d.startswith("."))
        if "pyvenv.cfg" in names:
            subdirectories.clear()
            continue
        for name in sorted(names):
            file = os.path.join(directory, name)
            # A pipe would wait for its writer; a link that leads nowhere is reported when it is read.
            if name.endswith(".py") and (os.path.isfile(file) or not os.path.exists(file)):
                yield Path(file)


def _name(file: Path, root: Path) -> str:
    parts = list(file.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def display_path(file: Path) -> str:
    """Return a path as reports have it: with a mark for each byte of it that is no UTF-8."""
    try:
        return _printable(file.relative_to(Path.cwd()).as_posix())
    except ValueError:
        return _printable(file.as_posix())


def _printable(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="replace")
