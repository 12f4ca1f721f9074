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
from matplotlib.patches import Patch
from matplotlib.text import Annotation

from bench.figures import canvas, looks
from bench.figures.looks import BLACK, GREY, HAND_OVER, NARROW, PARTS, STACK_COLORS, WIDE
from bench.figures.registry import figure
from bench.methods.meta import meta_plan
from bench.study.cases import VARCase
from bench.study.records import OUT_OF_MEMORY
from bench.tables import case_rows
from bench.tables.case_rows import Row, at_common_batch, distinct, footer, lacks, stacks_of
from bench.tables.frames import Run


@figure("speed", "Speed", suits="every run")
def speed(run: Run, rows: list[Row]) -> Figure:
    """Latency (s) of each method on each stack; at the bar the speed-up over the baseline."""
    rows = at_common_batch(run, rows)
    names, stacks = distinct(rows, "name"), stacks_of(rows)
    base = case_rows.baseline_name(run, rows)
    drawn, (ax,) = canvas.panels(WIDE, 0.4 + len(names) * (0.1 + 0.17 * len(stacks)))
    thick, labels = 0.8 / len(stacks), []
    for row in rows:
        y = names.index(row["name"]) + (stacks.index(row["stack"]) - (len(stacks) - 1) / 2) * thick
        latency, look = row.get("latency_s", 0), {"color": STACK_COLORS[row["stack"]]}
        status = str(row["status"])
        words = [canvas.seconds(latency) if latency else OUT_OF_MEMORY.get(status, status)]
        words += ["(extrapolated)"] if latency and "extrapolated" in row else []
        words += [f"{row['speedup']:.2f}x"] if "speedup" in row else []
        if "speedup_paper" in row and row["stack"] == "published":
            words += [f"(paper {row['speedup_paper']}x)"]
        labels.append(canvas.bar(ax, y, [(latency, look)], "   ".join(words), 0.92 * thick))
    canvas.name_bars(ax, names, "latency (s)")
    handles = [Patch(color=STACK_COLORS[s], label=f"{s} stack") for s in stacks if len(stacks) > 1]
    same = " on the same stack" if "method" in run.sweep.experiment.baseline else ""
    title = "Latency" + (f", and speed-up over {base}{same}" if base else "")
    canvas.finish(drawn, title, footer(run, rows), handles)
    canvas.make_room(ax, labels)
    return drawn


def with_scales(run: Run, rows: list[Row]) -> tuple[list[Row], list[str]]:
    """The rows of methods with scales, and a word on the others.  Raises NoDataError."""
    scaled = [row for row in rows if row["case"].has_scales]
    if not scaled:
        raise lacks(run, "no method with scales", "quick")
    others = distinct([row for row in rows if row not in scaled], "name")
    return scaled, [f"Without scales: {', '.join(others)}."] if others else []


def hand_overs(row: Row) -> list[int]:
    """The scales after which the model or its layers change, as far as that is known."""
    if not isinstance(row["case"], VARCase):
        return []
    steps = meta_plan(row["case"]).steps
    return [k for k in range(1, len(steps)) if steps[k] != steps[k - 1]]


