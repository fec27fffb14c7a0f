"""Claims about the audit as a check: of changed files, from a hook of pre-commit, and in the sample workflow."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import offload_db
from offload_db.__main__ import main
from tests.evidence import GUIDE, ROOT

HOOKS = ROOT / ".pre-commit-hooks.yaml"

DATABASE = "import pymysql\n\n\ndef query():\n    return pymysql.connect()\n"
ONE = "from database import query\n\n\nasync def one():\n    query()\n"
TWO = "import pymysql\n\n\nasync def two():\n    pymysql.connect()\n"


CHAPTER = (GUIDE / "audit.md").read_text(encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an application of three files, and go there."""
    for name, text in (("database", DATABASE), ("one", ONE), ("two", TWO)):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "reported"),
    [
        ([], set()),
        (["one.py"], {"one"}),
        (["database.py"], {"one"}),  # through it
        (["./two.py"], {"two"}),
        (["one.py", "two.py", "gone.py"], {"one", "two"}),
    ],
)
def test_changed_files(
    changed: list[str], reported: set[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All is read, and what is in the changed files, or leads through them, is reported and fails."""
    status = main(["audit", ".", "--format", "json", "--changed", *changed])
    report = json.loads(capsys.readouterr().out)
    assert {finding["function"] for finding in report["findings"]} == reported
    assert {handler["function"] for handler in report["handlers"]} == reported
    assert status == bool(reported)


def hook(key: str) -> str:
    """Return what the hook has for a key."""
    found = re.search(rf"^ +{key}: (.*)$", HOOKS.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def run_hook(arguments: str, *changed: str) -> subprocess.CompletedProcess[str]:
    """Run the hook's command as pre-commit does: its entry, its arguments, the changed files."""
    program, *entry = shlex.split(hook("entry"))
    assert program == "offload-db"
    command = [sys.executable, "-m", "offload_db", *entry, *re.findall(r"[^\[\], ]+", arguments), *changed]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_the_hook(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is written the hook fails for what is changed alone; with a baseline, for what is new in that."""
    monkeypatch.setenv("PYTHONPATH", str(Path(offload_db.__file__).parents[1]))
    assert (hook("language"), hook("types"), hook("require_serial")) == ("python", "[python]", "true")
    failed = run_hook(hook("args"), "one.py")
    assert (failed.returncode, "two.py" in failed.stdout) == (1, False), failed.stderr
    assert "one.py" in failed.stdout
    assert main(["audit", ".", "--write-baseline", "known.json"]) == 0
    (with_baseline,) = re.findall(r"^ +- id: offload-db-audit\n +args: (\[src, .*\])$", CHAPTER, re.MULTILINE)
    with_baseline = with_baseline.replace("src", ".")
    assert run_hook(with_baseline, "one.py", "two.py").returncode == 0
    (project / "two.py").write_text(f"{TWO}\n\nasync def three():\n    pymysql.connect()\n", encoding="utf-8")
    assert run_hook(with_baseline, "one.py").returncode == 0
    assert run_hook(with_baseline, "two.py").returncode == 1


def test_the_sample_workflow(project: Path) -> None:
    """The audit of the guide's workflow writes the file that the workflow uploads."""
    (command,) = re.findall(r"^ +- run: (offload-db audit .*)$", CHAPTER, re.MULTILINE)
    (uploaded,) = re.findall(r"^ +sarif_file: (.*)$", CHAPTER, re.MULTILINE)
    assert main(["audit", ".", "--write-baseline", "known.json"]) == 0
    assert main(shlex.split(command.replace(" src ", " . "))[1:]) == 0
    (run,) = json.loads((project / uploaded).read_text(encoding="utf-8"))["runs"]
    assert run["tool"]["driver"]["name"] == "offload-db audit"
