"""The page's figures as Vega-Lite, by Altair; the page gives each its rows.

Colours are variables of the page's style, so that charts follow it into dark mode and print.  A
figure that a group has no data for is left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt

from bench.report.content import HERE, TRADES, Group, Row

SERIES = [f"var(--series-{i})" for i in range(1, 9)]
CROSS = "M-1,-1L1,1M1,-1L-1,1"
SHAPES = ["circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right"]
FAMILIES = {"VAR": SERIES[0], "CoDe": SERIES[1], "VARiant": SERIES[2], "others": SERIES[3]}
STACKS = {"published": SERIES[1], "modern": SERIES[4], "compiled": SERIES[3]}
PAGE_COLORS = 10  # --scale-1 to --scale-10 of style.css
PARTS = {"parameters": "var(--part-1)", "KV cache": "var(--part-2)", "running": "var(--part-3)"}
INK, MUTED, PAPER, BACK = "var(--ink)", "var(--muted)", "var(--paper)", "var(--surface)"
# What of a row sets figures apart: a choice above each, where there is one.
CHOICES = {"batch": "batch size", "stack": "stack", "machine": "machine"}
# How the table under a figure heads its columns.
HEADINGS = {
    "name": "method",
    "machine": "machine",
    "stack": "stack",
    "batch": "batch size",
    "by": "how",
    "what": "scale",
    "part": "part",
    "n": "N (scales by the large model)",
    "latency_s": "latency (s)",
    "speedup": "speed-up",
    "speedup_low": "95 % from",
    "speedup_high": "to",
    "speedup_paper": "speed-up, paper",
    "throughput_img_s": "images/s",
    "total_mib": "total (MiB)",
    "kv_cache_mib": "KV cache (MiB)",
    "mib": "memory (MiB)",
    "fid": "FID",
    "fid_by": "FID is",
    "ms": "latency (ms)",
    "gflop": "GFLOP, predicted",
    "kv_mib": "KV cache (MiB)",
    "peak_mib": "peak above weights (MiB)",
    "live_mib": "left above weights (MiB)",
    "round": "round",
    "sample": "sample",
    "seconds": "seconds (s)",
    "side": "side",
    "figure": "figure",
    "change": "change (%)",
    "low": "from (%)",
    "high": "to (%)",
    "verdict": "verdict",
}


@dataclass
class Variant:
    """One of a figure's pictures: what it shows, and Vega-Lite without the rows.

    rows: of which data of the group, if not the figure's.  kind: of sample, in `samples`.
    """

    label: str
    spec: dict[str, Any]
    rows: str = ""
    kind: str = ""


@dataclass
class Figure:
    """rows: which data of the group; columns: of the table under it, in one string.
    choices: values of each key of CHOICES that a reader chooses one of.  least: methods without
    which it shows nothing."""

    id: str
    title: str
    caption: str
    rows: str
    columns: str
    variants: list[Variant]
    choices: dict[str, list[Any]] = field(default_factory=dict)
    least: int = 1

    @property
    def headings(self) -> list[tuple[str, str]]:
        return [(name, HEADINGS[name]) for name in self.columns.split()]


def scale_colors(count: int) -> list[str]:
    """Of so many scales, light to dark: the page's ten, or what lies between them."""
    if count <= PAGE_COLORS:
        return [f"var(--scale-{k})" for k in range(1, count + 1)]
    mix = "color-mix(in oklab, var(--scale-{}) {:.0%}, var(--scale-{}))"
    places = [1 + k * (PAGE_COLORS - 1) / (count - 1) for k in range(count)]
    return [mix.format(int(x), 1 - x % 1, math.ceil(x)) for x in places]


def figures(group: Group) -> list[Figure]:
    """The figures that the group has data for."""
    made = [speed, tradeoff, scales, batch, memory, configurations, samples]
    return [figure for make in made if (figure := make(group)) is not None]


def choices(group: Group, rows: Sequence[Row], *names: str) -> dict[str, list[Any]]:
    """Of the keys with several values; the headline's value comes first."""
    found = {}
    for name in names:
        values = distinct(rows, name)
        if len(values) > 1:
            first = group.shown.get(name, values[0])
            found[name] = sorted(values, key=lambda value: value != first)
    return found


# Figures


