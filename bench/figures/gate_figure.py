"""What the regression gate found, as pictures: one for each case."""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.figures.canvas import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    STYLE,
    VERMILLION,
    WIDE,
    finish,
    horizontal,
    panels,
)
from bench.study.errors import UsageError
from bench.tables.compare import Comparison, Finding
from codevar.files import atomic_write

VERDICT_COLORS = {"slower": VERMILLION, "faster": GREEN, "same": BLACK, "undecided": GREY}


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """A PNG of each of `pages`; returns the files.

    Raises UsageError where the folder cannot be written.
    """
    paths = []
    for case, figure in pages(comparison):
        name = re.sub(r"[^A-Za-z0-9]+", "-", case).strip("-")[:60]
        path = folder / f"{name}-{hashlib.sha256(case.encode()).hexdigest()[:8]}.png"
        try:
            with atomic_write(path, sync=False) as part:
                figure.savefig(part, format="png")
        except OSError as e:
            raise UsageError(f"{folder}: cannot be written ({e.strerror})") from None
        paths.append(path)
    return paths


def pages(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    """Case and figure of each case that regressed, or of every case if none did."""
    wanted = {f.key for f in comparison.regressions} or {f.key for f in comparison.findings}
    for key in dict.fromkeys(f.key for f in comparison.findings if f.key in wanted):
        found = [f for f in comparison.findings if f.key == key]
        if any(f.figure == "latency" and f.base is not None for f in found):
            with matplotlib.rc_context(STYLE):
                yield found[0].case, page(comparison, found)


def overview(comparison: Comparison) -> Figure:
    """Each case's change of latency with its interval."""
    found = [f for f in comparison.findings if f.figure == "latency" and f.change is not None]
    with matplotlib.rc_context(STYLE):
        figure, (ax,) = panels(WIDE, 0.5 + 0.3 * len(found))
        draw_changes(ax, comparison, found)
        horizontal(ax, [textwrap.fill(f.case, 60) for f in found], "change of latency (%)")
        return finish(figure, "Change from BASE to NEW", "Grey: within the threshold.")


def draw_changes(ax: Axes, comparison: Comparison, findings: list[Finding]) -> None:
    """A point and an interval for each finding, from the top down."""
    limit = 100 * comparison.threshold
    ax.axvspan(-limit, limit, color="#EEEEEE", zorder=0)
    ax.axvline(0, color=GREY, lw=0.6)
    for y, f in enumerate(findings):
        color = VERDICT_COLORS[f.verdict]
        if f.low is not None and f.high is not None:
            ax.plot([100 * f.low, 100 * f.high], [y, y], color=color, lw=1.2)
        ax.plot(100 * (f.change or 0), y, "o", color=color, ms=4)


def page(comparison: Comparison, findings: list[Finding]) -> Figure:
    """A case's samples in the order they were taken, round by round, their distributions, and
    every figure's change with its interval."""
    timed = [f for f in findings if f.n_base is not None]
    latency = next(f for f in timed if f.figure == "latency")
    height = 3.0 if len(timed) > 3 else 2.2
    figure = Figure(figsize=(WIDE, height), layout="constrained")
    FigureCanvasAgg(figure)
    order, spread, changes = figure.subplots(1, 3, width_ratios=(1.15, 1, 1.1))
    sides = ("BASE", BLUE, comparison.base), ("NEW", VERMILLION, comparison.new)
    for name, color, side in sides:
        rounds = side.cases[latency.key].samples["latency"]
        samples = np.concatenate([*rounds.values()])
        middle = latency.base if name == "BASE" else latency.new
        order.plot(np.arange(1, samples.size + 1), samples, ".", color=color, ms=4, alpha=0.8)
        order.axhline(middle, color=color, lw=1, label=f"{name}: {middle:.4g} s")
        for end in np.cumsum([values.size for values in rounds.values()])[:-1]:
            order.axvline(end + 0.5, color=color, lw=0.6, ls=":")
        spread.ecdf(samples, color=color)
        spread.axvline(middle, color=color, lw=1)
    order.set(xlabel="sample, in the order taken", ylabel="latency (s)", title="Samples")
    spread.set(xlabel="latency (s)", ylabel="share of the samples", title="Distribution")
    spread.margins(x=0.08)
    for ax in (order, spread):
        ax.ticklabel_format(useOffset=False, style="plain")
        ax.locator_params(nbins=5)
        ax.grid()
    draw_changes(changes, comparison, timed)
    limit = 100 * comparison.threshold
    changes.set_yticks(range(len(timed)), [f.figure for f in timed])
    changes.set_ylim(len(timed) - 0.4, -0.6)
    changes.set(xlabel="change (%)", title=f"Change; grey: within ±{limit:.3g} %")
    changes.grid(axis="x")
    worse = ", ".join(f"{f.figure} {f.word}" for f in findings if f.regression) or latency.word
    figure.legend(
        loc="outside upper left",
        ncols=2,
        title="\n".join(textwrap.wrap(f"{latency.case}: {worse}", 95)),
        title_fontproperties={"weight": "bold", "size": 9},
        alignment="left",
    ).get_title().set_parse_math(False)
    return figure
