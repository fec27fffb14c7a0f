"""What of a statement's text may be shown.

Owns what is left of it: its words and placeholders, without the values. What a statement does is ``sql_text.py``'s.
Where a literal ends depends on the server's ``sql_mode`` and the session's character set, of which nothing is known
here: from where two readings differ, nothing is shown.
"""

from __future__ import annotations

import re
from functools import lru_cache

# What is looked at of a statement. The rest of a longer one is mostly values, and nobody reads it.
LONGEST = 4000

# A literal that ends in the same place whether a backslash escapes the next character or not, and whether it is a
# character of its own or the second byte of one, as in GBK and Shift-JIS; some character sets have one for the signs of
# yen and won. A word right behind it may be the rest of a value with an apostrophe in it, which somebody has put into
# the text as it is. A quoted name of more characters than a server accepts is none.
_TOKENS = re.compile(
    r"""
    (?P<name> `(?:[^`]|``){1,64}`(?!`) | %\(\w+\)s | %s | @{0,2}[^\W\d][\w$]* )
  | (?P<comment>
        /\*(?!M?!) (?:[^*/]|\*(?!/)|/(?!\*))* (?:\*/|\Z)
      | /\*M?! (?:[^*/'"`\\#-]|\*(?!/)|/(?!\*)|-(?!-))* \*/       # which servers execute
      | \#[^\n\0]*
      | --(?=[\x00-\x20\x7f]|\Z)[^\n\0]*
    )
  | (?P<literal>
        '(?:[\x00-\x26\x28-\x5b\x5d-\x7f]|[^\x00-\x7f\u00a5\u20a9\uff3c](?!\\)|\\[\x00-\x26\x28-\x7f]|'')*'(?!['\w])
      | "(?:[\x00-\x21\x23-\x5b\x5d-\x7f]|[^\x00-\x7f\u00a5\u20a9\uff3c](?!\\)|\\[\x00-\x21\x23-\x7f]|"")*"(?!["\w])
    )
  | (?P<number> (?:\d\w*\.?\w*|\.\d\w*)(?:(?<=[eE])[+-]\d+)? )
  | (?P<space> \s+ )
  | (?P<doubt> ['"`\\\0] | /\* | --(?=[^\x00-\x7f]) | \$\w*\$ )
  | (?P<sign> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_SHOWN = {"literal": "?", "number": "?", "comment": " ", "space": " "}
# Strings that stand side by side are one; b'…', x'…' and n'…' are values with a letter before.
_ADJACENT = re.compile(r"\b[bBxXnN](?=\?)|\? (?=\?)")
_VALUE = r"(?:\?|%s|%\(\w+\)s|NULL|DEFAULT)"
_LIST = re.compile(rf"\( ?({_VALUE})(?: ?, ?{_VALUE})+ ?\)", re.IGNORECASE)
_ROWS = re.compile(rf"(\({_VALUE}, …\)|\((?:\?|%s)\))(?: ?, ?\1)+", re.IGNORECASE)


def digest(statement: object) -> str | None:
    """Return the statement's text without literals, comments and line breaks; None if it is no text.

    Placeholders stay as they are, a literal becomes ``?``, and a list of them ``(?, …)``, so that statements that
    differ in nothing but values have the same digest. It ends with ``…`` where the statement is too long, or where it
    is in doubt what of it is a value.

    :param statement: what was executed, text or bytes; of a long one the first :data:`LONGEST` characters count
    """
    encoded = isinstance(statement, (bytes, bytearray))
    if isinstance(statement, (bytes, bytearray)):
        statement = bytes(statement[: LONGEST + 1]).decode(errors="replace")
    if not isinstance(statement, str):
        return None
    return _digest(str(statement[: LONGEST + 1]), encoded)


@lru_cache(maxsize=256)
def _digest(text: str, encoded: bool) -> str:
    shown: list[str] = []
    until = 0  # the first literal
    cut = len(text) > LONGEST
    for token in _TOKENS.finditer(text, 0, LONGEST):
        kind, found = token.lastgroup or "", token[0]
        # Of bytes it is not known which characters they are: one may have a quote of names as its second byte.
        if kind == "doubt" or (encoded and kind not in ("literal", "comment") and not found.isascii()):
            quote = found in ("'", '"')
            if quote and not (cut and text.find(found, token.end()) < 0):
                # It may end something instead: then what was taken for literals is what stands between them.
                del shown[until:]
            shown.append("?" if quote else " ")
            cut = True
            break
        if kind != "literal" and until == len(shown):
            until += 1
        shown.append(_SHOWN.get(kind, found))
    text = " ".join("".join(shown).split())
    text = _ROWS.sub(r"\1, …", _LIST.sub(r"(\1, …)", _ADJACENT.sub("", text)))
    return f"{text} …" if cut else text
