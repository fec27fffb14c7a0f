"""Logins that need a package which is not installed: the error is the driver's, and names the remedy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pymysql
import pytest

import offload_db
from tests.logins import sha2_server
from tests.support import pool_of


@pytest.mark.parametrize("kind", ["pool", "a pool that is not fast", "unpooled"])
def test_the_error_names_the_remedy(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login that needs cryptography fails with an OperationalError that names the extra, and the way without it."""
    with ExitStack() as stack:
        settings = stack.enter_context(sha2_server(monkeypatch))
        opening: Callable[[], Any]
        if kind == "unpooled":
            opening = lambda: offload_db.connect(**settings)  # noqa: E731  # one of three
        else:
            pool = stack.enter_context(pool_of(1, settings, fast=kind == "pool"))
            opening = lambda: pool.connection().cursor()  # noqa: E731  # as above
        with pytest.raises(pymysql.err.OperationalError, match=r"'offload-db\[rsa\]', or connect over TLS") as caught:
            opening()
        assert caught.value.args[0] == 2059
        assert "a-secret" not in str(caught.value)


def test_another_error_of_this_kind_stays_what_it_is() -> None:
    """A RuntimeError of the user's own function that connects is raised as it is."""

    def connect(**kwargs: Any) -> Any:
        raise RuntimeError("the vault is sealed")

    with pool_of(1, {}, creator=connect) as pool, pytest.raises(RuntimeError, match="the vault is sealed"):
        pool.connection().cursor()
