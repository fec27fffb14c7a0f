"""Claims about the files that a process writes while it runs, for the live page of another one."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from offload_db import ConfigurationError, Lane, monitor
from offload_db.monitor import lag
from tests.support import pool_of, settled, value


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.anyio
async def test_written_meanwhile_and_in_the_end(tmp_path: Path) -> None:
    """The file is there while the block lasts, and is renewed; it says when it will be again, or that it won't."""
    path = tmp_path / f"{socket.gethostname()}-{os.getpid()}.json"
    async with monitor.watch(dump_to=tmp_path / "{host}-{pid}.json", dump_every=0.02):
        await settled(path.exists)
        first = read(path)
        assert first["again_in"] == 0.02
        await settled(lambda: read(path)["time"] > first["time"])
    assert read(path)["again_in"] is None
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.anyio
async def test_written_in_the_end_alone(tmp_path: Path) -> None:
    """With `dump_every=None` there is no file before the end."""
    async with monitor.watch(interval=0.001, dump_to=tmp_path / "x.json", dump_every=None) as watched:
        await settled(lambda: watched.lag().samples > 20)
        assert not os.listdir(tmp_path)
    assert read(tmp_path / "x.json")["again_in"] is None


@pytest.mark.anyio
async def test_a_disk_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """That it can't be written is told once while it lasts, and once more in the end."""
    async with monitor.watch(interval=0.001, dump_to=tmp_path / "gone" / "x.json", dump_every=0.001) as watched:
        await settled(lambda: watched.lag().samples > 50)
    assert caplog.text.count("could not be written") == 2


@pytest.mark.parametrize("seconds", [0, -1, "2"])
def test_bad_dump_every(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"monitor\.watch: dump_every="):
        monitor.watch(dump_every=seconds)


def stand_still(seconds: float) -> None:
    """Block whoever calls."""
    time.sleep(seconds)


@pytest.mark.anyio
async def test_what_it_says(database: dict[str, Any]) -> None:
    """A snapshot has each pool's statistics, and the lag in buckets and by the last seconds, also in JSON's types."""
    with pool_of(2, database, lanes=[Lane("reports", 1)], on_loop_call="allow") as pool:
        with pool.connection(lane="reports") as connection:
            value(connection, "SELECT 1")
            async with monitor.watch(interval=0.005):
                stand_still(0.12)
                seen = json.loads(json.dumps(monitor.snapshot(pool)))
        [told] = seen["pools"]
        assert (told["size"], told["in_use"], told["statements"], told["server_away"]) == (2, 1, 1, False)
        assert told["lanes"] == {"reports": {"limit": 1, "in_use": 1, "waiting": 0}}
        assert told["statement_time"]["buckets"][-1] == [None, 1]
    assert max(longest for _, longest in seen["lag_recent"]) >= 0.11
    assert abs(seen["lag_recent"][-1][0] - seen["time"]) < 3
    buckets = dict(seen["lag_histogram"]["buckets"])
    assert buckets[None] == seen["loop_lag"]["samples"] == seen["lag_histogram"]["count"]
    assert buckets[None] - buckets[0.1] >= 1
    assert buckets[0.05] < buckets[None]


def test_seconds_are_bounded() -> None:
    """Of no more than the last seconds the lag is kept, however long it is sampled."""
    samples = lag.Samples()
    for second in range(3 * lag.RECENT):
        samples.add(0.001, second)
    assert sorted(samples.recent) == list(range(2 * lag.RECENT, 3 * lag.RECENT))


@pytest.mark.anyio
async def test_a_process_that_can_have_no_thread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps it from being written, whatever that is, does not end the application in whose lifespan it runs."""

    async def fails(*args: Any, **options: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(anyio.to_thread, "run_sync", fails)
        async with monitor.watch(interval=0.001, dump_to=tmp_path / "x.json", dump_every=0.001) as watched:
            await settled(lambda: watched.lag().samples > 50)
    assert caplog.text.count("can't start new thread") == 2
