"""Figures of what the papers found: CoDe's Figure 3 (a) and (c), VARiant's Figure 2 (a).

Each has the paper's own points at the left, as far as it prints them, and this run's measured
FIDs at the right, on an axis of its own: FIDs of another network or reference do not compare.
CoDe's Figure 3 (b) rests on no run: `bench.quality.spectra`.
"""

import itertools
import re
from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures import canvas, looks
from bench.figures.looks import BLACK, DOT, GREY, SERIES, Look
from bench.figures.registry import figure
from bench.figures.scatter import Point, draw_point
from bench.methods.meta import meta_plan
from bench.methods.plans.code import CoDe
from bench.methods.plans.variant import VARiant
from bench.study import papers
from bench.study.cases import VARCase
from bench.tables.case_rows import NoDataError, Row, footer, lacks, quality_note, starred
from bench.tables.frames import Run
from codevar.scales import Scales

PAPER_SIZES = {"2.0B": "d30", "1.0B": "d24", "0.6B": "d20", "0.3B": "d16"}
#: How the two networks of a supernet were trained together, by how its name begins.
TRAINED: dict[str, Look] = {
    "p = ": {"color": GREY, "marker": "o", "label": "subnet drawn at a fixed ratio p"},
    "progressive": {"color": looks.RED, "marker": "*", "ms": 11, "label": "progressive"},
    "training-free": {"color": looks.PURPLE, "marker": "s", "label": "training-free"},
}


def evaluated(run: Run, rows: list[Row]) -> list[Row]:
    """The rows with a FID, each case's images once, whatever its batch sizes and stacks.
    Raises NoDataError."""
    found: dict[str, Row] = {}
    for row in rows:
        if "fid" in row and isinstance(row["case"], VARCase):
            drawn = row["case"].model_dump_json(exclude={"batch_size", "attention", "stack"})
            found.setdefault(drawn, row)
    if not found:
        name = run.sweep.name
        raise NoDataError(f"{name} has no case with a FID; `bench.py reproduce {name}` measures it")
    return list(found.values())


def two_panels(title: str, unit: str, whose: str = "FID") -> Any:
    """A page with the paper's panel and ours."""
    drawn, axes = canvas.panels(looks.WIDE, 2.4, 1, 2)
    axes[0].set(title=f"As published: {unit}", ylabel=f"{whose}, quoted from the paper")
    axes[1].set(title=title, ylabel=f"{whose}, measured")
    for ax in axes:
        ax.grid()
        ax.margins(0.06, 0.1)
    return drawn, axes


def words_below(run: Run, rows: list[Row], published: str) -> str:
    """The footer; a busy machine makes no other images."""
    notes = [*quality_note(run, rows), f"As published: {published}."]
    return footer(run, [{**row, "other_load_cores": 0} for row in rows], *notes)


def draw_fids(ax: Axes, rows: Iterable[Row], key: str, look: Look) -> list[Any]:
    """FID by a key of the case, with its interval; returns the legend's entry."""
    line = sorted(rows, key=lambda row: getattr(row["case"], key))
    xs = [getattr(row["case"], key) for row in line]
    for x, row in zip(xs, line, strict=True):
        if "fid_low" in row:
            ax.vlines(x, row["fid_low"], row["fid_high"], color=look["color"], lw=0.8)
    return ax.plot(xs, [row["fid"] for row in line], **look)


