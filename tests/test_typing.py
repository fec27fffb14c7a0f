"""Claims about what a type checker makes of the library, from the user's side."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import needs
from tests.once import common_directory, one_at_a_time

ROOT = Path(__file__).parent.parent
SAMPLES = sorted(path for path in (ROOT / "tests" / "typing").glob("*.py") if path.stem != "__init__")

pytestmark = [needs("mypy"), pytest.mark.timeout(240)]


def mypy(source: Path, cache: Path) -> str:
    """Run mypy in strict mode, without the project's settings, and return what it says."""
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--config-file=",
        "--cache-dir",
        str(cache),
    ]
    with one_at_a_time(cache, "mypy"):
        done = subprocess.run(
            [*command, str(source)], cwd=ROOT, capture_output=True, text=True, timeout=170, check=False
        )
    assert done.returncode in (0, 1), done.stderr
    # Packages that ship no types are the user's to ignore.
    return "\n".join(
        line
        for line in done.stdout.splitlines()
        if "import-untyped" not in line and "missing-imports" not in line and "install" not in line
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory for what mypy finds out, which takes it long, in all processes of the tests."""
    directory = common_directory(tmp_path_factory) / "mypy"
    directory.mkdir(exist_ok=True)
    return directory


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: str(path.stem))
def test_samples(sample: Path, cache: Path) -> None:
    """Each sample has exactly the types that it asserts, and exactly the errors that it expects."""
    assert mypy(sample, cache) == ""


def test_revealed_types(tmp_path: Path, cache: Path) -> None:
    """What an editor shows for decorated functions names the user's own parameters and results."""
    source = tmp_path / "revealed.py"
    source.write_text(
        """
from collections.abc import AsyncGenerator
from offload_db import blocking, offload

@offload
async def coroutine(truck: int, *, day: str = "") -> list[str]: return []
@offload
def plain(truck: int) -> str: return ""
@offload(lane="reports")
async def generator(truck: int) -> AsyncGenerator[bytes, None]: yield b""
@blocking
def blocks(truck: int) -> float: return 0.0

reveal_type(coroutine)
reveal_type(plain)
reveal_type(generator)
reveal_type(blocks)
""",
        encoding="utf-8",
    )
    revealed = re.findall(r'Revealed type is "(.*)"', mypy(source, cache))
    plain = [re.sub(r"\b(builtins|typing|collections\.abc|types)\.|\?|(?<=\w)\*", "", text) for text in revealed]
    assert plain == [
        "def (truck: int, *, day: str =) -> Coroutine[Any, Any, list[str]]",
        "def (truck: int) -> Coroutine[Any, Any, str]",
        "def (truck: int) -> AsyncGenerator[bytes, None]",
        "def (truck: int) -> float",
    ]


def test_a_sample_can_fail(tmp_path: Path, cache: Path) -> None:
    """A wrong expectation is found."""
    source = tmp_path / "wrong.py"
    source.write_text(
        """
from typing_extensions import assert_type
from offload_db import offload

@offload
async def handler(truck: int) -> str: return ""

async def use() -> None:
    assert_type(await handler(1), int)
    await handler(1)  # type: ignore[arg-type]
""",
        encoding="utf-8",
    )
    found = mypy(source, cache)
    assert "assert-type" in found
    assert "unused-ignore" in found
