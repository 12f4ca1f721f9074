"""Every figure of a run, registered once; drawn as PNG and PDF, or handed to the page.

A module of this package makes a figure by one decorated function::

    @figure("speed", "Speed")
    def speed(run: Run, rows: list[Row]) -> Figure: ...

Nothing else names it: experiments, `bench.py plot` and the report look it up here.
"""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.figure import Figure

import bench.figures
from bench.figures import canvas, known
from bench.figures.looks import STYLE
from bench.tables.case_rows import NoDataError, Row, rows_of
from bench.tables.frames import Run

Draw = Callable[[Run, list[Row]], Figure]
Suits = Literal["every run", "every report", "its experiments"]
SUITS = ("every run", "every report", "its experiments")


@dataclass(frozen=True)
class RunFigure:
    """A figure of a run.

    suits: "every run" is drawn by `plot` where an experiment names no figures, and stands in every
    report; "every report" stands in every report; "its experiments" is drawn for experiments that
    name it.  draw raises NoDataError for a run that lacks what it shows.
    """

    name: str
    title: str
    suits: str
    draw: Draw

    @property
    def caption(self) -> str:
        """The first paragraph of the function's docstring."""
        return " ".join((self.draw.__doc__ or "").partition("\n\n")[0].split())


_registered: dict[str, RunFigure] = {}


def figure(name: str, title: str, suits: Suits = "its experiments") -> Callable[[Draw], Draw]:
    """Registers the decorated function.  Raises TypeError for a figure that lacks a part."""

    def register(draw: Draw) -> Draw:
        found = RunFigure(name, title, suits, matplotlib.rc_context(STYLE)(draw))
        lacking = [part for part in ("title", "caption") if not getattr(found, part)]
        lacking += ["a suits that there is"] if suits not in SUITS else []
        if lacking or name in _registered:
            raise TypeError(f"figure {name}: {', '.join(lacking) or 'there are two'}")
        _registered[name] = found
        return draw

    return register


@functools.cache
def figures() -> dict[str, RunFigure]:
    """All figures by name, those of every run first: every module of this package is imported."""
    for module in pkgutil.iter_modules(bench.figures.__path__):
        importlib.import_module(f"bench.figures.{module.name}")

    def place(found: RunFigure) -> tuple[int, str, int]:
        """By where it stands in the code, not by which module somebody imported first."""
        line = inspect.unwrap(found.draw).__code__.co_firstlineno
        return SUITS.index(found.suits), found.draw.__module__, line

    return {found.name: found for found in sorted(_registered.values(), key=place)}


def draw(run: Run, names: Sequence[str], out: Path, called: str = "") -> list[Path]:
    """Draws the named figures, by default the experiment's, into `out`; returns the files.

    called: what their names begin with, by default the experiment's name.
    Of the experiment's own figures those that the run has no data for are left out.
    Raises UsageError for an unknown name, for a lack of data, and where `out` cannot be written.
    """
    generic = [name for name, one in figures().items() if one.suits == "every run"]
    defaults = run.sweep.experiment.figures or generic
    asked = list(dict.fromkeys(names or defaults))
    known.check(asked, figures())
    rows, paths, lacking = rows_of(run), list[Path](), []
    for name in asked:
        try:
            drawn = figures()[name].draw(run, rows)
        except NoDataError as e:
            lacking.append(NoDataError(f"figure {name}: {e}"))
        else:
            files = canvas.png_and_pdf(out / f"{called or run.sweep.name}-{name}")
            paths += canvas.save(drawn, files)
    if lacking and (asked != defaults or not paths):
        raise lacking[0]
    return paths


def for_report(run: Run) -> Iterator[tuple[RunFigure, Figure]]:
    """The figures that suit the run and that it has data for."""
    own, rows = run.sweep.experiment.figures, rows_of(run)
    known.check(own, figures())
    for one in figures().values():
        if one.suits != "its experiments" or one.name in own:
            try:
                drawn = one.draw(run, rows)
            except NoDataError:
                continue
            yield one, drawn
