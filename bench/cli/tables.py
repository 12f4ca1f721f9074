"""`bench.py table`, `history` and `recommend`: parse, call, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from bench.cli import options
from bench.cli.targets import every_run, find
from bench.study import evaluations, printing
from bench.study.cases import make_case
from bench.study.errors import bytes_of
from bench.study.folders import PLOTS, RESULTS, SHIPPED
from bench.study.printing import Format

if TYPE_CHECKING:
    from bench.tables import frames


def table(
    targets: options.Targets = None,
    shipped: options.Shipped = False,
    format: options.OutputFormat = Format.rich,
) -> None:
    """The papers' columns: measured, predicted and as printed there.

    Runs of one experiment, say of several machines, share one table.
    """
    runs = find(targets, shipped)
    from bench.tables import tables

    if format in (Format.json, Format.csv):
        for complaint in [line for measured in runs for line in measured.complaints]:
            print(complaint, file=sys.stderr)
        printing.show(tables.together(runs), format)
        return
    by_name: dict[str, list[frames.Run]] = {}
    for measured in runs:
        by_name.setdefault(measured.sweep.name, []).append(measured)
    for same in by_name.values():
        printing.show(tables.measured(*same), format)


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


def recommend(
    targets: options.Targets = None,
    memory: Annotated[
        str, typer.Option(help="what the decode may take: of a card of 48 GiB some 44.5GiB")
    ] = "16GiB",
    batch: Annotated[int, typer.Option(min=1, max=1024, help="images at a time")] = 1,
    max_fid: Annotated[
        float | None, typer.Option(min=0, callback=options.finite, help="the worst FID to accept")
    ] = None,
    max_latency: Annotated[
        float | None, typer.Option(min=0, callback=options.finite, help="seconds a batch may take")
    ] = None,
    stack: Annotated[str, typer.Option(help="published, modern or compiled")] = "modern",
    precision: options.Precision = None,
    device: options.Device = None,
    out: options.PlotFolder = PLOTS,
    format: options.OutputFormat = Format.rich,
) -> None:
    """The Pareto-best methods for a memory and a batch size, with where each figure is from."""
    size = bytes_of(memory)
    make_case({"method": "var", "stack": stack, "precision": precision or "float32"})
    runs = find(targets) if targets else []
    from bench.figures import advice_figure
    from bench.measure import devices, machine
    from bench.tables import advice as advisor

    # A GPU need not be here to be predicted for.
    chosen = devices.default_device() if device in (None, "auto") else str(device)
    settings = {
        "batch_size": batch,
        "stack": stack,
        "precision": precision or ("float32" if chosen == "cpu" else "fp16"),
        "device": chosen,
    }
    limits = advisor.Limits(size, max_fid, max_latency)
    cases = advisor.grid(settings)
    here = machine.environment()
    hardware = here.get("hardware")  # older runs have a machine's name only
    runs = [run for run in runs or every_run() if run.env.get("hardware", hardware) == hardware]
    evaluated, _ = evaluations.every(RESULTS)
    with Console(stderr=True).status(f"predicting {len(cases)} cases: up to a minute"):
        found = advisor.candidates(cases, runs, here["machine"], evaluated)
    advice = advisor.advise(found, limits, batch)
    paths = advice_figure.draw(advice, limits, out)
    printing.show(advisor.printed(advice, limits), format)
    for path in paths:
        print(path, file=sys.stderr)
