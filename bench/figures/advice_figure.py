"""The trade-off that `recommend` chooses from, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.figures import canvas, looks, registry
from bench.figures.canvas import BLUE, FRONT, GREEN, GREY, STYLE, VERMILLION, WIDE
from bench.study.cases import Case
from bench.study.units import MIB
from bench.tables.advice import Advice, Limits

SOURCE_COLORS = {"CoDe": BLUE, "VARiant": VERMILLION, "measured": GREEN}
HOLLOW = {"mfc": "white"}
LEFT_OUT: dict[str, Any] = {"ls": "", "marker": "x", "color": GREY, "ms": 4, "label": "left out"}


def draw(advice: Advice, limits: Limits, out: Path) -> list[Path]:
    """The trade-off as PNG and PDF; returns the files."""
    with matplotlib.rc_context(STYLE):
        return registry.save(picture(advice, limits), out / "recommend")


def picture(advice: Advice, limits: Limits) -> Figure:
    """FID against latency (s), or against work (TFLOP) where no speed is known."""
    case = advice.ranked[0].case
    timed = advice.ranked[0].latency_s is not None
    unit = 1.0 if timed else 1e12
    left_out = [c for c, _ in advice.excluded if c.quality]
    figure, (ax,) = canvas.panels(WIDE, 4.0)
    families: dict[str, dict[str, Any]] = {}
    for c in advice.ranked:
        look = looks.family_of(c.case.label)
        families[look["label"]] = look
        ax.plot(c.cost / unit, c.fid, **look | ({} if c.latency_from == "measured" else HOLLOW))
    for c in left_out:
        ax.plot(c.cost / unit, c.fid, **LEFT_OUT)
    for source in dict.fromkeys(c.quality.source for c in advice.best if c.quality):
        front = [c for c in advice.best if c.quality and c.quality.source == source]
        look = FRONT | {"color": SOURCE_COLORS[source], "alpha": 0.25}
        ax.plot([c.cost / unit for c in front], [c.fid for c in front], **look)
    canvas.logarithmic(ax.xaxis)
    ax.margins(0.08, 0.12)
    ax.set(xlabel="latency (s)" if timed else "work (TFLOP)", ylabel="FID")
    ax.grid()
    handles = [Line2D([], [], **look) for look in families.values()]
    best = FRONT | {"color": GREY, "label": "Pareto-best, by source of the FID"}
    handles += [Line2D([], [], **best)]
    handles += [Line2D([], [], **LEFT_OUT)] if left_out else []
    title = f"What fits {limits.memory / MIB:,.0f} MiB at batch {case.batch_size}"
    canvas.finish(figure, title, " ".join(words_below(advice)), handles)
    labels = [(c.cost / unit, c.fid, short(c.case)) for c in advice.best]
    everything = [*advice.ranked, *left_out]
    markers = [(c.cost / unit, c.fid) for c in everything]
    for c, label in zip(advice.best, canvas.place_labels(ax, labels, markers), strict=True):
        label.set_color(looks.family_of(c.case.label)["color"])
    return figure


def short(case: Case) -> str:
    """The label without the models, which are VAR-d30 and, for CoDe, VAR-d16."""
    return case.label.partition(" (")[0]


def words_below(advice: Advice) -> list[str]:
    case, tables_ = advice.ranked[0].case, {c.quality.table for c in advice.ranked if c.quality}
    hollow = (
        []
        if all(c.latency_from == "measured" for c in advice.ranked)
        else ["Hollow: not measured."]
    )
    return [
        f"FID: {'; '.join(sorted(tables_))}.",
        *hollow,
        f"{case.stack.capitalize()} stack, {case.precision}, {case.device}.",
    ]
