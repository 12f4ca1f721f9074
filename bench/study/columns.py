"""The columns of tables: a figure's name, heading, format and direction, each registered once.

A column is registered beside the function that computes it: what is measured in
`bench.tables.summary`, a metric of images in `bench.metrics`.  Tables, pages and pictures list the
columns that there are and know none by name.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

#: Which table shows it: the main one, or the one of how its figures came about.
Section = Literal["main", "how"]
Derive = Callable[[Any], Any]


@dataclass(frozen=True)
class Column:
    """A figure of a case.

    name: in a frame, in JSON and CSV.  heading: on paper, with its unit.  format: of a value.
    order: its place in the table; columns of one subject share a hundred, with gaps to add in.
    lower_is_better: None where neither is better.  derive: the value from the records of the
    case's rounds, None where there is none; absent where the figure has another source.
    """

    name: str
    heading: str
    format: str
    order: int
    lower_is_better: bool | None = None
    section: Section = "main"
    derive: Derive | None = None

    def text(self, value: float) -> str:
        """The value as a table shows it."""
        return format_figure(self.format, value)


def format_figure(form: str, value: float) -> str:
    """A value by its format; one like `{:.3g}` is by `rounded`."""
    wanted = re.search(r"\{:(\+?)\.(\d)g\}", form)
    if wanted is None:
        return form.format(value)
    sign = wanted[1] if value >= 0 else ""
    return form.replace(wanted[0], sign + rounded(value, int(wanted[2])))


def rounded(value: float, count: int = 3) -> str:
    """A value rounded to so many digits.  Zeros at the end stay, and only a tiny value has an
    exponent: 1.40, 0.990, 1520."""
    if not math.isfinite(value) or abs(value) < 1e-4:
        return f"{value:.{count}g}"
    number = float(f"{value:.{count}g}")
    return f"{number:.{max(0, count - 1 - math.floor(math.log10(abs(number))))}f}"


COLUMNS: dict[str, Column] = {}


def register(column: Column) -> Column:
    """Adds a column.  Raises ValueError, with its name, if it lacks something or is there twice."""
    if not column.name or not column.heading:
        raise ValueError(f"column {column.name!r}: needs a name and a heading")
    if column.format != "{}":
        try:
            column.text(1.0)
        except (ValueError, IndexError, KeyError) as e:
            raise ValueError(f"column {column.name}: format {column.format!r}: {e}") from None
    if column.name in COLUMNS:
        raise ValueError(f"column {column.name}: is registered twice")
    COLUMNS[column.name] = column
    return column


def column(
    name: str,
    heading: str,
    format: str,
    order: int,
    lower_is_better: bool | None = None,
    section: Section = "main",
) -> Callable[[Derive], Derive]:
    """Registers the decorated function, from a case's records to a value or None, as a column."""

    def decorate(derive: Derive) -> Derive:
        register(Column(name, heading, format, order, lower_is_better, section, derive))
        return derive

    return decorate


def in_order(section: Section = "main") -> list[Column]:
    """The columns of a section as its table shows them."""
    return sorted((c for c in COLUMNS.values() if c.section == section), key=lambda c: c.order)
