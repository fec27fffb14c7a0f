"""Owns the demo's course: a server, the backend before and after, the load, the table and the picture."""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pymysql

from examples.fuel_copilot import generate, steps
from examples.fuel_copilot.demo import load as load_module, plot, results, rolling_out
from examples.fuel_copilot.demo.arguments import Arguments, parse
from examples.fuel_copilot.demo.backend import HOST, ROOT, Backend, BackendFailed
from examples.fuel_copilot.demo.health import HealthPoller
from examples.fuel_copilot.demo.load import Load
from examples.fuel_copilot.demo.results import AFTER, BEFORE, Point
from examples.support.mariadb import Endpoint, ServerFailed, ServerMissing, server
from examples.support.processes import end, end_in_order, start

QUERY_DELAY = 0.08
HEALTH_USERS = 10
TRUCKS = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """Which loads to apply, and for how long; durations are seconds."""

    users: tuple[int, ...]
    users_without_delay: tuple[int, ...]
    settle: float
    seconds: float


FULL = Plan(users=(1, 10, 50, 100), users_without_delay=(1, 10, 50, 100), settle=1.0, seconds=5.0)
QUICK = Plan(users=(1, 10), users_without_delay=(10,), settle=0.5, seconds=2.0)
# Shorter, and alike for all, so that the steps add to the run without making it longer than three minutes.
BESIDE_STEPS = Plan(users=(1, 10, 50, 100), users_without_delay=(1, 10, 50, 100), settle=0.5, seconds=3.0)
ONE_STEP = Plan(users=(HEALTH_USERS,), users_without_delay=(), settle=0.5, seconds=3.0)


