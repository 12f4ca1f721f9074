"""A grid of pictures: rows side by side with what there is to say of each in the margin.

Figures 2, 6, 9 and 10 of CoDe and 4, 6 and 7 of VARiant are such grids.  What a row is (a method,
a subnet's depth, a phase of training) is the caller's affair: this file only draws.

Shapes: C pictures of a row, H W pixels.
"""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures import canvas
from bench.figures.looks import EDGE, NARROW, STYLE, WIDE
from bench.quality.grid_rows import Head, Row
from bench.study.errors import UsageError

MOST = 24  # pictures in a row that a page has room for

# Inches.
MARGIN, GAP, LARGEST = 1.7, 0.03, 1.3  # room for words, between pictures, a picture
LINE, CHARACTER, BOLD = 0.135, 0.066, 0.075  # of text in 8 points: a line, the usual character
PAD = 0.06  # between heads and pictures, and between rows whose words are taller than these


@matplotlib.rc_context(STYLE)
def draw(rows: Sequence[Row], heads: Sequence[Head], title: str, footer: str) -> Figure:
    """A page with the rows one below another.

    Raises UsageError if a page has no room for so many pictures in a row.
    """
    count = len(rows[0].images)
    if count > MOST:
        raise UsageError(f"{count} pictures in a row are too many for a page: {MOST} at most")
    side = min(LARGEST, (WIDE - 2 * EDGE - MARGIN) / count - GAP)
    width = max(NARROW, MARGIN + count * (side + GAP) + 2 * EDGE)
    above = heads_height(heads, side)
    heights = [max(side + GAP, LINE * len(lines(row)) + PAD) for row in rows]
    figure, (ax,) = canvas.panels(width, above + sum(heights))
    ax.set_axis_off()
    write_heads(ax, heads, side, above)
    for i, row in enumerate(rows):
        middle = above + sum(heights[:i]) + heights[i] / 2
        write_margin(ax, row, middle)
        for j, image_CHW in enumerate(row.images):
            left, top = MARGIN + j * (side + GAP), middle - side / 2
            pixels = image_CHW.permute(1, 2, 0).cpu().numpy()
            ax.imshow(pixels, extent=(left, left + side, top + side, top), aspect="auto")
    # One unit of the axes is one inch of the page.
    ax.set(xlim=(0, width - 2 * EDGE), ylim=(above + sum(heights), 0), anchor="NW")
    ax.set_aspect("equal")
    return canvas.finish(figure, title, footer)


def lines(row: Row) -> list[str]:
    """What the margin says: the label as its first lines."""
    return [*textwrap.wrap(row.label, int(MARGIN / BOLD)), *row.facts]


def write_margin(ax: Axes, row: Row, middle: float) -> None:
    """The label in bold and the facts below it, left of the pictures."""
    label, words = len(lines(row)) - len(row.facts), lines(row)
    first = middle - LINE * (len(words) - 1) / 2
    for i, line in enumerate(words):
        weight = "bold" if i < label else "normal"
        ax.text(0, first + i * LINE, line, va="center", weight=weight, clip_on=False)


def wrapped(head: Head, side: float) -> list[str] | None:
    """The words in lines as wide as their pictures; None where one of them is wider."""
    characters = int((head.columns * (side + GAP) - GAP) / CHARACTER)
    lines = textwrap.wrap(head.words, max(1, characters), break_long_words=False)
    return lines if all(len(line) <= characters for line in lines) else None


def heads_height(heads: Sequence[Head], side: float) -> float:
    """Inches that the heads take above the pictures."""
    if not heads:
        return 0
    found = [wrapped(head, side) for head in heads]
    if None in found:
        return CHARACTER * max(len(head.words) for head in heads) + PAD
    return LINE * max(len(lines or []) for lines in found) + PAD


def write_heads(ax: Axes, heads: Sequence[Head], side: float, above: float) -> None:
    """The heads in the middle of their pictures; all on end where one does not fit."""
    found, first = [wrapped(head, side) for head in heads], 0
    rotation = "vertical" if None in found else "horizontal"
    for head, lines in zip(heads, found, strict=True):
        x = MARGIN + first * (side + GAP) + (head.columns * (side + GAP) - GAP) / 2
        words = head.words if None in found else "\n".join(lines or [])
        ax.text(x, above - PAD, words, ha="center", va="bottom", rotation=rotation)
        first += head.columns


# Files


def files_of(out: Path) -> list[Path]:
    """The PNG and the PDF of a picture that the user has named.

    Raises UsageError for another ending, or a folder that cannot be written, before any work.
    """
    if out.suffix.lower() not in (".png", ".pdf", ""):
        raise UsageError(f"{out}: name a .png or .pdf; both are written")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"{out.parent}: cannot be written ({e.strerror})") from None
    if not os.access(out.parent, os.W_OK) or out.is_dir():
        raise UsageError(f"{out}: cannot be written")
    return canvas.png_and_pdf(out.with_suffix("") if out.suffix else out)
