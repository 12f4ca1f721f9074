"""Figure 5 of both papers: quality against latency, and what sets the two apart.

Quality is measured here or the papers', and the page says which.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bench.figures import canvas, looks
from bench.figures.looks import BLACK, DOT, GREY, HOLLOW, NARROW, REFERENCE, SERIES, SKY, WIDE
from bench.figures.registry import figure
from bench.figures.scatter import Point, draw_front, draw_point
from bench.study import papers
from bench.study.cases import Case, VARCase
from bench.study.names import is_finetuned, is_training_free, name_of
from bench.tables.case_rows import (
    Row,
    at_common_batch,
    footer,
    lacks,
    quality_note,
    stacks_of,
    starred,
)
from bench.tables.frames import SHOWN, Run

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
    names = {row: str(row[0]) for row in fids}
    theirs = [Point(seconds[r], fids[r], name, looks.family_of(name)) for r, name in names.items()]
    timed = [row for row in rows if "latency_s" in row and "extrapolated" not in row]
    measured = any("fid" in row for row in timed)
    quoted = [row for row in timed if "fid_paper" in row and of_the_papers(row["case"])]
    used = [row for row in timed if "fid" in row] or quoted
    used = at_common_batch(run, used) if used else []
    of_weights = weights_entries(used)
    cases, marked = [row["case"] for row in used], ["weights"] if of_weights else []
    ours = []
    for row in used:
        name = name_of(row["case"], cases, SHOWN, marked) if measured else row["method_paper"]
        other_stack = row["stack"] != stacks_of(used)[0]
        hollow = is_training_free(row["case"]) if of_weights else other_stack
        look = looks.of_case(name, row["case"]) | (HOLLOW if hollow else {})
        fid = row["fid" if measured else "fid_paper"]
        known = row.get("fid_known") if measured else None
        ours.append(Point(row["latency_s"], fid, name + starred(row), look, known))
    both = [theirs, *([ours] if ours else [])]
    # FIDs of another network or reference have an axis of their own.
    drawn, axes = canvas.panels(WIDE, 2.8, 1, len(both), sharey=not measured)
    for ax, points in zip(axes, both, strict=True):
        draw_front(ax, points)
        for point in points:
            draw_point(ax, point)
        ax.margins(0.1, 0.15)
        ax.set_xlabel("latency (s)")
        canvas.logarithmic(ax.xaxis)
        ax.grid()
    axes[0].set(title="As published: NVIDIA L20, batch 64", ylabel="FID, quoted from the paper")
    handles = looks.entries(
        [*(p.look | {"mfc": p.look["color"]} for p in [*theirs, *ours]), looks.FRONT]
    )
    notes = ["As published: CoDe, Table 1 (torch 2.1, fp16)."]
    if ours:
        axes[1].set_title(f"This run, batch {used[0]['batch_size']}")
        axes[1].set_xlabel("latency (s)\nFID quoted from the paper, latency measured here")
        if measured:
            axes[1].set(xlabel="latency (s)", ylabel="FID, measured")
        handles += of_weights or looks.stack_entries(used)
        notes += quality_note(run, used) if measured else []
        notes.append(footer(run, used))
    named = list(zip(axes, both, strict=True))
    return canvas.finish(drawn, "Quality against latency", " ".join(notes), handles, named)


def weights_entries(rows: list[Row]) -> list[Any]:
    """Legend of the fill of markers, where it can tell fine-tuned rows from training-free ones:
    where both are there, on one stack."""
    cases = [row["case"] for row in rows]
    both = any(map(is_training_free, cases)) and any(map(is_finetuned, cases))
    if not both or len(stacks_of(rows)) > 1:
        return []
    look = DOT | {"color": GREY, "marker": "s"}
    return [looks.entry("fine-tuned", **look), looks.entry("training-free", **look | HOLLOW)]


def of_the_papers(case: Case) -> bool:
    """Whether its models are of the sizes that the papers' figures are of."""
    if isinstance(case, VARCase):
        return case.method == "var" or case.depths in ((30,), (30, 16))
    return True


