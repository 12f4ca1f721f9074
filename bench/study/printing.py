"""Tables as text: on a terminal, as Markdown, LaTeX, csv or json."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.study.folders import PROGRAM

if TYPE_CHECKING:
    import pandas as pd


class Format(StrEnum):
    """How a table is printed."""

    rich = "rich"
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"


@dataclass
class Printed:
    """A table to print: `data` in full for csv and json, `text` for people, notes below."""

    title: str
    data: pd.DataFrame
    text: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    more: list[Printed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.notes = [note.replace("bench.py", PROGRAM) for note in self.notes]


def show(printed: Printed, format: str) -> None:
    """Prints a table in one of the formats: rich, md, csv, latex, json."""
    if format == "json":
        print(to_json(printed.data))
    elif format == "csv":
        print(printed.data.to_csv(index=False), end="")
    elif format == "rich":
        show_rich(printed)
    else:
        for table in (printed, *printed.more):
            print(as_text(table, format))


def to_json(data: pd.DataFrame) -> str:
    """One object a row, without the empty cells."""
    rows = data.astype(object).to_dict("records")
    return json.dumps([{k: v for k, v in r.items() if not missing(v)} for r in rows], indent=1)


def as_text(table: Printed, format: str) -> str:
    if format == "md":
        text = table.text.map(lambda cell: str(cell).replace("|", "\\|"))
        lines = [f"### {table.title}", "", text.to_markdown(index=False, disable_numparse=True)]
        return "\n".join([*lines, "", *[f"{note}  " for note in table.notes], ""])
    from pandas.io.formats.style import Styler

    latex = (
        Styler(table.text)
        .hide(axis="index")
        .format(escape="latex")
        .format_index(escape="latex", axis=1)
    )
    notes = "\n".join(f"% {note}" for note in table.notes)
    return f"{latex.to_latex(hrules=True, caption=table.title)}{notes}\n"


def show_rich(printed: Printed) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 320  # a log has no edge to wrap at
    for table in (printed, *printed.more):
        for part, columns in enumerate(fitting(table.text, console.width)):
            title = escape(table.title) if part == 0 else None
            grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
            for name in columns:
                right = table.text[name].map(lambda cell: str(cell)[:1] in "-0123456789").all()
                grid.add_column(escape(str(name)), justify="right" if right else "left")
            for cells in table.text[columns].itertuples(index=False):
                grid.add_row(*(escape(str(cell)) for cell in cells))
            console.print(grid)
        for note in table.notes:
            console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)


def fitting(text: pd.DataFrame, width: int) -> list[list[str]]:
    """The columns in as many tables as a narrow terminal needs, each with the names of the rows."""
    wide = {
        str(name): 3 + max([len(str(name)), *text[name].map(lambda cell: len(str(cell)))])
        for name in text.columns
    }
    names = [
        name
        for name in ("method", "machine", "batch", "stack", "prec.", "weights", "by scale")
        if name in wide
    ]
    parts: list[list[str]] = []
    for name in wide:
        if name in names:
            continue
        if not parts or sum(wide[c] for c in [*parts[-1], name]) > width:
            parts.append([*names])
        parts[-1].append(name)
    return parts or [[*wide]]


def missing(value: Any) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or (isinstance(value, float) and value != value)
