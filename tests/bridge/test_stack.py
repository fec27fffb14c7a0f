"""Claims about the walk up the stack to the user's line."""

from __future__ import annotations

import sys
from types import FrameType

from offload_db.bridge.stack import OWN_FILES, first_outside


def frame_in(file: str) -> FrameType:
    """Return a frame of code that stands in a file, called from here."""
    names = {"sys": sys}
    exec(compile("def here(): return sys._getframe()\nframe = here()", file, "exec"), names)  # noqa: S102  # only so a frame has another file
    frame: FrameType = names["frame"]  # type: ignore[assignment]  # what the code has set
    return frame


def test_a_package_whose_name_begins_like_the_librarys() -> None:
    """Its lines are the user's."""
    beside = frame_in(f"{OWN_FILES[:-1]}_backend/handlers.py")
    assert first_outside(beside, OWN_FILES) is beside
    inside = frame_in(f"{OWN_FILES}pool/pool.py")
    assert first_outside(inside, OWN_FILES) is not inside


def test_the_outermost_frame_is_the_last_resort() -> None:
    """Where every file is passed over, the outermost frame is given."""
    assert first_outside(sys._getframe(), "", "/").f_back is None
