"""Owns the picture of a node's death: what the users got, and where their connections led."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from examples.cluster.node_death import Play
from examples.fuel_copilot.demo.plot import DARK, LIGHT, Colours, dark, duration
from examples.fuel_copilot.demo.results import AFTER, BEFORE

# Seconds that are counted together.
STEP = 0.5


def draw(play: Play, title: str, path: Path) -> None:
    """Draw a play.

    :param path: a PNG or an SVG; the same for a dark ground goes beside it
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for colours, file in ((LIGHT, path), (DARK, dark(path))):
        with mpl.rc_context(colours.settings()):
            _draw(play, title, file, colours)


def _draw(play: Play, title: str, path: Path, colours: Colours) -> None:
    figure = Figure(figsize=(11, 8), dpi=110, layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    _rates(top, play, colours)
    _durations(middle, play, colours)
    _connections(bottom, play, colours)
    for axes in (top, middle, bottom):
        axes.grid(visible=True, which="major", color=colours.grid, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        for moment in (play.gone, play.returning, play.back):
            axes.axvline(moment, color=colours.muted, linewidth=1, linestyle=":")
    _, high = top.get_ylim()
    top.set_ylim(0, high * 1.15)
    events = ((play.gone, play.scenario.title, 0), (play.returning, "let back", 0), (play.back, "in use again", -12))
    for moment, text, down in events:
        top.annotate(text, (moment, high * 1.13), xytext=(4, down), textcoords="offset points", fontsize=9, va="top")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    figure.savefig(path, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None)


def _rates(axes: Axes, play: Play, colours: Colours) -> None:
    answered: Counter[int] = Counter()
    failed: Counter[int] = Counter()
    for answer in play.load.answers:
        (answered if answer.error is None else failed)[int(answer.at / STEP)] += 1
    steps = range(max(answered | failed, default=0))  # the last one is not whole
    middles = [(step + 0.5) * STEP for step in steps]
    axes.plot(middles, [answered[step] / STEP for step in steps], color=colours.backends[AFTER], label="answered")
    axes.bar(
        middles,
        [failed[step] / STEP for step in steps],
        width=STEP * 0.8,
        color=colours.backends[BEFORE],
        label=f"ended with an error ({sum(failed.values())} in all)",
    )
    axes.set_ylabel("requests per second")
    axes.legend(loc="lower right", fontsize=9)


def _durations(axes: Axes, play: Play, colours: Colours) -> None:
    """Draw the median and the longest of each step, where there was an answer, and each error."""
    by_step: dict[int, list[float]] = {}
    for answer in play.load.answers:
        by_step.setdefault(int(answer.at / STEP), []).append(answer.seconds)
    steps = sorted(by_step)
    middles = [(step + 0.5) * STEP for step in steps]
    times = [sorted(by_step[step]) for step in steps]
    colour = colours.backends[AFTER]
    axes.plot(
        middles, [each[-1] for each in times], ".:", color=colour, alpha=0.7, label="the longest in half a second"
    )
    axes.plot(middles, [each[len(each) // 2] for each in times], ".-", color=colour, label="half took no longer")
    errors = [answer for answer in play.load.answers if answer.error is not None]
    axes.plot(
        [answer.at for answer in errors],
        [answer.seconds for answer in errors],
        "x",
        color=colours.backends[BEFORE],
        label="ended with an error",
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: duration(seconds)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("time until the answer (log scale)")
    axes.legend(loc="upper right", fontsize=9)


def _connections(axes: Axes, play: Play, colours: Colours) -> None:
    seen = play.load.connections
    names = sorted({name for _, by_node in seen for name in by_node})
    shades = (1.0, 0.6, 0.3)
    layers = axes.stackplot(
        [at for at, _ in seen],
        [[by_node.get(name, 0) for _, by_node in seen] for name in names],
        labels=[f"{name} (the one that goes)" if name == play.node else name for name in names],
        colors=[colours.backends[AFTER]],
        step="post",
    )
    for layer, shade in zip(layers, shades, strict=False):
        layer.set_alpha(shade)
    _, high = axes.get_ylim()
    axes.set_ylim(0, 1.25 * high)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("the pool's connections")
    axes.set_xlabel("seconds")
    axes.set_xlim(0, max((at for at, _ in seen), default=1.0))
    axes.legend(loc="upper right", fontsize=9, ncols=len(names))
