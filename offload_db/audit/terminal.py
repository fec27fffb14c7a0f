"""Colour and width, where somebody looks at a terminal; plain lines of any length where nobody does."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TextIO

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_ESCAPES = re.compile("\x1b\\[[0-9;]*m")
_NARROWEST = 40
UNBROKEN = "\xa0"  # a space at which no line is broken


@dataclass(frozen=True, slots=True)
class Terminal:
    """How text is laid out: *width* is None where lines are not broken."""

    width: int | None = None
    colour: bool = False

    def paint(self, text: str, style: str) -> str:
        """Return a text in a style, such as ``bold red``, word by word so that lines can be broken between them."""
        if not self.colour or not style:
            return text
        codes = ";".join(_CODES[name] for name in style.split())
        return " ".join(f"\x1b[{codes}m{word}\x1b[0m" if word else word for word in text.split(" "))

    def lines(self, text: str, first: str = "", indent: int = 0) -> Iterator[str]:
        """Yield a text in lines of the terminal's width.

        :param first: what the first line begins with; it is filled up to the indent
        :param indent: how far the text is from the left
        """
        line = f"{first}{' ' * (indent - _length(first))}"
        if self.width is None:
            yield f"{line}{text}".replace(UNBROKEN, " ")
            return
        empty = True
        for word in text.split(" "):
            if not empty and _length(line) + 1 + _length(word) > max(self.width, _NARROWEST):
                yield line.rstrip().replace(UNBROKEN, " ")
                line, empty = " " * indent, True
            if word or not empty:
                line = f"{line}{word}" if empty else f"{line} {word}"
                empty = False
        yield line.replace(UNBROKEN, " ")


def _length(text: str) -> int:
    return len(_ESCAPES.sub("", text))


def terminal(stream: TextIO, environ: Mapping[str, str] = os.environ) -> Terminal:
    """Return how a stream is written to.

    ``NO_COLOR`` switches colours off, ``FORCE_COLOR`` switches them on where the stream is no terminal; the first of
    them wins.
    """
    is_terminal = stream.isatty()
    colour = is_terminal and environ.get("TERM") != "dumb"
    if environ.get("FORCE_COLOR"):
        colour = True
    if environ.get("NO_COLOR"):
        colour = False
    return Terminal(shutil.get_terminal_size().columns if is_terminal else None, colour)