def speed(group: Group) -> Figure | None:
    """Speed-up with its interval and the paper's; latency."""
    rows = [row for row in group.rows if "latency_s" in row]
    if not rows:
        return None
    stacks = distinct(rows, "stack")
    y = alt.Y("name:N", sort=distinct(rows, "name"), title=None, axis=names_axis())
    apart: dict[str, Any] = {}
    if len(stacks) > 1:
        apart["yOffset"] = alt.YOffset("stack:N", sort=stacks)
    height = {"step": 36 if len(stacks) == 1 else 60}
    variants = []
    raced = [row for row in rows if "speedup" in row]
    if group.baseline and len(raced) > 1:
        times = f"speed-up over {group.baseline} (times)"
        x = alt.X("speedup:Q", title=times, scale=alt.Scale(zero=False, nice=False, padding=30))
        base = alt.Chart().encode(y=y, color=stack_color(stacks), **apart)
        layers: list[Any] = [
            alt.Chart()
            .mark_rule(color=MUTED, strokeDash=[2, 3])
            .encode(x=alt.datum(1, title=times))
        ]
        if any("speedup_paper" in row for row in raced):
            layers.append(
                alt.Chart()
                .mark_point(shape="diamond", size=110, color=PAPER, strokeWidth=1.5, filled=False)
                .transform_filter("isNumber(datum.speedup_paper)")
                .encode(
                    y=y,
                    x=alt.X("speedup_paper:Q", title=times),
                    tooltip=tooltip("name", "speedup_paper"),
                )
            )
        if any("speedup_low" in row for row in raced):
            layers.append(
                base.mark_rule(strokeWidth=4, opacity=0.45)
                .transform_filter("isValid(datum.speedup_low)")
                .encode(x=alt.X("speedup_low:Q", title=times), x2="speedup_high:Q")
            )
        tips = tooltip(
            "name", "stack", "speedup", "speedup_low", "speedup_high", "speedup_paper", "latency_s"
        )
        layers += [
            base.mark_point(filled=True, size=90, opacity=1).encode(x=x, tooltip=tips),
            base.mark_text(dy=-12, color=INK, fontSize=12)
            .transform_filter("isValid(datum.label)")
            .encode(x=x, text="label:N", color=alt.value(INK)),
        ]
        variants.append(variant("Speed-up", alt.layer(*layers), height))
    bars = alt.Chart().encode(y=y, x=alt.X("latency_s:Q", title=TITLES["latency_s"]), **apart)
    both = alt.layer(
        bars.mark_bar(height={"band": 0.8}).encode(
            color=stack_color(stacks),
            tooltip=tooltip("name", "stack", "batch", "latency_s", "latency_s_paper"),
        ),
        bars.mark_text(align="left", dx=5, color=INK, fontSize=12).encode(
            text=alt.Text("latency_s:Q", format=",.3~r")
        ),
    )
    variants.append(variant("Latency", both, height))
    caption = "Lines are 95 % intervals; ~ marks what is from one round or a few turns."
    if any("speedup_paper" in row for row in raced):
        caption += " Diamonds are the paper's, on its machine."
    columns = "name stack batch latency_s speedup speedup_low speedup_high speedup_paper"
    return Figure(
        "speed",
        "Speed",
        caption,
        "cases",
        columns,
        variants,
        choices(group, rows, "batch", "machine"),
    )


TITLES = {
    "latency_s": "latency of a batch (s)",
    "total_mib": "peak memory (MiB)",
    "fid": "FID (lower is better)",
}
LABELS = {"latency_s": "latency", "total_mib": "memory", "fid": "FID"}


