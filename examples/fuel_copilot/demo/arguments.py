"""Owns the demo's command line. Needs nothing installed: `examples/demo.sh` asks it before it sets anything up."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_OUTPUT = Path(__file__).resolve().parents[3] / "demo-output" / "fuel_copilot_demo.png"


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the demo was asked for."""

    quick: bool
    steps: bool
    rollout: bool
    serve: bool
    port: int | None
    output: Path


def parse(argv: Sequence[str] | None = None) -> Arguments:
    """Read the command line; print help or what is wrong, and exit, where it says so."""
    parser = argparse.ArgumentParser(
        prog="examples/demo.sh",
        allow_abbrev=False,  # demo.sh looks for --help in full
        description="Put the legacy backend under load before and after offload_db, on this machine only.",
        epilog="Uses the server that MYSQL_HOST names, or else a private one that is deleted afterwards.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer loads, about half a minute")
    parser.add_argument("--steps", action="store_true", help="measure after each step of the migration, too")
    parser.add_argument("--rollout", action="store_true", help="offload one route's requests share by share instead")
    parser.add_argument("--serve", action="store_true", help="no measurement: serve the freed backend until Ctrl-C")
    parser.add_argument("--port", type=int, help="the port for --serve (default: a free one)")
    parser.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="FILE",
        help="where to save the picture, a .png or .svg; one for a dark ground and the numbers as .json go beside it "
        "(default: %(default)s)",
    )
    given = parser.parse_args(argv)
    output: Path = given.output.resolve()
    if output.suffix not in (".png", ".svg"):
        parser.error(f"--output {given.output}: the picture is a PNG or an SVG, so its name must end in .png or .svg")
    if given.port is not None and not given.serve:
        parser.error("--port is the port of the backend that --serve leaves running: add --serve")
    if given.serve and (given.quick or given.steps):
        parser.error("--serve measures nothing: leave out --quick and --steps")
    if given.rollout and (given.steps or given.serve):
        parser.error("--rollout is a course of its own: leave out --steps and --serve")
    return Arguments(given.quick, given.steps, given.rollout, given.serve, given.port, output)


if __name__ == "__main__":
    parse()
