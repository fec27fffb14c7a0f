"""Owns child processes: they end with the process that started them, whatever ends it, and by their own id only.

Owns as well that a program which has some ends in order.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

__all__ = ["end", "end_in_order", "start"]


def end_in_order() -> None:
    """Let every `with` block and `finally` end what it started, whichever signal ends this program."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    # A shell starts what it puts into the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def start(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start *command* in the background.

    On Linux the kernel ends it when the thread that started it ends: call this from the main thread.

    :param output: where its standard output and errors go
    """
    words = [str(word) for word in command]
    leash = shutil.which("setpriv")
    if leash is not None:
        # Nobody is left to end the child when this process is killed: the kernel does it.
        words = [leash, "--pdeathsig", "KILL", "--", *words]
    return subprocess.Popen(
        words,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output if output == subprocess.DEVNULL else subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches the program that uses the child; it ends the child in order
    )


def end(process: subprocess.Popen[bytes], timeout: float = 10.0) -> None:
    """Ask *process* to end, force it after *timeout* seconds, and wait until it is gone."""
    process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