def tradeoff(group: Group) -> Figure | None:
    """Cost against cost or quality; on the front, nothing is better in both."""
    variants = []
    for x, y in TRADES:
        label, x_title, y_title = f"{LABELS[y]} against {LABELS[x]}", TITLES[x], TITLES[y]
        rows = [row for row in group.tradeoff if {x, y} <= row.keys()]
        if len(distinct(rows, "name")) < 2:
            continue
        families = [f for f in FAMILIES if f in {row["family"] for row in rows}]
        colors = alt.Scale(domain=families, range=[FAMILIES[f] for f in families])
        hows = distinct(rows, "by")
        shapes = alt.Scale(
            domain=hows, range=["circle", "diamond"] if hows[0] == HERE else ["diamond"]
        )
        base = (
            alt.Chart()
            .transform_filter(f"isValid(datum.{x}) && isValid(datum.{y})")
            .encode(
                x=alt.X(
                    f"{x}:Q",
                    title=x_title,
                    scale=alt.Scale(type="log", nice=False, padding=30),
                    axis=alt.Axis(values=ticks(rows, x), format=",~r"),
                ),
                y=alt.Y(
                    f"{y}:Q",
                    title=y_title,
                    scale=alt.Scale(zero=False, padding=22),
                    axis=alt.Axis(format=",~r"),
                ),
            )
        )
        points = base.encode(
            color=alt.Color("family:N", title=None, scale=colors),
            shape=alt.Shape("by:N", legend=None, scale=shapes),
            tooltip=tooltip("name", "by", x, y, *(["fid_by"] if y == "fid" else [])),
        )
        front = base.transform_filter(f"datum.front_{x}_{y}")
        chart = alt.layer(
            front.mark_line(
                color=MUTED, opacity=0.6, strokeWidth=2, interpolate="step-after"
            ).encode(detail="by:N"),
            points.mark_point(filled=True, size=90, opacity=1).transform_filter(
                f"datum.by == '{HERE}'"
            ),
            points.mark_point(
                filled=False, fill=BACK, size=90, strokeWidth=2, opacity=1
            ).transform_filter(f"datum.by != '{HERE}'"),
            front.mark_text(align="left", dx=6, dy=-10, fontSize=11, color=INK, limit=150)
            .transform_filter(f"isValid(datum.label_{x}_{y})")
            .encode(text=f"label_{x}_{y}:N")
            .properties(name="names"),
        )
        variants.append(variant(label[0].upper() + label[1:], chart, height=380))
    if not variants:
        return None
    rows = [row for row in group.tradeoff if row["by"] == HERE]
    caption = "The line is the Pareto front, named where there is room: nothing is better in both."
    if any(row["by"] != HERE for row in group.tradeoff):
        caption += " Diamonds are the paper's, on its machine."
    if any("fid_paper" in row for row in group.rows):
        caption += " FID is quoted from the paper unless the table says it was measured."
    columns = "name by stack batch latency_s throughput_img_s total_mib fid fid_by"
    chosen = choices(group, rows, *CHOICES)
    return Figure("tradeoff", "Trade-off", caption, "tradeoff", columns, variants, chosen, least=2)


def scales(group: Group) -> Figure | None:
    """Each method's latency, scale on scale."""
    rows = group.scales
    timed = [row for row in rows if row["ms"] is not None]
    count = max(row["scale"] for row in rows)
    domain = list(range(1, count + 1))
    picked = alt.selection_point(fields=["scale"], bind="legend")
    shown: list[tuple[str, str, str, Any]] = [
        ("Latency", "ms", "latency (ms)", None),
        ("Share of latency", "ms", "share of the latency", "normalize"),
    ]
    shown = (shown if timed else []) + [("Work", "gflop", "GFLOP, predicted from shapes", None)]
    variants = []
    for label, name, title, stacked in shown:
        chart = (
            alt.Chart()
            .transform_filter(f"isValid(datum.{name})")
            .mark_bar(stroke=BACK, strokeWidth=0.6, height={"band": 0.78})
            .encode(
                y=alt.Y("name:N", sort=distinct(rows, "name"), title=None, axis=names_axis()),
                x=alt.X(
                    f"sum({name}):Q",
                    title=title,
                    stack=stacked or "zero",
                    axis=alt.Axis(format="%" if stacked else ",~r"),
                ),
                color=alt.Color(
                    "scale:O",
                    title="scale",
                    legend=alt.Legend(columns=count),
                    scale=alt.Scale(domain=domain, range=scale_colors(count)),
                ),
                order=alt.Order("scale:Q"),
                opacity=alt.condition(picked, alt.value(1), alt.value(0.2)),
                tooltip=tooltip("name", "what", name),
            )
            .add_params(picked)
        )
        variants.append(variant(label, chart))
    caption = "Choose a scale in the legend to single it out."
    if any(row["what"].startswith("steps") for row in rows):
        caption += " A method of more than ten steps is shown in tenths."
    columns = "name stack batch what by ms gflop kv_mib peak_mib live_mib"
    return Figure(
        "scales",
        "Scales",
        caption,
        "scales",
        columns,
        variants,
        choices(group, timed or rows, *CHOICES),
    )


