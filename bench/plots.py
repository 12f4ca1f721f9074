"""Figures of a run as PNG and PDF: what any run shows, and Figure 5 of both papers.

A figure is one function that takes the run and its rows and returns a page; FIGURES names them.
Latency is measured here; memory is measured or predicted and quality measured or the papers', and
the page says which.  Random weights have no quality.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation

from bench import tables
from bench.cases import Case, UsageError, VARCase, meta_plan
from bench.findings import FINDINGS
from bench.pages import (
    BLACK,
    BLUE,
    BRIDGES,
    DOT,
    FRONT,
    GREY,
    LEFT,
    LOST,
    NARROW,
    PART_NAMES,
    PARTS,
    PREDICTED,
    SCALE_COLORS,
    SERIES,
    SKY,
    STACK_COLORS,
    STACK_LINES,
    STYLE,
    VERMILLION,
    WIDE,
    NoData,
    Row,
    at_common_batch,
    bar,
    baseline_name,
    beside,
    distinct,
    finish,
    footer,
    horizontal,
    lacks,
    logarithmic,
    lost_handle,
    make_room,
    panels,
    place_labels,
    quality_note,
    rows_of,
    seconds,
    stack_handles,
    stack_panels,
    stacks_of,
    starred,
)
from bench.scaling import scaling
from bench.tables import Run


def draw(run: Run, names: list[str], out: Path) -> list[Path]:
    """Draws the named figures, by default the experiment's, into `out`; returns the files.

    Of the experiment's own figures those that the run has no data for are left out.
    Raises UsageError for an unknown name, for a lack of data, and where `out` cannot be written.
    """
    defaults = run.sweep.experiment.figures or GENERIC
    asked = list(dict.fromkeys(names or defaults))
    for name in asked:
        if name not in FIGURES:
            raise UsageError(f"figure {name}: no such figure; there are {', '.join(FIGURES)}")
    rows, paths, lacking = rows_of(run), [], []
    with matplotlib.rc_context(STYLE):
        for name in asked:
            try:
                figure = FIGURES[name](run, rows)
            except NoData as e:
                lacking.append(NoData(f"figure {name}: {e}"))
            else:
                paths += save(figure, out / f"{run.sweep.name}-{name}")
    if lacking and (asked != defaults or not paths):
        raise lacking[0]
    return paths


def save(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "pdf")]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for path in paths:
            drawn = io.BytesIO()
            undated = {"CreationDate": None} if path.suffix == ".pdf" else None
            figure.savefig(drawn, format=path.suffix[1:], metadata=undated)
            path.write_bytes(drawn.getvalue())
    except OSError as e:
        raise UsageError(f"{stem.parent}: cannot be written ({e.strerror}); choose --out") from None
    return paths


# Figures of any run


def speed(run: Run, rows: list[Row]) -> Figure:
    """Latency (s) of each method on each stack; at the bar the speed-up over the baseline."""
    rows = at_common_batch(run, rows)
    names, stacks, base = distinct(rows, "name"), stacks_of(rows), baseline_name(run, rows)
    figure, (ax,) = panels(WIDE, 0.4 + len(names) * (0.1 + 0.17 * len(stacks)))
    thick, labels = 0.8 / len(stacks), []
    for row in rows:
        y = names.index(row["name"]) + (stacks.index(row["stack"]) - (len(stacks) - 1) / 2) * thick
        latency, look = row.get("latency_s", 0), {"color": STACK_COLORS[row["stack"]]}
        words = [seconds(latency) if latency else row["status"].replace("oom", "OOM")]
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


def scales(run: Run, rows: list[Row]) -> Figure:
    """Latency (s) of each scale, stacked; a mark where the model or its layers change."""
    rows, note = with_scales(run, rows)
    rows = [row for row in at_common_batch(run, rows) if "latency_s" in row]
    names, totals, numbers = distinct(rows, "name"), [], []
    height = len(stacks_of(rows)) * (0.25 + 0.22 * len(names)) + 0.2
    figure, shown = stack_panels(rows, height, down=True)
    for ax, bars in shown:
        horizontal(ax, names, "latency (s)" if ax is shown[-1][0] else "")
        for row in bars:
            y, lengths = names.index(row["name"]), row["scale_latency_s"]
            looks = [{"color": color, "ec": "white", "lw": 0.3} for color in SCALE_COLORS]
            ends = np.cumsum([0, *lengths])
            totals.append(bar(ax, y, zip(lengths, looks, strict=True), seconds(row["latency_s"])))
            steps = meta_plan(row["case"]).steps
            changes = [ends[k] for k in range(1, len(steps)) if steps[k] != steps[k - 1]]
            for color, width in (("white", 3.4), (VERMILLION, 1.8)):
                ax.vlines(changes, y - 0.47, y + 0.47, color=color, lw=width)
            numbers += [(ax, y, k, *ends[k - 1 : k + 1]) for k in range(1, len(ends))]
    handles: list[Any] = [Patch(color=c, label=f"{k}") for k, c in enumerate(SCALE_COLORS, 1)]
    handles.append(Line2D([], [], color=VERMILLION, lw=1.8, label="hand-over"))
    finish(figure, "Latency by scale, 1 to 10", footer(run, rows, *note), handles)
    make_room(shown[-1][0], totals)
    for ax, y, k, start, end in numbers:  # the number of the scale, where there is room for it
        if np.ptp(ax.transData.transform([(start, y), (end, y)])[:, 0]) > 15 * figure.dpi / 72:
            look: Any = {"ha": "center", "va": "center_baseline"}
            ax.text((start + end) / 2, y, k, color=BLACK if k <= 5 else "white", **look)
    return figure


def with_scales(run: Run, rows: list[Row]) -> tuple[list[Row], list[str]]:
    """The rows of methods that have scales, and a word on those that have not."""
    scaled = [row for row in rows if isinstance(row["case"], VARCase)]
    if not scaled:
        raise lacks(run, "no method with scales", "quick")
    others = distinct([row for row in rows if row not in scaled], "name")
    return scaled, [f"Without scales: {', '.join(others)}."] if others else []


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
        if row["status"] == "oom":
            words = f"OOM, needs {words}"
    if row.get("status_paper") == "oom":
        words += " (paper OOM)"
    elif "total_mib_paper" in row:
        words += f" (paper {row['total_mib_paper']:,.0f})"
    return bar(ax, y, parts, words)


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
    end, edges = "" if known else "_predicted", np.arange(0.5, 11)
    for ax, row in zip(axes, rows, strict=False):
        weights = row[f"params_mib{end}"]
        peak = np.array(row[f"peak_by_scale_mib{end}"]) - weights
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
        ax.set(xticks=range(1, 11), xlim=(0.3, 10.8))
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
    handles += stack_handles(rows) + lost_handle(rows)
    return finish(figure, "Latency by batch size", footer(run, rows), handles)


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


# CoDe, Figure 5


def code_figure5a(run: Run, rows: list[Row]) -> Figure:
    """FID against latency (s): CoDe, Table 1 (L20, batch 64); this run beside it.

    This run's FID is measured where evaluations have it; without any the rows that repeat a row
    of a paper have that row's.
    """
    table = tables.paper_rows("code_table1")
    dots = [[(float(r["latency_s"]), float(r["fid"]), r["method"], "published") for r in table]]
    timed = [row for row in rows if "latency_s" in row and "extrapolated" not in row]
    ours = [row for row in timed if "fid" in row]
    measured = bool(ours)
    if not measured:
        ours = [row for row in timed if "fid_paper" in row and of_the_papers(row["case"])]
    if ours:
        ours = at_common_batch(run, ours)
        fid, method = ("fid", "name") if measured else ("fid_paper", "method_paper")
        dots += [[(r["latency_s"], r[fid], r[method] + starred(r), r["stack"]) for r in ours]]
    # FIDs of another network or reference have an axis of their own.
    figure, axes = panels(WIDE, 2.8, 1, len(dots), sharey=not measured)
    for ax, points in zip(axes, dots, strict=True):
        front(ax, [point[:2] for point in points])
        for latency, value, name, stack in points:
            look = family_of(name) | ({} if stack == "published" else {"mfc": "white"})
            ax.plot(latency, value, **look)
        ax.margins(0.1, 0.15)
        ax.set_xlabel("latency (s)")
        logarithmic(ax.xaxis)
        ax.grid()
    axes[0].set(title="As published: NVIDIA L20, batch 64", ylabel="FID, quoted from the paper")
    looks = [family_of(name) for _, _, name, _ in itertools.chain(*dots)]
    families = {look["label"]: look for look in [*looks, FRONT]}
    handles = [Line2D([], [], **look) for look in families.values()]
    notes = ["As published: CoDe, Table 1 (torch 2.1, fp16)."]
    if ours:
        axes[1].set_title(f"This run, batch {ours[0]['batch_size']}")
        axes[1].set_xlabel("latency (s)\nFID quoted from the paper, latency measured here")
        if measured:
            axes[1].set(xlabel="latency (s)", ylabel="FID, measured")
        handles += stack_handles(ours)
        notes += quality_note(run, ours) if measured else []
        notes.append(footer(run, ours))
    finish(figure, "Quality against latency", " ".join(notes), handles)
    for ax, points in zip(axes, dots, strict=True):
        slowest = {name: (latency, value) for latency, value, name, _ in sorted(points)}
        labels = [(*at, short_of(name, slowest)) for name, at in slowest.items()]
        place_labels(ax, labels[::-1], [point[:2] for point in points])
    return figure


def front(ax: Axes, points: list[tuple[float, float]]) -> None:
    """The Pareto front: what no other point beats in both, less being better."""
    best = [p for p in points if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)]
    ax.plot(*zip(*sorted(best), strict=True), **FRONT)


def short_of(name: str, names: Iterable[str]) -> str:
    """Without the models in brackets where it is clear without, and without a family that the
    marker tells."""

    def brief(name: str) -> str:
        return re.sub(r" \([^)]*\)", "", name).removeprefix("VARiant-").replace("VAR-Co", "Co")

    alone = [brief(other) for other in names].count(brief(name)) == 1
    return brief(name) if alone else name


def of_the_papers(case: Case) -> bool:
    """Whether its models are of the sizes that the papers' figures are of."""
    if isinstance(case, VARCase):
        return case.method == "var" or case.depths in ((30,), (30, 16))
    return True


