"""Claims about which tests are left out on a server that is not MariaDB."""

from __future__ import annotations

import pytest

from tests.server_kinds import needed, reason_to_skip

ROWS = "SELECT seq FROM mysql.seq_1_to_9"
PLAIN = "SELECT 1"


def _uses_a_constant() -> str:
    return ROWS


def _calls_what_uses_it() -> list[str]:
    return [_uses_a_constant()]


def _needs_nothing() -> str:
    return PLAIN


@pytest.mark.parametrize("version", ["8.0.36", "9.7.0-commercial"])
def test_what_is_left_out_on_mysql(version: str) -> None:
    """What a test, its helpers, constants or parameters say only to MariaDB leaves it out on MySQL, with the reason."""
    for function in (_uses_a_constant, _calls_what_uses_it):
        assert reason_to_skip(function, None, None, version) == (
            f"needs MariaDB, for the sequence engine; the server is MySQL {version}"
        )
    assert reason_to_skip(_needs_nothing, {"sql": "INSERT INTO t VALUES (1) RETURNING a"}, None, version) == (
        f"needs MariaDB, for INSERT … RETURNING; the server is MySQL {version}"
    )
    assert "for its own texts" in str(reason_to_skip(_needs_nothing, None, "its own texts", version))
    assert reason_to_skip(_needs_nothing, {"place": "bridge"}, None, version) is None


def test_nothing_is_left_out_on_mariadb() -> None:
    """On MariaDB every test runs."""
    assert reason_to_skip(_uses_a_constant, None, "its own texts", "10.11.19-MariaDB-0+deb12u1") is None


@pytest.mark.parametrize(
    "text", ["SELECT 1", "a sequence of three", "RETURNING", "killed by its query id", "the seq_ of it"]
)
def test_words_that_need_nothing(text: str) -> None:
    """Prose about such statements is none of them."""
    assert needed(text) == []
