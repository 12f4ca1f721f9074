"""Figures of any run: speed, scales, memory, timeline, batch.

Latency is measured here; memory is measured or predicted and quality measured or the papers', and
the page says which.  Random weights have no quality.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation

from bench.figures.canvas import (
    BLACK,
    GREY,
    LEFT,
    NARROW,
    PART_NAMES,
    PARTS,
    PREDICTED,
    SERIES,
    STACK_COLORS,
    STACK_LINES,
    VERMILLION,
    WIDE,
    bar,
    batches_of,
    by_batch,
    curve,
    finish,
    horizontal,
    logarithmic,
    lost_handles,
    make_room,
    panels,
    scale_colors,
    seconds,
    stack_handles,
    stack_panels,
    tell,
)
from bench.figures.registry import figure
from bench.methods.meta import meta_plan
from bench.study.cases import VARCase
from bench.study.records import OUT_OF_MEMORY
from bench.tables.case_rows import (
    Row,
    at_common_batch,
    baseline_name,
    distinct,
    footer,
    lacks,
    stacks_of,
)
from bench.tables.frames import Run


@figure("speed", "Speed", suits="every run")
def speed(run: Run, rows: list[Row]) -> Figure:
    """Latency (s) of each method on each stack; at the bar the speed-up over the baseline."""
    rows = at_common_batch(run, rows)
    names, stacks, base = distinct(rows, "name"), stacks_of(rows), baseline_name(run, rows)
    figure, (ax,) = panels(WIDE, 0.4 + len(names) * (0.1 + 0.17 * len(stacks)))
    thick, labels = 0.8 / len(stacks), []
    for row in rows:
        y = names.index(row["name"]) + (stacks.index(row["stack"]) - (len(stacks) - 1) / 2) * thick
        latency, look = row.get("latency_s", 0), {"color": STACK_COLORS[row["stack"]]}
        status = str(row["status"])
        words = [seconds(latency) if latency else OUT_OF_MEMORY.get(status, status)]
        words += ["(extrapolated)"] if latency and "extrapolated" in row else []
        words += [f"{row['speedup']:.2f}x"] if "speedup" in row else []
        if "speedup_paper" in row and row["stack"] == "published":
            words += [f"(paper {row['speedup_paper']}x)"]
        labels.append(bar(ax, y, [(latency, look)], "   ".join(words), 0.92 * thick))
    horizontal(ax, names, "latency (s)")
    handles = [Patch(color=STACK_COLORS[s], label=f"{s} stack") for s in stacks if len(stacks) > 1]
    same = " on the same stack" if "method" in run.sweep.experiment.baseline else ""
    title = "Latency" + (f", and speed-up over {base}{same}" if base else "")
    finish(figure, title, footer(run, rows), handles)
    make_room(ax, labels)
    return figure


@figure("scales", "Scales", suits="every run")
def scales(run: Run, rows: list[Row]) -> Figure:
    """Latency (s) of each scale, stacked; a mark where the model or its layers change. Point at a
    scale to set it off in every method."""
    rows, note = with_scales(run, rows)
    rows = [row for row in at_common_batch(run, rows) if "latency_s" in row]
    names, totals, numbers = distinct(rows, "name"), [], []
    height = len(stacks_of(rows)) * (0.25 + 0.22 * len(names)) + 0.2
    figure, shown = stack_panels(rows, height, down=True)
    for ax, bars in shown:
        horizontal(ax, names, "latency (s)" if ax is shown[-1][0] else "")
        for row in bars:
            y, lengths = names.index(row["name"]), row["scale_latency_s"]
            looks = [{"color": c, "ec": "white", "lw": 0.3} for c in scale_colors(len(lengths))]
            ends = np.cumsum([0, *lengths])
            totals.append(bar(ax, y, zip(lengths, looks, strict=True), seconds(row["latency_s"])))
            for k, patch in enumerate(ax.patches[-len(lengths) :], 1):
                facts = {"method": row["name"], "scale": f"{k}", "time": seconds(lengths[k - 1])}
                share = f"{lengths[k - 1] / sum(lengths):.1%}"
                tell(patch, facts | {"share": share, "stack": row["stack"]}, series=f"{k}")
            steps = meta_plan(row["case"]).steps
            changes = [ends[k] for k in range(1, len(steps)) if steps[k] != steps[k - 1]]
            for color, width in (("white", 3.4), (VERMILLION, 1.8)):
                ax.vlines(changes, y - 0.47, y + 0.47, color=color, lw=width)
            numbers += [(ax, y, k, *ends[k - 1 : k + 1]) for k in range(1, len(ends))]
    most = max(len(row["scale_latency_s"]) for row in rows)
    handles: list[Any] = [Patch(color=c, label=f"{k}") for k, c in enumerate(scale_colors(most), 1)]
    handles.append(Line2D([], [], color=VERMILLION, lw=1.8, label="hand-over"))
    finish(figure, f"Latency by scale, 1 to {most}", footer(run, rows, *note), handles)
    make_room(shown[-1][0], totals)
    for ax, y, k, start, end in numbers:  # the number of the scale, where there is room for it
        if np.ptp(ax.transData.transform([(start, y), (end, y)])[:, 0]) > 15 * figure.dpi / 72:
            look: Any = {"ha": "center", "va": "center_baseline"}
            ax.text((start + end) / 2, y, k, color=BLACK if 2 * k <= most else "white", **look)
    return figure


def with_scales(run: Run, rows: list[Row]) -> tuple[list[Row], list[str]]:
    """The rows of methods that have scales, and a word on those that have not."""
    scaled = [row for row in rows if isinstance(row["case"], VARCase)]
    if not scaled:
        raise lacks(run, "no method with scales", "quick")
    others = distinct([row for row in rows if row not in scaled], "name")
    return scaled, [f"Without scales: {', '.join(others)}."] if others else []


@figure("memory", "Memory", suits="every run")
def memory(run: Run, rows: list[Row]) -> Figure:
    """Memory (MiB) in the papers' parts, and what shapes predict of it."""
    names, several = distinct(rows, "name"), len(stacks_of(rows)) > 1
    batches = sorted(distinct(rows, "batch_size"))
    kept = batches[:: -math.ceil(len(rows) / 21)][::-1]  # what a page has room for
    figure, (ax,) = panels(WIDE, 1)
    lines: list[str] = []
    labels = []
    for size in kept:
        lines += [f"batch {size}"] if len(kept) > 1 else []
        same = [row for row in rows if row["batch_size"] == size]
        for row in sorted(same, key=lambda row: names.index(row["name"])):
            labels.append(memory_bar(ax, len(lines), row))
            lines.append(row["name"] + (f", {row['stack']}" if several else ""))
    figure.set_size_inches(WIDE, 0.5 + 0.2 * len(lines))
    horizontal(ax, lines, "memory (MiB)")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    for text in ax.get_yticklabels():
        text.set_fontweight("bold" if text.get_text().startswith("batch ") else "normal")
    known = any("total_mib" in row for row in rows)
    handles: list[Any] = [Patch(color=PARTS[part], label=PART_NAMES[part]) for part in PARTS]
    if known:
        handles.append(Line2D([], [], **PREDICTED, label="total, predicted"))
    if any("total_mib" not in row for row in rows):
        handles.append(Patch(fc="white", ec=GREY, hatch="/////", label="predicted only"))
    notes = [] if kept == batches else ["Not all batch sizes are shown."]
    title = "Memory of a decode" if known else "Memory of a decode, predicted from shapes"
    finish(figure, title, footer(run, rows, *notes), handles if known else handles[:3])
    make_room(ax, labels)
    return figure