def family_of(method: str) -> dict[str, Any]:
    """How the family that a paper's method belongs to is drawn."""
    if "CoDe" in method:
        return DOT | {"label": "CoDe", "color": BLUE, "marker": "s"}
    if method.startswith("VARiant"):
        return DOT | {"label": "VARiant", "color": VERMILLION, "marker": "D"}
    if method.startswith("VAR"):
        return DOT | {"label": "VAR", "color": BLACK, "marker": "o"}
    return DOT | {"label": "others", "color": GREY, "marker": "^"}


def code_figure5b(run: Run, rows: list[Row]) -> Figure:
    """Latency (s) by batch size: VAR-d30, CoDe N=6, VQVAE decoder.  CoDe, Figure 5 (b)."""
    batches, large = batches_of(run, rows), originals(run, rows)[-1]
    wanted = {"method": "code", "draft_steps": 6, "depth": large[0]["case"].depth}.items()
    found = [row for row in rows if wanted <= row["case"].model_dump().items()]
    found = [row for row in found if "latency_s" in row]
    if not found:
        raise lacks(run, f"no measured CoDe N=6 beside {large[0]['name']}", "code_figure5")
    drafted = [row for row in rows if row["name"] == found[0]["name"]]
    figure, shown = stack_panels(large + drafted, 2.2)
    names = [large[0]["name"], drafted[0]["name"], "VQVAE decoder"]
    for ax, found in shown:
        lines = [[row for row in found if row["name"] == name] for name in names[:2]]
        slow, fast = (curve(ax, line, SERIES[i], "latency_s") for i, line in enumerate(lines))
        curve(ax, found, SERIES[2], "vqvae_latency_s")
        by_batch(ax, batches)
        ax.label_outer()
        both = sorted(slow.keys() & fast.keys())
        for size in {*both[:1], *both[-1:], *({64} & {*both})}:
            ratio = f"{slow[size] / fast[size]:.1f}x"
            ax.vlines(size, fast[size], slow[size], color=GREY, lw=0.8, ls=":")
            beside(ax, size, slow[size], ratio, xytext=(0, 4), ha="center", va="bottom")
    paper = paper_figure5()
    note = f"The paper (L20): {paper[0]}x at batch 1, {paper[1]}x at batch 64."
    handles = [Line2D([], [], label=n, **look) for n, look in zip(names, SERIES, strict=False)]
    handles += lost_handle(large + drafted)
    return finish(figure, "Latency by batch size", footer(run, large + drafted, note), handles)


