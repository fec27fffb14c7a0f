"""Claims about what a report shows of a statement: its words and placeholders, never a value."""

from __future__ import annotations

import pytest

from offload_db.digests import LONGEST, digest


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("SELECT SLEEP(%s)", "SELECT SLEEP(%s)"),
        ("SELECT a,\n       b\n  FROM t\n WHERE id = %(id)s", "SELECT a, b FROM t WHERE id = %(id)s"),
        ("SELECT 1", "SELECT ?"),
        (b"SELECT 'caf\xc3\xa9'", "SELECT ?"),
        ("WHERE a='it''s' AND b = 'say \\'no\\'' AND c=\"x\"\"y\"", "WHERE a=? AND b = ? AND c=?"),
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
