"""Claims about rules from a TOML file: read again when it changes, and left alone while it is wrong."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from offload_db import ConfigurationError, offload, rollout
from tests.conftest import needs
from tests.rollout import inside
from tests.support import until

pytestmark = [
    pytest.mark.anyio,
    *([] if sys.version_info >= (3, 11) else [needs("tomli")]),
]

GOOD = """
# 10 % of one route, and everything else as it was
["GET:/v2/truck/{truck_id}"]
mode = "offload"
share = 0.1

["*"]
mode = "block"
"""
GOODS = [("GET:/v2/truck/{truck_id}", "offload", 0.1, "file"), ("*", "block", 1.0, "file")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rollout.toml"


def rows() -> list[tuple[Any, ...]]:
    return [(row.target, row.mode, row.share, row.source) for row in rollout.snapshot()]


def overwrite(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write(path: Path, text: str) -> None:
    """Replace the file as a whole, and have it looked at."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)
    inside.look_at_file()


def problem() -> str | None:
    watched = rollout.watched_file()
    assert watched is not None
    return watched.problem


def test_what_a_file_says(path: Path) -> None:
    """A table for each target, with a mode and a share."""
    path.write_text(GOOD, encoding="utf-8")
    rollout.load(path)
    assert rows() == GOODS
    assert rollout.watched_file() == rollout.RulesFile(str(path), None)


def test_the_environment_names_a_file(path: Path) -> None:
    """OFFLOAD_DB_ROLLOUT may be the path of a file."""
    path.write_text(GOOD, encoding="utf-8")
    inside.from_environment({"OFFLOAD_DB_ROLLOUT": str(path)})
    assert rows() == GOODS


async def test_a_change_takes_effect_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changes is read without anybody's asking, and holds from the next call on."""
    inside.looks_every(monkeypatch, 0.01)

    @offload
    async def handler() -> None: ...

    overwrite(path, '["*"]\nmode = "observe"\n')
    rollout.load(str(path))
    await handler()
    overwrite(path, '["*"]\nmode = "block"\n')
    until(lambda: rows()[0][1] == "block")
    await handler()
    assert {mode: arm.calls for mode, arm in rollout.snapshot()[0].arms.items()} == {"observe": 1, "block": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        (GOOD[: GOOD.index("0.1")], "TOMLDecodeError"),
        (GOOD[: GOOD.index('lock"')], "TOMLDecodeError"),
        ('["*"]\nmode = "blok"\n', "mode='blok'; accepted are 'offload', 'observe' and 'block'"),
        ('["*"]\n', "mode=None; accepted are"),
        ('["*"]\nmode = "offload"\nshare = 10\n', "share=10; accepted are numbers from 0.0 to 1.0"),
        ('["*"]\nmode = "offload"\nshares = 0.1\n', "shares is not an argument (did you mean share?)"),
        ('["no target"]\nmode = "offload"\n', "accepted are 'GET:/truck/{truck_id}'"),
        ('mode = "offload"\n', "accepted are tables with mode and share"),
        ("\0", "TOMLDecodeError"),
        (
            '["GET:/x/{a}"]\nmode = "block"\n["get:/x/{b}"]\nmode = "offload"\n',
            "is the same as GET:/x/{a}; accepted is one",
        ),
    ],
)
def test_a_file_that_is_wrong_changes_nothing(
    path: Path, caplog: pytest.LogCaptureFixture, text: str, reason: str
) -> None:
    """The rules stay as they are; it is said once, can be read for as long, and the next version counts again."""
    path.write_text(GOOD, encoding="utf-8")
    rollout.load(path)
    with caplog.at_level(logging.WARNING, logger="offload_db.rollout"):
        write(path, text)
        inside.look_at_file()
        inside.look_at_file()
    assert rows() == GOODS
    assert reason in (problem() or "")
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path} was not read, and the rules stay as they are: ")
    write(path, '["*"]\nmode = "observe"\n')
    assert problem() is None
    assert rows() == [("*", "observe", 1.0, "file")]


