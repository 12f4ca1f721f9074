"""Scatter plots: points with intervals, names and what is best among them.

Every point can be told by name: the name stands beside it where there is room, else a number
that a key below the figure explains.
"""

import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from bench.figures.looks import FRONT, Look
from bench.tables.pareto import Known, pareto_front

MOST_NAMES = 12  # points in a panel; more have numbers only
RADIUS, FAR = 4, 10  # points of print: of a marker, from a marker to its name at most
AROUND = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]


@dataclass
class Point:
    """A marker of a scatter plot.

    known: y with its interval, if one is known.  text: its name, once it is written; None where
    there was no room for it.
    """

    x: float
    y: float
    name: str
    look: Look
    known: Known | None = None
    text: Text | None = field(default=None, compare=False)


Named = Sequence[tuple[Axes, Sequence[Point]]]


def draw_point(ax: Axes, point: Point) -> Any:
    """A marker, and its interval where there is one; returns the marker."""
    if point.known and point.known.interval:
        ax.vlines(point.x, *point.known.interval, color=point.look["color"], lw=0.8, zorder=1)
    return ax.plot(point.x, point.y, **point.look)[0]


def draw_front(ax: Axes, points: Iterable[Point], **look: Any) -> None:
    """The Pareto front as a line of steps, since nothing is known between two points."""
    best = pareto_front(points, lambda point: (point.x, point.y), lambda point: point.known)
    xs, ys = [point.x for point in best], [point.y for point in best]
    ax.plot(xs, ys, drawstyle="steps-post", **FRONT | look)


# Names


def short_name(name: str, names: Collection[str]) -> str:
    """Without the models in brackets, and without a family that the marker tells, where that is
    no other's short name."""

    def brief(name: str) -> str:
        return re.sub(r" \([^)]*\)", "", name).removeprefix("VARiant-").replace("VAR-Co", "Co")

    alone = [brief(other) for other in {*names}].count(brief(name)) == 1
    return brief(name) if alone else name


def write_names(named: Named) -> str:
    """Writes names beside their points in laid-out panels, by adjustText; returns the key of
    those that found no room, "" if there are none."""
    for ax, points in named:
        if len(points) <= MOST_NAMES:
            place_names(ax, points)
    beside = {
        point.name: [other.name for other in points] for _, points in named for point in points
    }
    numbers = numbers_of(named)
    words = [f"{number} {short_name(name, beside[name])}" for name, number in numbers.items()]
    whole = (entry.replace(" ", "\u00a0") for entry in words)  # no line ends inside an entry
    return f"Numbers: {', '.join(whole)}." if words else ""


def place_names(ax: Axes, points: Sequence[Point]) -> None:
    """Names that would cover something, or stand nearer to another marker, are taken back."""
    names = [point.name for point in points]
    markers, pt = marker_boxes(ax, points), ax.figure.dpi / 72
    for point, marker in zip(points, markers, strict=True):  # first to the right, above
        x, y = ax.transData.inverted().transform((marker.x1 + pt, marker.y1 - 2 * pt))
        place: Any = {"ha": "left", "va": "bottom", "in_layout": False}
        point.text = ax.text(x, y, short_name(point.name, names), **place)
    texts = [point.text for point in points if point.text]
    move = {"force_explode": (0, 0), "max_move": round(4 * pt), "iter_lim": 400}
    adjust_text(texts, objects=markers, ax=ax, expand=(1.05, 1.2), **move)
    boxes: list[Bbox] = []
    for point, marker in zip(points, markers, strict=True):
        assert point.text is not None
        box = point.text.get_window_extent()
        near = box.padded(FAR * pt).overlaps(marker)
        others = [*boxes, *(other.padded(-pt) for other in markers)]
        if not near or any(map(box.overlaps, others)):
            point.text.remove()
            point.text = None
        else:
            boxes.append(box)


def numbers_of(named: Named) -> dict[str, int]:
    """A number for each name that some point could not be given."""
    unnamed = (point.name for _, points in named for point in points if point.text is None)
    return {name: i for i, name in enumerate(dict.fromkeys(unnamed), 1)}


def write_numbers(named: Named) -> None:
    """Writes the numbers of the key beside the points without a name, where they cover least."""
    numbers = numbers_of(named)
    look: Any = {"textcoords": "offset points", "ha": "center", "va": "center", "size": 6.5}
    for ax, points in named:
        taken = [*marker_boxes(ax, points), *interval_boxes(ax, points)]
        taken += [point.text.get_window_extent() for point in points if point.text]
        for point in (point for point in points if point.text is None):
            words, at = str(numbers[point.name]), (point.x, point.y)
            number = ax.annotate(words, at, (0, 0), **look, in_layout=False)
            places = [(r * x, r * y) for r, (x, y) in itertools.product((6.5, 9.5), AROUND)]
            found = {place: covered(number, *place, taken) for place in places}
            number.set_position(min(places, key=found.__getitem__))
            taken.append(number.get_window_extent())


def covered(text: Text, x: float, y: float, taken: Iterable[Bbox]) -> float:
    """How much the text covers at that place."""
    text.set_position((x, y))
    box = text.get_window_extent()
    shared = (Bbox.intersection(box, other) for other in taken)
    return sum(found.width * found.height for found in shared if found)


def interval_boxes(ax: Axes, points: Sequence[Point]) -> list[Bbox]:
    """In pixels, of points whose interval is drawn."""
    ends = [(p.x, p.known.interval) for p in points if p.known and p.known.interval]
    lines = (ax.transData.transform([(x, low), (x, high)]) for x, (low, high) in ends)
    return [Bbox(line).padded(1) for line in lines]


def marker_boxes(ax: Axes, points: Sequence[Point]) -> list[Bbox]:
    """In pixels."""
    radius = RADIUS * ax.figure.dpi / 72
    spots = ax.transData.transform([(point.x, point.y) for point in points])
    return [Bbox.from_extents(*(spot - radius), *(spot + radius)) for spot in spots]
