"""Claims about what a report shows of a statement: its words and placeholders, never a value."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from offload_db.drivers.statement_digest import LONGEST, digest
from tests.conftest import MySQL


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("SELECT SLEEP(%s)", "SELECT SLEEP(%s)"),
        ("SELECT a,\n       b\n  FROM t\n WHERE id = %(id)s", "SELECT a, b FROM t WHERE id = %(id)s"),
        ("SELECT 1", "SELECT ?"),
        (b"SELECT 'caf\xc3\xa9'", "SELECT ?"),
        ("WHERE a='it''s' AND b = 'say \\\"no\\\"' AND c=\"x\"\"y\"", "WHERE a=? AND b = ? AND c=?"),
        ("WHERE a = -1.5e-3 AND b = .5 AND c = 10. AND d = 1E10", "WHERE a = -? AND b = ? AND c = ? AND d = ?"),
        ("WHERE a = 0xFF OR a = x'41' OR a = B'01' OR a = N'name'", "WHERE a = ? OR a = ? OR a = ? OR a = ?"),
        ("SELECT t1.c2, @@sql_mode, @a1, `we'ird 5` FROM t1", "SELECT t1.c2, @@sql_mode, @a1, `we'ird 5` FROM t1"),
        ("SELECT 'one' 'string'", "SELECT ?"),
        ("WHERE id IN (1, 2,3)", "WHERE id IN (?, …)"),
        ("WHERE id IN ( %s,\n%s )", "WHERE id IN (%s, …)"),
        ("INSERT INTO t (a, b) VALUES (%s, %s), (%s, %s)", "INSERT INTO t (a, b) VALUES (%s, …), …"),
        ("INSERT INTO t VALUES ('a', NULL), ('b', 2)", "INSERT INTO t VALUES (?, …), …"),
        ("SELECT /* for ann@example.com */ 1 -- her card: 4111\nFROM t # again", "SELECT ? FROM t"),
        ("SELECT a--5", "SELECT a--?"),
        ("LIKE '%secret%' ESCAPE '\\\\' AND b = 'x'", "LIKE ? ESCAPE ? AND b = ?"),
        ("", ""),
    ],
)
def test_no_values(statement: object, shown: str) -> None:
    """Literals become ?, lists of them one, and comments go; names and placeholders stay."""
    assert digest(statement) == shown


@pytest.mark.parametrize("end", ["'secret", "'it''s secret", "'secret\\", '"secret', "/* secret", "-- secret"])
def test_what_was_cut_off(end: str) -> None:
    """A value whose end is missing is one all the same."""
    shown = digest(f"SELECT a FROM t WHERE b = {end}")
    assert shown is not None
    assert "secret" not in shown
    assert shown.startswith("SELECT a FROM t WHERE b =")


@pytest.mark.parametrize("quote", ["'", '"'])
@pytest.mark.parametrize("value", ["secret's", "it's secret", "it' secret", "' secret"])
@pytest.mark.parametrize("rest", ["", " AND c = {q}d{q}", ", {q}d{q}, {q}secret{q}, 5", "{q}d{q}," * LONGEST])
def test_quotes_in_values(value: str, quote: str, rest: str) -> None:
    """A value that was put into the text as it is, with a quote in it, shows no part of it."""
    told = value.replace("'", quote)
    shown = digest(f"SELECT a FROM t WHERE b = {quote}{told}{quote}{rest.format(q=quote)}")
    assert shown is not None
    assert "secret" not in shown
    assert shown.startswith("SELECT a FROM t WHERE b = ?")


@pytest.mark.parametrize("length", range(LONGEST - 20, LONGEST + 3))
def test_long_statements(length: int) -> None:
    """Wherever a long statement is cut, no part of a value shows."""
    head = "SELECT a FROM t WHERE b = "
    shown = digest(head + "'" + "x" * (length - len(head)) + "' AND c = 'secret' AND d IN (77, 78)")
    assert shown is not None
    assert len(shown) < 100
    assert "x" not in shown
    assert "secret" not in shown
    assert "7" not in shown
    assert shown.endswith(" …")


def test_what_is_no_text() -> None:
    """An object that is no text, such as an expression of another library, is not shown."""
    assert digest(None) is None
    assert digest(object()) is None
    assert digest(5) is None


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("SELECT \"C:\\\", 'secret'", "SELECT ? …"),
        ("SELECT 'C:\\' , 'secret'", "SELECT ? …"),
        ("SELECT 'it\\'s', 'secret'", "SELECT ? …"),
        ("SELECT 'C:\\\\', 5", "SELECT ?, ?"),
        ("SELECT 'a\\nb', '{\\\"a\\\": 1}'", "SELECT ?, ?"),
        ("SELECT '表', `表` FROM t", "SELECT ?, `表` FROM t"),
        ("SELECT '¥', 'secret'", "SELECT ? …"),
        ("SELECT '表\\\\', 'secret'", "SELECT ? …"),
        ("SELECT '表\\\\', 'secret'".encode("gbk"), "SELECT ? …"),
        ("SELECT 'ソ' secret 'x'".encode("shift_jis"), "SELECT ? …"),
        ("SELECT `表` FROM t WHERE a = 'secret'".encode("gbk"), "SELECT …"),
        ("SELECT a表` FROM t WHERE a = 'secret'".encode(), "SELECT …"),
        ("SELECT /*! SQL_NO_CACHE */ a FROM t", "SELECT a FROM t"),
        ("SELECT /*! '*/', secret, ' */ 5", "SELECT …"),
        ("SELECT /*!99999 /* a */ secret */ 5", "SELECT …"),
        ("SELECT /* /* a */ secret */ 5", "SELECT …"),
        ("SELECT /* secret", "SELECT"),
        ("SELECT /*! secret", "SELECT …"),
        ("SELECT 5 --\x01 it's\n, 'secret', '", "SELECT ? , ? …"),
        ("SELECT 5 --\u2003'a\nsecret'", "SELECT ? …"),
        ("SELECT `a FROM t WHERE b = 'secret'", "SELECT …"),
        (f"SELECT `{'secret' * 11}`", "SELECT …"),
        ("AS $$ secret $$", "AS …"),
        ("SELECT a\\'secret'", "SELECT a …"),
        ("INSERT INTO t VALUES (%(a)s, %(b)s), (%(a)s, %(b)s)", "INSERT INTO t VALUES (%(a)s, …), …"),
    ],
)
def test_in_doubt_nothing_is_shown(statement: str | bytes, shown: str) -> None:
    """From where it depends on the server's mode or character set what is a value, nothing is shown."""
    assert digest(statement) == shown


