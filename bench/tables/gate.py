"""What the regression gate says: a table, GitHub's annotations, JUnit XML, pictures."""

from __future__ import annotations

import html
import os
import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import asdict, replace

import pandas as pd

from bench.study import printing
from bench.study.errors import UsageError
from bench.tables.compare import Comparison, Finding

ONE_COLUMN = ("latency", "VQVAE latency", "speed-up", "total memory", "KV cache")


# A table


def printed(comparison: Comparison) -> printing.Printed:
    """A row for each case; what changed, in full; and what a reader must know."""
    by_case: dict[str, dict[str, Finding]] = {}
    for found in comparison.findings:
        by_case.setdefault(found.key, {})[found.figure] = found
    text = pd.DataFrame([row_of(figures) for figures in by_case.values()]).fillna("")
    text = text[[name for name in ("case", "latency", "scales", *ONE_COLUMN[1:]) if name in text]]
    title = f"{comparison.base.where} to {comparison.new.where}: {outcome(comparison)}"
    data = pd.DataFrame([asdict(found) for found in comparison.findings])
    notes = [
        f"Slower or faster: by more than {100 * comparison.threshold:.3g}%, "
        f"at {comparison.alpha:.3g} for the whole table (Holm)."
    ]
    changed = [f for f in comparison.findings if f.verdict in ("slower", "faster")]
    rows = [[f.case, f.figure, values_of(f), change_of(f), f.word] for f in changed]
    detail = pd.DataFrame(rows, columns=["case", "figure", "BASE to NEW", "change", "verdict"])
    more = [printing.Printed("What changed", detail, detail)] if rows else []
    return printing.Printed(title, data, text, notes + comparison.notes, more)


def outcome(comparison: Comparison) -> str:
    counts = Counter(found.verdict for found in comparison.findings)
    told = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))
    many = len(comparison.regressions)
    return f"{many} regression{'s' * (many != 1)} ({told})"


def row_of(figures: dict[str, Finding]) -> dict[str, str]:
    first = next(iter(figures.values()))
    row = {"case": first.case}
    for name in ("status", "case"):
        if name in figures:
            row["latency"] = figures[name].reason
    for name in ONE_COLUMN:
        if name in figures:
            change = figures[name].change
            percent = "" if change is None else f"{change:+.1%} "
            row[name] = percent + figures[name].word
    scales = [f for name, f in figures.items() if name.startswith("scale ")]
    if scales:
        found = Counter(f.verdict for f in scales)
        row["scales"] = ", ".join(f"{n} {verdict}" for verdict, n in found.most_common())
    return row


def values_of(found: Finding) -> str:
    if found.base is None or found.new is None:
        return found.reason
    return f"{found.base:.4g} to {found.new:.4g} {found.unit}"


def change_of(found: Finding) -> str:
    if found.change is None:
        return ""
    if found.low is None or found.high is None:
        return f"{found.change:+.1%}"
    return f"{found.change:+.1%} [{found.low:+.1%} to {found.high:+.1%}]"


# For CI


def workflow_commands(comparison: Comparison) -> str:
    """An error for each regression and a notice, as GitHub's workflow commands."""
    lines = [
        f"::error title={escape(f'Regression: {f.case}', True)}::{escape(str(f))}"
        for f in comparison.regressions
    ]
    return "\n".join([*lines, f"::notice title=Benchmark::{escape(outcome(comparison))}"])


def escape(text: str, of_property: bool = False) -> str:
    """As actions/toolkit does it: a property ends at a comma and its name at a colon."""
    for character in "%\r\n" + ":," * of_property:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def step_summary(comparison: Comparison) -> None:
    """Appends the table to GitHub's step summary, where there is one.  Raises UsageError."""
    file = os.environ.get("GITHUB_STEP_SUMMARY")
    if not file:
        return
    table = printed(comparison)
    pages = [
        replace(
            page,
            title=in_markdown(page.title),
            text=page.text.map(in_markdown),
            notes=[in_markdown(note) for note in page.notes],
        )
        for page in (table, *table.more)
    ]
    try:
        with open(file, "a", encoding="utf-8") as summary:
            summary.writelines(printing.as_text(page, "md") + "\n" for page in pages)
    except OSError as e:
        raise UsageError(f"{file}: cannot be written ({e.strerror})") from None


def in_markdown(text: object) -> str:
    """Without markup: neither HTML nor Markdown's own, but for `|`, which the table escapes."""
    return re.sub(r"([\\`*_\[\]~])", r"\\\1", html.escape(str(text), quote=False))


def junit(comparison: Comparison) -> str:
    """A test case for each case and figure: a regression fails, undecided is skipped."""
    counts = {
        "tests": len(comparison.findings),
        "failures": len(comparison.regressions),
        "skipped": sum(f.verdict == "undecided" for f in comparison.findings),
    }
    suite = ET.Element("testsuite", {"name": "bench.compare", "errors": "0"})
    suite.attrib.update({name: str(count) for name, count in counts.items()})
    for found in comparison.findings:
        named = {"classname": found.case, "name": found.figure}
        if found.unit == "s" and found.new is not None:
            named["time"] = f"{found.new:.6g}"
        case = ET.SubElement(suite, "testcase", named)
        if found.regression:
            ET.SubElement(case, "failure", {"message": str(found)}).text = str(found)
        elif found.verdict == "undecided":
            ET.SubElement(case, "skipped", {"message": found.reason or "undecided"})
        else:
            ET.SubElement(case, "system-out").text = str(found)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


# Pictures
