"""Figure: cost against quality, and cost against cost: a point for each case or paper's row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.figures import canvas
from bench.figures.figure5 import short_of
from bench.figures.looks import family_of
from bench.figures.registry import figure
from bench.study import papers
from bench.tables.case_rows import Row, at_common_batch, footer, lacks
from bench.tables.frames import Run

TRADES = [("latency_s", "fid"), ("total_mib", "fid"), ("latency_s", "total_mib")]
TITLES = {"latency_s": "latency (s)", "total_mib": "peak memory (MiB)", "fid": "FID"}
HERE, PAPER = "measured here", "the paper, on its machine"


@figure("tradeoff", "Trade-off", suits="every run")
def tradeoff(run: Run, rows: list[Row]) -> Figure:
    """Cost against quality, and latency against memory. On the line, the Pareto front, nothing is
    better in both. Hollow points are the paper's, on its machine. Point at one to read its row."""
    used = [row for row in at_common_batch(run, rows) if "latency_s" in row]
    points = [point_of(row) for row in used] + paper_points(run.sweep.experiment.paper)
    trades = [(x, y) for x, y in TRADES if sum(x in p and y in p for p in points) > 1]
    if not trades:
        raise lacks(run, "no two cases to hold against each other", run.sweep.name)
    drawn, axes = canvas.panels(canvas.WIDE, 2.9 * len(trades), len(trades))
    families: dict[str, dict[str, Any]] = {}
    labelled = []
    words = {point["name"] for point in points}
    for ax, (x, y) in zip(axes, trades, strict=True):
        known = [point for point in points if x in point and y in point]
        best = front(known, x, y)
        for kind in dict.fromkeys(map(alike, best)):
            line = sorted((p[x], p[y]) for p in best if alike(p) == kind)
            ax.plot(*zip(*line, strict=True), drawstyle="steps-post", **canvas.FRONT)
        for point in known:
            look = family_of(point["name"])
            families[look["label"]] = look
            fill = {"mfc": "white"} if point["by"] == PAPER else {}
            (dot,) = ax.plot(point[x], point[y], **look | fill)
            canvas.tell(dot, told(point, x, y))
        canvas.logarithmic(ax.xaxis)
        if y != "fid":
            canvas.logarithmic(ax.yaxis)
        ax.set(xlabel=TITLES[x], ylabel=TITLES[y])
        ax.margins(0.1, 0.15)
        ax.grid()
        names = {p["name"]: (p[x], p[y], short_of(p["name"], words)) for p in best}
        labelled.append((ax, [*names.values()], [(p[x], p[y]) for p in known]))
    handles = [Line2D([], [], **look) for look in families.values()]
    handles.append(Line2D([], [], **canvas.FRONT))
    if any(point["by"] == PAPER for point in points):
        hollow = canvas.DOT | {"color": canvas.GREY, "marker": "o", "mfc": "white"}
        handles.append(Line2D([], [], **hollow, label="the paper's"))
    quoted = ["FID is quoted from the paper." for p in points if p.get("fid_by") == "quoted"][:1]
    canvas.finish(drawn, "Trade-off", footer(run, used, *quoted), handles)
    for ax, labels, markers in labelled:
        canvas.place_labels(ax, labels, markers)
    return drawn


def point_of(row: Row) -> Row:
    """What the figure knows of a case; its FID is the paper's where none was measured."""
    point = {key: row[key] for key in ("name", "stack", *TITLES) if key in row}
    if "fid" in row:
        point["fid_by"] = "measured"
    elif isinstance(quoted := row.get("fid_paper"), float):
        point |= {"fid": quoted, "fid_by": "quoted"}
    return point | {"by": HERE}


def paper_points(paper: str | None) -> list[Row]:
    """The rows of the experiment's table of a paper, as far as they have numbers."""
    found = []
    for printed in papers.load(paper).rows if paper else []:
        columns = printed.columns
        values = {key: columns.get(f"{key}_paper") for key in TITLES}
        numbers = {key: value for key, value in values.items() if isinstance(value, float)}
        batch = f", batch {columns['batch_size_paper']}" if "batch_size_paper" in columns else ""
        name = printed.label + batch
        found.append({**numbers, "name": name, "by": PAPER, "fid_by": "quoted"})
    return found


def alike(point: Row) -> tuple[Any, ...]:
    """Only points for which this is the same are held against each other."""
    return point["by"], point.get("stack")


def front(points: Sequence[Row], x: str, y: str) -> list[Row]:
    """The Pareto-best: no other is as good in both and better in one, measured alike and with
    FIDs of one source."""

    def beats(other: Row, one: Row) -> bool:
        same = alike(other) == alike(one) and (y != "fid" or other["fid_by"] == one["fid_by"])
        both = other[x] <= one[x] and other[y] <= one[y]
        return same and both and (other[x], other[y]) != (one[x], one[y])

    return [one for one in points if not any(beats(other, one) for other in points)]


def told(point: Row, *keys: str) -> dict[str, str]:
    """What a reader is told who points at it."""
    numbers = {TITLES[key]: point[key] for key in keys}
    values = {k: f"{x:,.0f}" if x >= 1000 else f"{x:.4g}" for k, x in numbers.items()}
    stack = {"stack": point["stack"]} if "stack" in point else {}
    source = {"FID is": point["fid_by"]} if "fid" in keys else {}
    return {"method": point["name"], **values, **stack, "how": point["by"], **source}
