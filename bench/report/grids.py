"""Tables of the page: measured, the paper's and predicted figures in columns of their own."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bench.report.marks import marks
from bench.study import printing
from bench.study.columns import in_order
from bench.tables import tables
from bench.tables.summary import ROUGH

Row = Mapping[Any, Any]
SOURCES = {"": "measured", "_paper": "paper", "_predicted": "predicted"}
WIDE = 12  # columns; a wider table is printed across


@dataclass(frozen=True)
class Cell:
    """sort: what it sorts by if it is a number."""

    text: str
    sort: float | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """group: the heading that columns share, empty if it has none.  source: whose figure it is."""

    heading: str
    group: str = ""
    source: str = ""
    numeric: bool = False


@dataclass
class Grid:
    id: str
    title: str
    columns: list[Column]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Heading and width of neighbouring columns that share one."""
        runs = itertools.groupby(self.columns, key=lambda column: column.group)
        return [(heading, len(list(columns))) for heading, columns in runs if heading]

    @property
    def sources(self) -> list[str]:
        found = {column.source for column in self.columns}
        return [source for source in SOURCES.values() if source in found]

    @property
    def wide(self) -> bool:
        return len(self.columns) > WIDE


def of_frame(id: str, title: str, data: pd.DataFrame, notes: Sequence[str] = ()) -> Grid:
    """A table of `frames.frame`'s rows.  Columns that say the same in each row are left out."""
    rows = data.to_dict("records")
    columns, cells = [Column("method")], [[Cell(row["method"]) for row in rows]]

    def add(column: Column, found: list[Cell]) -> None:
        if any(cell.text for cell in found):
            columns.append(column)
            cells.append(found)

    for name, heading in (
        ("machine", "machine"),
        ("steps", "steps"),
        ("batch_size", "batch size"),
        ("stack", "stack"),
        ("precision", "precision"),
        ("weights_name", "weights"),
    ):
        texts = tables.ours_or_papers(data, name)
        if name == "steps" or len(set(texts) - {""}) > 1:
            add(Column(heading, numeric=name == "batch_size"), [Cell(t, number(t)) for t in texts])
    add(Column("status"), [Cell(tables.status_text(row), flags=flags(row)) for row in rows])
    counts = [value(row, "params") for row in rows]
    millions = [Cell(in_millions(count), count) if count else EMPTY for count in counts]
    add(Column("counted (M)", "parameters", "predicted", True), millions)
    add(Column("paper", "parameters", "paper", True), figure(rows, "params_paper", "{}"))
    for shown in in_order():
        name, heading, form = shown.name, shown.heading, shown.format
        group = with_unit(heading)
        for ending, source in SOURCES.items():
            found = figure(rows, name + ending, form)
            if ending == "_paper":
                found = [Cell(t, number(t)) for t in tables.quoted(data, name, form)]
            if name == "speedup" and not ending:
                found = [
                    Cell(f"~{c.text}" if row.get("speedup_by") in ROUGH else c.text, c.sort)
                    for c, row in zip(found, rows, strict=True)
                ]
            add(Column(source, group, source, True), found)
            if name == "speedup" and not ending:
                spans = [
                    Cell(tables.interval_text(r, name, form), value(r, "speedup_low")) for r in rows
                ]
                add(Column("95 % interval", group, "measured", True), spans)
    for name in tables.only_printed(data):
        heading = name.replace("_", " ")
        add(Column("paper", heading, "paper", True), figure(rows, f"{name}_paper", "{}"))
    add(Column("predicted", "TFLOP", "predicted", True), figure(rows, "tflops_predicted", "{:.3g}"))
    return Grid(id, title, columns, [list(row) for row in zip(*cells, strict=True)], list(notes))


def of_text(id: str, title: str, text: pd.DataFrame, notes: Sequence[str] = ()) -> Grid:
    """A table of cells that are text already."""
    found = [
        [Cell(str(cell), number(cell)) for cell in row] for row in text.itertuples(index=False)
    ]
    columns = [
        Column(
            with_unit(str(name)),
            numeric=all(row[i].sort is not None or not row[i].text for row in found),
        )
        for i, name in enumerate(text.columns)
    ]
    return Grid(id, title, columns, found, list(notes))


EMPTY = Cell("")


def value(row: Row, name: str) -> Any:
    found = row.get(name)
    return None if printing.missing(found) else found


def figure(rows: Sequence[Row], name: str, form: str) -> list[Cell]:
    cells = []
    for row in rows:
        found = value(row, name)
        text = "" if found is None else found if isinstance(found, str) else form.format(found)
        cells.append(Cell(text, number(found)))
    return cells


def in_millions(count: float) -> str:
    """ "2,010", "310", "0.42": as much of a count of parameters as is read."""
    return f"{count / 1e6:,.0f}" if count >= 1e7 else f"{count / 1e6:.2g}"


def number(found: object) -> float | None:
    """What a figure sorts by: the first number in it, of "~2.53x", "<0.1" or "30.1 (28)"."""
    if isinstance(found, int | float):
        return float(found)
    match = re.match(
        r"[~<>]?\s*([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?=$|[\s%xMB(+]|-\d+\.)", str(found)
    )
    return float(match[1]) if match else None


def flags(row: Row) -> tuple[str, ...]:
    return tuple(mark.short for mark in marks(row))


def with_unit(heading: str) -> str:
    """ "latency s" as "latency (s)"."""
    return re.sub(r" (s|MiB)$", r" (\1)", heading)
