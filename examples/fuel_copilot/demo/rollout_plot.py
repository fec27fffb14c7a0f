"""Owns the picture of a rollout: what users get, and how long /health waits, while more and more is offloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullFormatter

from examples.fuel_copilot.demo.plot import duration

RIGHT, WRONG, HEALTH = "#1f77b4", "#c0392b", "#555555"
SHADES = ("#fbeaea", "#f2f5fa", "#e3ecf7", "#f5c6c0", "#fbeaea", "#cfe0f3")
BIN = 0.5


class Phase(Protocol):
    """A part of the course."""

    @property
    def name(self) -> str: ...
    @property
    def started(self) -> float: ...
    @property
    def ended(self) -> float: ...


class Course(Protocol):
    """What was seen."""

    @property
    def phases(self) -> Sequence[Phase]: ...
    @property
    def answers(self) -> Sequence[tuple[float, float, bool]]: ...
    @property
    def health(self) -> Sequence[tuple[float, float]]: ...
    @property
    def reverted(self) -> str: ...


def draw(course: Course, path: Path) -> None:
    """Draw the course into a PNG at *path*."""
    mpl.use("Agg")
    figure = Figure(figsize=(13, 7.2), dpi=110, layout=ConstrainedLayoutEngine(rect=(0, 0, 1, 0.97)))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.2, 1])
    start, end = course.phases[0].started, course.phases[-1].ended
    _answers(above, course, start, end)
    _health(below, course, start)
    for axes in (above, below):
        for phase, shade in zip(course.phases, SHADES, strict=True):
            axes.axvspan(phase.started - start, phase.ended - start, color=shade, zorder=0)
        axes.grid(visible=True, axis="y", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, end - start)
    _name(above, course.phases, start)
    below.set_xlabel("seconds")
    figure.suptitle(
        "One route is offloaded share by share; when its table is locked, the guard goes back by itself",
        fontsize=14,
        fontweight="bold",
    )
    figure.text(0.5, 0.935, f"“{course.reverted}”", ha="center", fontsize=9.5, color="#444444")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _answers(axes: Axes, course: Course, start: float, end: float) -> None:
    number = int((end - start) / BIN)
    right, wrong = [0.0] * number, [0.0] * number
    for at, _, is_right in course.answers:
        place = int((at - start) / BIN)
        if 0 <= place < number:
            (right if is_right else wrong)[place] += 1 / BIN
    middles = [(place + 0.5) * BIN for place in range(number)]
    axes.bar(middles, right, width=0.9 * BIN, color=RIGHT, label="answered")
    if any(wrong):
        axes.bar(middles, wrong, width=0.9 * BIN, bottom=right, color=WRONG, label="failed")
    axes.set_ylabel("requests per second")
    axes.set_ylim(0, 1.25 * max(one + other for one, other in zip(right, wrong, strict=True)))
    axes.legend(loc="upper left", fontsize=9, frameon=True, bbox_to_anchor=(0, 0.88))


def _health(axes: Axes, course: Course, start: float) -> None:
    asked = [at - start for at, _ in course.health]
    latencies = [latency for _, latency in course.health]
    axes.hlines(
        latencies, asked, [at + latency for at, latency in zip(asked, latencies, strict=True)], color=HEALTH, alpha=0.4
    )
    axes.plot(asked, latencies, ".", markersize=4, color=HEALTH, label="/health, which uses no database")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: duration(seconds)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("time until /health answers (log scale)")
    axes.legend(loc="lower left", fontsize=9, frameon=True)


def _name(axes: Axes, phases: Sequence[Phase], start: float) -> None:
    for phase in phases:
        name = phase.name.replace("the guard went back", "the guard\nwent back").replace(
            "the table is locked", "table\nlocked"
        )
        axes.text(
            (phase.started + phase.ended) / 2 - start,
            0.985,
            name,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=10,
            fontweight="bold",
        )
