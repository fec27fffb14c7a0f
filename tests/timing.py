"""Owns the mark of tests that rest on how fast the machine is: they alone get further chances, and each says why."""

from __future__ import annotations

import pytest

CHANCES = 2
"""How often such a test is run again where it fails; a busy machine makes one in some hundreds late."""
PAUSE = 2.0
"""Seconds until then, in which the machine may come to rest."""


def reason_of(mark: pytest.Mark) -> str:
    """Return why a test is timing-bound.

    :raises pytest.UsageError: if the mark does not tell
    """
    reason = mark.args[0] if len(mark.args) == 1 and not mark.kwargs else mark.kwargs.get("reason")
    if not isinstance(reason, str) or len(reason.split()) < 3 or len(mark.args) + len(mark.kwargs) != 1:
        raise pytest.UsageError("timing_bound needs a reason, and nothing else: timing_bound('what rests on the time')")
    return reason


def grant_chances(items: list[pytest.Item]) -> None:
    """Have the tests with the mark run again where they fail, which pytest's summary names, and no others.

    :raises pytest.UsageError: if a mark has no reason, or a test asks for chances without the mark
    """
    for item in items:
        if item.get_closest_marker("flaky"):
            raise pytest.UsageError(f"{item.nodeid}: only timing_bound gives a test further chances")
        marks = list(item.iter_markers("timing_bound"))
        for mark in marks:
            try:
                reason_of(mark)
            except pytest.UsageError as error:
                raise pytest.UsageError(f"{item.nodeid}: {error}") from None
        if marks:
            item.add_marker(pytest.mark.flaky(reruns=CHANCES, reruns_delay=PAUSE))
