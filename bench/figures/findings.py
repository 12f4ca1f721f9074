"""Figures of what the papers found: CoDe's Figure 3 (a) and (c), VARiant's Figure 2 (a).

Each has the paper's own points at the left, as far as it prints them, and this run's measured
FIDs at the right, on an axis of its own: FIDs of another network or reference do not compare.
CoDe's Figure 3 (b) rests on no run: `bench.quality.spectra`.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.figures.canvas import (
    BLACK,
    DOT,
    GREY,
    PURPLE,
    SERIES,
    WIDE,
    finish,
    panels,
    place_labels,
)
from bench.figures.registry import figure
from bench.methods.meta import meta_plan
from bench.methods.plans.code import CoDe
from bench.methods.plans.variant import VARiant
from bench.study import papers
from bench.study.cases import VARCase
from bench.tables.case_rows import NoData, Row, footer, lacks, quality_note, starred
from bench.tables.frames import Run
from codevar.scales import Scales

LEVEL: dict[str, Any] = {"lw": 0.9, "zorder": 1}
PAPER_SIZES = {"2.0B": "d30", "1.0B": "d24", "0.6B": "d20", "0.3B": "d16"}


def evaluated(run: Run, rows: list[Row]) -> list[Row]:
    """The rows with a FID, each case's images once, whatever its batch sizes and stacks."""
    found: dict[str, Row] = {}
    for row in rows:
        if "fid" in row and isinstance(row["case"], VARCase):
            drawn = row["case"].model_dump_json(exclude={"batch_size", "attention", "stack"})
            found.setdefault(drawn, row)
    if not found:
        raise no_fid(run, "no case with a FID")
    return list(found.values())


def no_fid(run: Run, what: str) -> NoData:
    return NoData(f"{run.sweep.name} has {what}; `bench.py reproduce {run.sweep.name}` measures it")


def originals(rows: list[Row]) -> dict[int, float]:
    """FID of each VAR on its own base weights, by depth."""
    found: dict[int, float] = {}
    for row in rows:
        if row["case"].method == "var":
            found.setdefault(row["case"].depth, row["fid"])
    return found


def beside(title: str, unit: str) -> Any:
    """A page with the paper's panel and ours."""
    figure, axes = panels(WIDE, 2.4, 1, 2)
    axes[0].set(title=f"As published: {unit}", ylabel="FID, quoted from the paper")
    axes[1].set(title=title, ylabel="FID, measured")
    for ax in axes:
        ax.grid()
        ax.margins(0.06, 0.1)
    return figure, axes


def resting_on(run: Run, rows: list[Row], *notes: str) -> str:
    """The footer; a busy machine makes no other images."""
    return footer(run, [{**row, "other_load_cores": 0} for row in rows], *notes)


def level(ax: Axes, fid: float, name: str, color: str) -> Line2D:
    return ax.axhline(fid, color=color, label=name, ls="--" if color == GREY else "-", **LEVEL)


# CoDe


