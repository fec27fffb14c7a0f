"""Claims about the guarantees: each is shown by tests that are there, and the guide tells which."""

from __future__ import annotations

import pytest

from tests.evidence import first_column, missing, tables_below
from tests.guarantees import GUARANTEES, Guarantee, table


@pytest.mark.parametrize("guarantee", GUARANTEES, ids=lambda guarantee: guarantee.name.lower().replace(" ", "-"))
def test_each_guarantee_is_shown(guarantee: Guarantee) -> None:
    """Each guarantee has tests, none named twice, and none of them was renamed or removed."""
    assert guarantee.tests
    assert len(set(guarantee.tests)) == len(guarantee.tests)
    assert missing(guarantee.tests) == []


def test_the_guide_tells_it() -> None:
    """The guide's table is the one that ``python -m tests.guarantees`` prints."""
    (told,) = tables_below("examples/guide/faults.md", "What is guaranteed, and which tests show it")
    assert table().splitlines()[2:] == told.splitlines()
    assert len(first_column(told)) == len(GUARANTEES) == 12


def test_a_test_that_is_gone_is_missed() -> None:
    """The function that the tables stand on finds what was renamed, and a file that is not there."""
    gone = ["test_guarantees.py::test_that_nobody_wrote", "nowhere/test_x.py::test_x"]
    assert missing([*gone, "test_guarantees.py::test_the_guide_tells_it"]) == sorted(gone)
