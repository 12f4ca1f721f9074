"""Figure: cost against quality, and cost against cost: a point for each case or paper's row."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from bench.figures import canvas, looks
from bench.figures.registry import figure
from bench.figures.scatter import Point, draw_front, draw_point
from bench.study import papers
from bench.tables.case_rows import Row, at_common_batch, footer, lacks
from bench.tables.frames import Run

TRADES = [("latency_s", "fid"), ("total_mib", "fid"), ("latency_s", "total_mib")]
TITLES = {"latency_s": "latency (s)", "total_mib": "peak memory (MiB)", "fid": "FID"}
HERE, PAPER = "measured here", "the paper, on its machine"


@figure("tradeoff", "Trade-off", suits="every run")
def tradeoff(run: Run, rows: list[Row]) -> Figure:
    """Cost against quality, and latency against memory. On the line, the Pareto front, nothing is
    better in both. Hollow points are the paper's, on its machine; crosses are controls. Point at
    one to read its row."""
    used = [row for row in at_common_batch(run, rows) if "latency_s" in row]
    cases = [case_facts(row) for row in used] + paper_facts(run.sweep.experiment.paper)
    if not trades_of(cases):
        raise lacks(run, "no two cases to hold against each other", run.sweep.name)
    quoted = any(case.get("fid_by") == "quoted" for case in cases)
    notes = ["FID is quoted from the paper."] if quoted else []
    return draw(cases, footer(run, used, *notes))


def trades_of(cases: Sequence[Row]) -> list[tuple[str, str]]:
    """The figures that at least two cases have both of."""
    return [(x, y) for x, y in TRADES if sum(x in case and y in case for case in cases) > 1]


@matplotlib.rc_context(looks.STYLE)
def draw(cases: Sequence[Row], foot: str) -> Figure:
    """A panel for each of `trades_of` the cases, of which there is one at least."""
    trades = trades_of(cases)
    drawn, axes = canvas.panels(looks.WIDE, 2.9 * len(trades), len(trades))
    named = []
    for ax, (x, y) in zip(axes, trades, strict=True):
        known = [case for case in cases if x in case and y in case]
        points = [point_of(case, x, y) for case in known]
        pairs = sorted(zip(known, points, strict=True), key=lambda pair: compared_with(pair[0], y))
        for _, alike in itertools.groupby(pairs, key=lambda pair: compared_with(pair[0], y)):
            draw_front(ax, [point for _, point in alike])
        for case, point in zip(known, points, strict=True):
            canvas.add_tooltip(draw_point(ax, point), tooltip(case, x, y))
        canvas.logarithmic(ax.xaxis)
        if y != "fid":
            canvas.logarithmic(ax.yaxis)
        ax.set(xlabel=TITLES[x], ylabel=TITLES[y])
        ax.margins(0.1, 0.15)
        ax.grid()
        named.append((ax, points))
    families = [looks.of_case(case["name"], case.get("case")) for case in cases]
    handles = looks.entries([*families, looks.FRONT])
    if any(case["by"] == PAPER for case in cases):
        grey = looks.DOT | {"color": looks.GREY, "marker": "o"} | looks.HOLLOW
        handles.append(looks.entry("the paper's", **grey))
    if any(case.get("control_of") for case in cases):
        handles.append(
            looks.entry("a control", **looks.DOT | {"color": looks.GREY}, **looks.CONTROL)
        )
    return canvas.finish(drawn, "Trade-off", foot, handles, named)


def case_facts(row: Row) -> Row:
    """What the figure knows of a case; its FID is the paper's where none was measured."""
    found = {
        key: row[key]
        for key in ("name", "case", "stack", *TITLES, "fid_known", "control_of")
        if key in row
    }
    if "fid" in row:
        found["fid_by"] = "measured"
    elif isinstance(quoted := row.get("fid_paper"), float):
        found |= {"fid": quoted, "fid_by": "quoted"}
    return found | {"by": HERE}


def paper_facts(paper: str | None) -> list[Row]:
    """The rows of the experiment's table of a paper, as far as they have numbers."""
    found = []
    for printed in papers.load(paper).rows if paper else []:
        columns = printed.columns
        values = {key: columns.get(f"{key}_paper") for key in TITLES}
        numbers = {key: value for key, value in values.items() if isinstance(value, float)}
        batch = f", batch {columns['batch_size_paper']}" if "batch_size_paper" in columns else ""
        found.append({**numbers, "name": printed.label + batch, "by": PAPER, "fid_by": "quoted"})
    return found


def point_of(case: Row, x: str, y: str) -> Point:
    """The case's marker: hollow if it is the paper's, a cross if it is a control."""
    look = looks.of_case(case["name"], case.get("case"))
    look |= looks.HOLLOW if case["by"] == PAPER else {}
    look |= looks.CONTROL if case.get("control_of") else {}
    return Point(case[x], case[y], case["name"], look, case.get(f"{y}_known"))


def compared_with(case: Row, y: str) -> tuple[str, ...]:
    """Only cases for which this is the same share a front: who measured, on which stack, and for
    FIDs from which source."""
    return case["by"], case.get("stack", ""), case["fid_by"] if y == "fid" else ""


def tooltip(case: Row, *keys: str) -> dict[str, str]:
    """What a reader is told who points at the marker."""
    numbers = {TITLES[key]: case[key] for key in keys}
    values = {k: f"{x:,.0f}" if x >= 1000 else f"{x:.4g}" for k, x in numbers.items()}
    stack = {"stack": case["stack"]} if "stack" in case else {}
    source = {"FID is": case["fid_by"]} if "fid" in keys else {}
    source |= {"control of": case["control_of"]} if case.get("control_of") else {}
    return {"method": case["name"], **values, **stack, "how": case["by"], **source}
