"""Claims about the page for who changes the library, and about private names of other packages."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
from pathlib import Path

import pytest

import offload_db
from tests import foreign_names, test_layering

HOUSE = Path(offload_db.__file__).parent
PAGE = HOUSE / "README.md"
ROOT = Path(__file__).resolve().parents[1]

# Private names in the source that are no other package's: marks that the library leaves on objects of drivers,
# attributes of its own that are set by name, and what Python documents in spite of the underscore.
OURS = {
    *("_descriptor", "_home", "_left", "_own_socket", "_streaming", "_unasked"),  # marks
    *("_driver_class", "_echo", "_local_cursor_methods", "_local_methods", "_maxsize", "_wire_methods"),
    *("_ahead", "_call_lock", "_discard", "_lease"),
    *("_asdict", "_replace"),  # of named tuples
}
# Of drivers that the tests of `drivers/` hold to what they do; they are asked for carefully, by getattr() or in frames.
OTHER_DRIVERS = {"_cmysql", "_fetch_row", "_handle_result", "_socket"}


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def rows() -> dict[str, str]:
    """Return the table of folders: each one's files, as they are written there."""
    found: dict[str, str] = {}
    table = page().partition("\n## The folders")[2].partition("\n## ")[0]
    for folder, files in re.findall(r"^\| [`(]([a-z_]+)[/)]`? \| [^|]* \| (.*) \|$", table, re.MULTILINE):
        found[folder] = found.get(folder, "") + files
    return found


def test_each_folder_and_file_stands_in_the_page() -> None:
    """Every file of the library is named in the row of its folder, and nothing else is."""
    named = {folder: set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", files))) for folder, files in rows().items()}
    there: dict[str, set[str]] = {}
    for path in HOUSE.rglob("*.py"):
        folder, *_ = path.relative_to(HOUSE).parts
        if folder != "audit" and path.stem != "__init__":
            there.setdefault("root" if folder == path.name else folder, set()).add(path.stem)
    assert {folder: files for folder, files in named.items() if folder != "audit"} == there
    assert "audit" in named


def test_the_order_of_the_page_is_that_of_the_layering() -> None:
    """The folders stand in the order in which they may import each other."""
    order = list(dict.fromkeys(rows()))
    assert [folder for folder in order if folder != "audit"] == list(test_layering.FOLDERS)


def test_files_that_the_page_points_to_are_there() -> None:
    """Each path that the page names is there."""
    for folder, name in re.findall(r"`(" + "|".join(test_layering.FOLDERS) + r")/(\w*)`", page()):
        assert not name or (HOUSE / folder / f"{name}.py").exists() or (HOUSE / folder / name).is_dir(), (
            f"{folder}/{name}"
        )
    for link in re.findall(r"\]\(([^)#]+)", page()):
        assert Path(os.path.normpath(ROOT / "offload_db" / link)).exists(), link


def test_the_list_of_foreign_names_is_in_the_page() -> None:
    """The page shows the list as the tests have it: `python -m tests.foreign_names`."""
    assert foreign_names.table() in page()


def test_no_foreign_name_is_missing_in_the_list() -> None:
    """Each private name that the source takes from an object of somebody else's stands in the list."""
    listed = {name for each in foreign_names.FOREIGN for name in each.names}
    used: set[str] = set()
    for path in test_layering.files().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr[0] == "_" != node.attr[1:2]:
                used.add(node.attr)
    assert used - test_layering.defined_here() - listed - OURS - OTHER_DRIVERS == set()


def _is_module(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("each", foreign_names.FOREIGN, ids=lambda each: str(each.owner))
def test_foreign_names_are_there(each: foreign_names.Foreign) -> None:
    """A version of another package that has renamed one of them is noticed here, before a user notices."""
    module, names = each.owner, list[str]()
    while not _is_module(module):
        module, _, last = module.rpartition(".")
        names.insert(0, last)
    owner: object = importlib.import_module(module)
    for name in names:
        owner = getattr(owner, name)
    source = inspect.getsource(owner) if isinstance(owner, type) else ""
    for name in each.names:
        assert hasattr(owner, name) or re.search(rf"\bself\.{name}\b", source), f"{each.owner}.{name}"