def batch(group: Group) -> Figure | None:
    """Latency and what follows from it, by batch size."""
    rows = [row for row in group.rows if "latency_s" in row]
    if len({row["batch"] for row in rows}) < 2:
        return None
    sizes = sorted({row["batch"] for row in group.rows})
    shown = [
        ("Latency", "latency_s", "latency of a batch (s)"),
        ("Throughput", "throughput_img_s", "images/s"),
        ("Memory", "total_mib", "peak memory (MiB)"),
    ]
    if group.baseline and any("speedup" in row for row in rows):
        shown.insert(1, ("Speed-up", "speedup", f"speed-up over {group.baseline} (times)"))
    variants = []
    for label, name, title in shown:
        labelled = alt.Undefined if name == "speedup" else ticks(rows, name)
        y = alt.Y(
            f"{name}:Q",
            title=title,
            scale=alt.Scale(zero=False)
            if name == "speedup"
            else alt.Scale(type="log", nice=False, padding=10),
            axis=alt.Axis(values=labelled, format=",~r"),
        )
        x = alt.X(
            "batch:Q",
            title="batch size (images)",
            scale=alt.Scale(type="log", base=2, domain=[sizes[0], sizes[-1]], padding=12),
            axis=alt.Axis(values=sizes, format="d"),
        )
        chart = lines(group.rows, x, y, tooltip("name", "batch", name))
        for i in distinct(group.rows, "oom") if name != "speedup" else []:
            crosses = (
                alt.Chart()
                .transform_filter(f"datum.oom === {i}")
                .mark_point(shape=CROSS, size=110, strokeWidth=2, opacity=1, filled=False)
                .encode(
                    x=x,
                    y=alt.value(8 + 14 * i),
                    color=by_name(group.rows, "name"),
                    tooltip=tooltip("name", "batch", "status"),
                )
            )
            chart = alt.layer(chart, crosses)
        variants.append(variant(label, chart, height=380))
    caption = "Both axes are logarithmic, but for speed-ups. A cross at the top is out of memory."
    columns = "name stack batch latency_s throughput_img_s speedup total_mib"
    return Figure(
        "batch",
        "Batch size",
        caption,
        "cases",
        columns,
        variants,
        choices(group, rows, "stack", "machine"),
    )


def memory(group: Group) -> Figure | None:
    """Memory by part, and over the scales."""
    known = [row for row in group.parts if row["by"] == "measured"]
    y = alt.Y("name:N", sort=distinct(group.parts, "name"), title=None, axis=names_axis())
    bars = (
        alt.Chart()
        .encode(y=y)
        .mark_bar(height={"band": 0.78})
        .encode(
            x=alt.X("sum(mib):Q", title="memory (MiB)", axis=alt.Axis(format=",~r")),
            color=alt.Color(
                "part:N",
                title=None,
                sort=list(PARTS),
                scale=alt.Scale(domain=list(PARTS), range=list(PARTS.values())),
            ),
            order=alt.Order("order:Q"),
            opacity=alt.Opacity(
                "by:O",
                title=None,
                legend=None,
                scale=alt.Scale(domain=["measured", "predicted"], range=[1, 0.45]),
            ),
            tooltip=tooltip("name", "part", "mib", "by"),
        )
    )
    ticks = (
        alt.Chart()
        .transform_filter("datum.part == 'running' && datum.by == 'measured'")
        .mark_tick(color=INK, thickness=2, height={"band": 0.95})
        .encode(
            y=y,
            x=alt.X("predicted_mib:Q", title="memory (MiB)"),
            tooltip=tooltip("name", "predicted_mib"),
        )
    )
    chart = alt.layer(bars, ticks) if known else alt.layer(bars)
    variants = [variant("By part", chart, rows="parts")]
    for label, name, title in (
        ("Timeline: peak", "peak_mib", "peak above the weights (MiB)"),
        ("Timeline: KV cache", "kv_mib", "KV cache (MiB)"),
        ("Timeline: left after", "live_mib", "left above the weights (MiB)"),
    ):
        found = [row for row in group.scales if row[name] is not None]
        if found:
            x = alt.X(
                "scale:Q",
                title="scale",
                scale=alt.Scale(nice=False, padding=12),
                axis=alt.Axis(tickCount=max(r["scale"] for r in found), format="d"),
            )
            y_axis = alt.Y(f"{name}:Q", title=title, axis=alt.Axis(format=",~r"))
            drawn = lines(found, x, y_axis, tooltip("name", "what", name, "by"))
            variants.append(variant(label, drawn, height=380, rows="scales"))
    caption = "A mark across a bar is the total that shapes predict; pale bars are predicted only."
    columns = "name stack batch part what by mib kv_mib peak_mib live_mib"
    kept = known or group.parts
    return Figure(
        "memory", "Memory", caption, "parts", columns, variants, choices(group, kept, *CHOICES)
    )


