"""The leaderboard: static pages of bundles that were verified, from which each row opens.

    site/index.html      every case, those on the Pareto front, and which bundles were left out
    site/NAME-ID.html    of each bundle: what was checked, and the records of its cases

Everything in a bundle is a stranger's: its text is only ever text (`page.html` escapes it).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.figures import tradeoff
from bench.report import embed, page
from bench.report.sections import (
    Column,
    Figures,
    Note,
    Page,
    Panel,
    Section,
    Table,
    table_of_text,
)
from bench.study.columns import COLUMNS
from bench.study.errors import UsageError
from bench.study.records import Record
from bench.tables import rules
from bench.tables.bundle import Row, Verified, printed, verify
from bench.tables.pareto import pareto_front

GATES = (*rules.LOSSES, rules.SAME_SEED)
CHOSEN_BY = {"device_name": "machine", "division": "division", "batch_size": "batch"}
HOW = ("stack", "precision", "bundle")
FIGURES = ("latency_s", "throughput_img_s", "total_mib", "fid", "fid_difference")
FRONT = "front"
NOTES = (
    "A speed-up is over the bundle's own baseline.  It counts where a quality gate stands: version "
    f"{rules.VERSION} of the rules, docs/guide/rules.md.",
    "Front: no other case of this machine, batch, stack and protocol of quality is both faster and "
    "of a lower FID.",
    "Plugin: a method from outside this project; its memory and FLOPs are not predicted.",
)


def write(bundles: Path, site: Path, command: str = "") -> list[str]:
    """Verifies every bundle of a folder and writes the pages; a line for each of both.

    Raises UsageError where there is no bundle.
    """
    files = sorted(bundles.glob("*.zip"))
    if not files:
        raise UsageError(f"{bundles}: no bundle here (*.zip)")
    passed: dict[str, Verified] = {}
    left: dict[str, str] = {}
    for file in files:
        try:
            found = verify(file)
        except UsageError as e:
            left[file.name] = str(e).removeprefix(f"{file}: ")
            continue
        if found.failed:
            left[file.name] = "; ".join(f"{check.name}: {check.why}" for check in found.failed)
        else:
            passed[found.id] = found
    pages = {page_name(found): of_bundle(found) for found in passed.values()}
    pages["index.html"] = index([*passed.values()], left)
    for name, content in pages.items():
        page.write(page.render(content, command), site / name)
    lines = [f"{name}: left out ({why})" for name, why in left.items()]
    return [*lines, *(str(site / name) for name in pages)]


def page_name(found: Verified) -> str:
    """The file of a bundle's own page."""
    return f"{found.name}-{found.id}.html"


def index(passed: Sequence[Verified], left: Mapping[str, str]) -> Page:
    """The board.  left: why, by the bundle's file."""
    rows, links = [], []
    for found in passed:
        for i, row in enumerate(found.rows):
            if row["status"] == "ok" and not row.get("control_of"):
                rows.append(row | {"bundle": found.name})
                links.append(f"{page_name(found)}#case{i}")
    mark_front(rows)
    best = max((row for row in rows if row["gates"]), key=rank, default=None)
    headline, times = "No speed-up here counts yet", ""
    if best:
        times = f"{best['speedup']:.2f}"
        headline = f"{best['name']} decodes {times} times as fast, {best['gates'][0]}"
    many = f"{len(rows)} cases of {len(passed)} bundles."
    sections = [Section("board", "Leaderboard", [table(rows, links)])] if rows else []
    if panel := trade_offs(rows):
        sections.append(Section("trade-off", "Trade-off", [Figures("the board", [panel])]))
    if left:
        text = pd.DataFrame({"bundle": [*left], "why": [*left.values()]})
        sections.append(Section("left", "Left out", [table_of_text("Left out", text)]))
    return Page("leaderboard", headline, [Note(many)], sections, times)


def rank(row: Row) -> tuple[int, float]:
    """The strictest gate first, then what is surely faster."""
    return -min(map(GATES.index, row["gates"])), row["speedup_99"][0]


def alike(row: Row) -> tuple[Any, ...]:
    """Only cases for which this is the same share a front."""
    how = str(row["quality_by"]).partition("; differences")[0]
    return row["device_name"], row["batch_size"], row["stack"], how


