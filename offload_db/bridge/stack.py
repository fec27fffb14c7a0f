"""The walk up the stack, from a call to the line of the user's that it comes from.

Owns the order of the frames and what tells the library's own from others. Which packages are looked through is for
those to say who look.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

OWN_FILES = f"{Path(__file__).parents[1]}{os.sep}"
"""What the paths of the library's files begin with."""


def module_of(frame: FrameType) -> str:
    """Return the name of the package whose code runs in a frame."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def frames_from(frame: FrameType | None) -> Iterator[FrameType]:
    """Give the frames from this one outwards; a bridged call has a stack of its own, on top of another."""
    greenlets = sys.modules.get("greenlet")
    greenlet = None if greenlets is None else greenlets.getcurrent()
    while frame is not None:
        yield frame
        frame = frame.f_back
        while frame is None and greenlet is not None:
            greenlet = greenlet.parent
            frame = None if greenlet is None else greenlet.gr_frame


def first_outside(frame: FrameType, *paths: str) -> FrameType:
    """Return the innermost frame, from this one outwards, of a file elsewhere; the outermost one where there is none.

    :param paths: what the paths of the files begin with that are passed over
    """
    while frame.f_back is not None and frame.f_code.co_filename.startswith(paths):
        frame = frame.f_back
    return frame
