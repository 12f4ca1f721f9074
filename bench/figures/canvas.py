"""How a figure's page is made: its rows, panels, legend, footer, labels that never overlap.

`plots` has the figures themselves.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path as Line
from matplotlib.text import Annotation, Text
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Bbox

from bench.tables.case_rows import Row, distinct, lacks, stacks_of
from bench.tables.frames import Run

WIDE, NARROW, EDGE = 6.9, 3.3, 0.07  # inches: two columns of a paper, one column, a page's edge
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"  # Okabe and Ito's colours
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#888888"
COLORS = [BLACK, BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY]
SERIES: list[dict[str, Any]] = [
    {"color": color, "marker": marker} for color, marker in zip(COLORS, "osD^vPX", strict=True)
]
STACK_COLORS = {"published": BLUE, "modern": ORANGE, "compiled": GREEN}
STACK_LINES: dict[str, Any] = {
    "published": {"ls": "-"},
    "modern": {"ls": "--", "mfc": "white"},
    "compiled": {"ls": ":", "fillstyle": "left"},
}
SCALE_COLORS = [matplotlib.colormaps["YlGnBu"](x) for x in np.linspace(0.15, 1, 10)]
PARTS = {"params": BLUE, "kv_cache": ORANGE, "running": "#333333"}
PART_NAMES = {"params": "parameters", "kv_cache": "KV cache", "running": "running"}
DOT: dict[str, Any] = {"ls": "", "ms": 6}
LOST: dict[str, Any] = {"ls": "", "marker": "x", "color": GREY, "label": "out of memory"}
LEFT: dict[str, Any] = {"ls": "", "marker": "o", "ms": 2.6, "color": BLUE}
FRONT: dict[str, Any] = {"color": SKY, "lw": 3, "alpha": 0.5, "zorder": 0, "label": "Pareto front"}
PREDICTED: dict[str, Any] = {"ls": "", "marker": "d", "mfc": "white", "mec": BLACK, "ms": 5}
STYLE: Any = {
    "figure.dpi": 300,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture everywhere
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0.6,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.0,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,
}


# Rows


# Pages


def panels(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> Any:
    """A figure and its axes in reading order; height is of the panels alone."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def stack_panels(rows: list[Row], height: float, down: bool = False) -> Any:
    """A figure, and for each stack its axes and its rows: side by side, or one below another."""
    stacks = stacks_of(rows)
    shape = (len(stacks), 1) if down else (1, len(stacks))
    wide = down or len(stacks) > 1
    figure, axes = panels(WIDE if wide else NARROW, height, *shape, sharex=True, sharey=not down)
    for ax, stack in zip(axes, stacks, strict=True):
        ax.set_title(f"{stack} stack" if len(stacks) > 1 else "")
    return figure, [
        (ax, [r for r in rows if r["stack"] == s]) for ax, s in zip(axes, stacks, strict=True)
    ]


def finish(figure: Any, title: str, footer: str, handles: Sequence[Any] = ()) -> Figure:
    """Title and legend above the panels, footer below; the page grows by what they take."""
    width, height = figure.get_size_inches()
    room = (width - 2 * EDGE) * figure.dpi
    for columns in range(max(1, len(handles)), 0, -1):
        key = figure.legend(
            handles=handles,
            ncols=columns,
            loc="outside upper left",
            title=title,
            title_fontproperties={"weight": "bold", "size": 9},
            alignment="left",
        )
        if key.get_window_extent().width <= room or columns == 1:
            break
        key.remove()
    foot = figure.supxlabel("", x=EDGE / width, ha="left", size=8, color="#444444", linespacing=1.3)
    for columns in range(min(len(footer), round(30 * width)), 20, -1):
        foot.set_text(textwrap.fill(footer, columns))
        if foot.get_window_extent().width <= room:
            break
    pixels = key.get_window_extent().height + foot.get_window_extent().height
    figure.set_size_inches(width, height + pixels / figure.dpi + 5 * EDGE)
    figure.set_layout_engine("constrained", w_pad=EDGE, h_pad=EDGE)
    figure.draw_without_rendering()
    return figure


