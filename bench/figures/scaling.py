"""Figure: latency against batch, depth and image size, with exponents, measured and predicted.

A curve is one method run in one way, of which one thing changes.  Its exponent is fitted by least
squares on logarithms; the prediction's is fitted in the same way over the same points.  What is
predicted is the floor (`bench.predict.floor`) where this machine's ceilings were profiled, else
FLOPs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.figures.canvas import (
    GREY,
    LOST,
    SERIES,
    STACK_LINES,
    WIDE,
    finish,
    logarithmic,
    lost_handles,
    panels,
    stack_handles,
)
from bench.figures.registry import figure
from bench.methods.meta import vqvae_config
from bench.predict import ceilings
from bench.predict.ceilings import Ceilings
from bench.predict.floor import floor_of
from bench.study import records, storage
from bench.study.cases import VARCase
from bench.study.errors import UsageError
from bench.tables.case_rows import Row, at_common_batch, distinct, footer, lacks
from bench.tables.frames import Run
from codevar.stacks import STACKS

FEWEST = 3  # points that an exponent needs
ENTRY = 0.36  # inches of a legend's entry
DOTTED: dict[str, Any] = {"ls": ":", "lw": 1, "marker": ""}
Groups = list[list[Row]]


@dataclass(frozen=True)
class Curve:
    """name: of the method in this panel.  method: without its depth, the same in each panel.
    rows: by what changes, in order; those that are out of memory too."""

    name: str
    method: str
    rows: dict[int, Row]

    @property
    def first(self) -> Row:
        return next(iter(self.rows.values()))

    @property
    def measured(self) -> dict[int, Row]:
        return {x: row for x, row in self.rows.items() if "latency_s" in row}

    def values(self, key: str) -> list[float]:
        return [row[key] for row in self.measured.values()]

    def fit(self, letter: str) -> str:
        """Both exponents in words; of two points their ratio."""
        xs, both = [*self.measured], [self.values("latency_s"), self.values("told")]
        if len(xs) < 2:
            return "one point: no fit" if xs else "no point: no fit"
        slopes = [exponent(xs, values) for values in both]
        points = f"({len(xs)} points)"
        if None in slopes:
            ours, theirs = (f"{values[-1] / values[0]:.2f}" for values in both)
            return f"ratio: measured {ours}, predicted {theirs} {points}"
        ours, theirs = (f"${letter}^{{{slope:.2f}}}$" for slope in slopes)
        return f"measured ~ {ours}, predicted {theirs} {points}"


@dataclass(frozen=True)
class Panel:
    """letter: of what changes, in the exponents.  whole: whether all curves are shown."""

    letter: str
    xlabel: str
    curves: list[Curve]
    whole: bool = True


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """The power of x that y grows with: least squares on logarithms.  None for fewer than three
    different x."""
    if len(set(xs)) < FEWEST:
        return None
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


@figure("scaling", "Scaling")
def scaling(run: Run, rows: list[Row]) -> Figure:
    """Latency (s) by batch, depth and image size, with fitted exponents and the predicted ones."""
    rows = [row for row in rows if isinstance(row["case"], VARCase)]
    found = [row for row in rows if "latency_s" in row or row["status"] in records.OUT_OF_MEMORY]
    top = ceilings_for(run, found)
    for row in found:
        case = row["case"]
        sizes = vqvae_config(case)
        row |= {"depth": case.depth, "pixels": sizes.stride * sizes.patch_sizes[-1]}
        row["told"] = sum(floor_of(case, top).seconds) if top else row["tflops_predicted"]
    drawn = [p for make in (by_batch, by_depth, by_size) if (p := make(run, found))]
    if not drawn:
        what = "no two measured cases that differ in batch, depth or image size alone"
        raise lacks(run, what, "scaling")
    heights = [max(1.5, 0.3 + ENTRY * len(panel.curves)) for panel in drawn]
    figure, axes = panels(WIDE, sum(heights), len(drawn), height_ratios=heights)
    methods = list(dict.fromkeys(named(row["case"], "") for row in found))
    precisions = len(distinct(found, "precision")) > 1
    for ax, panel in zip(axes, drawn, strict=True):
        draw_panel(ax, panel, methods, precisions, floors=top is not None)
    predicted = "floor of this machine" if top else "FLOPs, moved to the measured"
    handles = [*stack_handles(found), *lost_handles(found)]
    handles.append(Line2D([], [], color=GREY, **DOTTED, label=f"predicted: {predicted}"))
    notes = ["Fits: least squares on logarithms, over the measured points."]
    notes += [] if all(panel.whole for panel in drawn) else ["Not all methods are shown."]
    if any(panel.letter == "s" for panel in drawn):
        notes.append("The models of the two image sizes differ in depth, measured and predicted.")
    if failed := [row for row in rows if row["status"] in records.FAILED]:
        told = (f"{row['name']} batch {row['batch_size']} ({row['status']})" for row in failed)
        notes.append(f"Failed: {', '.join(told)}.")
    title = "Latency by batch, depth and image size"
    return finish(figure, title, footer(run, found, *notes), handles)


def ceilings_for(run: Run, rows: list[Row]) -> Ceilings | None:
    """Those that a profile of this machine left in the run's folder or, newest first, in one
    beside it; None where they lack a precision or are of another device."""
    folder = run.folder
    if folder is None:
        return None
    fitting, beside = [], sorted(folder.parent.glob(f"*/{ceilings.FILE}"))
    wanted = {row["precision"] for row in rows}
    wanted |= {"float32" for row in rows if row["stack"] == "published"}  # its head
    for place in [folder, *(file.parent for file in beside)]:
        try:
            found, env = ceilings.load(place), storage.read_json(place / "env.json") or {}
        except UsageError:
            continue
        same = place == folder or env.get("machine") == run.env.get("machine")
        if not (found and same and {row["device"] for row in rows} == {found.device}):
            continue
        if wanted <= {product.precision for product in found.products}:
            fitting.append((place == folder, found.measured_at, found))
    return max(fitting, key=lambda one: one[:2], default=(None,))[-1]


# Panels: what changes, of rows that are alike but for that


def by_batch(run: Run, rows: list[Row]) -> Panel | None:
    groups = alike(rows, lambda row: row["batch_size"], "batch_size", "pixels")
    curves = [curve(group, str(group[0]["case"].depth), "batch_size") for group in groups]
    return panel("B", "batch size B", curves)


def by_depth(run: Run, rows: list[Row]) -> Panel | None:
    """At the batch size where most of it was measured; an image size is a curve of its own."""
    groups = alike(rows, lambda row: row["depth"], "depth")
    groups = at_one_batch(run, groups)
    coupled = any(len(row["case"].depths) > 1 for row in itertools.chain(*groups))
    what = "depth d" + (" (of CoDe: the drafter's)" if coupled else "")
    where = f", batch {groups[0][0]['batch_size']}" if groups else ""
    return panel("d", what + where, [curve(group, "", "depth") for group in groups])


def by_size(run: Run, rows: list[Row]) -> Panel | None:
    """The deepest models of each image size that were measured, at one batch size."""
    groups = at_one_batch(run, alike(rows, lambda row: row["pixels"], "depth", "pixels"))
    where = f", batch {groups[0][0]['batch_size']}" if groups else ""
    curves: list[Curve] = []
    for group in groups:
        deepest = sorted(group, key=lambda row: ("latency_s" in row, row["depth"]))
        kept = sorted({row["pixels"]: row for row in deepest}.values(), key=lambda r: r["pixels"])
        depths = " to d".join(str(row["depth"]) for row in kept)
        curves.append(curve(kept, depths, "pixels"))
    return panel("s", f"image size s (px){where}", curves)


def alike(rows: list[Row], of: Callable[[Row], int], *changes: str) -> Groups:
    """Rows that differ in these keys alone, where there are two with different x."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        size = 0 if "pixels" in changes else row["pixels"]
        groups.setdefault((row["case"].model_dump_json(exclude={*changes}), size), []).append(row)
    return [group for group in groups.values() if len({of(row) for row in group}) > 1]


