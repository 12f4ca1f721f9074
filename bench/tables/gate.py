"""What the regression gate says: a table, GitHub's annotations, JUnit XML, pictures."""

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
    changed = [f for f in comparison.findings if f.verdict in ("slower", "faster", "other")]
    rows = [[f.case, f.figure, f.values, f.relative, f.word] for f in changed]
    detail = pd.DataFrame(rows, columns=["case", "figure", "BASE to NEW", "change", "verdict"])
    more = [printing.Printed("What changed", detail, detail, names=2)] if rows else []
    doubts = pd.DataFrame(doubts_of(comparison), columns=["case", "why"])
    more += [printing.Printed("Inconclusive", doubts, doubts)] if len(doubts) else []
    return printing.Printed(title, data, text, notes + comparison.notes, more)


def doubts_of(comparison: Comparison) -> list[tuple[str, str]]:
    """Each inconclusive case with the reason."""
    labels = {found.key: found.case for found in comparison.findings}
    return [(labels[key], why) for key, why in comparison.inconclusive.items()]


def outcome(comparison: Comparison) -> str:
    """The verdict in one line: regressions, doubtful cases, how many of each."""
    counts = Counter(found.verdict for found in comparison.findings)
    told = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))
    many, doubtful = len(comparison.regressions), len(comparison.inconclusive)
    doubt = f", {doubtful} case{'s' * (doubtful != 1)} inconclusive" if doubtful else ""
    return f"{many} regression{'s' * (many != 1)}{doubt} ({told})"


def row_of(figures: dict[str, Finding]) -> dict[str, str]:
    """A case's cells: one column a figure, its change and verdict."""
    first = next(iter(figures.values()))
    row = {"case": first.case}
    for name in ("status", "case", "times"):
        if name in figures:
            row["latency"] = f"{figures[name].word}: {figures[name].reason}"
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


# For CI


def workflow_commands(comparison: Comparison) -> str:
    """GitHub's workflow commands: an error for each case that regressed, a warning for each that
    is inconclusive or has other tokens, and a notice."""
    by_case: dict[tuple[str, str], list[Finding]] = {}
    for found in comparison.findings:
        by_case.setdefault((found.key, found.case), []).append(found)
    lines = []
    for (key, case), findings in by_case.items():
        worse = [f.said for f in findings if f.regression]
        doubts = [f.said for f in findings if f.verdict == "other"]
        if key in comparison.inconclusive:
            doubts.insert(0, comparison.inconclusive[key])
        command, title = ("error", "Regression") if worse else ("warning", "In doubt")
        if worse or doubts:
            head = f"::{command} title={escape(f'{title}: {case}', True)}"
            lines.append(f"{head}::{escape('; '.join(worse + doubts))}")
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
    """A test case for each case and figure, where a regression fails; and one, an error, for each
    case that is inconclusive."""
    suite = ET.Element("testsuite", {"name": "bench.compare"})
    for found in comparison.findings:
        case = ET.SubElement(suite, "testcase", {"classname": found.case, "name": found.figure})
        if found.unit == "s" and found.new is not None:
            case.set("time", f"{found.new:.6g}")
        if found.regression:
            ET.SubElement(case, "failure", {"message": str(found)}).text = str(found)
        else:
            unclear = found.verdict in ("undecided", "invalid")
            said = "inconclusive: " * unclear + str(found)
            ET.SubElement(case, "system-out").text = said
    for label, why in doubts_of(comparison):
        case = ET.SubElement(suite, "testcase", {"classname": label, "name": "conclusive"})
        ET.SubElement(case, "error", {"type": "inconclusive", "message": why}).text = why
    for name, path in {"tests": "*", "failures": "*/failure", "errors": "*/error"}.items():
        suite.set(name, str(len(suite.findall(path))))
    suite.set("skipped", "0")
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)
