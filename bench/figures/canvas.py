"""What figures are made of: pages, axes, bars, curves by batch size."""

import textwrap
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import LogLocator, NullLocator

from bench.figures import looks, scatter
from bench.figures.looks import EDGE, NARROW, STYLE, WIDE, Look
from bench.study.errors import UsageError
from bench.tables.case_rows import Row, distinct, lacks, stacks_of
from bench.tables.frames import Run
from codevar.files import atomic_write

#: What the report tells of an artist that a reader points at.
TOOLTIPS: weakref.WeakKeyDictionary[Artist, dict[str, str]] = weakref.WeakKeyDictionary()


def add_tooltip(artist: Artist, facts: dict[str, str], series: str = "") -> None:
    """In the report, pointing at the artist shows the facts, and sets off all of its series."""
    TOOLTIPS[artist] = facts | ({"series": series} if series else {})


# Pages


def blank_page(width: float, height: float) -> Figure:
    """A figure without panels, in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def panels(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> Any:
    """A figure and its axes in reading order; height is of the panels alone."""
    figure = blank_page(width, height)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def panel_for_each(count: int, height: float, columns: int, **options: Any) -> Any:
    """A figure with that many axes in rows of `columns`, each `height` inches; the rest blank."""
    columns = min(columns, count)
    lines = -(-count // columns)
    width = WIDE if columns > 1 else NARROW
    shared = {"sharex": True, "sharey": True}
    figure, axes = panels(width, height * lines, lines, columns, **shared | options)
    for ax in axes[count:]:
        ax.set_axis_off()
    for ax in axes[max(0, count - columns) : count]:
        ax.tick_params(labelbottom=True)
    return figure, axes[:count]


def panel_for_each_stack(rows: list[Row], height: float, down: bool = False) -> Any:
    """A figure, and for each stack its axes and its rows: side by side, or one below another."""
    stacks = stacks_of(rows)
    shape = (len(stacks), 1) if down else (1, len(stacks))
    wide = down or len(stacks) > 1
    figure, axes = panels(WIDE if wide else NARROW, height, *shape, sharex=True, sharey=not down)
    for ax, stack in zip(axes, stacks, strict=True):
        ax.set_title(f"{stack} stack" if len(stacks) > 1 else "")
    by_stack = [[row for row in rows if row["stack"] == stack] for stack in stacks]
    return figure, list(zip(axes, by_stack, strict=True))


def finish(
    figure: Figure,
    title: str,
    footer: str,
    handles: Sequence[Any] = (),
    named: scatter.Named = (),
) -> Figure:
    """Title and legend above the panels, footer below; the page grows by what they take.

    named: panels whose points get their names; names without room are in a key below.
    """
    width, height = figure.get_size_inches()
    room = (width - 2 * EDGE) * figure.dpi
    for columns in range(max(1, len(handles)), 0, -1):
        legend = figure.legend(
            handles=handles,
            ncols=columns,
            loc="outside upper left",
            title=title,
            title_fontproperties={"weight": "bold", "size": 9},
            alignment="left",
        )
        if legend.get_window_extent().width <= room or columns == 1:
            break
        legend.remove()
    foot = figure.supxlabel("", x=EDGE / width, ha="left", size=8, color="#444444", linespacing=1.3)

    def lay_out(words: str) -> None:
        for columns in range(min(len(words), round(30 * width)), 20, -1):
            foot.set_text(textwrap.fill(words, columns))
            if foot.get_window_extent().width <= room:
                break
        pixels = legend.get_window_extent().height + foot.get_window_extent().height
        figure.set_size_inches(width, height + pixels / figure.dpi + 5 * EDGE)
        figure.set_layout_engine("constrained", w_pad=EDGE, h_pad=EDGE)
        figure.draw_without_rendering()

    lay_out(footer)
    if key := scatter.write_names(named):
        lay_out(f"{key} {footer}")
        scatter.write_numbers(named)
    return figure


def png_and_pdf(stem: Path) -> list[Path]:
    """The files that a picture is written to."""
    return [stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "pdf")]


@matplotlib.rc_context(STYLE)
def save(figure: Figure, files: Sequence[Path]) -> Sequence[Path]:
    """Writes each file whole or not at all, and returns them.  Raises UsageError."""
    for path in files:
        undated = {"CreationDate": None} if path.suffix == ".pdf" else None
        try:
            with atomic_write(path, sync=False) as part:
                figure.savefig(part, format=path.suffix[1:], metadata=undated)
        except OSError as e:
            raise UsageError(f"{path.parent}: cannot be written ({e.strerror})") from None
    return files


# Axes


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


def name_bars(ax: Axes, names: Sequence[str], unit: str) -> None:
    """One line of bars for each name, from the top down."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(unit)
    ax.grid(axis="x")