@figure("scales", "Scales", suits="every run")
def scales(run: Run, rows: list[Row]) -> Figure:
    """Latency (s) of each scale, stacked; a mark where the model or its layers change. Point at a
    scale to set it off in every method."""
    rows, note = with_scales(run, rows)
    rows = [row for row in at_common_batch(run, rows) if "latency_s" in row]
    names, totals, numbers = distinct(rows, "name"), [], []
    height = len(stacks_of(rows)) * (0.25 + 0.22 * len(names)) + 0.2
    drawn, shown = canvas.panel_for_each_stack(rows, height, down=True)
    for ax, bars in shown:
        canvas.name_bars(ax, names, "latency (s)" if ax is shown[-1][0] else "")
        for row in bars:
            y, lengths = names.index(row["name"]), row["scale_latency_s"]
            colors = looks.scale_colors(len(lengths))
            parts = [
                (s, {"color": c, "ec": "white", "lw": 0.3})
                for s, c in zip(lengths, colors, strict=True)
            ]
            ends = np.cumsum([0, *lengths])
            totals.append(canvas.bar(ax, y, parts, canvas.seconds(row["latency_s"])))
            for k, patch in enumerate(ax.patches[-len(lengths) :], 1):
                time, share = lengths[k - 1], lengths[k - 1] / sum(lengths)
                facts = {"method": row["name"], "scale": f"{k}", "time": canvas.seconds(time)}
                facts |= {"share": f"{share:.1%}", "stack": row["stack"]}
                canvas.add_tooltip(patch, facts, series=f"{k}")
            changes = [ends[k] for k in hand_overs(row)]
            for color, width in (("white", 3.4), (HAND_OVER["color"], 1.8)):
                ax.vlines(changes, y - 0.47, y + 0.47, color=color, lw=width)
            numbers += [(ax, y, k, *ends[k - 1 : k + 1]) for k in range(1, len(ends))]
    most = max(len(row["scale_latency_s"]) for row in rows)
    shades = enumerate(looks.scale_colors(most), 1)
    handles: list[Any] = [Patch(color=color, label=f"{k}") for k, color in shades]
    handles.append(looks.entry(**HAND_OVER, lw=1.8))
    canvas.finish(drawn, f"Latency by scale, 1 to {most}", footer(run, rows, *note), handles)
    canvas.make_room(shown[-1][0], totals)
    for ax, y, k, start, end in numbers:  # the number of the scale, where there is room for it
        if np.ptp(ax.transData.transform([(start, y), (end, y)])[:, 0]) > 15 * drawn.dpi / 72:
            color = BLACK if 2 * k <= most else "white"
            ax.text((start + end) / 2, y, k, color=color, ha="center", va="center_baseline")
    return drawn


@figure("memory", "Memory", suits="every run")
def memory(run: Run, rows: list[Row]) -> Figure:
    """Memory (MiB) in the papers' parts, and what shapes predict of it."""
    rows = [row for row in rows if "total_mib" in row or "total_mib_predicted" in row]
    names, several = distinct(rows, "name"), len(stacks_of(rows)) > 1
    batches = sorted(distinct(rows, "batch_size"))
    kept = batches[:: -math.ceil(len(rows) / 21)][::-1]  # what a page has room for
    drawn, (ax,) = canvas.panels(WIDE, 1)
    lines: list[str] = []
    labels = []
    for size in kept:
        lines += [f"batch {size}"] if len(kept) > 1 else []
        same = [row for row in rows if row["batch_size"] == size]
        for row in sorted(same, key=lambda row: names.index(row["name"])):
            labels.append(memory_bar(ax, len(lines), row))
            lines.append(row["name"] + (f", {row['stack']}" if several else ""))
    drawn.set_size_inches(WIDE, 0.5 + 0.2 * len(lines))
    canvas.name_bars(ax, lines, "memory (MiB)")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    for text in ax.get_yticklabels():
        text.set_fontweight("bold" if text.get_text().startswith("batch ") else "normal")
    known = any("total_mib" in row for row in rows)
    handles: list[Any] = [Patch(color=PARTS[part], label=looks.PART_NAMES[part]) for part in PARTS]
    if known:
        handles.append(looks.entry("total, predicted", **looks.PREDICTED))
        if any("total_mib" not in row for row in rows):
            handles.append(Patch(fc="white", ec=GREY, hatch="/////", label="predicted only"))
    notes = [] if kept == batches else ["Not all batch sizes are shown."]
    title = "Memory of a decode" if known else "Memory of a decode, predicted from shapes"
    canvas.finish(drawn, title, footer(run, rows, *notes), handles)
    canvas.make_room(ax, labels)
    return drawn


