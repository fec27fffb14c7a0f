"""The cluster's command line, and what the guide shows of it; what it does on a cluster is in `tests/cluster`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples.cluster import __main__ as command
from examples.cluster.galera import GaleraCluster
from tests.evidence import GUIDE

CHAPTER = GUIDE / "more_than_one_server.md"


def test_a_configuration_for_nodes_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    """Each node is there with its port, and what the guide shows of the configuration is in it."""
    assert command.main(["haproxy", "db1", "db2:3307", "--way", "first", "--port", "3310"]) == 0
    written = capsys.readouterr().out
    lines = written.splitlines()
    assert lines[-5:] == [
        "listen first",
        "  bind *:3310",
        "  balance first",
        "  server node1 db1:3306",
        "  server node2 db2:3307",
    ]
    [shown] = re.findall(r"```haproxy\n(.*?)```", CHAPTER.read_text(encoding="utf-8"), re.DOTALL)
    assert set(shown.splitlines()) <= set(lines)


@pytest.mark.parametrize("words", [[], ["death", "--scenario", "love"], ["kills", "--way", "random"], ["haproxy"]])
def test_what_it_does_not_know(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Words that it does not know end it with 2, before anything is started."""
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2
    assert "usage: python -m examples.cluster" in capsys.readouterr().err


def test_where_galera_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without Galera's library the command says what to install, and ends with 1."""
    monkeypatch.setattr("examples.cluster.galera.PROVIDERS", (Path("/nonexistent/libgalera_smm.so"),))
    assert GaleraCluster.missing() == "Galera's library (libgalera_smm.so)"
    assert command.main(["kills"]) == 1
    assert "apt-get install mariadb-server galera-4 haproxy" in capsys.readouterr().err
