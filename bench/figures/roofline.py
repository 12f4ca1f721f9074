"""The profile's page and picture: the roofline, and time over floor by scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.figures import canvas, registry
from bench.figures.canvas import BLACK, GREY, SERIES, STACK_LINES, STYLE, WIDE
from bench.predict.ceilings import Ceilings
from bench.study import printing, storage
from bench.study.printing import Printed
from bench.tables import case_rows
from bench.tables.case_rows import Row
from bench.tables.frames import Run
from bench.tables.profile import PAGE, PICTURE, about, bandwidth, rows_with_floor


def write(printed: Printed, run: Run, ceilings: Ceilings, folder: Path, command: str) -> list[Path]:
    """`profile.md`, and the picture as PNG and PDF, into the run's folder; returns the files."""
    with matplotlib.rc_context(STYLE):
        pictures = registry.save(picture(run, ceilings), folder / PICTURE) if printed.more else []
    lines = [f"# {printed.title.replace('Ceilings of', 'Profile of')}", "", *about(run, command)]
    lines += [f"![Roofline and time over floor]({PICTURE}.png)", ""] if pictures else []
    lines += [printing.as_text(table, "md") for table in (printed, *printed.more)]
    storage.write_text(folder / PAGE, "\n".join(lines))
    return [folder / PAGE, *pictures]


def picture(run: Run, ceilings: Ceilings) -> Figure:
    """Above, the roofline: FLOP/s reached by FLOPs per byte moved, a point for each case.
    Below, time over floor by scale, at the smallest and the largest batch."""
    rows = rows_with_floor(run, ceilings)
    names, batches = (
        case_rows.distinct(rows, "name"),
        sorted(case_rows.distinct(rows, "batch_size")),
    )
    looks = dict(zip(names, SERIES, strict=False))
    figure = Figure(figsize=(WIDE, 4.4))
    FigureCanvasAgg(figure)
    ends = list(dict.fromkeys([batches[0], batches[-1]]))
    axes: Any = figure.subplot_mosaic([["roof"] * len(ends), [str(batch) for batch in ends]])
    shared = [axes[str(batch)] for batch in ends]
    most = max(len(row["over_floor"]) for row in rows)
    for ax, batch in zip(shared, ends, strict=True):
        for row in (row for row in rows if row["batch_size"] == batch):
            look = looks[row["name"]] | STACK_LINES[row["stack"]]
            ax.plot(range(1, len(row["over_floor"]) + 1), row["over_floor"], **look)
        ax.set_title(f"Time over floor, batch {batch}")
        ax.set(xlabel="scale", xticks=range(1, most + 1))
    for ax in shared[1:]:
        ax.sharey(shared[0])
    times = [over for row in rows for over in row["over_floor"]]
    shared[0].set_ylim(0.9 * min(1, *times), 1.15 * max(times))
    for ax in shared:
        canvas.logarithmic(ax.yaxis)
        ax.axhline(1, color=BLACK, lw=0.8)
        ax.grid()
    shared[0].set_ylabel("time over floor")
    labels, points = roofline(axes["roof"], rows, looks, ceilings)
    handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    handles += canvas.stack_handles(rows)
    note = f"Points from left to right: batch {', '.join(map(str, batches))}."
    words = case_rows.footer(
        run, rows, note, "Floor: the larger of FLOPs over rate and bytes over bandwidth."
    )
    canvas.finish(figure, "What the machine can do, and what the methods reach", words, handles)
    canvas.place_labels(axes["roof"], labels, points)
    return figure


def roofline(
    ax: Axes, rows: Sequence[Row], looks: dict[str, Any], ceilings: Ceilings
) -> tuple[list[tuple[float, float, str]], list[tuple[float, float]]]:
    """Draws the points and the roofs of their precisions; returns the roofs' labels, and the
    points that these must not cover."""
    points: list[tuple[float, float]] = []
    for name, look in looks.items():
        for stack in case_rows.stacks_of(rows):
            line = [row for row in rows if row["name"] == name and row["stack"] == stack]
            line.sort(key=lambda row: row["batch_size"])
            at = [intensity_and_rate(row) for row in line]
            ax.plot(*zip(*at, strict=True), **look | STACK_LINES[stack] | {"lw": 0.6})
            points += at
    roofs = {
        kind: ceilings.best(kind).flop_per_s / 1e12
        for kind in case_rows.distinct(rows, "precision")
    }
    slope, highest = ceilings.bandwidth / 1e12, max(roofs.values())
    xs = [x for x, _ in points] + [top / slope for top in roofs.values()]
    left, right = min(xs) / 3, max(xs) * 2
    for top in roofs.values():
        x_roof = np.geomspace(left, right, 200)
        ax.plot(x_roof, np.minimum(x_roof * slope, top), color=GREY, lw=1.5, zorder=0)
    canvas.logarithmic(ax.xaxis)
    canvas.logarithmic(ax.yaxis)
    low = min(left * slope, *(y for _, y in points)) / 1.5
    ax.set(xlim=(left, right), ylim=(low, 2 * highest))
    ax.set(xlabel="FLOP per byte moved", ylabel="TFLOP/s", title="Roofline, whole decodes")
    ax.grid()
    labels = [(right / 2, top, f"{kind}, {top:.3g} TFLOP/s") for kind, top in roofs.items()]
    return [*labels, (left * 1.5, left * 1.5 * slope, bandwidth(ceilings.bandwidth))], points


def intensity_and_rate(row: Row) -> tuple[float, float]:
    """FLOP per byte moved, and TFLOP/s reached."""
    work = sum(row["floor"].flops)
    return work / sum(row["floor"].bytes), work / row["latency_s"] / 1e12
