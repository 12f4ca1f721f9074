"""Figure: latency against batch, depth and image size, with exponents, measured and predicted.

A curve is one method run in one way, of which one thing changes.  Its exponent is fitted by least
squares on logarithms; the prediction's is fitted in the same way over the same points.  What is
predicted is the floor (`bench.predict.floor`) where this machine's ceilings were profiled, else
FLOPs.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bench.figures import canvas, looks
from bench.figures.looks import SERIES, Look
from bench.figures.registry import figure
from bench.methods.meta import vqvae_config
from bench.predict import ceilings
from bench.predict.ceilings import Ceilings
from bench.predict.floor import beaten, floor_of
from bench.study import records, storage
from bench.study.cases import VARCase
from bench.study.errors import UsageError
from bench.tables.case_rows import Row, at_common_batch, distinct, footer, lacks, stacks_of
from bench.tables.frames import Run
from codevar.stacks import STACKS

FEWEST = 3  # points that an exponent needs
ENTRY = 0.36  # inches of a legend's entry


@dataclass(frozen=True)
class Curve:
    """name: of the method in this panel.  method: without its depth, the same in each panel.
    rows: by what changes, in order; those that are out of memory too."""

    name: str
    method: str
    rows: dict[int, Row]

    @property
    def first(self) -> Row:
        """Any of its rows: they are alike but for what changes."""
        return next(iter(self.rows.values()))

    @property
    def measured(self) -> dict[int, Row]:
        """The rows with a latency."""
        return {x: row for x, row in self.rows.items() if "latency_s" in row}

    def values(self, key: str) -> list[float]:
        """A value of each measured row."""
        return [row[key] for row in self.measured.values()]

    def fit(self, letter: str) -> str:
        """Both exponents in words; of two points their ratio."""
        xs, both = [*self.measured], [self.values("latency_s"), self.values("forecast")]
        if len(xs) < 2:
            return "one point: no fit" if xs else "no point: no fit"
        slopes = [exponent(xs, values) for values in both]
        points = f"({len(xs)} points)"
        if None in slopes:
            ours, theirs = (f"{values[-1] / values[0]:.2f}" for values in both)
            return f"ratio: measured {ours}, predicted {theirs} {points}"
        ours, theirs = (f"{letter}{raised(s)}" for s in slopes if s is not None)
        return f"measured ~ {ours}, predicted {theirs} {points}"


@dataclass(frozen=True)
class Panel:
    """letter: of what changes, in the exponents.  curves: as many methods as there are looks.
    whole: whether that is all."""

    letter: str
    xlabel: str
    curves: list[Curve]
    whole: bool


def raised(number: float) -> str:
    """As an exponent, to two digits."""
    return f"{number:.2f}".translate(str.maketrans("0123456789.-", "⁰¹²³⁴⁵⁶⁷⁸⁹·⁻"))


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
        row["forecast"] = sum(floor_of(case, top).seconds) if top else row["tflops_predicted"]
    shown = [
        panel for key in ("batch_size", "depth", "pixels") if (panel := panel_of(run, found, key))
    ]
    if not shown:
        what = "no two measured cases that differ in batch, depth or image size alone"
        raise lacks(run, what, "scaling")
    heights = [max(1.5, 0.3 + ENTRY * len(panel.curves)) for panel in shown]
    drawn, axes = canvas.panels(looks.WIDE, sum(heights), len(shown), height_ratios=heights)
    methods = list(dict.fromkeys(label_at(row["case"], "") for row in found))
    precisions = len(distinct(found, "precision")) > 1
    for ax, panel in zip(axes, shown, strict=True):
        draw_panel(ax, panel, methods, precisions, floors=top is not None)
    what = "predicted: " + ("floor of this machine" if top else "FLOPs, moved to the measured")
    stacks = stacks_of(found)
    handles = [*looks.stack_entries(found), *looks.lost_entries(found)]
    for stack in stacks:
        which = f"{what}, {stack}" if len(stacks) > 1 else what
        handles.append(looks.entry(which, color=looks.GREY, **looks.FORECAST_LINES[stack]))
    notes = ["Fits: least squares on logarithms, over the measured points."]
    notes += [] if all(panel.whole for panel in shown) else ["Not all methods are shown."]
    if any(panel.letter == "s" for panel in shown):
        notes.append("The models of the two image sizes differ in depth, measured and predicted.")
    if failed := [row for row in rows if row["status"] in records.FAILED]:
        named = (f"{row['name']} batch {row['batch_size']} ({row['status']})" for row in failed)
        notes.append(f"Failed: {', '.join(named)}.")
    title = "Latency by batch, depth and image size"
    return canvas.finish(drawn, title, footer(run, found, *notes), handles)


def ceilings_for(run: Run, rows: list[Row]) -> Ceilings | None:
    """Those that a profile of this machine left in the run's folder or, newest first, in one
    beside it; None where they lack a precision, are of another device, or a decode beats them."""
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
        if any(beaten(record, found) for record in run.records):
            continue
        if wanted <= {product.precision for product in found.products}:
            fitting.append((place == folder, found.measured_at, found))
    return max(fitting, key=lambda one: one[:2], default=(None,))[-1]


# Panels: what changes, of rows that are alike but for that


def panel_of(run: Run, rows: list[Row], key: str) -> Panel | None:
    """Latency by batch size; by depth, each image size a curve of its own; by image size
    ("pixels"), the deepest models of each that were measured.  The latter two at the batch size
    where most was measured.  None where no curve has two measured points."""
    changes = {"depth"} if key == "depth" else {key, "pixels"}
    groups = alike(rows, key, changes | ({"depth"} if key == "pixels" else set()))
    where = ""
    if key != "batch_size":
        groups = at_one_batch(run, groups)
        where = f", batch {groups[0][0]['batch_size']}" if groups else ""
    curves = [curve_of(group, key) for group in groups]
    names = list(dict.fromkeys(c.name for c in curves))
    kept = [c for c in curves if c.name in names[: len(SERIES)]]
    kept.sort(key=lambda c: (names.index(c.name), STACKS.index(c.first["stack"])))
    if not any(len(c.measured) > 1 for c in kept):
        return None
    coupled = any(len(row["case"].depths) > 1 for row in itertools.chain(*groups))
    letter, what = {
        "batch_size": ("B", "batch size B"),
        "depth": ("d", "depth d" + (" (of CoDe: the drafter's)" if coupled else "")),
        "pixels": ("s", "image size s (px)"),
    }[key]
    return Panel(letter, what + where, kept, len(kept) == len(curves))


def alike(rows: list[Row], key: str, changes: set[str]) -> list[list[Row]]:
    """Rows that differ in these keys alone, where there are two with a different key."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        size = 0 if "pixels" in changes else row["pixels"]
        groups.setdefault((row["case"].model_dump_json(exclude=changes), size), []).append(row)
    return [group for group in groups.values() if len(distinct(group, key)) > 1]


