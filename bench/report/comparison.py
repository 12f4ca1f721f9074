"""What the page says of two results side by side: the regression gate's findings, from both."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import altair as alt
import pandas as pd

from bench.report import grids
from bench.report.content import Row, rounded
from bench.report.figures import INK, MUTED, Figure, Variant, sample_plot, spec_of
from bench.report.grids import Grid
from bench.tables import gate
from bench.tables.compare import Comparison

VERDICTS = {
    "slower": "var(--bad)",
    "faster": "var(--good)",
    "same": INK,
    "undecided": MUTED,
}


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
    data: dict[str, Any]
    figures: list[Figure]


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
        data={"changes": changes(comparison), "raw": raw(comparison)},
        figures=[change_figure(comparison), sample_figure(comparison)],
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


# Figures


def changes(comparison: Comparison) -> list[Row]:
    return [
        {
            "name": name,
            "figure": found.figure,
            "change": rounded(100 * found.change),
            "low": None if found.low is None else rounded(100 * found.low),
            "high": None if found.high is None else rounded(100 * found.high),
            "verdict": found.verdict,
            "label": f"{found.change:+.1%}",
        }
        for found, name in zip(comparison.findings, told_apart(comparison), strict=True)
        if found.change is not None
    ]


def told_apart(comparison: Comparison) -> list[str]:
    """Each finding's case without what all cases have in common."""
    words = [found.case.split(", ") for found in comparison.findings]
    same = {word for word in words[0] if all(word in other for other in words)}
    return [", ".join(w for w in name if w not in same) or ", ".join(name) for name in words]


def change_figure(comparison: Comparison) -> Figure:
    """Change of each case with its interval; between the lines it does not matter."""
    title, edge = "change from BASE to NEW (%)", 100 * comparison.threshold
    lines = alt.Axis(ticks=False, domain=False, grid=False, labelExpr="split(datum.label, ', ')")
    y = alt.Y("name:N", sort=None, title=None, axis=lines)
    base = alt.Chart().encode(
        y=y,
        color=alt.Color(
            "verdict:N",
            title=None,
            sort=[*VERDICTS],
            scale=alt.Scale(domain=[*VERDICTS], range=[*VERDICTS.values()]),
        ),
    )
    x = alt.X("change:Q", title=title, scale=alt.Scale(nice=False, padding=30))
    tips = [
        alt.Tooltip("name:N", title="case"),
        *(
            alt.Tooltip(f"{n}:Q", title=f"{n} (%)", format="+.2f")
            for n in ("change", "low", "high")
        ),
        alt.Tooltip("verdict:N", title="verdict"),
    ]
    edges = [
        alt.Chart().mark_rule(color=MUTED, strokeDash=dash).encode(x=alt.datum(at, title=title))
        for at, dash in ((-edge, [2, 3]), (0, [1, 0]), (edge, [2, 3]))
    ]
    chart = alt.layer(
        *edges,
        base.mark_rule(strokeWidth=4, opacity=0.45)
        .transform_filter("isValid(datum.low)")
        .encode(x=alt.X("low:Q", title=title), x2="high:Q"),
        base.mark_point(filled=True, size=90, opacity=1).encode(x=x, tooltip=tips),
        base.mark_text(dy=-12, fontSize=12).encode(x=x, text="label:N", color=alt.value(INK)),
    )
    rows = changes(comparison)
    named = list(dict.fromkeys(row["figure"] for row in rows))
    caption = (
        f"Dotted: {limit(comparison)} either way, what matters. Lines are intervals that hold for "
        "the whole table at once."
    )
    headings = "name figure change low high verdict"
    variants = [Variant("Change", spec_of(chart, {"step": 40}))]
    return Figure("change", "Change", caption, "changes", headings, variants, {"figure": named})


def raw(comparison: Comparison) -> dict[str, Row]:
    """Each case's samples on both sides."""
    found: dict[str, Row] = {}
    for key in comparison.new.cases:
        if key not in comparison.base.cases:
            continue
        rounds = [
            {
                "side": name,
                "round": round_,
                **{
                    figure: rounded(by_round[round_].tolist())
                    for figure, by_round in side.cases[key].samples.items()
                    if round_ in by_round
                },
                "scales": [],
            }
            for name, side in (("BASE", comparison.base), ("NEW", comparison.new))
            for round_ in sorted(
                {r for by_round in side.cases[key].samples.values() for r in by_round}
            )
        ]
        if rounds:
            found[key] = {"name": comparison.new.cases[key].label, "rounds": rounds}
    return found


def sample_figure(comparison: Comparison) -> Figure:
    cases = raw(comparison).values()
    kinds = dict.fromkeys(
        kind
        for case in cases
        for round_ in case["rounds"]
        for kind in round_
        if kind not in ("side", "round", "scales")
    )
    spec = sample_plot("side", "side")
    variants = [Variant(kind[0].upper() + kind[1:], spec, kind=kind) for kind in kinds]
    caption = "In the order taken, each round from its first sample, to five digits."
    columns = "side round sample seconds"
    names = {"case": [case["name"] for case in cases]}
    return Figure("samples", "Raw samples", caption, "raw", columns, variants, names)