def originals(run: Run, rows: list[Row]) -> list[list[Row]]:
    """The rows of each VAR of which one was measured, by depth."""
    found = [row for row in rows if row["case"].method == "var" and "latency_s" in row]
    if not found:
        raise lacks(run, "no measured VAR", "code_figure5")
    names = {row["case"].depth: row["name"] for row in reversed(found)}
    return [[row for row in rows if row["name"] == names[depth]] for depth in sorted(names)]


def paper_figure5() -> list[float]:
    """Speed-up at batch 1 and 64, share of the last three scales, ratio at scale 10."""
    return [float(row["value"]) for row in tables.paper_rows("code_figure5")]


def code_figure5c(run: Run, rows: list[Row]) -> Figure:
    """Time (ms) of each scale: VAR of the drafter's and of the refiner's depth.

    CoDe, Figure 5 (c): batch 64, the last three scales' share, and the ratio at scale 10.
    """
    small, *_, large = [*originals(run, rows)[:1], *originals(run, rows)]
    pair = [row for row in at_common_batch(run, large + small) if "latency_s" in row]
    both = [s for s in stacks_of(pair) if len({r["name"] for r in pair if r["stack"] == s}) == 2]
    if not both:
        raise lacks(run, "no two VAR of different depth, measured alike", "code_figure5")
    pair = [row for row in pair if row["stack"] in both]
    figure, shown = stack_panels(pair, 2.1)
    high, k = 1000 * max(max(row["scale_latency_s"]) for row in pair), np.arange(1, 11)
    for ax, (big, little) in shown:
        slow, fast = (1000 * np.array(row["scale_latency_s"]) for row in (big, little))
        ax.bar(k - 0.2, slow, 0.38, color=BLACK, label=big["name"])
        ax.bar(k + 0.2, fast, 0.38, color=SKY, label=little["name"])
        top = slow[-3:].max() + high * 0.05
        ends = top - high * 0.02
        ax.plot([7.6, 7.6, 10.4, 10.4], [ends, top, top, ends], color=GREY, lw=0.8)
        share = f"{slow[-3:].sum() / slow.sum():.0%} of {big['name']}"
        beside(ax, 9, top, share, xytext=(0, 3), ha="center", va="bottom")
        ax.vlines(10.2, fast[-1], slow[-1], color=GREY, lw=0.8, ls=":")
        beside(ax, 10.2, (slow[-1] + fast[-1]) / 2, f"{slow[-1] / fast[-1]:.1f}x", xytext=(3, 0))
        ax.set(xlabel="scale", xlim=(0.3, 11.6), ylim=(0, high * 1.18), xticks=k)
        ax.grid(axis="y")
    shown[0][0].set_ylabel("time (ms)")
    shown[0][0].yaxis.set_major_formatter("{x:,.0f}")
    paper = paper_figure5()
    note = (
        f"The paper (batch 64): {paper[2]:.0%} in the last three scales, {paper[3]}x at scale 10."
    )
    handles = shown[0][0].get_legend_handles_labels()[0]
    return finish(figure, "Time of each scale", footer(run, pair, note), handles)


