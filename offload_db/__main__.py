"""The ``offload-db`` command, also ``python -m offload_db``.

Each sub-command is a module with ``add_arguments`` and ``run``, imported only when it is asked for, so that it needs
no extra but its own.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

import offload_db

UNREAD = 141  # as a shell tells of a program that SIGPIPE has ended

# name -> (module, what it does, the extra that it needs)
COMMANDS = {
    "init": ("offload_db.audit.run_init", "say what a project has, and which of these commands come next", "audit"),
    "audit": ("offload_db.audit.run_audit", "find every call in the source that blocks the event loop", "audit"),
    "migrate": ("offload_db.audit.run_migrate", "decorate the handlers that block, and wrap the pool", "audit"),
    "rules": ("offload_db.audit.run_rules", "list and explain the audit's rules, and what it cannot see", "audit"),
    "report": ("offload_db.monitor.report_command", "say what to migrate next, from the audit and from run time", None),
    "watch": ("offload_db.monitor.watch_command", "show the figures of the live page in the terminal", None),
    "doctor": ("offload_db.doctor.command", "read the settings and the server, and say what will go wrong", None),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="offload-db",
        description="Free an async backend from blocking database calls.",
        epilog="the guide, a chapter for each purpose: examples/guide/ in the source package and the repository",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {offload_db.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = words[0] if words and words[0] in COMMANDS else None
    module = None
    for name, (path, purpose, extra) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
        if name != chosen:
            continue
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if extra is None or (error.name or "").startswith("offload_db"):
                raise
            print(
                f"error: offload-db {name} needs {error.name}, which is not installed: "
                f"pip install 'offload-db[{extra}]'",
                file=sys.stderr,
            )
            return 2
        module.add_arguments(command)
    arguments = parser.parse_args(words)
    assert module is not None  # argparse has ended the program otherwise
    try:
        status = int(module.run(arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains of it at its end
        return UNREAD
    return status


if __name__ == "__main__":
    raise SystemExit(main())
