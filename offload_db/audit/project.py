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
    interrupted: bool = False

    def fail(self, shown: str, message: str, line: int = 1) -> None:
        """Note that something could not be audited."""
        self.errors.append(Unreadable(shown, line, _printable(message)))

    def add(self, module: Module) -> None:
        """Add a module that is read."""
        self.modules.append(module)
        self.by_tail.setdefault(_base(module)[-1], []).append(module)
        self.directories.update(module.path.parents)
        if module.path.name == "__init__.py":
            self.packages.add(module.path.parent)

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
                progress(number, len(files), _shown(file))
            _read(file, root, project)
    except KeyboardInterrupt:
        if not partial:
            raise
        project.interrupted = True
        project.fail(_shown(paths[0].resolve()), f"interrupted: {len(project.modules)} of {len(files)} files are read")
    return project


def _read(file: Path, root: Path, project: Project) -> None:
    shown = _shown(file)
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
        project.fail(_shown(top), "there is no Python file in it: is it the directory that was meant?")


def _below(top: Path, project: Project) -> Iterator[Path]:
    def failed(error: OSError) -> None:
        project.fail(_shown(Path(error.filename or top)), f"its files cannot be listed: {error.strerror}")

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


def _shown(file: Path) -> str:
    """Return a path as reports have it: with a mark for each byte of it that is no UTF-8."""
    try:
        return _printable(file.relative_to(Path.cwd()).as_posix())
    except ValueError:
        return _printable(file.as_posix())


def _printable(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="replace")