# VARiant, Figure 5

Config = tuple[int, int]  # subnet depth d and bridge scales N


@dataclass
class Trade:
    """A VAR and its subnets at one batch size and on one stack.

    depth: of the VAR.  used: its rows.  mib, fid: by configuration, those that have both; the
    VAR itself is (depth, any N).  memory_is, fid_is: where they are from.  notes: on the FID.
    """

    depth: int
    used: list[Row]
    mib: dict[Config, float]
    fid: dict[Config, float]
    memory_is: str
    fid_is: str
    notes: list[str]

    @classmethod
    def of(cls, run: Run, rows: list[Row]) -> Trade:
        """FIDs are measured where two subnets of a VAR have one, else the paper's of VAR-d30.
        Raises NoData."""
        same = [row for row in rows if row["stack"] == rows[0]["stack"]]
        counts = Counter(r["case"].depth for r in same if is_subnet(r) and "fid" in r)
        depth, evaluated = (counts.most_common(1) or [(30, 0)])[0]
        measured = evaluated > 1
        depth = depth if measured else 30
        used = [r for r in same if r["case"].depth == depth]
        used = [r for r in used if is_subnet(r) or r["case"].method == "var"]
        if not any(map(is_subnet, used)):
            raise lacks(run, f"no VARiant of VAR-d{depth}", "variant_figure5")
        key = "total_mib" if any("total_mib" in row for row in used) else "total_mib_predicted"
        used = at_common_batch(run, used, key)
        fid = by_config(used, "fid") if measured else paper_fid()
        mib = {config: value for config, value in by_config(used, key).items() if config in fid}
        return cls(
            depth,
            used,
            mib,
            {config: fid[config] for config in mib},
            "measured" if key == "total_mib" else "predicted",
            "measured" if measured else "quoted from the paper",
            quality_note(run, used) if measured else ["FID: VARiant, Table 8."],
        )