@figure("code_figure5b", "CoDe: latency by batch size")
def code_figure5b(run: Run, rows: list[Row]) -> Figure:
    """Latency (s) by batch size: VAR-d30, CoDe N=6, VQVAE decoder.  CoDe, Figure 5 (b)."""
    batches, large = canvas.batches_of(run, rows), var_by_depth(run, rows)[-1]
    wanted = {"method": "code", "draft_steps": 6, "depth": large[0]["case"].depth}.items()
    found = [row for row in rows if wanted <= row["case"].model_dump().items()]
    found = [row for row in found if "latency_s" in row]
    if not found:
        raise lacks(run, f"no measured CoDe N=6 beside {large[0]['name']}", "code_figure5")
    drafted = [row for row in rows if row["name"] == found[0]["name"]]
    drawn, shown = canvas.panel_for_each_stack(large + drafted, 2.2)
    names = [large[0]["name"], drafted[0]["name"], "VQVAE decoder"]
    for ax, found in shown:
        lines = [[row for row in found if row["name"] == name] for name in names[:2]]
        slow, fast = (
            canvas.curve(ax, line, SERIES[i], "latency_s") for i, line in enumerate(lines)
        )
        canvas.curve(ax, found, SERIES[2], "vqvae_latency_s")
        canvas.latency_by_batch(ax, batches)
        ax.label_outer()
        both = sorted(slow.keys() & fast.keys())
        for size in {*both[:1], *both[-1:], *({64} & {*both})}:
            ratio = f"{slow[size] / fast[size]:.1f}x"
            ax.vlines(size, fast[size], slow[size], **REFERENCE)
            side = "center" if size == both[0] else "right"  # left of where the curve goes on
            canvas.text_beside(ax, size, slow[size], ratio, xytext=(0, 4), ha=side, va="bottom")
    paper = papers.load("code_figure5").numbers("speedup", "batch_size")
    note = f"The paper (L20): {paper[1,]}x at batch 1, {paper[64,]}x at batch 64."
    handles = [looks.entry(name, **look) for name, look in zip(names, SERIES, strict=False)]
    handles += looks.lost_entries(large + drafted)
    words = footer(run, large + drafted, note)
    return canvas.finish(drawn, "Latency by batch size", words, handles)


def var_by_depth(run: Run, rows: list[Row]) -> list[list[Row]]:
    """The rows of each VAR of which one was measured, by depth.  Raises NoDataError."""
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
    by_depth = var_by_depth(run, rows)
    small, large = by_depth[0], by_depth[-1]
    pair = [row for row in at_common_batch(run, large + small) if "latency_s" in row]
    both = [s for s in stacks_of(pair) if len({r["name"] for r in pair if r["stack"] == s}) == 2]
    if not both:
        raise lacks(run, "no two VAR of different depth, measured alike", "code_figure5")
    pair = [row for row in pair if row["stack"] in both]
    drawn, shown = canvas.panel_for_each_stack(pair, 2.1)
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
        canvas.text_beside(ax, K - 1, top, share, xytext=(0, 3), ha="center", va="bottom")
        ax.vlines(K + 0.2, fast[-1], slow[-1], **REFERENCE)
        middle, times = (slow[-1] + fast[-1]) / 2, f"{slow[-1] / fast[-1]:.1f}x"
        canvas.text_beside(ax, K + 0.2, middle, times, xytext=(3, 0))
        ax.set(xlabel="scale", xlim=(0.3, K + 1.6), ylim=(0, high * 1.18), xticks=k)
        ax.grid(axis="y")
    shown[0][0].set_ylabel("time (ms)")
    shown[0][0].yaxis.set_major_formatter("{x:,.0f}")
    paper = papers.load("code_figure5")
    (last_three,) = paper.numbers("last_three_scales_share").values()
    (ratio,) = paper.numbers("speedup_at_scale_10").values()
    note = f"The paper (batch 64): {last_three:.0%} in the last three scales, {ratio}x at scale 10."
    handles = shown[0][0].get_legend_handles_labels()[0]
    return canvas.finish(drawn, "Time of each scale", footer(run, pair, note), handles)


# VARiant, Figure 5

Config = tuple[int, int]  # subnet depth d and bridge scales N
KNOBS = ("subnet depth d", "bridge scales N")
SHOWN_AT = (16, 6)  # the paper's: by bridge scales at d = 16, by subnet depth at N = 6
CHOSEN = (16, 7)  # by the paper


@dataclass
class Configurations:
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
    def of_rows(cls, run: Run, rows: list[Row]) -> Configurations:
        """FIDs are measured where two subnets of a VAR have one, else the paper's of VAR-d30.
        Raises NoDataError."""
        same = [row for row in rows if row["stack"] == rows[0]["stack"]]
        same = [row for row in same if row["case"].method in ("var", "variant")]
        counts = Counter(r["case"].depth for r in same if is_subnet(r) and "fid" in r)
        depth, evaluated = (counts.most_common(1) or [(30, 0)])[0]
        measured = evaluated > 1
        depth = depth if measured else 30
        used = [row for row in same if row["case"].depth == depth]
        if not any(map(is_subnet, used)):
            raise lacks(run, f"no VARiant of VAR-d{depth}", "variant_figure5")
        measured_mib = any("kv_cache_mib" in row for row in used)
        key = "kv_cache_mib" if measured_mib else "kv_cache_mib_predicted"
        used = at_common_batch(run, used, key)
        fid = by_config(used, "fid") if measured else printed_fid()
        mib = {config: value for config, value in by_config(used, key).items() if config in fid}
        memory_is = "measured" if measured_mib else "predicted"
        fid_is = "measured" if measured else "quoted from the paper"
        notes = quality_note(run, used) if measured else ["FID: VARiant, Table 8."]
        return cls(depth, used, mib, {c: fid[c] for c in mib}, memory_is, fid_is, notes)


def printed_fid() -> dict[Config, float]:
    """FID of the trained subnets by (d, N): VARiant, Table 8."""
    found = papers.load("variant_table8").numbers("fid", "subnet_depth", "bridge_scales")
    return {(int(d), int(n)): fid for (d, n), fid in found.items()}


