"""Measures what Python's garbage collector costs a freed backend whose loop never rests, and what gc.freeze() changes.

    python -m tests.benchmarks.collector [--rounds 5]

The example backend answers as many users as there are, without delay; the two take turns. Prints medians. Uses the
server that MYSQL_HOST names, or a private one.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from examples.fuel_copilot.demo.__main__ import Demo, Plan, filled_database
from examples.fuel_copilot.demo.results import AFTER, BEFORE, Point
from examples.support.mariadb import server

PLAN = Plan(users=(), users_without_delay=(10, 50), settle=1.0, seconds=5.0)
FROZEN = "after, frozen"
# At the end of the module that makes the application: everything that it needs is loaded by then.
FREEZE = "\nimport gc\n\ngc.collect()\ngc.freeze()\n"


def main() -> None:
    """Print a table of the backend before, after, and after with all that it has loaded frozen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    found: dict[tuple[int, str], list[Point]] = {}
    with (
        server() as endpoint,
        tempfile.TemporaryDirectory(prefix="offload-db-collector-") as workspace,
        filled_database(endpoint) as database,
    ):
        demo = Demo(endpoint, database, Path(workspace))
        backends = {BEFORE: demo.copy(BEFORE, 0), AFTER: demo.copy(AFTER, None), FROZEN: demo.copy(FROZEN, None)}
        with (backends[FROZEN] / "main.py").open("a", encoding="utf-8") as module:
            module.write(FREEZE)
        for _ in range(arguments.rounds):
            for name, directory in backends.items():
                for point in demo.measure(name, directory, PLAN):
                    found.setdefault((point.users, name), []).append(point)
    print(f"\n{'users':>5}  {'backend':<14} {'req/s':>6} {'p50 ms':>7} {'p99 ms':>7} {'/health p99 ms':>15}")
    for (users, name), points in sorted(found.items(), key=lambda item: item[0][0]):
        each = [(p.throughput, p.p50 * 1000, p.p99 * 1000, p.health_p99 * 1000) for p in points]
        speed, middle, slow, health = map(statistics.median, zip(*each, strict=True))
        print(f"{users:>5}  {name:<14} {speed:>6.0f} {middle:>7.1f} {slow:>7.1f} {health:>15.1f}")


if __name__ == "__main__":
    main()