def logarithmic(axis: Any, ticks: Sequence[float] | None = None) -> None:
    """A log axis whose ticks are plain numbers: the given ones, or 1, 2, 5, 10, ..."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high > 12 * low else (1, 1.5, 2, 3, 5, 7)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:,.12g}")
    axis.set_minor_locator(NullLocator())
    if ticks:
        axis.set_ticks(ticks)


def seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 999.5 else f"{value:#.3g}".rstrip(".") + " s"


def beside(ax: Axes, x: float, y: float, words: str, **options: Any) -> Annotation:
    """Text right of the point, unless told otherwise; the layout takes no notice of it."""
    where: Any = {"xytext": (4, 0), "textcoords": "offset points", "va": "center_baseline"}
    white = {"fc": "white", "ec": "none", "pad": 0.5}
    label = ax.annotate(words, (x, y), **where | options, annotation_clip=False, bbox=white)
    label.set_in_layout(False)
    return label


def make_room(ax: Any, labels: Sequence[Annotation]) -> None:
    """Widens x until the labels right of bars that begin at 0 end inside the laid-out panel."""
    room, pt = ax.get_window_extent().width, ax.figure.dpi / 72
    for label in labels:
        free = room - Text.get_window_extent(label).width - 6 * pt
        ax.set_xlim(0, max(ax.get_xlim()[1], label.xy[0] * room / free))


def place_labels(
    ax: Any, labels: Sequence[tuple[float, float, str]], markers: Sequence[tuple[float, float]]
) -> list[Annotation]:
    """Writes each label (x, y, words) near its point in a laid-out panel.

    None meets another, a marker or the panel's edge; where they can they keep off lines.  One
    that had to go far has a leader line, one that no room is left for is not shown.
    """
    pt, inside = ax.figure.dpi / 72, ax.get_window_extent()
    lines = [line.get_transform().transform_path(line.get_path()) for line in ax.lines]
    spots = ax.transData.transform(markers)
    taken = [Bbox.from_bounds(x - 4 * pt, y - 4 * pt, 8 * pt, 8 * pt) for x, y in spots]
    leader = {"arrowstyle": "-", "lw": 0.5, "color": GREY, "shrinkA": 0, "shrinkB": 5}
    written: list[Any] = [
        beside(ax, x, y, words, va="bottom", arrowprops=leader) for x, y, words in labels
    ]

    def place(label: Any, reaches: range) -> bool:
        spot, size = ax.transData.transform(label.xy), np.array(Text.get_window_extent(label).size)
        best = math.inf
        for reach, angle in itertools.product(reaches, np.linspace(0, 2 * np.pi, 17)):
            if reach >= best:
                break
            way = np.array([math.cos(angle), math.sin(angle)])
            corner = spot + reach * pt * way - size * (1 - way) / 2
            box = Bbox.from_bounds(*corner, *size).padded(1.5 * pt)
            free = inside.contains(*box.min) and inside.contains(*box.max)
            if not free or any(box.overlaps(other) for other in taken):
                continue
            line = Line([spot, corner + size / 2])
            cost = reach + 10 * sum(path.intersects_bbox(box, filled=False) for path in lines)
            cost += 10 * sum(line.intersects_bbox(o) for o in taken if not o.contains(*spot))
            if cost < best:
                best, chosen = cost, (box, line)
                label.set_position((corner - spot) / pt)
                label.arrow_patch.set_visible(reach > 14)
        if best < math.inf:
            taken.append(chosen[0])
            lines.append(chosen[1])
        return best < math.inf

    # Those with room beside them first, or others would take it from afar.
    far = range(18, round(math.hypot(*inside.size) / pt), 4)
    apart = [label for label in written if not place(label, range(6, 18, 4))]
    for label in apart:
        label.set_visible(place(label, far))
    return written


def horizontal(ax: Axes, names: Sequence[str], unit: str) -> None:
    """One line of bars for each name, from the top down."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(unit)
    ax.grid(axis="x")


def bar(ax: Axes, y: float, parts: Any, words: str, thick: float = 0.66) -> Annotation:
    """Parts, each a length and a look, one after another; and words at their end."""
    end = 0.0
    for length, look in parts:
        ax.barh(y, length, thick, end, **look)
        end += length
    return beside(ax, end, y, words)


def lost_handle(rows: list[Row]) -> list[Any]:
    """Legend of the crosses that `curve` draws."""
    return [Line2D([], [], **LOST)] if any(row["status"] == "oom" for row in rows) else []


def stack_handles(rows: list[Row]) -> list[Any]:
    """Legend of several stacks."""
    looks = {f"{s} stack": STACK_LINES[s] for s in stacks_of(rows) if len(stacks_of(rows)) > 1}
    return [Line2D([], [], color=GREY, marker="o", label=s, **look) for s, look in looks.items()]


# Curves by batch size


def batches_of(run: Run, rows: list[Row]) -> list[int]:
    """The batch sizes; at least two with a measured case."""
    if len({row["batch_size"] for row in rows if "latency_s" in row}) < 2:
        again = f"{run.sweep.name} --set batch_size=1,8,64"
        raise lacks(run, "no two batch sizes that were measured", again)
    return sorted(distinct(rows, "batch_size"))


def curve(ax: Axes, rows: list[Row], look: dict[str, Any], key: str) -> dict[int, float]:
    """A value by batch size; crosses at the top where memory ran out."""
    values = {row["batch_size"]: row[key] for row in rows if key in row}
    ax.plot(list(values), list(values.values()), **look)
    lost = [row["batch_size"] for row in rows if row["status"] == "oom" and key == "latency_s"]
    if lost:
        high = 0.97 - 0.06 * sum(line.get_marker() == "x" for line in ax.lines)
        where = ax.get_xaxis_transform()
        ax.plot(lost, [high] * len(lost), transform=where, **LOST | {"color": look["color"]})
    return values


def by_batch(ax: Any, batches: list[int]) -> None:
    """Axes of latency by batch size, with room for the crosses above the curves."""
    logarithmic(ax.xaxis, batches)
    logarithmic(ax.yaxis)
    crosses = sum(line.get_marker() == "x" for line in ax.lines)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** (0.08 * crosses))
    ax.set(xlabel="batch size", ylabel="latency (s)")
    ax.margins(x=0.08)
    ax.grid()
