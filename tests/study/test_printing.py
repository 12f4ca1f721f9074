"""Text that came from files is data to whoever reads a table: a terminal, a page, a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
import unicodedata

import matplotlib
import pandas as pd
import pytest
from matplotlib.figure import Figure

from bench.figures.looks import STYLE
from bench.study import printing
from bench.study.printing import Format, Printed
from codevar.progress import Progress

HOSTILE = "\x1b[31m=1+1 <img src=x> [a](b) `c` _d_ | $\\frac{$\n# e \u202e"


@pytest.mark.parametrize("format", [*Format])
def test_no_control_character_reaches_a_terminal(format, capsys):
    cells = pd.DataFrame([{"a": HOSTILE, "b": "[1, 2]"}])
    printing.show(Printed(HOSTILE, cells, cells, [HOSTILE]), format)
    printing.warn(HOSTILE)
    progress = Progress()
    progress.say(HOSTILE)
    printed = "".join(capsys.readouterr())
    assert not {c for c in printed if unicodedata.category(c)[0] == "C"} - {"\n"}


def test_markdown_shows_the_text_as_it_stands():
    cells = pd.DataFrame([{"a": HOSTILE, "b": "<0.1"}])
    text = printing.as_text(Printed(f"# {HOSTILE}", cells, cells, ["- a\n# b"]), "md")
    title, _, head, _, row, _, note, *_ = text.split("\n")
    assert title.startswith(r"### \# ")
    assert r"\<img src=x> \[a](b) \`c\` \_d\_ \| " in row
    assert len(re.findall(r"(?<!\\)\|", row)) == head.count("|") == 3
    assert "<0.1" in row
    assert note == r"\- a # b  "


def test_no_cell_of_a_csv_is_a_formula():
    cells = pd.DataFrame([{"a": cell} for cell in ("=1+1", "+x", "@y", "-z", "-3", "-", -0.5)])
    rows = [*csv.reader(io.StringIO(printing.to_csv(cells)))]
    assert rows == [["a"], ["'=1+1"], ["'+x"], ["'@y"], ["'-z"], ["-3"], ["-"], ["-0.5"]]


def test_a_dollar_sign_in_a_picture_is_one():
    with matplotlib.rc_context(STYLE):
        figure = Figure()
        figure.suptitle(HOSTILE[5:])
        figure.draw_without_rendering()