def centred(ax: Axes, x: float, y: float, words: str) -> None:
    """Text in the middle of a cell."""
    ax.text(x, y, words, ha="center", va="center", size=7, linespacing=1.1)


def text_beside(ax: Axes, x: float, y: float, words: str, **options: Any) -> Annotation:
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


def bar(
    ax: Axes, y: float, parts: Iterable[tuple[float, Look]], words: str, thick: float = 0.66
) -> Annotation:
    """Lengths and looks end to end, and words behind."""
    end = 0.0
    for length, look in parts:
        ax.barh(y, length, thick, end, **look)
        end += length
    return text_beside(ax, end, y, words)


def seconds(value: float) -> str:
    """ "0.123 s", "1,234 s"."""
    return f"{value:,.0f} s" if value >= 999.5 else f"{value:#.3g}".rstrip(".") + " s"


# Curves by batch size


def batches_of(run: Run, rows: list[Row]) -> list[int]:
    """The batch sizes; at least two with a measured case.  Raises NoDataError."""
    if len({row["batch_size"] for row in rows if "latency_s" in row}) < 2:
        again = f"{run.sweep.name} --set batch_size=1,8,64"
        raise lacks(run, "no two batch sizes that were measured", again)
    return sorted(distinct(rows, "batch_size"))


def curve(ax: Axes, rows: list[Row], look: Look, key: str) -> dict[int, float]:
    """Draws a value by batch size, with crosses at the top where memory ran out; returns it."""
    values = {row["batch_size"]: row[key] for row in rows if key in row}
    ax.plot(list(values), list(values.values()), **look)
    if key == "latency_s":
        draw_lost(ax, {row["batch_size"]: row["status"] for row in rows}, look["color"])
    return values


def heights_of_lost(ax: Any) -> set[float]:
    """Where crosses stand already, as shares of the panel's height."""
    where = ax.get_xaxis_transform()
    return {line.get_ydata()[0] for line in ax.lines if line.get_transform() == where}


def draw_lost(ax: Axes, statuses: dict[int, str], color: str) -> None:
    """Crosses at the top where memory ran out, each curve's below the last one's."""
    height = 0.97 - 0.06 * len(heights_of_lost(ax))
    for x, status in statuses.items():
        if status in looks.LOST_MARKERS:
            look = looks.LOST | {"marker": looks.LOST_MARKERS[status], "color": color}
            ax.plot(x, height, transform=ax.get_xaxis_transform(), **look)


def room_for_lost(ax: Axes) -> None:
    """Widens the log y axis by what the crosses take."""
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** (0.08 * len(heights_of_lost(ax))))


def latency_by_batch(ax: Any, batches: list[int]) -> None:
    """Axes of latency by batch size, with room for the crosses above the curves."""
    logarithmic(ax.xaxis, batches)
    logarithmic(ax.yaxis)
    room_for_lost(ax)
    ax.set(xlabel="batch size", ylabel="latency (s)")
    ax.margins(x=0.08)
    ax.grid()
