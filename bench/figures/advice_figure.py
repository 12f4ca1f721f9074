"""The trade-off that `recommend` chooses from, as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from bench.figures import canvas, looks
from bench.figures.looks import FRONT, GREY, STYLE, Look
from bench.figures.scatter import Point, draw_front, draw_point
from bench.study.units import MIB
from bench.tables.advice import Advice, Candidate, Limits

SOURCE_COLORS = {"CoDe": looks.BLUE, "VARiant": looks.VERMILLION}  # else measured
CHOSEN: Look = looks.DOT | {"marker": "o", "mfc": "none", "color": looks.RED, "ms": 12}
CHOSEN |= {"label": "chosen"}
LEFT_OUT: Look = {"ls": "", "marker": "x", "color": GREY, "ms": 4, "label": "left out"}


def draw(advice: Advice, limits: Limits, out: Path) -> list[Path]:
    """The trade-off as PNG and PDF; returns the files."""
    return [*canvas.save(picture(advice, limits), canvas.png_and_pdf(out / "recommend"))]


@matplotlib.rc_context(STYLE)
def picture(advice: Advice, limits: Limits) -> Figure:
    """FID against latency (s), or against work (TFLOP) where no speed is known."""
    case = advice.ranked[0].case
    timed = advice.ranked[0].latency_s is not None

    def point_of(c: Candidate, look: Look) -> Point:
        cost = c.cost / (1 if timed else 1e12)
        return Point(cost, c.fid, c.name, look, c.quality.known if c.quality else None)

    hollow = [c for c in advice.ranked if c.latency_from != "measured"]
    points = [
        point_of(c, looks.of_case(c.name, c.case) | (looks.HOLLOW if c in hollow else {}))
        for c in advice.ranked
    ]
    points += [point_of(c, LEFT_OUT) for c, _ in advice.excluded if c.quality]
    drawn, (ax,) = canvas.panels(looks.WIDE, 4.0)
    for source in dict.fromkeys(c.quality.source for c in advice.best if c.quality):
        best = [c for c in advice.best if c.quality and c.quality.source == source]
        front = [point_of(c, {}) for c in best]
        draw_front(ax, front, color=SOURCE_COLORS.get(source, looks.GREEN), alpha=0.25)
    for point in points:
        draw_point(ax, point)
    for c in advice.chosen:
        point = point_of(c, CHOSEN)
        ax.plot(point.x, point.y, **CHOSEN)
    canvas.logarithmic(ax.xaxis)
    ax.margins(0.08, 0.12)
    how = " or ".join(sorted({c.latency_from for c in advice.ranked}))
    ax.set(xlabel=f"latency (s), {how}" if timed else "work (TFLOP), predicted", ylabel="FID")
    ax.grid()
    best_look = FRONT | {"color": GREY, "label": "Pareto-best, by source of the FID"}
    handles = looks.entries([*(point.look for point in points), best_look, CHOSEN])
    title = f"What fits {limits.memory / MIB:,.0f} MiB at batch {case.batch_size}"
    tables = sorted({c.quality.table for c in advice.ranked if c.quality})
    settings = f"{case.stack.capitalize()} stack, {case.precision}, {case.device}."
    notes = [f"FID: {'; '.join(tables)}.", *(["Hollow: not measured."] if hollow else []), settings]
    return canvas.finish(drawn, title, " ".join(notes), handles, [(ax, points)])