def at_one_batch(run: Run, groups: Groups) -> Groups:
    """Those of the batch size where most was measured; none if nothing was."""
    rows = [*itertools.chain(*groups)]
    if not any("latency_s" in row for row in rows):
        return []
    batch = at_common_batch(run, rows)[0]["batch_size"]
    return [group for group in groups if group[0]["batch_size"] == batch]


def curve(group: list[Row], depths: str, key: str) -> Curve:
    """depths: what stands for the depth in its name."""
    first, by_x = group[0], {row[key]: row for row in group}
    details = first["name"].removeprefix(first["method"])
    name = named(first["case"], depths) + details
    return Curve(name, named(first["case"], ""), dict(sorted(by_x.items())))


def named(case: VARCase, depths: str) -> str:
    """Its label with that in the place of its depth."""
    return case.model_copy(update={"depth": depths}).label


def panel(letter: str, xlabel: str, curves: list[Curve]) -> Panel | None:
    """As many methods as there are looks; None where no curve has two measured points."""
    names = list(dict.fromkeys(c.name for c in curves))
    kept = [c for c in curves if c.name in names[: len(SERIES)]]
    kept.sort(key=lambda c: (names.index(c.name), STACKS.index(c.first["stack"])))
    shown = any(len(c.measured) > 1 for c in kept)
    return Panel(letter, xlabel, kept, len(kept) == len(curves)) if shown else None


