"""Claims about the tests themselves: few rest on the machine's speed, and no others get a second chance."""

from __future__ import annotations

import re

import pytest

from tests.evidence import ROOT
from tests.timing import grant_chances, reason_of


def test_a_reason_is_needed() -> None:
    """The mark is refused without a reason in words, and with anything else beside it."""
    assert reason_of(pytest.mark.timing_bound("it is about seconds").mark) == "it is about seconds"
    assert reason_of(pytest.mark.timing_bound(reason="it is about seconds").mark) == "it is about seconds"
    for mark in (
        pytest.mark.timing_bound,
        pytest.mark.timing_bound(3),
        pytest.mark.timing_bound("slow"),
        pytest.mark.timing_bound("it is about seconds", reruns=9),
        pytest.mark.timing_bound("it is about seconds", reason="and more of them"),
    ):
        with pytest.raises(pytest.UsageError, match="needs a reason"):
            reason_of(mark.mark)


def test_nobody_else_gets_a_chance(request: pytest.FixtureRequest) -> None:
    """A test that asks pytest for reruns by itself is refused, and neither the command nor the settings give any."""
    item = request.node
    grant_chances([item])
    assert item.get_closest_marker("flaky") is None
    item.add_marker(pytest.mark.flaky(reruns=1))
    with pytest.raises(pytest.UsageError, match="only timing_bound"):
        grant_chances([item])
    for file in ("tests/run.sh", "pyproject.toml"):
        assert "--reruns" not in (ROOT / file).read_text(encoding="utf-8")


MARK = re.compile(r"^@pytest\.mark\.timing_bound\(", re.MULTILINE)
FEW = {
    "examples/test_demo.py": 2,
    "faults/test_kills.py": 2,
    "faults/test_server_death.py": 1,
    "rollout/test_cost.py": 1,
}


def test_they_are_few() -> None:
    """No more tests than these rest on the time: others wait for events."""
    files = {path.relative_to(ROOT / "tests").as_posix(): path for path in (ROOT / "tests").rglob("test_*.py")}
    found = {name: len(MARK.findall(path.read_text(encoding="utf-8"))) for name, path in files.items()}
    assert {name: number for name, number in found.items() if number} == FEW