@figure("code_figure3a", "Quality by the replaced scale")
def code_figure3a(run: Run, rows: list[Row]) -> Figure:
    """FID where one scale is left to a smaller model, by that scale.  CoDe, Figure 3 (a)."""
    rows = evaluated(run, rows)
    swaps = [row for row in rows if row["case"].method == "swap"]
    if len({row["case"].scale for row in swaps}) < 2:
        raise lacks(run, "no two replaced scales with a FID", "mini_code_table4")
    base = swaps[0]["case"].depth
    swaps = [row for row in swaps if row["case"].depth == base]
    figure, (theirs, ours) = beside(f"This run: VAR-d{base}", "VAR-d30")

    paper = papers.load("code_table4").numbers("fid", "params", "scale")
    level(theirs, min(paper.values()), "", BLACK)
    for look, size in zip(SERIES[1:], ("1.0B", "0.6B", "0.3B"), strict=False):
        line = [(scale, fid) for (params, scale), fid in paper.items() if params == size]
        theirs.plot(*zip(*line, strict=True), **look, label=f"by {PAPER_SIZES[size]}")

    fids, used = originals(rows), [*swaps]
    handles: list[Any] = []
    for depth, color in ((base, BLACK), *((d, GREY) for d in fids if d != base)):
        if depth in fids:
            handles.append(level(ours, fids[depth], f"the {words(depth == base)} alone", color))
            used += [r for r in rows if r["case"].method == "var" and r["case"].depth == depth]
    others = sorted({row["case"].other_depth for row in swaps}, reverse=True)
    for look, other in zip(SERIES[4:], others, strict=False):
        line = sorted((r["case"].scale, r["fid"]) for r in swaps if r["case"].other_depth == other)
        name = f"one scale by d{other}"
        handles += ours.plot(*zip(*line, strict=True), **look, label=name)
    most = max(row["case"].scale_count for row in swaps)
    for ax in (theirs, ours):
        ax.set(xlabel="scale that the smaller model predicts", xticks=range(1, most + 1))
    handles += theirs.get_legend_handles_labels()[0]
    notes = [*quality_note(run, used), "As published: CoDe, Table 4 (scales 2 to 10)."]
    return finish(figure, "Quality by the replaced scale", resting_on(run, used, *notes), handles)


@figure("code_figure3c", "Quality by who drafts")
def code_figure3c(run: Run, rows: list[Row]) -> Figure:
    """FID by draft steps N: a large drafter and a small refiner, and the reverse.

    CoDe, Figure 3 (c) and Table 6; fine-tuned pairs (Table 2) where the run has them.
    """
    rows = evaluated(run, rows)
    pairs = [row for row in rows if type(row["case"]) is CoDe]
    if len({row["case"].draft_steps for row in pairs}) < 2:
        raise lacks(run, "no two draft steps N with a FID", "mini_code_table6")
    big = max(max(row["case"].depths) for row in pairs)
    small = min(min(row["case"].depths) for row in pairs)
    pairs = [row for row in pairs if {*row["case"].depths} == {big, small}]
    figure, (theirs, ours) = beside(f"This run: d{big} and d{small}", "VAR-d30 and d16")
    looks = {
        kind: {"color": look["color"], "marker": look["marker"]}
        for kind, look in zip(
            ("large drafts", "large drafts, fine-tuned", "small drafts"), SERIES[1:], strict=False
        )
    }

    level(theirs, papers.load("code_table1").numbers("fid", "method")["VAR-d30",], "", BLACK)
    for kind, table, method in (
        ("large drafts", "code_table6", "CoDe training-free"),
        ("large drafts, fine-tuned", "code_table2", "CoDe fine-tuned"),
    ):
        paper = papers.load(table).numbers("fid", "method", "draft_steps")
        points = sorted((int(n), fid) for (name, n), fid in paper.items() if name == method)
        theirs.plot(*zip(*points, strict=True), **looks[kind])

    def kind_of(row: Row) -> str:
        if row["case"].depth == small and small != big:
            return "small drafts"
        return f"large drafts{', fine-tuned' if 'finetuned' in row['case'].weights else ''}"

    fids, handles = originals(rows), []
    used = [*pairs, *(r for r in rows if r["case"].method == "var")]
    for depth, color in ((big, BLACK), (small, GREY)):
        if depth in fids:
            handles.append(level(ours, fids[depth], f"the {words(depth == big)} alone", color))
    for kind, look in looks.items():
        line = sorted((r["case"].draft_steps, r["fid"]) for r in pairs if kind_of(r) == kind)
        if line:
            ours.plot(*zip(*line, strict=True), **look)
    handles += [Line2D([], [], **look, label=kind) for kind, look in looks.items()]
    for ax, pyramid in ((theirs, Scales()), (ours, meta_plan(pairs[0]["case"]).scales)):
        drafted = list(itertools.accumulate(pyramid.tokens))
        drafts = range(1, pyramid.K)
        ax.set_xticks(drafts, [f"{n}\n{drafted[n - 1]}" for n in drafts])
        ax.set_xlabel(f"draft steps N, and drafted tokens of {pyramid.L}")
    notes = [*quality_note(run, used), "As published: CoDe, Tables 6 and 2."]
    return finish(figure, "Quality by who drafts", resting_on(run, used, *notes), handles)


