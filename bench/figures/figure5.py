"""Figure 5 of both papers: quality against latency, and what sets the two apart.

Quality is measured here or the papers', and the page says which.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.figures.canvas import (
    BLACK,
    DOT,
    FRONT,
    GREY,
    NARROW,
    SERIES,
    SKY,
    WIDE,
    batches_of,
    beside,
    by_batch,
    curve,
    finish,
    logarithmic,
    lost_handles,
    panels,
    place_labels,
    stack_handles,
    stack_panels,
)
from bench.figures.looks import family_of
from bench.figures.registry import figure
from bench.study import papers
from bench.study.cases import Case, VARCase
from bench.study.names import is_finetuned, is_training_free, name_of
from bench.tables.case_rows import (
    SHOWN,
    Row,
    at_common_batch,
    footer,
    lacks,
    quality_note,
    stacks_of,
    starred,
)
from bench.tables.frames import Run

# CoDe, Figure 5


@figure("code_figure5a", "Quality against latency")
def code_figure5a(run: Run, rows: list[Row]) -> Figure:
    """FID against latency (s): CoDe, Table 1 (L20, batch 64); this run beside it.

    This run's FID is measured where evaluations have it; without any the rows that repeat a row
    of a paper have that row's.  White markers are of another stack than the first one, or
    on one stack training-free methods beside fine-tuned ones.
    """
    table = papers.load("code_table1")
    seconds, fids = (table.numbers(name, "method") for name in ("latency_s", "fid"))
    dots = [[(seconds[row], fids[row], str(row[0]), False) for row in fids]]
    timed = [row for row in rows if "latency_s" in row and "extrapolated" not in row]
    ours = [row for row in timed if "fid" in row]
    measured = bool(ours)
    if not measured:
        ours = [row for row in timed if "fid_paper" in row and of_the_papers(row["case"])]
    of_weights: list[Any] = []
    if ours:
        ours = at_common_batch(run, ours)
        of_weights = weights_handles(ours)
        others = stacks_of(ours)[1:]
        cases, marked = [row["case"] for row in ours], ["weights"] if of_weights else []
        dots.append([])
        for row in ours:
            name = name_of(row["case"], cases, SHOWN, marked) if measured else row["method_paper"]
            other = row["stack"] in others
            hollow = is_training_free(row["case"]) if of_weights else other
            fid = row["fid" if measured else "fid_paper"]
            dots[1].append((row["latency_s"], fid, name + starred(row), hollow))
    # FIDs of another network or reference have an axis of their own.
    figure, axes = panels(WIDE, 2.8, 1, len(dots), sharey=not measured)
    for ax, points in zip(axes, dots, strict=True):
        front(ax, [point[:2] for point in points])
        for latency, value, name, hollow in points:
            ax.plot(latency, value, **family_of(name) | ({"mfc": "white"} if hollow else {}))
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
        handles += of_weights or stack_handles(ours)
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


def weights_handles(rows: list[Row]) -> list[Any]:
    """Legend of the fill of markers, where it can tell fine-tuned rows from training-free ones:
    where both are there, on one stack."""
    cases = [row["case"] for row in rows]
    both = any(map(is_training_free, cases)) and any(map(is_finetuned, cases))
    if not both or len(stacks_of(rows)) > 1:
        return []
    looks: dict[str, Any] = {"fine-tuned": {}, "training-free": {"mfc": "white"}}
    return [Line2D([], [], **DOT, color=GREY, marker="s", label=k, **v) for k, v in looks.items()]


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


@figure("code_figure5b", "CoDe: latency by batch size")
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
    paper = papers.load("code_figure5").numbers("speedup", "batch_size")
    note = f"The paper (L20): {paper[1,]}x at batch 1, {paper[64,]}x at batch 64."
    handles = [Line2D([], [], label=n, **look) for n, look in zip(names, SERIES, strict=False)]
    handles += lost_handles(large + drafted)
    return finish(figure, "Latency by batch size", footer(run, large + drafted, note), handles)


def originals(run: Run, rows: list[Row]) -> list[list[Row]]:
    """The rows of each VAR of which one was measured, by depth."""
    found = [row for row in rows if row["case"].method == "var" and "latency_s" in row]
    if not found:
        raise lacks(run, "no measured VAR", "code_figure5")
    names = {row["case"].depth: row["name"] for row in reversed(found)}
    return [[row for row in rows if row["name"] == names[depth]] for depth in sorted(names)]


@figure("code_figure5c", "Time of each scale")
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
    high = 1000 * max(max(row["scale_latency_s"]) for row in pair)
    K = len(pair[0]["scale_latency_s"])
    k = np.arange(1, K + 1)
    for ax, (big, little) in shown:
        slow, fast = (1000 * np.array(row["scale_latency_s"]) for row in (big, little))
        ax.bar(k - 0.2, slow, 0.38, color=BLACK, label=big["name"])
        ax.bar(k + 0.2, fast, 0.38, color=SKY, label=little["name"])
        top = slow[-3:].max() + high * 0.05
        ends = top - high * 0.02
        ax.plot([K - 2.4, K - 2.4, K + 0.4, K + 0.4], [ends, top, top, ends], color=GREY, lw=0.8)
        share = f"{slow[-3:].sum() / slow.sum():.0%} of {big['name']}"
        beside(ax, K - 1, top, share, xytext=(0, 3), ha="center", va="bottom")
        ax.vlines(K + 0.2, fast[-1], slow[-1], color=GREY, lw=0.8, ls=":")
        beside(ax, K + 0.2, (slow[-1] + fast[-1]) / 2, f"{slow[-1] / fast[-1]:.1f}x", xytext=(3, 0))
        ax.set(xlabel="scale", xlim=(0.3, K + 1.6), ylim=(0, high * 1.18), xticks=k)
        ax.grid(axis="y")
    shown[0][0].set_ylabel("time (ms)")
    shown[0][0].yaxis.set_major_formatter("{x:,.0f}")
    paper = papers.load("code_figure5")
    (last_three,) = paper.numbers("last_three_scales_share").values()
    (ratio,) = paper.numbers("speedup_at_scale_10").values()
    note = f"The paper (batch 64): {last_three:.0%} in the last three scales, {ratio}x at scale 10."
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
        measured_mib = any("kv_cache_mib" in row for row in used)
        key = "kv_cache_mib" if measured_mib else "kv_cache_mib_predicted"
        used = at_common_batch(run, used, key)
        fid = by_config(used, "fid") if measured else printed_fid()
        mib = {config: value for config, value in by_config(used, key).items() if config in fid}
        return cls(
            depth,
            used,
            mib,
            {config: fid[config] for config in mib},
            "measured" if measured_mib else "predicted",
            "measured" if measured else "quoted from the paper",
            quality_note(run, used) if measured else ["FID: VARiant, Table 8."],
        )


def printed_fid() -> dict[Config, float]:
    """FID of the trained subnets by (d, N): VARiant, Table 8."""
    found = papers.load("variant_table8").numbers("fid", "subnet_depth", "bridge_scales")
    return {(int(d), int(n)): fid for (d, n), fid in found.items()}


def is_subnet(row: Row) -> bool:
    return row["case"].method == "variant"


def by_config(rows: list[Row], key: str) -> dict[Config, float]:
    """A value by configuration; that of the VAR itself at every N."""
    printed = {n for _, n in printed_fid()}
    bridges = sorted(printed | {row["case"].bridge_scales for row in rows if is_subnet(row)})
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


@figure("variant_figure5a", "VARiant: by subnet depth")
def variant_figure5a(run: Run, rows: list[Row]) -> Figure:
    """FID and KV cache (MiB) by subnet depth d, N=6.  VARiant, Figure 5 (a)."""
    trade = Trade.of(run, rows)
    n = most((n for d, n in trade.mib if d != trade.depth), 6)
    points = {d: (d, n) for d, bridges in sorted(trade.mib) if bridges == n}
    return two_axes(run, trade, "subnet depth d", f"N = {n}", points)


@figure("variant_figure5b", "VARiant: by bridge scales")
def variant_figure5b(run: Run, rows: list[Row]) -> Figure:
    """FID and KV cache (MiB) by bridge scales N, d=16.  VARiant, Figure 5 (b)."""
    trade = Trade.of(run, rows)
    d = most((d for d, _ in trade.mib if d != trade.depth), 16)
    points = {n: (d, n) for depth, n in sorted(trade.mib) if depth == d}
    return two_axes(run, trade, "bridge scales N", f"d = {d}", points)


def two_axes(run: Run, trade: Trade, axis: str, at: str, points: dict[int, Config]) -> Figure:
    """FID at the left, KV cache at the right."""
    if len(points) < 2:
        raise lacks(
            run, f"no VARiant of VAR-d{trade.depth} at {at} and two {axis}", "variant_figure5"
        )
    figure, (left,) = panels(NARROW, 2.0)
    right = left.twinx()
    right.spines["right"].set_visible(True)
    memory_label = f"KV cache (MiB),\n{trade.memory_is}"
    curves = [
        (left, trade.fid, f"FID, {trade.fid_is}", SERIES[1] | {"label": "FID"}),
        (right, trade.mib, memory_label, SERIES[2] | {"label": "KV cache", "ls": "--"}),
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
    return finish(figure, f"Quality and KV cache by {axis}", notes, handles)


@figure("variant_figure5c", "VARiant: configurations")
def variant_figure5c(run: Run, rows: list[Row]) -> Figure:
    """FID against KV cache (MiB) for every d and N.  VARiant, Figure 5 (c)."""
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
    ax.set(xlabel=f"KV cache (MiB), {trade.memory_is}", ylabel=f"FID, {trade.fid_is}")
    ax.margins(0.05, 0.08)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.grid()
    star = (16, 7)  # the paper's choice
    notes = [*trade.notes]
    if star in mib:
        notes.append("Star: the paper's choice, there with 36% less KV cache.")
    finish(figure, "Configurations of VARiant", footer(run, trade.used, *notes), handles)
    if star in mib:
        x, y = mib[star], fid[star]
        ax.plot(x, y, marker="*", color="#D00000", mec=BLACK, mew=0.5, ms=13, zorder=5)
        less = f", {1 - x / mib[full[0]]:.0%} less KV cache" if full else ""
        words = f"d=16, N=7: FID {y:.2f}{less}"
        place_labels(ax, [(x, y, words)], [(mib[point], fid[point]) for point in mib])
    return figure
