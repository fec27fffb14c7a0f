"""What of a statement's text may be shown.

Owns what is left of it: its words and placeholders, without the values. What a statement does is ``sql_text.py``'s.
"""

from __future__ import annotations

import re
from functools import lru_cache

# What is looked at of a statement. The rest of a longer one is mostly values, and nobody reads it.
LONGEST = 4000

_TOKENS = re.compile(
    r"""
    (?P<name> `(?:[^`]|``)*(?:`|$) | %\(\w+\)s | %s | @{0,2}[^\W\d][\w$]* )
  | (?P<comment> /\*.*?(?:\*/|$) | \#[^\n]* | --(?=\s|$)[^\n]* )
  | (?P<value>
        '(?:[^'\\]|\\(?:.|$)|'')*(?:'|$)          # to the end where the closing quote is missing or was cut off
      | "(?:[^"\\]|\\(?:.|$)|"")*(?:"|$)
      | (?:\d[\w]*\.?\w*|\.\d\w*)(?:(?<=[eE])[+-]\d+)?
    )
  | (?P<space> \s+ )
    """,
    re.VERBOSE | re.DOTALL,
)
# Strings that stand side by side are one; b'…', x'…' and n'…' are values with a letter before.
_ADJACENT = re.compile(r"\b[bBxXnN](?=\?)|\? (?=\?)")
_VALUE = r"(?:\?|%s|%\(\w+\)s|NULL|DEFAULT)"
_LIST = re.compile(rf"\(\s*({_VALUE})(?:\s*,\s*{_VALUE})+\s*\)", re.IGNORECASE)
_ROWS = re.compile(r"(\(\S+?, …\)|\((?:\?|%s)\))(?:\s*,\s*\1)+")


def digest(statement: object) -> str | None:
    """Return the statement's text without literals, comments and line breaks; None if it is no text.

    Placeholders stay as they are, a literal becomes ``?``, and a list of them ``(?, …)``, so that statements that
    differ in nothing but values have the same digest.

    :param statement: what was executed, text or bytes; of a long one the first :data:`LONGEST` characters count
    """
    if isinstance(statement, (bytes, bytearray)):
        statement = bytes(statement[:LONGEST]).decode(errors="replace")
    if not isinstance(statement, str):
        return None
    return _digest(str(statement[: LONGEST + 1]))


@lru_cache(maxsize=256)
def _digest(text: str) -> str:
    cut = len(text) > LONGEST
    text = _TOKENS.sub(_shown, text[:LONGEST])
    text = " ".join(text.split())
    text = _ADJACENT.sub("", text)
    text = _ROWS.sub(r"\1, …", _LIST.sub(r"(\1, …)", text))
    return f"{text} …" if cut else text


def _shown(token: re.Match[str]) -> str:
    if token.lastgroup == "name":
        return token[0]
    return "?" if token.lastgroup == "value" else " "
