"""How a figure's page is made: its panels, legend, footer, labels that do not overlap."""

from __future__ import annotations

import textwrap
import weakref
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from adjustText import adjust_text
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Bbox

from bench.study.records import OUT_OF_MEMORY
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
PARTS = {"params": BLUE, "kv_cache": ORANGE, "running": "#333333"}
PART_NAMES = {"params": "parameters", "kv_cache": "KV cache", "running": "running"}
DOT: dict[str, Any] = {"ls": "", "ms": 6}
LOST: dict[str, Any] = {"ls": "", "marker": "x", "color": GREY, "label": "out of memory"}
#: Where memory ran out, and where a case was not started because it would have.
LOST_MARKERS = {"oom": "x", "oom_predicted": "+", "oom_implied": "1"}
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
    "svg.fonttype": "none",  # text stays text: smaller, and it can be searched
}


#: What the report tells of an artist that a reader points at.
TOLD: weakref.WeakKeyDictionary[Artist, dict[str, str]] = weakref.WeakKeyDictionary()


def tell(artist: Artist, facts: dict[str, str], series: str = "") -> None:
    """In the report, pointing at the artist shows the facts, and sets off all of its series."""
    TOLD[artist] = facts | ({"series": series} if series else {})


# Pages


def scale_colors(count: int) -> list[Any]:
    """Of so many scales, light to dark."""
    return [matplotlib.colormaps["YlGnBu"](x) for x in np.linspace(0.15, 1, count)]


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
) -> list[Text]:
    """Writes each label (x, y, words) near its point in a laid-out panel, by adjustText: off each
    other and off the markers, with a line to its point where it had to go far.  A label for which
    there is no such place is not shown."""
    pt = ax.figure.dpi / 72
    spots = ax.transData.transform(markers)
    taken = [Bbox.from_bounds(x - 4 * pt, y - 4 * pt, 8 * pt, 8 * pt) for x, y in spots]
    texts = [ax.text(x, y, words, ha="center", va="center") for x, y, words in labels]
    for text in texts:
        text.set_in_layout(False)
    leader = {"arrowstyle": "-", "lw": 0.5, "color": GREY, "shrinkA": 0, "shrinkB": 4}
    adjust_text(
        texts,
        objects=taken,
        ax=ax,
        expand=(1.3, 2.0),
        force_explode=(0.3, 1.0),
        max_move=round(4 * pt),
        min_arrow_len=10 * pt,
        iter_lim=400,
        arrowprops=leader,
    )
    boxes: list[Bbox] = []
    for text in texts:  # one that found no place is left out, rather than written over another
        box = text.get_window_extent()
        covers = any(map(box.overlaps, boxes)) or any(box.contains(*spot) for spot in spots)
        text.set_visible(not covers)
        boxes += [] if covers else [box]
    return texts


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


def lost_handles(rows: list[Row]) -> list[Any]:
    """Legend of the crosses that `curve` draws."""
    there = {row["status"] for row in rows}
    return [
        Line2D(
            [],
            [],
            **LOST
            | {"marker": marker, "label": OUT_OF_MEMORY[status].replace("OOM", "out of memory")},
        )
        for status, marker in LOST_MARKERS.items()
        if status in there
    ]


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
    lost = [row for row in rows if row["status"] in LOST_MARKERS and key == "latency_s"]
    if lost:
        where = ax.get_xaxis_transform()
        taken = {line.get_color() for line in ax.lines if line.get_transform() == where}
        high = 0.97 - 0.06 * len(taken)
        for row in lost:
            how = {"color": look["color"], "marker": LOST_MARKERS[row["status"]], "label": None}
            ax.plot(row["batch_size"], high, transform=where, **LOST | how)
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
