"""Owns the picture of a node's death: what the users got, and where their connections led."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from examples.cluster.node_death import Play

# Seconds that are counted together.
STEP = 0.5
COLOURS = ("#1f77b4", "#5aa9e6", "#b8d8f0")
ANSWERED, FAILED = "#1f77b4", "#c0392b"


def draw(play: Play, title: str, path: Path) -> None:
    """Draw a play into a PNG at *path*."""
    mpl.use("Agg")
    figure = Figure(figsize=(11, 8), dpi=110, layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    _rates(top, play)
    _durations(middle, play)
    _connections(bottom, play)
    for axes in (top, middle, bottom):
        axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        for moment in (play.gone, play.returning, play.back):
            axes.axvline(moment, color="#444444", linewidth=1, linestyle=":")
    low, high = top.get_ylim()
    top.set_ylim(low, high * 1.15)
    for moment, text in ((play.gone, play.scenario.title), (play.returning, "let back"), (play.back, "in use again")):
        top.annotate(text, (moment, high * 1.13), xytext=(4, 0), textcoords="offset points", fontsize=9, va="top")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _rates(axes: Axes, play: Play) -> None:
    answered: Counter[int] = Counter()
    failed: Counter[int] = Counter()
    for answer in play.load.answers:
        (answered if answer.error is None else failed)[int(answer.at / STEP)] += 1
    steps = range(max(answered | failed, default=0))  # the last one is not whole
    middles = [(step + 0.5) * STEP for step in steps]
    axes.plot(middles, [answered[step] / STEP for step in steps], color=ANSWERED, label="answered")
    axes.bar(
        middles,
        [failed[step] / STEP for step in steps],
        width=STEP * 0.8,
        color=FAILED,
        label=f"ended with an error ({sum(failed.values())} in all)",
    )
    axes.set_ylabel("requests per second")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", fontsize=9)


def _durations(axes: Axes, play: Play) -> None:
    for failed, colour, name in ((False, ANSWERED, "answered"), (True, FAILED, "ended with an error")):
        chosen = [answer for answer in play.load.answers if (answer.error is not None) == failed]
        axes.plot(
            [answer.at for answer in chosen],
            [1000 * answer.seconds for answer in chosen],
            "x" if failed else ".",
            markersize=6 if failed else 2,
            color=colour,
            label=name,
        )
    axes.set_yscale("log")
    axes.set_ylabel("ms until the answer (log scale)")


def _connections(axes: Axes, play: Play) -> None:
    seen = play.load.connections
    names = sorted({name for _, by_node in seen for name in by_node})
    axes.stackplot(
        [at for at, _ in seen],
        [[by_node.get(name, 0) for _, by_node in seen] for name in names],
        labels=[f"{name} (the one that goes)" if name == play.node else name for name in names],
        colors=COLOURS,
        step="post",
    )
    _, high = axes.get_ylim()
    axes.set_ylim(0, 1.25 * high)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("the pool's connections")
    axes.set_xlabel("seconds")
    axes.set_xlim(0, max((at for at, _ in seen), default=1.0))
    axes.legend(loc="upper right", fontsize=9, ncols=len(names))