def at_one_batch(run: Run, groups: list[list[Row]]) -> list[list[Row]]:
    """Those of the batch size where most was measured; none if nothing was."""
    rows = [*itertools.chain(*groups)]
    if not any("latency_s" in row for row in rows):
        return []
    batch = at_common_batch(run, rows)[0]["batch_size"]
    return [group for group in groups if group[0]["batch_size"] == batch]


def curve_of(group: list[Row], key: str) -> Curve:
    """Of each x the deepest model that was measured."""
    deepest = sorted(group, key=lambda row: ("latency_s" in row, row["depth"]))
    by_x = {row[key]: row for row in deepest}
    kept = dict(sorted(by_x.items()))
    depths = " to d".join(str(depth) for depth in distinct(kept.values(), "depth"))
    first = group[0]
    details = first["name"].removeprefix(first["method"])
    name = label_at(first["case"], "" if key == "depth" else depths) + details
    return Curve(name, label_at(first["case"], ""), kept)


def label_at(case: VARCase, depths: str) -> str:
    """Its label with that in the place of its depth."""
    return case.model_copy(update={"depth": depths}).label


# Drawing


def draw_panel(ax: Any, panel: Panel, methods: list[str], precisions: bool, floors: bool) -> None:
    """Curves, their predictions dotted, crosses at the top where memory ran out; at the right the
    legend with the fits.  FLOPs, which are no seconds, are moved to the middle of the measured."""
    by_name, handles = looks_of(panel.curves, methods), []
    for c in panel.curves:
        latency, forecast = np.array(c.values("latency_s")), np.array(c.values("forecast"))
        stack, color = c.first["stack"], by_name[c.name]["color"]
        look = by_name[c.name] | looks.STACK_LINES[stack]
        ax.plot([*c.measured], latency, **look)
        if len(latency) > 1:
            moved = 1 if floors else np.exp(np.mean(np.log(latency / forecast)))
            ax.plot([*c.measured], moved * forecast, color=color, **looks.FORECAST_LINES[stack])
        canvas.draw_lost(ax, {x: row["status"] for x, row in c.rows.items()}, color)
        how = stack + f" {c.first['precision']}" * precisions
        handles.append(looks.entry(f"{c.name}, {how}\n{c.fit(panel.letter)}", **look))
    canvas.logarithmic(ax.xaxis, sorted({x for c in panel.curves for x in c.rows}))
    canvas.logarithmic(ax.yaxis)
    canvas.room_for_lost(ax)
    ax.set(xlabel=panel.xlabel, ylabel="latency (s)")
    ax.margins(x=0.08)
    ax.grid()
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def looks_of(curves: list[Curve], methods: list[str]) -> dict[str, Look]:
    """By name: a method's own look, or another where that is taken."""
    found: dict[str, Look] = {}
    for c in curves:
        if c.name not in found:
            free = [look for look in SERIES if look not in found.values()]
            own = SERIES[methods.index(c.method) % len(SERIES)]
            found[c.name] = own if own in free else free[0]
    return found