# Drawing


def draw_panel(ax: Any, panel: Panel, methods: list[str], precisions: bool, floors: bool) -> None:
    """Curves, their predictions dotted, crosses at the top where memory ran out; at the right the
    legend with the fits.  FLOPs, which are no seconds, are moved to the middle of the measured."""
    looks, handles = looks_of(panel.curves, methods), []
    for c in panel.curves:
        latency, told = np.array(c.values("latency_s")), np.array(c.values("told"))
        look = looks[c.name] | STACK_LINES[c.first["stack"]]
        ax.plot([*c.measured], latency, **look)
        if len(latency) > 1:
            moved = 1 if floors else np.exp(np.mean(np.log(latency / told)))
            ax.plot([*c.measured], moved * told, color=look["color"], **DOTTED)
        how = c.first["stack"] + f" {c.first['precision']}" * precisions
        handles.append(Line2D([], [], **look, label=f"{c.name}, {how}\n{c.fit(panel.letter)}"))
    logarithmic(ax.xaxis, sorted({x for c in panel.curves for x in c.rows}))
    logarithmic(ax.yaxis)
    ax.set(xlabel=panel.xlabel, ylabel="latency (s)")
    ax.margins(x=0.08)
    ax.grid()
    lost = [c for c in panel.curves if len(c.measured) < len(c.rows)]
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** (0.08 * len(lost)))
    for i, c in enumerate(lost):
        xs = [x for x in c.rows if x not in c.measured]
        at = [0.97 - 0.05 * i] * len(xs)
        color = looks[c.name]["color"]
        ax.plot(xs, at, transform=ax.get_xaxis_transform(), **LOST | {"color": color})
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def looks_of(curves: list[Curve], methods: list[str]) -> dict[str, dict[str, Any]]:
    """By name: a method's own look, or another where that is taken."""
    looks: dict[str, dict[str, Any]] = {}
    for c in curves:
        if c.name not in looks:
            free = [look for look in SERIES if look not in looks.values()]
            own = SERIES[methods.index(c.method) % len(SERIES)]
            looks[c.name] = own if own in free else free[0]
    return looks
