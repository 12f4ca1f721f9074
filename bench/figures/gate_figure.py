"""What the regression gate found, as pictures: one for each case."""

import hashlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures import canvas, looks
from bench.figures.looks import BLUE, GREY, STYLE, VERMILLION, WIDE
from bench.tables.compare import Comparison, Finding

VERDICT_COLORS = {
    "slower": VERMILLION, "faster": looks.GREEN, "same": looks.BLACK, "undecided": GREY
}  # fmt: skip


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """A PNG of each of `pages`; returns the files.

    Raises UsageError where the folder cannot be written.
    """
    paths: list[Path] = []
    for case, figure in pages(comparison):
        name = re.sub(r"[^A-Za-z0-9]+", "-", case).strip("-")[:60]
        path = folder / f"{name}-{hashlib.sha256(case.encode()).hexdigest()[:8]}.png"
        paths += canvas.save(figure, [path])
    return paths


def pages(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    """Case and figure of each case that regressed, or of every case if none did."""
    wanted = {f.key for f in comparison.regressions} or {f.key for f in comparison.findings}
    for key in dict.fromkeys(f.key for f in comparison.findings if f.key in wanted):
        found = [f for f in comparison.findings if f.key == key]
        if any(f.figure == "latency" and f.base is not None for f in found):
            yield found[0].case, page(comparison, found)


@matplotlib.rc_context(STYLE)
def overview(comparison: Comparison) -> Figure:
    """Each case's change of latency with its interval."""
    found = [f for f in comparison.findings if f.figure == "latency" and f.change is not None]
    figure, (ax,) = canvas.panels(WIDE, 0.5 + 0.3 * len(found))
    names = [textwrap.fill(f.case, 60) for f in found]
    draw_changes(ax, comparison, found, names, "change of latency (%)")
    return canvas.finish(figure, "Change from BASE to NEW", "Grey: within the threshold.")


def draw_changes(
    ax: Axes, comparison: Comparison, findings: list[Finding], names: list[str], unit: str
) -> None:
    """A point and an interval for each finding, from the top down."""
    limit = 100 * comparison.threshold
    ax.axvspan(-limit, limit, color="#EEEEEE", zorder=0)
    ax.axvline(0, color=GREY, lw=0.6)
    for y, f in enumerate(findings):
        color = VERDICT_COLORS[f.verdict]
        if f.low is not None and f.high is not None:
            ax.hlines(y, 100 * f.low, 100 * f.high, color=color, lw=1.2)
        ax.plot(100 * (f.change or 0), y, "o", color=color, ms=4)
    canvas.name_bars(ax, names, unit)


@matplotlib.rc_context(STYLE)
def page(comparison: Comparison, findings: list[Finding]) -> Figure:
    """A case's samples in the order they were taken, round by round, their distributions, and
    every figure's change with its interval."""
    timed = [f for f in findings if f.n_base is not None]
    latency = next(f for f in timed if f.figure == "latency")
    height = 2.6 if len(timed) > 3 else 1.8
    figure, axes = canvas.panels(WIDE, height, 1, 3, width_ratios=(1.15, 1, 1.1))
    order, spread, changes = axes
    handles = []
    sides = ("BASE", BLUE, comparison.base), ("NEW", VERMILLION, comparison.new)
    for name, color, side in sides:
        rounds = side.cases[latency.key].samples["latency"]
        samples = np.concatenate([*rounds.values()])
        middle = latency.base if name == "BASE" else latency.new
        order.plot(np.arange(1, samples.size + 1), samples, ".", color=color, ms=4, alpha=0.8)
        handles.append(order.axhline(middle, color=color, lw=1, label=f"{name}: {middle:.4g} s"))
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
    spread.locator_params(axis="x", nbins=3)
    draw_changes(changes, comparison, timed, [f.figure for f in timed], "change (%)")
    changes.set_title(f"Change; grey: within ±{100 * comparison.threshold:.3g} %")
    worse = ", ".join(f"{f.figure} {f.word}" for f in findings if f.regression) or latency.word
    title = "\n".join(textwrap.wrap(f"{latency.case}: {worse}", 95))
    return canvas.finish(figure, title, "Dotted: where a round ends.", handles)
