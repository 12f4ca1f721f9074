"""`bench.py table` and `history`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import options
from bench.cli.targets import find
from bench.study import printing
from bench.study.folders import RESULTS, SHIPPED
from bench.study.printing import Format

if TYPE_CHECKING:
    from bench.tables import frames


def table(
    targets: options.Targets = None,
    brief: Annotated[
        bool, typer.Option("--brief/--full", help="what matters most, or all there is")
    ] = True,
    columns: Annotated[
        str, typer.Option(help="only these, by their names in JSON: latency_s,fid")
    ] = "",
    sort: Annotated[
        str, typer.Option(help="by a column, the best row first; -NAME: the worst")
    ] = "",
    section: Annotated[
        str, typer.Option(help="main, paper, how (measured), scale, pairs, or several: main,how")
    ] = "",
    shipped: options.Shipped = False,
    format: options.OutputFormat = Format.rich,
) -> None:
    """The papers' columns: measured, predicted and as printed there.

    Runs of one experiment, say of several machines, share one table.
    """
    runs = find(targets, shipped)
    from bench.tables import tables

    sections = [*filter(None, section.split(","))] or tables.SECTIONS[: 2 if brief else None]
    view = tables.View([*filter(None, columns.split(","))], brief, sort, sections)
    if format in (Format.json, Format.csv):
        for complaint in [line for measured in runs for line in measured.complaints]:
            printing.warn(complaint)
        printing.show(tables.together(runs, view), format)
        return
    by_name: dict[str, list[frames.Run]] = {}
    for measured in runs:
        by_name.setdefault(measured.sweep.name, []).append(measured)
    for same in by_name.values():
        printing.show(tables.measured(*same, view=view), format)


def claims(shipped: options.Shipped = False, format: options.OutputFormat = Format.rich) -> None:
    """What the papers claim, and whether it holds for the mini world's images.

    For a claim that is not resolved: how many images would resolve it.
    """
    from bench.tables.claims import table as of_claims

    printing.show(of_claims(lambda name: find([name], shipped)), format)


def history(
    experiments: Annotated[
        list[str] | None, typer.Argument(help="only runs of these experiments")
    ] = None,
    method: Annotated[str, typer.Option(help="only methods with this in their name")] = "",
    results: Annotated[Path, typer.Option(help="folder with a folder for each machine")] = RESULTS,
    shipped: options.Shipped = False,
    format: options.OutputFormat = Format.rich,
) -> None:
    """Each case over commits and machines."""
    from bench.tables.history import history as over_time

    folder = SHIPPED if shipped else results
    printing.show(over_time(folder, method, tuple(experiments or ())), format)