def memory_bar(ax: Axes, y: float, row: Row) -> Annotation:
    """The parts if measured, else those that shapes tell, hatched."""
    if "total_mib" in row:
        parts = [(row[f"{part}_mib"], {"color": color}) for part, color in PARTS.items()]
        if "total_mib_predicted" in row:
            ax.plot(row["total_mib_predicted"], y, **looks.PREDICTED)
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
    return canvas.bar(ax, y, parts, words)


@figure("timeline", "Memory by scale", suits="every report")
def timeline(run: Run, rows: list[Row]) -> Figure:
    """Memory (MiB) above the weights by scale, a panel for each method: the most during a scale,
    the KV cache in it, and what is left after it."""
    rows, note = with_scales(run, rows)
    known = any("total_mib" in row for row in rows)
    end = "" if known else "_predicted"
    rows = [
        row for row in at_common_batch(run, rows, f"total_mib{end}") if f"total_mib{end}" in row
    ]
    several = len(stacks_of(rows)) > 1
    drawn, axes = canvas.panel_for_each(len(rows), 1.5, 3)
    most = max(len(row[f"peak_by_scale_mib{end}"]) for row in rows)
    for ax, row in zip(axes, rows, strict=True):
        weights = row[f"params_mib{end}"]
        peak = np.array(row[f"peak_by_scale_mib{end}"]) - weights
        edges = np.arange(0.5, len(peak) + 1)
        ax.stairs(row[f"kv_cache_by_scale_mib{end}"], edges, fill=True, color=PARTS["kv_cache"])
        ax.stairs(peak, edges, color=BLACK, lw=1, baseline=None)
        if f"live_by_scale_mib{end}" in row:
            ax.plot(edges[1:], np.array(row[f"live_by_scale_mib{end}"]) - weights, **looks.LEFT)
        for k in hand_overs(row):
            ax.axvline(k + 0.5, color=HAND_OVER["color"], lw=0.8, ls=":")
        ax.set_title(textwrap.fill(row["name"] + (f", {row['stack']}" if several else ""), 30))
        ax.set(xticks=range(1, most + 1), xlim=(0.3, most + 0.8), xlabel="scale", ylabel="MiB")
        ax.yaxis.set_major_formatter("{x:,.0f}")
        ax.grid(axis="y")
    handles = [
        looks.entry("peak", color=BLACK, lw=1),
        Patch(color=PARTS["kv_cache"], label="KV cache"),
        looks.entry(**looks.LEFT),
        looks.entry(**HAND_OVER, lw=0.8, ls=":"),
    ]
    title = "Memory above the weights, by scale" + ("" if known else ", predicted from shapes")
    return canvas.finish(drawn, title, footer(run, rows, *note), handles)


@figure("batch", "Batch size", suits="every run")
def batch(run: Run, rows: list[Row]) -> Figure:
    """Latency (s) by batch size, and the speed-up over the baseline."""
    names, base = distinct(rows, "name"), case_rows.baseline_name(run, rows)
    batches = canvas.batches_of(run, rows)
    drawn, axes = canvas.panels(WIDE if base else NARROW, 2.2, 1, 2 if base else 1)
    by_name = looks.by_name(rows)
    for name, stack in itertools.product(names, stacks_of(rows)):
        line = [row for row in rows if row["name"] == name and row["stack"] == stack]
        for ax, key in zip(axes, ("latency_s", "speedup"), strict=False):
            canvas.curve(ax, line, by_name[name] | looks.STACK_LINES[stack], key)
    canvas.latency_by_batch(axes[0], batches)
    for ax in axes[1:]:
        canvas.logarithmic(ax.xaxis, batches)
        ax.set(xlabel="batch size", ylabel=f"speed-up over {base}", xlim=axes[0].get_xlim())
        ax.grid()
    handles = [looks.entry(name, **look) for name, look in by_name.items()]
    handles += looks.stack_entries(rows) + looks.lost_entries(rows)
    return canvas.finish(drawn, "Latency by batch size", footer(run, rows), handles)