class Demo:
    """One run of the demo against one database.

    :param workspace: an empty directory for the copies of the backend
    """

    def __init__(self, endpoint: Endpoint, database: str, workspace: Path) -> None:
        self._environment = endpoint.environment(database)
        self.workspace = workspace
        self.paths = workspace / "paths.json"
        with (
            pymysql.connect(**endpoint.settings(database), ssl_disabled=True) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT truck_id FROM truck_sensors_cache ORDER BY truck_id LIMIT %s", (TRUCKS,))
            trucks = [truck for (truck,) in cursor.fetchall()]
        paths = {f"/v2/truck/{truck}/sensors/cache": json.dumps(truck) for truck in trucks}
        self.paths.write_text(json.dumps(paths), encoding="utf-8")

    def copy(self, name: str, upto: int | None) -> Path:
        """Copy the legacy backend and apply its first *upto* steps, or all."""
        directory = self.workspace / name.replace(" ", "-")
        steps.apply(upto, directory)
        return directory

    def backend(
        self, directory: Path, query_delay: float, port: int | None = None, *, app: str = "main:app", **more: str
    ) -> Backend:
        """Serve the backend in *directory*.

        :param more: further variables of its environment
        """
        environment = {**self._environment, "FUEL_QUERY_DELAY": str(query_delay), **more}
        return Backend(directory, environment, port=port, app=app)

    def measure(self, name: str, directory: Path, plan: Plan) -> list[Point]:
        """Apply *plan* to the backend in *directory*."""
        points = []
        for query_delay, crowds in ((QUERY_DELAY, plan.users), (0.0, plan.users_without_delay)):
            if crowds:
                with self.backend(directory, query_delay) as backend:
                    for users in crowds:
                        delay = f"{plot.duration(query_delay)} queries" if query_delay else "queries without delay"
                        say(f"  {name}: {users} user{'s' if users > 1 else ''}, {delay} ...")
                        points.append(self._measure(name, backend, query_delay, users, plan))
        return points

    def load_command(self, backend: Backend, users: int, settle: float, seconds: float, output: Path) -> list[str]:
        """Return the command that puts the backend under load."""
        command = [sys.executable, "-m", load_module.__name__, "--host", HOST, "--port", str(backend.port)]
        command += ["--users", str(users), "--settle", str(settle), "--seconds", str(seconds)]
        return [*command, "--paths", str(self.paths), "--output", str(output)]

    def _measure(self, name: str, backend: Backend, query_delay: float, users: int, plan: Plan) -> Point:
        output = self.workspace / "load.json"
        output.unlink(missing_ok=True)
        command = self.load_command(backend, users, plan.settle, plan.seconds, output)
        with HealthPoller(HOST, backend.port) as poller, (self.workspace / "load.log").open("w+b") as log:
            process = start(command, cwd=ROOT, output=log)
            try:
                process.wait(load_module.LONGEST_WARM_UP + plan.seconds + 30)
            finally:
                end(process)
            poller.stop()
            if not output.exists():
                log.seek(0)
                raise BackendFailed(f"the load generator failed:\n{log.read().decode(errors='replace')}")
        load = Load(**json.loads(output.read_text(encoding="utf-8")))
        return Point.of(name, query_delay, load, poller.between(load.started, load.ended), poller.errors)


def say(text: str) -> None:
    """Show progress."""
    print(text, flush=True)


def show(title: str, points: Sequence[Point]) -> None:
    """Print a table with a title."""
    if points:
        say(f"\n{title}\n\n{results.table(points)}")


def in_order(points: Sequence[Point], chosen: Callable[[Point], bool]) -> list[Point]:
    """Return the chosen points, those with the same number of users together, in the order of measurement."""
    return sorted((point for point in points if chosen(point)), key=lambda point: point.users)


def compare(demo: Demo, arguments: Arguments) -> int:
    """Measure, print the tables, and write the picture and the numbers."""
    plan = QUICK if arguments.quick else BESIDE_STEPS if arguments.steps else FULL
    points = demo.measure(BEFORE, demo.copy(BEFORE, 0), plan)
    if arguments.steps:
        for number, name in enumerate(steps.names(), start=1):
            points += demo.measure(name, demo.copy(name, number), ONE_STEP)
    points += demo.measure(AFTER, demo.copy(AFTER, None), plan)

    pair = (BEFORE, AFTER)
    show(
        f"Each query takes {plot.duration(QUERY_DELAY)} ('ideal': what that and {results.POOL_SIZE} connections allow)",
        in_order(points, lambda point: point.query_delay > 0 and point.backend in pair),
    )
    if arguments.steps:
        show(
            f"The same after each step, {HEALTH_USERS} users",
            # The last step is what `after` is.
            in_order(points, lambda p: p.query_delay > 0 and p.users == HEALTH_USERS and p.backend != AFTER),
        )
    show(
        "No delay: each query takes as long as the database needs",
        in_order(points, lambda point: point.query_delay == 0),
    )

    output = arguments.output
    output.parent.mkdir(parents=True, exist_ok=True)
    numbers = output.with_suffix(".json")
    results.save(points, numbers)
    plot.draw(points, QUERY_DELAY, HEALTH_USERS, output)
    say(f"\npicture: {output}\n   dark: {plot.dark(output)}\nnumbers: {numbers}")
    wrong = [point for point in points if point.errors]
    for point in wrong:
        say(f"ERRORS: {point.backend}, {point.users} users: {point.errors}, such as {point.error_samples[0]}")
    return 1 if wrong else 0


def serve(demo: Demo, arguments: Arguments) -> int:
    """Serve the freed backend until Ctrl-C."""
    with demo.backend(demo.copy(AFTER, None), QUERY_DELAY, arguments.port) as backend:
        say(f"\nthe freed backend, with {plot.duration(QUERY_DELAY)} queries: {backend.url}/docs (Ctrl-C ends it)")
        while backend.running:
            time.sleep(0.2)
        say(f"error: the backend ended by itself:\n{backend.log}")
        return 1


@contextmanager
def filled_database(endpoint: Endpoint) -> Iterator[str]:
    """Fill a database that nobody else uses with the example's data, and drop it afterwards."""
    name = f"fuel_copilot_demo_{secrets.token_hex(4)}"
    say("  filling a database ...")
    try:
        generate.fill(endpoint.settings(name), progress=False)
        yield name
    finally:
        with pymysql.connect(**endpoint.settings(), ssl_disabled=True) as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS `{name}`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo."""
    arguments = parse(argv)
    end_in_order()
    began = time.monotonic()
    try:
        with (
            server() as endpoint,
            tempfile.TemporaryDirectory(prefix="offload-db-demo-") as workspace,
            filled_database(endpoint) as database,
        ):
            demo = Demo(endpoint, database, Path(workspace))
            if arguments.rollout:
                status = rolling_out.run(demo, endpoint.settings(database), arguments.output, quick=arguments.quick)
            else:
                status = serve(demo, arguments) if arguments.serve else compare(demo, arguments)
    except KeyboardInterrupt:
        say("\nended by Ctrl-C; nothing is left running")
        return 130
    except (ServerMissing, ServerFailed, BackendFailed, generate.GenerateError, steps.StepError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except pymysql.MySQLError as error:
        print(
            f"error: the server that the demo uses said {error}; its user must be able to create databases",
            file=sys.stderr,
        )
        return 1
    say(f"took {time.monotonic() - began:.0f} s; nothing is left running")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
