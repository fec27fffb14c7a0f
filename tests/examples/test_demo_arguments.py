"""The demo's command line is read before anything is set up, and refuses what it would not do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.fuel_copilot.demo.arguments import parse

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--step"], "unrecognized arguments: --step"),
        (["--serve", "--steps"], "leave out --quick and --steps"),
        (["--serve", "--quick"], "leave out --quick and --steps"),
        (["--rollout", "--steps"], "leave out --steps and --serve"),
        (["--rollout", "--serve"], "leave out --steps and --serve"),
        (["--port", "8000"], "add --serve"),
        (["--serve", "--port", "http"], "invalid int value"),
        (["--output", "demo.jpg"], "must end in .png or .svg"),
    ],
)
def test_mistakes(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What the demo does not know, or could not do together, is refused in one sentence."""
    with pytest.raises(SystemExit) as caught:
        parse(options)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("option", "status"), [("--help", 0), ("-h", 0), ("--hel", 2)])
def test_nothing_is_set_up(option: str, status: int) -> None:
    """Asked for help, or for what it does not know, the script looks for no server and makes no environment."""
    done = subprocess.run(
        [ROOT / "examples" / "demo.sh", option],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status
    assert "usage:" in done.stdout + done.stderr
    assert "looking for" not in done.stdout
