"""The profile's page and picture: the roofline, and time over floor by scale."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures import canvas, looks
from bench.figures.looks import BLACK, GREY, SERIES, STACK_LINES, STYLE, Look
from bench.predict.ceilings import Ceilings, load
from bench.study import printing, storage
from bench.tables import profile
from bench.tables.case_rows import Row, distinct, footer, stacks_of
from bench.tables.frames import Run


def write_profile(run: Run) -> list[Path]:
    """`profile.md`, and the picture as PNG and PDF, into a profile's folder; returns the files.

    Only tables that can be had: none without ceilings.
    """
    assert run.folder is not None
    tables, top = profile.tables_of(run), load(run.folder)
    lines = [f"# Profile of {run.device_name}", "", *profile.about(run)]
    files: list[Path] = []
    if top is not None and profile.rows_with_floor(run, top):
        files = canvas.png_and_pdf(run.folder / profile.PICTURE)
        canvas.save(picture(run, top), files)
        lines += [f"![Roofline and time over floor]({profile.PICTURE}.png)", ""]
    lines += [printing.as_text(table, "md") for table in tables]
    storage.write_text(run.folder / profile.PAGE, "\n".join(lines))
    return [run.folder / profile.PAGE, *files]


@matplotlib.rc_context(STYLE)
def picture(run: Run, ceilings: Ceilings) -> Figure:
    """Above, the roofline: FLOP/s reached by FLOPs per byte moved, a point for each case.
    Below, time over floor by scale, at the smallest and the largest batch."""
    rows = profile.rows_with_floor(run, ceilings)
    names = profile.first_names(rows, len(SERIES))
    rows = [row for row in rows if row["name"] in names]
    batches = sorted(distinct(rows, "batch_size"))
    by_name = dict(zip(names, SERIES, strict=False))
    figure = canvas.blank_page(looks.WIDE, 4.4)
    ends = list(dict.fromkeys([batches[0], batches[-1]]))
    axes: Any = figure.subplot_mosaic([["roof"] * len(ends), [str(batch) for batch in ends]])
    most = max(len(row["over_floor"]) for row in rows)
    times = [over for row in rows for over in row["over_floor"]]
    for batch in ends:
        ax = axes[str(batch)]
        for row in (row for row in rows if row["batch_size"] == batch):
            look = by_name[row["name"]] | STACK_LINES[row["stack"]]
            ax.plot(range(1, len(row["over_floor"]) + 1), row["over_floor"], **look)
        ax.set(title=f"Time over floor, batch {batch}", xlabel="scale", xticks=range(1, most + 1))
        ax.set_ylim(0.9 * min(1, *times), 1.15 * max(times))
        canvas.logarithmic(ax.yaxis)
        ax.axhline(1, color=BLACK, lw=0.8)
        ax.grid()
    axes[str(ends[0])].set_ylabel("time over floor")
    draw_roofline(axes["roof"], rows, by_name, ceilings)
    handles = [looks.entry(name, **look) for name, look in by_name.items()]
    handles += looks.stack_entries(rows)
    note = f"Points from left to right: batch {', '.join(map(str, batches))}."
    floor = "Floor: the larger of FLOPs over rate and bytes over bandwidth."
    title = "What the machine can do, and what the methods reach"
    return canvas.finish(figure, title, footer(run, rows, note, floor), handles)


def draw_roofline(
    ax: Axes, rows: Sequence[Row], by_name: dict[str, Look], ceilings: Ceilings
) -> None:
    """The points, and the roofs of their precisions, named above, where no point can be."""
    points: list[tuple[float, float]] = []
    for name, stack in itertools.product(by_name, stacks_of(rows)):
        line = [row for row in rows if row["name"] == name and row["stack"] == stack]
        line.sort(key=lambda row: row["batch_size"])
        at = [intensity_and_rate(row) for row in line]
        ax.plot(*zip(*at, strict=True), **by_name[name] | STACK_LINES[stack] | {"lw": 0.6})
        points += at
    kinds = distinct(rows, "precision")
    roofs = {kind: ceilings.best(kind).flop_per_s / 1e12 for kind in kinds}
    slope, highest = ceilings.bandwidth / 1e12, max(roofs.values())
    xs = [x for x, _ in points] + [top / slope for top in roofs.values()]
    left, right = min(xs) / 3, max(xs) * 2
    above: Any = {"xytext": (-4, 2), "ha": "right", "va": "bottom"}
    for kind, top in roofs.items():
        x_roof = np.geomspace(left, right, 200)
        ax.plot(x_roof, np.minimum(x_roof * slope, top), color=GREY, lw=1.5, zorder=0)
        canvas.text_beside(ax, right, top, f"{kind}, {top:.3g} TFLOP/s", **above)
    middle = np.sqrt(left * highest / slope)
    canvas.text_beside(ax, middle, middle * slope, profile.bandwidth(ceilings.bandwidth), **above)
    canvas.logarithmic(ax.xaxis)
    canvas.logarithmic(ax.yaxis)
    low = min(left * slope, *(y for _, y in points)) / 1.5
    ax.set(xlim=(left, right), ylim=(low, 2 * highest))
    ax.set(xlabel="FLOP per byte moved", ylabel="TFLOP/s", title="Roofline, whole decodes")
    ax.grid()


def intensity_and_rate(row: Row) -> tuple[float, float]:
    """FLOP per byte moved, and TFLOP/s reached."""
    work = sum(row["floor"].flops)
    return work / sum(row["floor"].bytes), work / row["latency_s"] / 1e12
