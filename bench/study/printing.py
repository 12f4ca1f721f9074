"""Tables as text: on a terminal, as Markdown, LaTeX, csv or json."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.study.folders import PROGRAM
from codevar.progress import printable

if TYPE_CHECKING:
    import pandas as pd


WIDE, LEAST = 320, 40  # columns of a log, and the fewest that are heeded
NARROW, GAP = 16, 2  # columns of a text that is wrapped, and between two of a table
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
#: Where Markdown reads something else than the characters.
MARKDOWN = re.compile(r"[\\`*|]|~~|<(?=[\w/!?])(?!\d)|\[(?=[^]]*\][(\[:])|\b_|_\b|^[#>+-](?=\s)")
#: Characters that LaTeX reads as something else, or does not know.
LATEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "[": "{[}",  # else an argument of the line break before it
        "±": r"$\pm$",
    }
)


class Format(StrEnum):
    """How a table is printed."""

    rich = "rich"
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"


@dataclass
class Printed:
    """A table to print: `data` in full for csv and json, `text` for people, notes below.

    names: how many of its first columns say which row it is; each block of a split table has them.
    """

    title: str
    data: pd.DataFrame
    text: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    more: list[Printed] = field(default_factory=list)
    names: int = 1

    def __post_init__(self) -> None:
        self.title = printable(self.title)
        self.notes = [printable(note.replace("bench.py", PROGRAM)) for note in self.notes]
        self.text = self.text.map(lambda cell: printable(cell) if isinstance(cell, str) else cell)


def show(printed: Printed, format: str) -> None:
    """Prints a table in one of the formats: rich, md, csv, latex, json."""
    if format == "json":
        print(to_json(printed.data))
    elif format == "csv":
        print(to_csv(printed.data), end="")
    elif format == "rich":
        show_rich(printed)
    else:
        for table in (printed, *printed.more):
            print(as_text(table, format))


def warn(line: str) -> None:
    """A line on standard error, which may quote a file."""
    print(printable(line), file=sys.stderr)


def to_csv(data: pd.DataFrame) -> str:
    """The rows; no cell is a formula to a spreadsheet."""

    def cell(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        value = printable(value)
        return f"'{value}" if re.match(r"\s*[=+@-](?![\d.]*$)", value) else value

    return data.astype(object).map(cell).to_csv(index=False)


def to_json(data: pd.DataFrame) -> str:
    """One object a row, without the empty cells."""
    rows = data.astype(object).to_dict("records")
    return json.dumps([{k: v for k, v in r.items() if not missing(v)} for r in rows], indent=1)


def as_text(table: Printed, format: str) -> str:
    """The table as Markdown or LaTeX, its notes below."""
    if format == "md":
        text = table.text.map(escape_markdown).rename(columns=escape_markdown)
        grid = text.to_markdown(index=False, disable_numparse=True)
        below = [f"{escape_markdown(note)}  " for note in table.notes]
        return "\n".join([f"### {escape_markdown(table.title)}", "", grid, "", *below, ""])
    from pandas.io.formats.style import Styler

    text = table.text.map(escape_latex).rename(columns=escape_latex)
    latex = Styler(text).hide(axis="index")
    notes = "\n".join(f"% {' '.join(note.split())}" for note in table.notes)
    return f"{latex.to_latex(hrules=True, caption=escape_latex(table.title))}{notes}\n"


def escape_markdown(text: Any) -> str:
    """Text as Markdown sets it, in one line: no link, HTML, list, heading or change of letters."""
    return MARKDOWN.sub(r"\\\g<0>", " ".join(str(text).split()))


def escape_latex(text: Any) -> str:
    """Text as LaTeX sets it, in one line; a number with six digits."""
    text = f"{text:.6f}" if isinstance(text, float) else str(text)
    return " ".join(text.split()).translate(LATEX)


class Terminal(Console):
    """Standard output.  When its reader goes away, rich would end with exit code 1, which is a
    verdict of `compare`; here the boundary decides."""

    def on_broken_pipe(self) -> None:
        """Raises BrokenPipeError, which is being handled."""
        raise


def show_rich(printed: Printed) -> None:
    """On a terminal: each table in as many blocks as its width, or COLUMNS, asks for."""
    console = Terminal()
    edge = console.is_terminal or "COLUMNS" in os.environ
    console.width = max(LEAST, console.width) if edge else WIDE  # a log has no edge to wrap at
    for table in (printed, *printed.more):
        console.print(filled(table.title, console.width), style="italic", **PLAIN)
        for widths in blocks(table.text, table.names, console.width):
            grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
            for name, width in widths.items():
                right = table.text[name].map(lambda cell: str(cell)[:1] in "-0123456789").all()
                side: Literal["left", "right"] = "right" if right else "left"
                grid.add_column(escape(str(name)), justify=side, width=width, overflow="fold")
            for cells in table.text[[*widths]].itertuples(index=False):
                grid.add_row(*(escape(str(cell)) for cell in cells))
            console.print(grid, "")
        for note in table.notes:
            console.print(filled(note, console.width if edge else sys.maxsize, "  "), **PLAIN)


def filled(text: str, width: int, indent: str = "") -> str:
    """In lines that end between words."""
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def blocks(text: pd.DataFrame, names: int, width: int) -> list[dict[str, int]]:
    """The columns in as few blocks as fit a width, each with those that name a row; of each column
    its width.  A longer text than NARROW goes over several lines, between its words."""

    def longest(words: Iterable[str]) -> int:
        return max(map(len, words), default=0)

    whole, least = {}, {}
    for name in text.columns:
        cells = [str(cell) for cell in text[name]]
        widest_word = longest(word for cell in (name, *cells) for word in cell.split())
        least[name] = max(widest_word, min(longest(cells), NARROW))
        whole[name] = max(widest_word, longest([name, *cells]))

    def room(columns: Iterable[str], widths: dict[str, int]) -> int:
        return width - sum(widths[name] + GAP for name in columns) + GAP

    head, found = list(text.columns[:names]), list[list[str]]()
    for name in text.columns[names:]:
        if not found or room([*found[-1], name], least) < 0:
            found.append([*head])
        found[-1].append(name)
    fitted = []
    for columns in found or [head]:
        widths, spare = {name: least[name] for name in columns}, room(columns, least)
        needy = sorted(columns, key=lambda name: whole[name] - least[name])
        for i, name in enumerate(needy):
            more = min(whole[name] - least[name], max(0, spare) // (len(needy) - i))
            widths[name] += more
            spare -= more
        fitted.append(widths)
    return fitted


def missing(value: Any) -> bool:
    """Whether a cell is empty: None, NA or NaN."""
    import pandas as pd

    return value is None or value is pd.NA or (isinstance(value, float) and value != value)