def memory_bar(ax: Axes, y: float, row: Row) -> Annotation:
    """The parts if measured, else those that shapes tell, hatched."""
    if "total_mib" in row:
        parts = [(row[f"{part}_mib"], {"color": color}) for part, color in PARTS.items()]
        ax.plot(row["total_mib_predicted"], y, **PREDICTED)
        words = f"{row['total_mib']:,.0f}"
    else:
        hatched = {"fc": "white", "hatch": "/////"}
        parts = [(row[f"{part}_mib_predicted"], hatched | {"ec": PARTS[part]}) for part in PARTS]
        words = f"{row['total_mib_predicted']:,.0f}"
        if row["status"] in OUT_OF_MEMORY:
            words = f"{OUT_OF_MEMORY[row['status']]}, needs {words}"
    if row.get("status_paper") == "oom":
        words += " (paper OOM)"
    elif "total_mib_paper" in row:
        words += f" (paper {row['total_mib_paper']:,.0f})"
    return bar(ax, y, parts, words)


@figure("timeline", "Memory by scale", suits="every report")
def timeline(run: Run, rows: list[Row]) -> Figure:
    """Memory (MiB) above the weights by scale, a panel for each method: the most during a scale,
    the KV cache in it, and what is left after it."""
    rows, note = with_scales(run, rows)
    known = any("total_mib" in row for row in rows)
    key = "total_mib" if known else "total_mib_predicted"
    rows = [row for row in at_common_batch(run, rows, key) if key in row]
    several, columns = len(stacks_of(rows)) > 1, min(3, len(rows))
    lines = -(-len(rows) // columns)
    width = WIDE if columns > 1 else NARROW
    figure, axes = panels(width, 0.3 + 1.35 * lines, lines, columns, sharex=True, sharey=True)
    end = "" if known else "_predicted"
    most = max(len(row[f"peak_by_scale_mib{end}"]) for row in rows)
    for ax, row in zip(axes, rows, strict=False):
        weights = row[f"params_mib{end}"]
        peak = np.array(row[f"peak_by_scale_mib{end}"]) - weights
        edges = np.arange(0.5, len(peak) + 1)
        ax.stairs(row[f"kv_cache_by_scale_mib{end}"], edges, fill=True, color=PARTS["kv_cache"])
        ax.stairs(peak, edges, color=BLACK, lw=1, baseline=None)
        if f"live_by_scale_mib{end}" in row:
            live = np.array(row[f"live_by_scale_mib{end}"]) - weights
            ax.plot(edges[1:], live, **LEFT)
        steps = meta_plan(row["case"]).steps
        changes = [k + 0.5 for k in range(1, len(steps)) if steps[k] != steps[k - 1]]
        for change in changes:
            ax.axvline(change, color=VERMILLION, lw=0.8, ls=":")
        ax.set_title(textwrap.fill(row["name"] + (f", {row['stack']}" if several else ""), 30))
        ax.set(xticks=range(1, most + 1), xlim=(0.3, most + 0.8))
        ax.yaxis.set_major_formatter("{x:,.0f}")
        ax.grid(axis="y")
    for ax in axes[len(rows) :]:
        ax.set_axis_off()
    for ax in axes[max(0, len(rows) - columns) : len(rows)]:
        ax.set_xlabel("scale")
        ax.tick_params(labelbottom=True)
    for ax in axes[::columns]:
        ax.set_ylabel("MiB")
    handles = [
        Line2D([], [], color=BLACK, lw=1, label="peak"),
        Patch(color=PARTS["kv_cache"], label="KV cache"),
        Line2D([], [], **LEFT, label="left after the scale"),
        Line2D([], [], color=VERMILLION, lw=0.8, ls=":", label="hand-over"),
    ]
    title = "Memory above the weights, by scale" + ("" if known else ", predicted from shapes")
    return finish(figure, title, footer(run, rows, *note), handles)


@figure("batch", "Batch size", suits="every run")
def batch(run: Run, rows: list[Row]) -> Figure:
    """Latency (s) by batch size, and the speed-up over the baseline."""
    names, base, batches = distinct(rows, "name"), baseline_name(run, rows), batches_of(run, rows)
    figure, axes = panels(WIDE if base else NARROW, 2.2, 1, 2 if base else 1)
    looks = dict(zip(names, itertools.cycle(SERIES), strict=False))
    for name, stack in itertools.product(names, stacks_of(rows)):
        line = [row for row in rows if row["name"] == name and row["stack"] == stack]
        for ax, key in zip(axes, ("latency_s", "speedup"), strict=False):
            curve(ax, line, looks[name] | STACK_LINES[stack], key)
    by_batch(axes[0], batches)
    for ax in axes[1:]:
        logarithmic(ax.xaxis, batches)
        ax.set(xlabel="batch size", ylabel=f"speed-up over {base}", xlim=axes[0].get_xlim())
        ax.grid()
    handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    handles += stack_handles(rows) + lost_handles(rows)
    return finish(figure, "Latency by batch size", footer(run, rows), handles)
