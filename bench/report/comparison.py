"""The page of two results side by side: the regression gate's findings, from both."""

from collections import Counter

import pandas as pd

from bench.figures import gate_figure
from bench.report.embed import panel
from bench.report.sections import Figures, Note, Page, Section, table_of_text
from bench.study.columns import format_figure
from bench.tables import gate
from bench.tables.compare import Comparison, Finding

WITHIN = (
    "Latency from BASE to NEW. Grey: what does not matter. Lines are intervals that hold for the "
    "whole table at once."
)
SAMPLES = "Cases with a regression, or all where there is none: samples in the order taken."
#: What the table of every figure says of a finding: heading and format of each of its fields.
IN_FULL = {
    "case": ("case", "{}"),
    "figure": ("figure", "{}"),
    "base": ("BASE", "{:.4g}"),
    "new": ("NEW", "{:.4g}"),
    "unit": ("unit", "{}"),
    "change": ("change", "{:+.1%}"),
    "low": ("from", "{:+.1%}"),
    "high": ("to", "{:+.1%}"),
    "p": ("p", "{:.2g}"),
    "word": ("verdict", "{}"),
    "regression": ("a regression", "{}"),
    "rounds_base": ("rounds of BASE", "{}"),
    "rounds_new": ("rounds of NEW", "{}"),
    "n_base": ("samples of BASE", "{}"),
    "n_new": ("samples of NEW", "{}"),
    "reason": ("why", "{}"),
}


def page(comparison: Comparison) -> Page:
    """What changed, case by case and in full, and what the two sides are."""
    printed = gate.printed(comparison)
    figures = [
        panel("change", "Change", WITHIN, [("", gate_figure.overview(comparison))]),
        panel("samples", "Samples", SAMPLES, gate_figure.pages(comparison)),
    ]
    doubts = [Note(note, "marked") for note in comparison.notes] or [Note("Nothing was marked.")]
    cases = table_of_text("Case by case", printed.text, printed.notes[:1])
    every = table_of_text("Every figure, side by side", in_full(comparison.findings))
    return Page(
        kind="comparison",
        headline=headline(comparison),
        notes=[Note(why(comparison), sure(comparison))],
        sections=[
            Section("changes", "What changed", [Figures("the comparison", figures), *doubts]),
            Section("cases", "Cases", [cases]),
            Section("findings", "Every figure", [every]),
            Section("sides", "The two sides", [table_of_text("The two sides", sides(comparison))]),
        ],
    )


def headline(comparison: Comparison) -> str:
    """What became slower, or else faster, and of that the most."""
    latencies = [f for f in comparison.findings if f.figure == "latency"]
    regressions = comparison.regressions
    for verdict in ("slower", "faster"):
        found = [f for f in latencies if f.verdict == verdict]
        if found:
            most = max(found, key=lambda f: abs(f.change or 0))
            by = f"by up to {abs(most.change or 0):.1%}: {most.case}"
            return f"{len(found)} of {len(latencies)} cases became {verdict}, {by}"
        if regressions:
            many = f"{len(regressions)} regression{'s' * (len(regressions) != 1)}"
            return f"{many}, none of latency: {regressions[0].case}, {regressions[0].figure}"
    undecided = sum(f.verdict == "undecided" for f in latencies)
    if undecided:
        return f"No change was shown; {undecided} of {len(latencies)} latencies are undecided"
    same = f"all {len(latencies)} latencies are the same within {limit(comparison)}"
    return f"Nothing changed: {same}"


def limit(comparison: Comparison) -> str:
    """The change that matters, in per cent."""
    return f"{100 * comparison.threshold:.3g} %"


def sure(comparison: Comparison) -> str:
    """As of `sections.Note`."""
    if any(f.verdict == "undecided" for f in comparison.findings):
        return "rough"
    return "marked" if comparison.notes else "firm"


def why(comparison: Comparison) -> str:
    """How many figures changed, and what counts as a change."""
    counts = Counter(found.verdict for found in comparison.findings)
    told = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))
    chance = f"{comparison.alpha:.3g} for the whole table (Holm)"
    what = f"a change is more than {limit(comparison)}, at {chance}"
    return f"Of {len(comparison.findings)} figures: {told}; {what}."


def in_full(findings: list[Finding]) -> pd.DataFrame:
    """Every finding with all its numbers, as text."""

    def cell(found: Finding, name: str, form: str) -> str:
        value = getattr(found, name)
        if isinstance(value, bool):
            return "yes" if value else ""
        return "" if value is None else format_figure(form, value)

    return pd.DataFrame(
        {heading: [cell(found, name, form) for found in findings]
         for name, (heading, form) in IN_FULL.items()}
    )  # fmt: skip


def sides(comparison: Comparison) -> pd.DataFrame:
    """Where and on what each side was measured."""
    both = {"BASE": comparison.base, "NEW": comparison.new}
    facts = {name: {"where": side.where, **side.told, **side.same} for name, side in both.items()}
    names = dict.fromkeys([*facts["BASE"], *facts["NEW"]])
    columns = {
        name: [told.get(fact) or "unknown" for fact in names] for name, told in facts.items()
    }
    return pd.DataFrame({"what": list(names), **columns})