def configurations(group: Group) -> Figure | None:
    """What N, the scales that the large model or all layers predict, does to each configuration."""
    rows = [row for row in group.rows if "n" in row]
    known = [row for row in rows if "latency_s" in row]
    most = max(
        [
            len({r["n"] for r in rows if r["configuration"] == c})
            for c in distinct(rows, "configuration")
        ],
        default=0,
    )
    if most < 2:
        return None
    variants = []
    for label, name, title in (
        ("Speed-up", "speedup", f"speed-up over {group.baseline} (times)"),
        ("Latency", "latency_s", "latency of a batch (s)"),
        ("Memory", "total_mib", "peak memory (MiB)"),
        ("Memory, predicted", "total_mib_predicted", "peak memory, predicted (MiB)"),
        ("KV cache", "kv_cache_mib", "KV cache (MiB)"),
        ("FID", "fid", "FID, measured or quoted (lower is better)"),
    ):
        found = [row for row in rows if name in row]
        if len(found) < 2 or (name == "total_mib_predicted" and known):
            continue
        x = alt.X(
            "n:Q",
            title="N: scales by the large model, or by all layers",
            scale=alt.Scale(nice=False, padding=16),
            axis=alt.Axis(values=sorted({r["n"] for r in rows}), format="d"),
        )
        y = alt.Y(
            f"{name}:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(format=",~r")
        )
        chart = lines(
            found,
            x,
            y,
            tooltip("name", "n", name, *(["fid_by"] if name == "fid" else [])),
            by="configuration",
        )
        variants.append(variant(label, chart, height=360))
    caption = "Each line is a pair of models, or a subnet of one."
    columns = "name n stack batch latency_s speedup total_mib kv_cache_mib fid fid_by"
    return Figure(
        "configurations",
        "Configurations",
        caption,
        "cases",
        columns,
        variants,
        choices(group, rows, *CHOICES),
    )


SAMPLES = {
    "latency": "Latency",
    "discarded": "Discarded: the GPU throttled",
    "warm-up": "Warm-up",
    "vqvae": "VQVAE decoder",
    "paired": "In turn with the baseline",
    "paired baseline": "The baseline, in those turns",
    "stream": "Batches of the stream",
}


def samples(group: Group) -> Figure | None:
    """One case's samples in the order they were taken."""
    if not group.raw:
        return None
    rounds = [round_ for case in group.raw.values() for round_ in case["rounds"]]
    kinds = [(kind, label) for kind, label in SAMPLES.items() if any(r[kind] for r in rounds)]
    count = max(len(round_["scales"]) for round_ in rounds)
    kinds += [(f"scale {k}", f"Scale {k}") for k in range(1, count + 1)]
    variants = [Variant(label, sample_plot("round", "round"), kind=kind) for kind, label in kinds]
    caption = "In the order taken, to five digits; records.jsonl has them whole."
    if (every := rounds[0]["every"]) > 1:
        caption = f"One in {every}, for want of room, to five digits; records.jsonl has them all."
    cases = [case["name"] for case in group.raw.values()]
    return Figure(
        "samples",
        "Raw samples",
        caption,
        "raw",
        "round sample seconds",
        variants,
        {"case": cases},
    )