SECRET = "swordfish"
# What literals are made of, and the characters whose second byte is a backslash or a backquote.
PIECES = [SECRET, *"\\'\"`#;(),\n a7", "--", "-- ", "/*", "*/", "/*!", "%s"]
WIDE = {
    None: ["é", "表", "ソ", "¥"],
    "gbk": [code.decode("gbk") for code in (b"\x95\x5c", b"\x95\x60", b"\x81\x40")],
    "sjis": [code.decode("sjis") for code in (b"\x83\x5c", b"\x83\x60", b"\x83\x41")],
}


class Author:
    """Writes statements as for a server in one of its modes, at random.

    :param charset: of the bytes that it writes; None writes text
    """

    def __init__(self, seed: int, *, backslashes: bool, charset: str | None) -> None:
        self._random = random.Random(seed)
        self._backslashes = backslashes
        self._wide = WIDE[charset]

    def content(self) -> str:
        """Write the value of a literal."""
        return "".join(self._random.choices(PIECES + self._wide, k=self._random.randint(0, 6)))

    def literal(self, content: str) -> str:
        """Quote a value as the server wants it."""
        quote = self._random.choice("'\"")
        if self._backslashes:
            content = content.replace("\\", "\\\\").replace(quote, self._random.choice(["\\" + quote, quote * 2]))
        else:
            content = content.replace(quote, quote * 2)
        return quote + content + quote

    def part(self) -> str:
        """Write a word, a name, a comment or a literal."""
        content = self.content()
        choice = self._random.randrange(8)
        if choice == 0:
            return f"/*{content.replace('*/', '').replace('!', '')} {SECRET} */"
        if choice == 1:
            return f"/*!50000 , {self.literal(content)} , {self.literal(self.content())} */"
        if choice == 2:
            return self._random.choice(["#", "-- ", "--\t", "--\n#"]) + content.replace("\n", " ") + "\n"
        if choice == 3:
            return f"`{content.replace('`', '``').replace(SECRET, 'b')}`"
        if choice == 4:
            return self._random.choice(["a", "%s", "FROM", "(", ")", ",", "-", "@b", "5", "_utf8mb4", *self._wide])
        return self.literal(content)

    def statement(self) -> str:
        """Write what looks like a statement."""
        return "".join(self.part() + self._random.choice(["", " ", ", "]) for _ in range(self._random.randint(1, 9)))


MODES = [(backslashes, charset) for backslashes in (True, False) for charset in WIDE]


@pytest.mark.parametrize(("backslashes", "charset"), MODES)
def test_no_literal_shows_in_any_mode(backslashes: bool, charset: str | None) -> None:
    """Whatever a literal holds, and whatever stands around it, a server's mode does not make it show."""
    author = Author(14, backslashes=backslashes, charset=charset)
    told = 0
    for _ in range(2000):
        statement = author.statement()
        shown = digest(statement if charset is None else statement.encode(charset))
        assert shown is not None
        assert SECRET not in shown, statement
        told += "…" not in shown
    assert told > 100


@pytest.mark.parametrize(("backslashes", "charset"), MODES)
def test_literals_are_written_as_a_server_reads_them(mysql: MySQL, backslashes: bool, charset: str | None) -> None:
    """The server finds in the literals of these tests what was put into them."""
    author = Author(41, backslashes=backslashes, charset=charset)
    settings: dict[str, Any] = {"charset": charset} if charset else {}
    with mysql.connect(**settings) as connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = %s", ["" if backslashes else "NO_BACKSLASH_ESCAPES"])
        for _ in range(50):
            contents = [author.content() for _ in range(5)]
            cursor.execute("SELECT " + ", ".join(f"{author.literal(content)} AS a" for content in contents))
            assert list(cursor.fetchone() or ()) == contents


@pytest.mark.parametrize(
    "piece",
    [*"()'\\`*#$1aé,", "(?", "(?, ", "(?, …)", "%(", "%(a)s, ", "/*", "--", "1e"],
)
def test_reading_takes_no_time(piece: str) -> None:
    """However a text is made, it is read in a few milliseconds, and what is shown of it has an end."""
    for text in (piece * 4000, "(" + piece * 4000, "'" + piece * 4000, piece * 300 + "("):
        seconds = []
        for attempt in range(3):
            started = time.thread_time()
            shown = digest("a" * attempt + text)
            seconds.append(time.thread_time() - started)
            assert shown is not None
            assert len(shown) <= LONGEST + 3
        assert min(seconds) < 0.02
