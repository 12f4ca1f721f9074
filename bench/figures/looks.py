"""How things look in every figure: page style, colours, markers, line styles, legend entries."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.lines import Line2D

from bench.study.cases import Case, is_ours
from bench.study.records import OUT_OF_MEMORY
from bench.tables.case_rows import Row, stacks_of

Look = dict[str, Any]  # keywords of `Axes.plot`

STYLE: Any = dict(
    matplotlib.rc_params_from_file(
        Path(__file__).with_name("paper.mplstyle"), use_default_template=False
    )
)
WIDE, NARROW, EDGE = 6.9, 3.3, 0.07  # inches: two columns of a paper, one column, a page's edge
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"  # Okabe and Ito's colours
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#888888"
RED = "#D00000"  # what a paper proposes: VARiant's star and its progressive training
SERIES: list[Look] = list(
    cycler(color=[BLACK, BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY], marker=list("osD^vPX"))
)
STACK_COLORS = {"published": BLUE, "modern": ORANGE, "compiled": GREEN}
STACK_LINES: dict[str, Look] = {
    "published": {"ls": "-"},
    "modern": {"ls": "--", "mfc": "white"},
    "compiled": {"ls": ":", "fillstyle": "left"},
}
#: A prediction beside the measured curve of its stack.
FORECAST_LINES: dict[str, Look] = {
    "published": {"ls": (0, (1, 1.2)), "lw": 1, "marker": ""},
    "modern": {"ls": (0, (1, 3.5)), "lw": 1, "marker": ""},
    "compiled": {"ls": (0, (4, 1.5, 1, 1.5)), "lw": 1, "marker": ""},
}
PARTS = {"params": BLUE, "kv_cache": ORANGE, "running": "#333333"}
PART_NAMES = {"params": "parameters", "kv_cache": "KV cache", "running": "running"}
DOT: Look = {"ls": "", "ms": 6}
HOLLOW: Look = {"mfc": "white"}
CONTROL: Look = {"marker": "x"}
LOST: Look = {"ls": "", "color": GREY}
#: Where memory ran out, and where a case was not started because it would have.
LOST_MARKERS = {"oom": "x", "oom_predicted": "+", "oom_implied": "1"}
LEFT: Look = {"ls": "", "marker": "o", "ms": 2.6, "color": BLUE, "label": "left after the scale"}
FRONT: Look = {"color": SKY, "lw": 3, "alpha": 0.5, "zorder": 0, "label": "Pareto front"}
PREDICTED: Look = {"ls": "", "marker": "d", "mfc": "white", "mec": BLACK, "ms": 5}
HAND_OVER: Look = {"color": VERMILLION, "label": "hand-over"}
REFERENCE: Look = {"color": GREY, "lw": 0.8, "ls": ":"}


def of_case(name: str, case: Case | None) -> Look:
    """How the family of a case, or of a paper's row, is drawn; a plugin's as it says itself."""
    return family_of(name) if case is None or is_ours(case) else DOT | case.look


def by_name(rows: Iterable[Row]) -> dict[str, Look]:
    """A series for each name in a figure of curves; of a plugin's method that has one curve, its
    own colour and marker."""
    of_name = {row["name"]: row["case"] for row in rows}
    curves = Counter(case.method for case in of_name.values())
    found = dict(zip(of_name, itertools.cycle(SERIES), strict=False))
    for name, case in of_name.items():
        if not is_ours(case) and curves[case.method] == 1:
            found[name] = {key: case.look[key] for key in ("color", "marker")}
    return found


def family_of(method: str) -> Look:
    """How the family that a method belongs to is drawn."""
    if "CoDe" in method:
        return DOT | {"label": "CoDe", "color": BLUE, "marker": "s"}
    if method.startswith("VARiant"):
        return DOT | {"label": "VARiant", "color": VERMILLION, "marker": "D"}
    if method.startswith("VAR"):
        return DOT | {"label": "VAR", "color": BLACK, "marker": "o"}
    return DOT | {"label": "others", "color": GREY, "marker": "^"}


def scale_colors(count: int) -> list[Any]:
    """Of so many scales, light to dark."""
    return [matplotlib.colormaps["YlGnBu"](x) for x in np.linspace(0.15, 1, count)]


# Legends


def entry(label: str, **look: Any) -> Line2D:
    """A legend's entry of a line or a marker."""
    return Line2D([], [], **{**look, "label": label})


def entries(looks: Iterable[Look]) -> list[Line2D]:
    """A legend's entries of looks that have labels; of each label the last."""
    return [Line2D([], [], **look) for look in {look["label"]: look for look in looks}.values()]


def lost_entries(rows: list[Row]) -> list[Line2D]:
    """Legend of the crosses where memory ran out."""
    there = {row["status"] for row in rows}
    return [
        entry(OUT_OF_MEMORY[status].replace("OOM", "out of memory"), marker=marker, **LOST)
        for status, marker in LOST_MARKERS.items()
        if status in there
    ]


def stack_entries(rows: list[Row], **look: Any) -> list[Line2D]:
    """Legend of several stacks."""
    stacks = stacks_of(rows)
    grey = {"color": GREY, "marker": "o"}
    several = stacks if len(stacks) > 1 else []
    return [entry(f"{stack} stack", **grey | look | STACK_LINES[stack]) for stack in several]