def is_subnet(row: Row) -> bool:
    """Whether the row is of VARiant."""
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


@figure("variant_figure5a", "VARiant: by subnet depth")
def variant_figure5a(run: Run, rows: list[Row]) -> Figure:
    """FID and KV cache (MiB) by subnet depth d, N=6.  VARiant, Figure 5 (a)."""
    return by_knob(run, rows, 0)


@figure("variant_figure5b", "VARiant: by bridge scales")
def variant_figure5b(run: Run, rows: list[Row]) -> Figure:
    """FID and KV cache (MiB) by bridge scales N, d=16.  VARiant, Figure 5 (b)."""
    return by_knob(run, rows, 1)


def by_knob(run: Run, rows: list[Row], knob: int) -> Figure:
    """FID at the left, KV cache at the right, by d (0) or by N (1); the other as in the paper, or
    else where most was measured."""
    found, other, axis = Configurations.of_rows(run, rows), 1 - knob, KNOBS[knob]
    counts = Counter(config[other] for config in found.mib if config[0] != found.depth)
    at = SHOWN_AT[other]
    at = at if at in counts or not counts else counts.most_common(1)[0][0]
    points = {config[knob]: config for config in sorted(found.mib) if config[other] == at}
    where = f"{KNOBS[other][-1]} = {at}"
    if len(points) < 2:
        what = f"no VARiant of VAR-d{found.depth} at {where} and two {axis}"
        raise lacks(run, what, "variant_figure5")
    drawn, (left,) = canvas.panels(NARROW, 2.0)
    right = left.twinx()
    right.spines["right"].set_visible(True)
    curves = [
        (left, found.fid, f"FID, {found.fid_is}", SERIES[1]),
        (right, found.mib, f"KV cache (MiB),\n{found.memory_is}", SERIES[2] | {"ls": "--"}),
    ]
    handles = []
    for ax, values, label, look in curves:
        shown = [values[point] for point in points.values()]
        handles += ax.plot([*points], shown, **look, label=label.partition(",")[0])
        ax.set_ylabel(label, color=look["color"])
        ax.tick_params(axis="y", colors=look["color"])
        ax.margins(0.08, 0.12)
    left.set(xticks=[*points], xlabel=f"{axis}, at {where}")
    right.yaxis.set_major_formatter("{x:,.0f}")
    words = footer(run, found.used, *found.notes)
    return canvas.finish(drawn, f"Quality and KV cache by {axis}", words, handles)


@figure("variant_figure5c", "VARiant: configurations")
def variant_figure5c(run: Run, rows: list[Row]) -> Figure:
    """FID against KV cache (MiB) for every d and N.  VARiant, Figure 5 (c)."""
    found = Configurations.of_rows(run, rows)
    points = {c: Point(found.mib[c], found.fid[c], f"d={c[0]}, N={c[1]}", {}) for c in found.mib}
    if not points:
        raise lacks(run, "no configuration with a FID", "variant_figure5")
    subnets = [config for config in sorted(points) if config[0] != found.depth]
    sizes = {n: 4 + 1.4 * i for i, n in enumerate(sorted({n for _, n in subnets}))}
    drawn, (ax,) = canvas.panels(WIDE, 2.8)
    draw_front(ax, points.values())
    handles = [looks.entry(**looks.FRONT)]
    depths = sorted({d for d, _ in subnets}, reverse=True)
    for d, look in zip(depths, itertools.cycle(SERIES[1:]), strict=False):
        path = {n: points[d, n] for depth, n in subnets if depth == d}
        ax.plot(*zip(*((p.x, p.y) for p in path.values()), strict=True), color=look["color"], lw=1)
        for n, point in path.items():
            ax.plot(point.x, point.y, **look, ms=sizes[n], mec="white", mew=0.5)
        handles.append(looks.entry(f"d={d}", **look))
    full = [point for config, point in points.items() if config[0] == found.depth]
    for point in full[-1:]:
        name = f"VAR-d{found.depth}"
        ring = DOT | {"mfc": "none", "mec": BLACK, "ms": 13, "marker": "o", "label": name}
        handles += ax.plot(point.x, point.y, **ring)
    grey = DOT | {"color": GREY, "marker": "o"}
    handles += [looks.entry(f"N={n}", **grey | {"ms": ms}) for n, ms in sizes.items()]
    ax.set(xlabel=f"KV cache (MiB), {found.memory_is}", ylabel=f"FID, {found.fid_is}")
    ax.margins(0.05, 0.08)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.grid()
    notes = [*found.notes]
    if CHOSEN in points:
        star = points[CHOSEN]
        look = {"marker": "*", "color": looks.RED, "mec": BLACK, "mew": 0.5, "ms": 13, "ls": ""}
        ax.plot(star.x, star.y, **look, zorder=5)
        less = f", {1 - star.x / full[0].x:.0%} less KV cache" if full else ""
        handles.append(looks.entry(f"d=16, N=7: FID {star.y:.2f}{less}", **look))
        notes.append("Star: the paper's choice, there with 36% less KV cache.")
    return canvas.finish(
        drawn, "Configurations of VARiant", footer(run, found.used, *notes), handles
    )