def test_bytes_that_are_no_text_change_nothing(path: Path) -> None:
    """A file in another encoding is wrong as well."""
    path.write_text(GOOD, encoding="utf-8")
    rollout.load(path)
    path.write_bytes(b'["*"]\nmode = "block" # \xff\n')
    inside.look_at_file()
    assert rows() == GOODS
    assert "UnicodeDecodeError" in (problem() or "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_what_can_never_be_read_changes_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that nests without end is wrong as well, and a pipe is not waited for."""
    overwrite(path, '["*"]\nmode = "block"\n')
    rollout.load(path)
    write(path, f"a = {'[' * 5_000}")
    path.unlink()
    os.mkfifo(path)
    inside.look_at_file()
    assert caplog.text.count("was not read") == 2
    assert [row.mode for row in rollout.snapshot()] == ["block"]


def test_a_file_that_is_missing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is waited for; and if it goes, its rules stay. The log says so once each time."""
    with caplog.at_level(logging.WARNING, logger="offload_db.rollout"):
        rollout.load(path)
        inside.look_at_file()
        assert "No such file" in (problem() or "")
        write(path, GOOD)
        assert rows() == GOODS
        path.unlink()
        inside.look_at_file()
        inside.look_at_file()
        assert rows() == GOODS
    assert len(caplog.records) == 2


def test_a_comment_is_enough_to_take_all_rules_away(path: Path) -> None:
    """A file without rules has none."""
    path.write_text(GOOD, encoding="utf-8")
    rollout.load(path)
    write(path, "# everything is offloaded\n")
    assert rows() == []


def test_what_a_call_sets_holds_before_the_file(path: Path) -> None:
    """A rule that is set by call stands in place of the file's for the same target."""
    path.write_text(GOOD, encoding="utf-8")
    rollout.set("*", "observe")
    rollout.load(path)
    assert rows() == [GOODS[0], ("*", "observe", 1.0, "call")]
    rollout.load(None)
    assert rows() == [("*", "observe", 1.0, "call")]
    assert rollout.watched_file() is None


def test_another_file_takes_the_place_of_the_first(path: Path, tmp_path: Path) -> None:
    """There is one file."""
    path.write_text(GOOD, encoding="utf-8")
    rollout.load(path)
    second = tmp_path / "second.toml"
    second.write_text('["app.*"]\nmode = "block"\n', encoding="utf-8")
    rollout.load(second)
    assert rows() == [("app.*", "block", 1.0, "file")]


@pytest.mark.parametrize("path", [7, b"rollout.toml", ["rollout.toml"]])
def test_what_is_no_path_is_refused(path: Any) -> None:
    """Paths are text or path objects."""
    with pytest.raises(ConfigurationError, match=r"rollout.load: path="):
        rollout.load(path)


def test_without_a_reader_of_toml(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """On Python 3.10 the error names the extra that brings one."""
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(ConfigurationError, match=r"needs tomli; .* pip install 'offload-db\[rollout\]'"):
        rollout.load(path)


def test_a_process_of_its_own(path: Path) -> None:
    """The variable is read when the package is imported; a forked child follows the file, too."""
    code = """
import os, sys, time
import offload_db
print([row.mode for row in offload_db.rollout.snapshot()], flush=True)
if os.fork() == 0:
    with open(os.environ["OFFLOAD_DB_ROLLOUT"], "w") as file:
        file.write('["*"]\\nmode = "observe"\\n')
    for _ in range(1000):
        if offload_db.rollout.snapshot()[0].mode == "observe":
            print("seen", flush=True)
            break
        time.sleep(0.01)
    os._exit(0)
os.wait()
"""
    path.write_text('["*"]\nmode = "block"\n', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code],
        env={**os.environ, "OFFLOAD_DB_ROLLOUT": str(path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert done.stdout.split("\n") == ["['block']", "seen", ""]


def test_a_mode_that_is_unknown_stops_the_process() -> None:
    """Who starts it to go back, and mistypes it, learns that at once."""
    done = subprocess.run(
        [sys.executable, "-c", "import offload_db"],
        env={**os.environ, "OFFLOAD_DB_ROLLOUT": "blok"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "OFFLOAD_DB_ROLLOUT='blok'; accepted are 'offload', 'observe', 'block', and the path" in done.stderr