def mark_front(rows: Sequence[Row]) -> None:
    """Adds `FRONT` to the rows that are on the front of those like them."""
    known = [row for row in rows if "fid" in row]
    for same in {alike(row) for row in known}:
        items = [row for row in known if alike(row) == same]
        for row in pareto_front(items, lambda row: (row["latency_s"], row["fid"])):
            row[FRONT] = True


def table(rows: Sequence[Row], links: Sequence[str]) -> Table:
    """The fastest of what counts first."""
    order = sorted(
        range(len(rows)), key=lambda i: (not rows[i]["gates"], -rows[i].get("speedup", 0))
    )
    rows, links = [rows[i] for i in order], [links[i] for i in order]
    columns = [Column("method", [str(row["name"]) for row in rows])]
    for name, heading in CHOSEN_BY.items():
        cells = [str(row[name]) for row in rows]
        choices = sorted({*cells}, key=lambda text: (len(text) if text.isdigit() else 0, text))
        columns.append(Column(heading, cells, choices=choices))
    spans = [row.get("speedup_99") for row in rows]
    gates = [", ".join(row["gates"]) for row in rows]
    columns += [
        Column("speed-up", [f"{row['speedup']:.2f}x" if "speedup" in row else "" for row in rows]),
        Column("99 %", [f"{span[0]:.2f} to {span[1]:.2f}" if span else "" for span in spans]),
        Column("quality gate", gates, choices=GATES),
        Column("on the front", [FRONT * (FRONT in row) for row in rows], choices=[FRONT]),
    ]
    for one in (COLUMNS[name] for name in FIGURES):
        cells = [one.text(row[one.name]) if one.name in row else "" for row in rows]
        columns.append(Column(one.heading, cells))
    columns += [Column(name, [str(row[name]) for row in rows]) for name in HOW]
    columns.append(Column("why not", [row["why_not"] for row in rows], "marked"))
    plugins = ["plugin" * row["plugin"] for row in rows]
    columns.append(Column("from outside", plugins, "marked", ["plugin"] * any(plugins)))
    kept = [column for column in columns if any(column.cells)]
    return Table("Leaderboard", kept, NOTES, links=links)


def trade_offs(rows: Sequence[Row]) -> Panel | None:
    """A picture for each machine and batch size with two cases to hold against each other."""
    found = Panel("trade-off-panel", "Trade-off", "On the line nothing is better in both.")
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(alike(row)[:2], []).append(row)
    for (machine, batch), same in groups.items():
        cases = [tradeoff.case_facts(row) for row in same]
        for case, row in zip(cases, same, strict=True):
            case["fid_by"] = alike(row)[-1]
        if tradeoff.trades_of(cases):
            figure = tradeoff.draw(cases, f"Measured on {machine}, batch {batch}.")
            id = f"trade-off-{len(found.pictures)}"
            found.pictures.append(embed.picture(figure, id, f"{machine}, batch {batch}"))
    return found if found.pictures else None


def of_bundle(found: Verified) -> Page:
    """What was checked, and the records of each case."""
    told = printed(found)
    parts = [table_of_text(one.title, one.text, one.notes) for one in (told, *told.more)]
    sections = [Section("checks", "Checks", parts)]
    for i, row in enumerate(found.rows):
        title = f"{row['name']}, batch {row['batch_size']}"
        lines = found.records.get(row["key"], [])
        part = of_records(f"Records of {title}", lines) if lines else Note("Not measured.")
        sections.append(Section(f"case{i}", title, [part]))
    return Page("bundle", f"{found.name}: {len(found.rows)} cases", [Note(found.id)], sections)


def of_records(title: str, lines: Sequence[Record]) -> Table:
    """All that a case's records say, a column for each round."""
    columns = {f"round {line.round}": dict(flat(line.to_json())) for line in lines}
    text = pd.DataFrame(columns).fillna("").rename_axis("what").reset_index()
    return table_of_text(title, text)


def flat(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Each value by its place: "samples.latency_s"."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{within}{key}.")
        else:
            yield f"{within}{key}", value if isinstance(value, str) else json.dumps(value)