def is_subnet(row: Row) -> bool:
    return row["case"].method == "variant"


def by_config(rows: list[Row], key: str) -> dict[Config, float]:
    """A value by configuration; that of the VAR itself at every N."""
    bridges = sorted({*BRIDGES, *(row["case"].bridge_scales for row in rows if is_subnet(row))})
    found: dict[Config, float] = {}
    for case, value in ((row["case"], row[key]) for row in rows if key in row):
        if case.method == "variant":
            found[case.subnet_depth, case.bridge_scales] = value
        else:
            found |= {(case.depth, n): value for n in bridges}
    return found


def most(values: Iterable[int], wanted: int) -> int:
    """The wanted one if it is there, else the most frequent."""
    counts = Counter(values)
    return wanted if wanted in counts or not counts else counts.most_common(1)[0][0]


def variant_figure5a(run: Run, rows: list[Row]) -> Figure:
    """FID and memory (MiB) by subnet depth d, N=6.  VARiant, Figure 5 (a)."""
    trade = Trade.of(run, rows)
    n = most((n for d, n in trade.mib if d != trade.depth), 6)
    points = {d: (d, n) for d, bridges in sorted(trade.mib) if bridges == n}
    return two_axes(run, trade, "subnet depth d", f"N = {n}", points)


def variant_figure5b(run: Run, rows: list[Row]) -> Figure:
    """FID and memory (MiB) by bridge scales N, d=16.  VARiant, Figure 5 (b)."""
    trade = Trade.of(run, rows)
    d = most((d for d, _ in trade.mib if d != trade.depth), 16)
    points = {n: (d, n) for depth, n in sorted(trade.mib) if depth == d}
    return two_axes(run, trade, "bridge scales N", f"d = {d}", points)