def sample_plot(by: str, title: str) -> dict[str, Any]:
    chart = (
        alt.Chart()
        .mark_point(filled=True, size=40, opacity=0.9)
        .encode(
            x=alt.X(
                "sample:Q",
                title="sample, in the order taken",
                scale=alt.Scale(zero=False, nice=False, padding=12),
                axis=alt.Axis(format="d", tickMinStep=1),
            ),
            y=alt.Y(
                "seconds:Q",
                title="seconds (s)",
                scale=alt.Scale(zero=False),
                axis=alt.Axis(format=",~r"),
            ),
            color=alt.Color(f"{by}:N", title=title, scale=alt.Scale(range=SERIES)),
            shape=alt.Shape(f"{by}:N", title=title, scale=alt.Scale(range=SHAPES)),
            tooltip=tooltip(by, "sample", "seconds"),
        )
    )
    return spec_of(chart, height=320)


# Pieces


def lines(
    rows: Sequence[Row], x: alt.X, y: alt.Y, tips: list[alt.Tooltip], by: str = "name"
) -> Any:
    """A line for each method; its entry in the legend singles it out."""
    color, domain = by_name(rows, by), distinct(rows, by)
    shapes = alt.Scale(domain=domain, range=cycled(SHAPES, domain))
    picked = alt.selection_point(fields=[by], bind="legend")
    base = (
        alt.Chart()
        .transform_filter(f"isValid(datum.{str(y.shorthand).partition(':')[0]})")
        .encode(x=x, y=y, color=color)
        .encode(opacity=alt.condition(picked, alt.value(1), alt.value(0.15)))
    )
    points = base.mark_point(filled=True, size=70, opacity=1).add_params(picked)
    shape = alt.Shape(f"{by}:N", sort=domain, title=None, scale=shapes)
    return alt.layer(base.mark_line(strokeWidth=2), points.encode(shape=shape, tooltip=tips))


def by_name(rows: Sequence[Row], by: str) -> alt.Color:
    domain = distinct(rows, by)
    series = SERIES if by == "name" else SERIES[1:]  # the first is VAR's
    scale = alt.Scale(domain=domain, range=cycled(series, domain))
    return alt.Color(f"{by}:N", sort=domain, title=None, scale=scale)


def cycled(values: list[str], domain: list[Any]) -> list[str]:
    return list(itertools.islice(itertools.cycle(values), len(domain)))


def ticks(rows: Sequence[Row], name: str) -> list[float]:
    """1, 2, 5, 10 and so on, as far as the values of that name go: labels of a logarithmic axis."""
    values = [row[name] for row in rows if row.get(name)]
    every = (m * 10.0**e for e in range(-5, 8) for m in (1, 2, 5))
    return [tick for tick in every if min(values) / 2.5 < tick < 2.5 * max(values)]


def distinct(rows: Sequence[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows if key in row))


def stack_color(stacks: list[str]) -> alt.Color:
    colors = [STACKS.get(name, SERIES[2]) for name in stacks]
    legend: Any = alt.Legend() if len(stacks) > 1 else None
    return alt.Color(
        "stack:N",
        title="stack",
        legend=legend,
        sort=stacks,
        scale=alt.Scale(domain=stacks, range=colors),
    )


def names_axis() -> alt.Axis:
    return alt.Axis(ticks=False, domain=False, grid=False, labelPadding=8)


def tooltip(*names: str) -> list[alt.Tooltip]:
    text = {"name", "stack", "machine", "by", "fid_by", "what", "part", "status", "round", "side"}
    found = []
    for name in names:
        heading = HEADINGS.get(name, name.replace("_", " "))
        if name in text:
            found.append(alt.Tooltip(f"{name}:N", title=heading))
        else:
            found.append(alt.Tooltip(f"{name}:Q", title=heading, format=",.4~r"))
    return found


def variant(label: str, chart: Any, height: Any = None, rows: str = "") -> Variant:
    return Variant(label, spec_of(chart, height or {"step": 30}), rows)


def spec_of(chart: Any, height: Any) -> dict[str, Any]:
    """Vega-Lite of a chart as wide as the page, without rows and without Altair's own theme."""
    whole = chart.properties(width="container", height=height, data=alt.NamedData(name="rows"))
    spec = whole.to_dict()
    for name in ("$schema", "config"):
        spec.pop(name, None)
    return spec
