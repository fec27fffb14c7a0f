"""Owns statements whose rows are many, or come in several results, for the tests of cursors."""

from __future__ import annotations

# Portable, and longer than anything that a client reads ahead.
MILLION = (
    "WITH RECURSIVE d (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM d WHERE n < 9) "
    "SELECT a.n, b.n, c.n, e.n, f.n, g.n FROM d a, d b, d c, d e, d f, d g"
)
PROCEDURES = {
    "two_results": (
        "CREATE PROCEDURE two_results(IN n INT, INOUT total INT) BEGIN "
        "SELECT n AS given; SELECT n + 1 AS more UNION ALL SELECT n + 2; SET total = total + n; END"
    ),
    "no_result": "CREATE PROCEDURE no_result() BEGIN DO 0; END",
}


def count_to(number: int, width: int = 3) -> str:
    """Return a statement with so many rows, whose texts have up to *width* characters."""
    return (
        f"WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {number:d}) "
        f"SELECT n, REPEAT('x', n % {width:d}) AS text FROM c"
    )