def draw_alone(ax: Axes, rows: list[Row], depths: Iterable[int], large: int) -> list[Any]:
    """A level for each VAR on its own base weights; returns the legend's entries."""
    fids = {row["case"].depth: row["fid"] for row in reversed(rows) if row["case"].method == "var"}
    handles = []
    for depth in dict.fromkeys(depths):
        if depth in fids:
            size, color, ls = ("large", BLACK, "-") if depth == large else ("small", GREY, "--")
            look: Look = {"color": color, "ls": ls, "lw": 0.9, "zorder": 1}
            handles.append(ax.axhline(fids[depth], label=f"the {size} model alone", **look))
    return handles


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
    drawn, (theirs, ours) = two_panels(f"This run: VAR-d{base}", "VAR-d30")
    paper = papers.load("code_table4").numbers("fid", "params", "scale")
    theirs.axhline(min(paper.values()), color=BLACK, lw=0.9, zorder=1)
    for look, size in zip(SERIES[1:], ("1.0B", "0.6B", "0.3B"), strict=False):
        line = [(scale, fid) for (params, scale), fid in paper.items() if params == size]
        theirs.plot(*zip(*line, strict=True), **look, label=f"by {PAPER_SIZES[size]}")
    alone = [row for row in rows if row["case"].method == "var"]
    handles = draw_alone(ours, rows, [base, *(row["case"].depth for row in alone)], base)
    others = sorted({row["case"].other_depth for row in swaps}, reverse=True)
    for look, other in zip(SERIES[4:], others, strict=False):
        same = [row for row in swaps if row["case"].other_depth == other]
        handles += draw_fids(ours, same, "scale", look | {"label": f"one scale by d{other}"})
    most = max(row["case"].scale_count for row in swaps)
    for ax in (theirs, ours):
        ax.set(xlabel="scale that the smaller model predicts", xticks=range(1, most + 1))
    handles += theirs.get_legend_handles_labels()[0]
    words = words_below(run, swaps + alone, "CoDe, Table 4 (scales 2 to 10)")
    return canvas.finish(drawn, "Quality by the replaced scale", words, handles)


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
    drawn, (theirs, ours) = two_panels(f"This run: d{big} and d{small}", "VAR-d30 and d16")
    kinds = ("large drafts", "large drafts, fine-tuned", "small drafts")
    by_kind = dict(zip(kinds, SERIES[1:], strict=False))
    alone = papers.load("code_table1").numbers("fid", "method")["VAR-d30",]
    theirs.axhline(alone, color=BLACK, lw=0.9, zorder=1)
    tables = ("code_table6", "CoDe training-free"), ("code_table2", "CoDe fine-tuned")
    for kind, (table, method) in zip(kinds, tables, strict=False):
        paper = papers.load(table).numbers("fid", "method", "draft_steps")
        points = sorted((int(n), fid) for (name, n), fid in paper.items() if name == method)
        theirs.plot(*zip(*points, strict=True), **by_kind[kind])

    def kind_of(row: Row) -> str:
        if row["case"].depth == small and small != big:
            return "small drafts"
        return f"large drafts{', fine-tuned' if 'finetuned' in row['case'].weights else ''}"

    handles = draw_alone(ours, rows, [big, small], big)
    for kind, look in by_kind.items():
        if line := [row for row in pairs if kind_of(row) == kind]:
            draw_fids(ours, line, "draft_steps", look)
    handles += [looks.entry(kind, **look) for kind, look in by_kind.items()]
    for ax, pyramid in ((theirs, Scales()), (ours, meta_plan(pairs[0]["case"]).scales)):
        drafted = list(itertools.accumulate(pyramid.tokens))
        drafts = range(1, pyramid.K)
        ax.set_xticks(drafts, [f"{n}\n{drafted[n - 1]}" for n in drafts])
        ax.set_xlabel(f"draft steps N, and drafted tokens of {pyramid.L}")
    used = [*pairs, *(row for row in rows if row["case"].method == "var")]
    words = words_below(run, used, "CoDe, Tables 6 and 2")
    return canvas.finish(drawn, "Quality by who drafts", words, handles)


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
    shapes = {(s["case"].subnet_depth, s["case"].bridge_scales) for _, s in pairs}
    several, (d, n) = len(shapes) > 1, min(shapes)
    title = "This run" if several else f"This run: d={d}, N={n}"
    drawn, axes = two_panels(title, "VAR-d30, d=16, N=6", "FID of the subnet")
    paper = papers.load("variant_figure2").numbers("fid", "subnet_sampling_ratio", "network")
    theirs = []
    for (ratio, network), fid in paper.items():
        if network == "subnet":
            name = str(ratio) if ratio == "progressive" else f"p = {ratio}"
            theirs.append(Point(paper[ratio, "full"], fid, name, look_of(name)))
    ours = []
    for whole, sub in pairs:
        name = trained(sub["case"], several) + starred(sub)
        interval = sub.get("fid_low"), sub.get("fid_high")
        ours.append(Point(whole["fid"], sub["fid"], name, look_of(name), *interval))
    named = list(zip(axes, (theirs, ours), strict=True))
    for ax, points in named:
        fixed = sorted((p.x, p.y) for p in points if p.name.startswith("p = "))
        if len(fixed) > 1:
            ax.plot(*zip(*fixed, strict=True), color=GREY, lw=0.9, zorder=0)
        for point in points:
            draw_point(ax, point)
        ax.set_xlabel("FID of all layers")
        ax.margins(0.25, 0.25)
    handles = looks.entries(point.look for point in [*theirs, *ours])
    words = words_below(run, [*itertools.chain(*pairs)], "VARiant, Section 3.3 and Table 5")
    title = "Both networks of a supernet, by training"
    return canvas.finish(drawn, title, words, handles, named)


def trained(case: VARiant, several: bool) -> str:
    """How a supernet was trained, as the name of its run tells ("variant_d4_p0.1")."""
    (name,) = case.model_names()
    ratio = re.search(r"_p(\d\.\d+)\b", name)
    how = f"p = {ratio[1]}" if ratio else "progressive"
    how = "training-free" if case.weights in {"mini", "published"} else how
    return how + (f", d={case.subnet_depth} N={case.bridge_scales}" if several else "")


def look_of(name: str) -> Look:
    """How a supernet trained in that way is drawn."""
    return DOT | next(look for start, look in TRAINED.items() if name.startswith(start))
