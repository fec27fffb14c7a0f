"""Owns the demo's picture: how long answers take before and after, and what that does to /health."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from examples.fuel_copilot.demo.results import AFTER, BEFORE, Point, find


@dataclass(frozen=True, slots=True)
class Colours:
    """What the picture is drawn in."""

    backends: dict[str, str]
    text: str
    muted: str
    grid: str
    ground: str

    def settings(self) -> dict[Any, str]:
        """Return them as matplotlib's settings, with what makes the same points the same file."""
        text = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
        ground = ("figure.facecolor", "axes.facecolor", "legend.facecolor")
        return {
            "backend": "Agg",
            **dict.fromkeys(text, self.text),
            **dict.fromkeys(ground, self.ground),
            "legend.edgecolor": self.grid,
            "svg.hashsalt": "offload_db",
        }


LIGHT = Colours({BEFORE: "#c0392b", AFTER: "#1f77b4"}, "#1f2328", "#666666", "#dddddd", "#ffffff")
DARK = Colours({BEFORE: "#ff7b72", AFTER: "#79c0ff"}, "#e6edf3", "#9198a1", "#30363d", "#0d1117")
NAMES = {BEFORE: "before: the loop is blocked", AFTER: "after: offload_db frees it"}


def duration(seconds: float) -> str:
    """Write a duration the way people say it."""
    if seconds < 0.01:
        return f"{1000 * seconds:.1f} ms".replace(".0 ", " ")
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s".replace(".0 ", " ")


def draw(points: Sequence[Point], query_delay: float, health_users: int, path: Path) -> None:
    """Draw the points measured with *query_delay*, and /health under *health_users*.

    :param path: a PNG or an SVG; the same for a dark ground goes beside it
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for colours, file in ((LIGHT, path), (DARK, dark(path))):
        with mpl.rc_context(colours.settings()):
            _draw(points, query_delay, health_users, file, colours)


def dark(path: Path) -> Path:
    """Return where the picture for a dark ground goes."""
    return path.with_stem(f"{path.stem}-dark")


def _draw(points: Sequence[Point], query_delay: float, health_users: int, path: Path, colours: Colours) -> None:
    figure = Figure(figsize=(13, 5.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    delayed = [point for point in points if point.query_delay == query_delay]
    _latency(left, delayed, query_delay, colours)
    _health(right, delayed, query_delay, health_users, colours)
    for axes in (left, right):
        axes.grid(visible=True, which="major", color=colours.grid, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_headline(delayed, query_delay, health_users), fontsize=14, fontweight="bold")
    # Without the date and the program: the same points are the same file.
    figure.savefig(path, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None)


def _headline(points: Sequence[Point], query_delay: float, users: int) -> str:
    before = find(points, BEFORE, query_delay, users)
    after = find(points, AFTER, query_delay, users)
    if before is None or after is None or not before.throughput:
        return "The same backend before and after offload_db"
    return (
        f"The same handlers answer {after.throughput / before.throughput:.1f} times as many requests "
        f"once their queries leave the event loop\n"
        f"({users} users, {duration(query_delay)} queries: {before.throughput:.0f} → {after.throughput:.0f} requests/s)"
    )


def _latency(axes: Axes, points: Sequence[Point], query_delay: float, colours: Colours) -> None:
    """Draw p50 and p95 over the number of users."""
    for backend in (BEFORE, AFTER):
        mine = sorted((point for point in points if point.backend == backend), key=lambda point: point.users)
        users = [point.users for point in mine]
        colour = colours.backends[backend]
        axes.plot(users, [point.p50 for point in mine], "o-", color=colour, label=f"{NAMES[backend]}, p50")
        axes.plot(users, [point.p95 for point in mine], "s--", color=colour, alpha=0.6, label=f"{NAMES[backend]}, p95")
        above = backend == BEFORE
        for point in mine:
            axes.annotate(
                duration(point.p95 if above else point.p50),
                (point.users, point.p95 if above else point.p50),
                xytext=(0, 9 if above else -16),
                textcoords="offset points",
                ha="center",
                color=colour,
                fontsize=9,
            )
    axes.axhline(query_delay, color=colours.muted, linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(x=0.08)
    ticks = sorted({point.users for point in points})
    axes.set_xticks(ticks, [str(users) for users in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: duration(seconds)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.7, high * 2.2)
    axes.text(
        0.25,  # of the width: between the first two points
        query_delay / 1.04,
        f"the query alone: {duration(query_delay)}",
        transform=axes.get_yaxis_transform(),
        ha="center",
        va="top",
        fontsize=8.5,
        color=colours.muted,
    )
    axes.set_xlabel("users, each sending the next request when the last is answered")
    axes.set_ylabel("time until the answer (log scale)")
    axes.set_title("How long one user waits for an answer")
    axes.legend(loc="upper left", fontsize=9, frameon=True)


def _health(axes: Axes, points: Sequence[Point], query_delay: float, users: int, colours: Colours) -> None:
    """Draw each answer of /health over the time of the measurement."""
    for backend in (BEFORE, AFTER):
        point = find(points, backend, query_delay, users)
        if point is None or not point.health:
            continue
        # A request that the end of the measurement cut short would look like a quick one.
        whole = [poll for poll in point.health if sum(poll) <= point.seconds] or list(point.health)
        asked = [sent for sent, _ in whole]
        latencies = [latency for _, latency in whole]
        # Only what can be seen as a line: hundreds of lines below a pixel would be most of an SVG.
        long = [poll for poll in whole if poll[1] > point.seconds / 500]
        axes.hlines(
            [latency for _, latency in long],
            [sent for sent, _ in long],
            [sum(poll) for poll in long],
            color=colours.backends[backend],
            alpha=0.5,
        )
        axes.plot(
            asked,
            latencies,
            "o" if backend == BEFORE else ".",
            markersize=6 if backend == BEFORE else 4,
            color=colours.backends[backend],
            label=f"{NAMES[backend]} (p99 {duration(point.health_p99)})",
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: duration(seconds)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.2, high * 4)
    axes.set_xlim(0, max((point.seconds for point in points), default=1.0))
    axes.set_xlabel(f"seconds under load from {users} users (dot: asked; line: until answered)")
    axes.set_ylabel("time until /health answers (log scale)")
    axes.set_title("How long /health waits, although it uses no database")
    axes.legend(loc="upper left", fontsize=9, frameon=True)