def words(large: bool) -> str:
    return "large model" if large else "small model"


# VARiant


@figure("variant_figure2a", "Both networks of a supernet")
def variant_figure2a(run: Run, rows: list[Row]) -> Figure:
    """FID of the subnet against that of all layers, by how the two were trained together.

    VARiant, Figure 2 (a): fixed ratios p of subnet draws, against the three phases.
    """
    rows = evaluated(run, rows)
    subnets = [row for row in rows if type(row["case"]) is VARiant and row["case"].bridge_scales]
    full = {row["case"].model_names(): row for row in rows if row["case"].method == "var"}
    pairs = [(full[n], s) for s in subnets if (n := s["case"].model_names()) in full]
    if len(pairs) < 2:
        raise lacks(run, "no two supernets with a FID of both networks", "mini_variant_table5")
    shape = {(s["case"].subnet_depth, s["case"].bridge_scales) for _, s in pairs}
    some = sorted(shape)[0]
    title = f"This run: d={some[0]}, N={some[1]}" if len(shape) == 1 else "This run"
    figure, (theirs, ours) = beside(title, "VAR-d30, d=16, N=6")
    paper = papers.load("variant_figure2").numbers("fid", "subnet_sampling_ratio", "network")
    points = [
        (paper[ratio, "full"], fid, told_ratio(str(ratio)))
        for (ratio, network), fid in paper.items()
        if network == "subnet"
    ]
    measured = [
        (whole["fid"], sub["fid"], trained(sub["case"], several=len(shape) > 1) + starred(sub))
        for whole, sub in pairs
    ]
    for ax, dots in ((theirs, points), (ours, measured)):
        fixed = sorted((x, y) for x, y, name in dots if name.startswith("p = "))
        if len(fixed) > 1:
            ax.plot(*zip(*fixed, strict=True), color=GREY, lw=0.9, zorder=0)
        for x, y, name in dots:
            ax.plot(x, y, **look_of(name))
        ax.set_xlabel("FID of all layers")
        ax.margins(0.25, 0.25)
    theirs.set_ylabel("FID of the subnet, quoted")
    ours.set_ylabel("FID of the subnet, measured")
    handles = [
        Line2D([], [], **look_of(name) | {"label": label})
        for name, label in (
            ("p = ", "subnet drawn at a fixed ratio p"),
            ("progressive", "progressive"),
            ("training-free", "training-free"),
        )
        if any(dot[2].startswith(name) for dot in (*points, *measured))
    ]
    used = [row for pair in pairs for row in pair]
    notes = [*quality_note(run, used), "As published: VARiant, Section 3.3 and Table 5."]
    finish(
        figure, "Both networks of a supernet, by training", resting_on(run, used, *notes), handles
    )
    for ax, dots in ((theirs, points), (ours, measured)):
        place_labels(ax, dots, [dot[:2] for dot in dots])
    return figure


def told_ratio(ratio: str) -> str:
    return ratio if ratio == "progressive" else f"p = {ratio}"


def trained(case: VARiant, several: bool) -> str:
    """How a supernet was trained, as the name of its run tells ("variant_d4_p0.1")."""
    (name,) = case.model_names()
    ratio = re.search(r"_p(\d\.\d+)\b", name)
    base = {"mini", "published"}
    how = f"p = {ratio[1]}" if ratio else "progressive"
    how = "training-free" if case.weights in base else how
    return how + (f", d={case.subnet_depth} N={case.bridge_scales}" if several else "")


def look_of(name: str) -> dict[str, Any]:
    if name.startswith("p = "):
        return DOT | {"color": GREY, "marker": "o"}
    if name.startswith("training-free"):
        return DOT | {"color": PURPLE, "marker": "s"}
    return DOT | {"color": "#D00000", "marker": "*", "ms": 11}