def two_axes(run: Run, trade: Trade, axis: str, at: str, points: dict[int, Config]) -> Figure:
    """FID at the left, memory at the right."""
    if len(points) < 2:
        raise lacks(
            run, f"no VARiant of VAR-d{trade.depth} at {at} and two {axis}", "variant_figure5"
        )
    figure, (left,) = panels(NARROW, 2.0)
    right = left.twinx()
    right.spines["right"].set_visible(True)
    memory_label = f"memory (MiB),\n{trade.memory_is}"
    curves = [
        (left, trade.fid, f"FID, {trade.fid_is}", SERIES[1] | {"label": "FID"}),
        (right, trade.mib, memory_label, SERIES[2] | {"label": "memory", "ls": "--"}),
    ]
    for ax, values, label, look in curves:
        ax.plot([*points], [values[point] for point in points.values()], **look)
        ax.set_ylabel(label, color=look["color"])
        ax.tick_params(axis="y", colors=look["color"])
        ax.margins(0.08, 0.12)
    left.set(xticks=[*points], xlabel=f"{axis}, at {at}")
    right.yaxis.set_major_formatter("{x:,.0f}")
    handles = [Line2D([], [], **look) for *_, look in curves]
    notes = footer(run, trade.used, *trade.notes)
    return finish(figure, f"Quality and memory by {axis}", notes, handles)


def variant_figure5c(run: Run, rows: list[Row]) -> Figure:
    """FID against memory (MiB) for every d and N.  VARiant, Figure 5 (c)."""
    trade = Trade.of(run, rows)
    mib, fid = trade.mib, trade.fid
    if not mib:
        raise lacks(run, "no configuration with a FID", "variant_figure5")
    subnets = [config for config in sorted(mib) if config[0] != trade.depth]
    bridges = sorted({n for _, n in subnets})
    sizes = {n: 4 + 1.4 * i for i, n in enumerate(bridges)}
    figure, (ax,) = panels(WIDE, 2.8)
    front(ax, [(mib[config], fid[config]) for config in mib])
    handles = [Line2D([], [], **FRONT)]
    depths = sorted({d for d, _ in subnets}, reverse=True)
    for d, look in zip(depths, itertools.cycle(SERIES[1:]), strict=False):
        path = [config for config in subnets if config[0] == d]
        ax.plot([mib[p] for p in path], [fid[p] for p in path], color=look["color"], lw=1)
        for p in path:
            ax.plot(mib[p], fid[p], **look, ms=sizes[p[1]], mec="white", mew=0.5)
        handles.append(Line2D([], [], **look, label=f"d={d}"))
    full = [config for config in mib if config[0] == trade.depth]
    if full:
        name = f"VAR-d{trade.depth}"
        ring = DOT | {"mfc": "none", "mec": BLACK, "ms": 13, "marker": "o", "label": name}
        handles += ax.plot(mib[full[-1]], fid[full[-1]], **ring)
    dots = DOT | {"color": GREY, "marker": "o"}
    handles += [Line2D([], [], **dots | {"ms": ms, "label": f"N={n}"}) for n, ms in sizes.items()]
    ax.set(xlabel=f"memory (MiB), {trade.memory_is}", ylabel=f"FID, {trade.fid_is}")
    ax.margins(0.05, 0.08)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.grid()
    star = (16, 7)  # the paper's choice
    notes = [*trade.notes]
    if star in mib:
        notes.append("Star: the paper's choice, there with 36% less memory.")
    finish(figure, "Configurations of VARiant", footer(run, trade.used, *notes), handles)
    if star in mib:
        x, y = mib[star], fid[star]
        ax.plot(x, y, marker="*", color="#D00000", mec=BLACK, mew=0.5, ms=13, zorder=5)
        less = f", {1 - x / mib[full[0]]:.0%} less memory" if full else ""
        words = f"d=16, N=7: FID {y:.2f}{less}"
        place_labels(ax, [(x, y, words)], [(mib[point], fid[point]) for point in mib])
    return figure


def paper_fid() -> dict[Config, float]:
    """FID of the trained subnets by (d, N): VARiant, Table 8."""
    table = tables.paper_rows("variant_table8")
    return {(int(r["subnet_depth"]), n): float(r[f"fid_N{n}"]) for r in table for n in BRIDGES}


GENERIC = ["speed", "scales", "memory", "batch"]
CODE = [code_figure5a, code_figure5b, code_figure5c]
VARIANT = [variant_figure5a, variant_figure5b, variant_figure5c]
FIGURES: dict[str, Callable[[Run, list[Row]], Figure]] = {
    figure.__name__: figure
    for figure in [speed, scales, memory, timeline, batch, scaling, *CODE, *VARIANT, *FINDINGS]
}
