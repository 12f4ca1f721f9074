"""What the page says of two results side by side: the regression gate's findings, from both."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

import pandas as pd

from bench.figures import gate_figure
from bench.report import grids
from bench.report.embed import Panel, panel
from bench.report.grids import Grid
from bench.tables import gate
from bench.tables.compare import Comparison

WITHIN = (
    "Latency from BASE to NEW. Grey: what does not matter. Lines are intervals that hold for the "
    "whole table at once."
)
SAMPLES = "Cases with a regression, or all where there is none: samples in the order taken."


@dataclass
class Content:
    """sure: as `content.Headline`'s."""

    headline: str
    sure: str
    why: str
    cases: Grid
    findings: Grid
    sides: Grid
    notes: list[str]
    panels: list[Panel]


def content(comparison: Comparison) -> Content:
    printed = gate.printed(comparison)
    sides = {"BASE": comparison.base, "NEW": comparison.new}
    names = dict.fromkeys([*comparison.base.same, *comparison.base.told])
    facts = [
        [name, *((side.same | side.told).get(name) or "unknown" for side in sides.values())]
        for name in names
    ]
    facts.insert(0, ["where", *(side.where for side in sides.values())])
    text = pd.DataFrame(facts, columns=["what", *sides])
    return Content(
        headline=headline(comparison),
        sure=sure(comparison),
        why=why(comparison),
        cases=grids.of_text("cases", "Case by case", printed.text, printed.notes[:1]),
        findings=grids.of_text("findings", "Every figure", in_full(comparison)),
        sides=grids.of_text("sides", "The two sides", text),
        notes=comparison.notes,
        panels=[
            panel("change", "Change", WITHIN, [("", gate_figure.overview(comparison))]),
            panel("samples", "Samples", SAMPLES, gate_figure.pages(comparison)),
        ],
    )


def headline(comparison: Comparison) -> str:
    latencies = [f for f in comparison.findings if f.figure == "latency"]
    slower, faster, undecided = (
        [f for f in latencies if f.verdict == verdict]
        for verdict in ("slower", "faster", "undecided")
    )
    many, cases = len(comparison.regressions), len(latencies)
    if slower:
        worst = max(slower, key=lambda f: f.change or 0)
        by = f"by up to {worst.change:.1%}"
        return f"{len(slower)} of {cases} cases became slower, {by}: {worst.case}"
    if many:
        one = comparison.regressions[0]
        regressions = "1 regression" if many == 1 else f"{many} regressions"
        return f"{regressions}, none of latency: {one.case}, {one.figure}"
    if faster:
        best = min(faster, key=lambda f: f.change or 0)
        by = f"by up to {-(best.change or 0):.1%}"
        return f"{len(faster)} of {cases} cases became faster, {by}: {best.case}"
    if undecided:
        return f"No change was shown; {len(undecided)} of {cases} latencies are undecided"
    return f"Nothing changed: all {cases} latencies are the same within {limit(comparison)}"


def limit(comparison: Comparison) -> str:
    return f"{100 * comparison.threshold:.3g} %"


def sure(comparison: Comparison) -> str:
    if any(f.verdict == "undecided" for f in comparison.findings):
        return "rough"
    return "marked" if comparison.notes else "firm"


def why(comparison: Comparison) -> str:
    counts = Counter(found.verdict for found in comparison.findings)
    told = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))
    chance = f"{comparison.alpha:.3g} for the whole table (Holm)"
    what = f"a change is more than {limit(comparison)}, at {chance}"
    return f"Of {len(comparison.findings)} figures: {told}; {what}."


def in_full(comparison: Comparison) -> pd.DataFrame:
    rows = []
    for found in comparison.findings:
        values = asdict(found)
        numbers = {
            name: "" if values[name] is None else f"{values[name]:.4g}" for name in ("base", "new")
        }
        shares = {
            name: "" if values[name] is None else f"{values[name]:+.1%}"
            for name in ("change", "low", "high")
        }
        rows.append(
            {
                "case": found.case,
                "figure": found.figure,
                "BASE": numbers["base"],
                "NEW": numbers["new"],
                "unit": found.unit,
                "change": shares["change"],
                "from": shares["low"],
                "to": shares["high"],
                "p": "" if found.p is None else f"{found.p:.2g}",
                "verdict": found.word + (", a regression" if found.regression else ""),
                "rounds": counted(found.rounds_base, found.rounds_new),
                "samples": counted(found.n_base, found.n_new),
                "why": found.reason,
            }
        )
    return pd.DataFrame(rows)


def counted(base: int | None, new: int | None) -> str:
    return "" if base is None else f"{base} and {new}"
