"""What a page is made of: sections of tables, figures and notes, which one template renders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from markupsafe import Markup

from bench.report.marks import marks
from bench.study.columns import Column as Figure
from bench.study.columns import in_order
from bench.study.printing import Printed
from bench.tables import tables

SOURCES = ("measured", "paper", "predicted")
#: Columns that tell cases apart; shown where rows differ in them.
KEYS = {"machine": "machine", "batch_size": "batch size", "stack": "stack",
        "precision": "precision", "weights_name": "weights"}  # fmt: skip
#: Figures that a reader sees without scrolling.
FIRST = ("speedup", "fid", "latency_s")
#: What a status means for which no other note or reason is there.
UNMEASURED = {
    "not measured": "Not measured: a row of the paper that is no case of the experiment.",
    "not run": "Not run: a case that this run has no measurement of (yet).",
}
WIDE = 12  # columns; a wider table is printed across
NUMBER = re.compile(r"[~<>]?\s*([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?=$|[\s%xMB(+]|-\d+\.)")


@dataclass(frozen=True)
class Column:
    """cells: as they are shown.  source: whose figures they are; "marked" of what is doubtful.
    choices: what rows can be narrowed to; a cell may name several, with ", " between them."""

    heading: str
    cells: Sequence[str]
    source: str = ""
    choices: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The heading, with whose figures they are."""
        return f"{self.heading}, {self.source}" if self.source in SOURCES else self.heading

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers alone."""
        return all(number(cell) is not None for cell in self.cells if cell)


@dataclass(frozen=True)
class Table:
    """Rows to sort, filter and copy.  folded: behind its title, until a reader asks for it.
    links: where the first cell of each row leads, if anywhere."""

    title: str
    columns: list[Column]
    notes: Sequence[str] = ()
    folded: bool = False
    links: Sequence[str] = ()
    kind: str = "table"

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The cells, row by row."""
        return list(zip(*(column.cells for column in self.columns), strict=True))

    @property
    def sources(self) -> list[str]:
        """Whose figures there are, where they are of several."""
        found = {column.source for column in self.columns}
        several = [source for source in SOURCES if source in found]
        return several if len(several) > 1 else []

    @property
    def wide(self) -> bool:
        """Whether it is printed across."""
        return len(self.columns) > WIDE


@dataclass(frozen=True)
class Picture:
    """SVG or images.  label: which run, case or sample set it is of."""

    label: str
    markup: Markup


@dataclass
class Panel:
    """A figure to choose, with one picture for each run or case."""

    id: str
    title: str
    caption: str
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class Figures:
    """Panels of which a reader sees one at a time."""

    title: str
    panels: list[Panel]
    kind: str = "figures"


@dataclass(frozen=True)
class Note:
    """A paragraph.  sure: "firm", "marked" or "rough" where it says how sure a finding is."""

    text: str
    sure: str = ""
    kind: str = "note"

    @property
    def verdict(self) -> str:
        """What stands before the text."""
        return {"firm": "Sure", "marked": "Take care", "rough": "Rough"}.get(self.sure, "")


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    id: str
    title: str
    parts: Sequence[Table | Figures | Note]


@dataclass(frozen=True)
class Tile:
    """A figure beside the headline."""

    heading: str
    text: str
    detail: str


@dataclass(frozen=True)
class Page:
    """kind: "report" or "comparison".  times: the speed-up in large letters."""

    kind: str
    headline: str
    notes: Sequence[Note]
    sections: Sequence[Section]
    times: str = ""
    tiles: Sequence[Tile] = ()


def table_of_cases(title: str, data: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Of `frames.frame`'s rows: measured, the paper's and predicted figures in columns of their
    own.  Columns that are empty, and keys that are the same in each row, are left out."""
    rows = data.to_dict("records")
    found = [Column("method", list(data["name"]))]
    found.append(Column("steps", tables.ours_or_papers(data, "steps")))
    keys = {heading: tables.ours_or_papers(data, name) for name, heading in KEYS.items()}
    found += [Column(h, cells) for h, cells in keys.items() if len({*cells} - {""}) > 1]
    found.append(Column("status", [tables.status_text(row) for row in rows]))
    shown = in_order()
    found += [each for one in shown if one.name in FIRST for each in figures_of(data, rows, one)]
    found.append(Column("take care", [", ".join(shorts(row)) for row in rows], "marked"))
    counts = data["params"].map(tables.millions, na_action="ignore").fillna("")
    found.append(Column("parameters (M)", list(counts), "predicted"))
    found.append(Column("parameters", tables.quoted(data, "params", "{}"), "paper"))
    rest = [one for one in shown if one.name not in FIRST]
    found += [each for one in rest for each in figures_of(data, rows, one)]
    for name in tables.only_printed(data):
        found.append(Column(name.replace("_", " "), tables.quoted(data, name, "{}"), "paper"))
    there = {*data["status"]}
    notes = [*notes, *(words for status, words in UNMEASURED.items() if status in there)]
    work = tables.column(data, "tflops_predicted", "{:.3g}")
    found.append(Column("TFLOP", work, "predicted"))
    return Table(title, [column for column in found if any(column.cells)], notes)


def figures_of(
    data: pd.DataFrame, rows: Sequence[Mapping[Any, Any]], shown: Figure
) -> list[Column]:
    """A figure's columns: measured, its interval, the paper's and predicted."""
    name, heading, form = shown.name, with_unit(shown.heading), shown.format
    spans = [tables.interval_text(row, name, form) for row in rows]
    return [
        Column(heading, tables.column(data, name, form), "measured"),
        Column(f"{heading}, 95 %", spans, "measured"),
        Column(heading, tables.quoted(data, name, form), "paper"),
        Column(heading, tables.column(data, f"{name}_predicted", form), "predicted"),
    ]


def table_of_text(title: str, text: pd.DataFrame, notes: Sequence[str] = (), **more: Any) -> Table:
    """A table of cells that are text already."""
    columns = [Column(with_unit(str(name)), list(map(str, text[name]))) for name in text]
    return Table(title, columns, notes, **more)


def folded(printed: Printed) -> Table:
    """What a command prints, behind its title."""
    return table_of_text(printed.title, printed.text, printed.notes, folded=True)


def shorts(row: Mapping[Any, Any]) -> list[str]:
    """The row's marks in a word or two each."""
    return [mark.short for mark in marks(row) if mark.short]


def number(text: str) -> float | None:
    """What a cell sorts by: the first number in it, of "~2.53x", "<0.1" or "30.1 (28)"."""
    match = NUMBER.match(re.sub(r"(?<=\d),(?=\d{3})", "", text))
    return float(match[1]) if match else None


def with_unit(heading: str) -> str:
    """ "latency s" as "latency (s)"."""
    return re.sub(r" (s|MiB|M)$", r" (\1)", heading)
