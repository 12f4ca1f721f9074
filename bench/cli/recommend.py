"""`bench.py recommend`: parse, call, print."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from bench.cli import options
from bench.cli.targets import every_run, find
from bench.study import evaluations, printing
from bench.study.cases import make_case
from bench.study.errors import bytes_of
from bench.study.folders import PLOTS, RESULTS
from bench.study.printing import Format
from codevar.progress import Progress


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
    obtainable: Annotated[
        bool, typer.Option("--obtainable/--all", help="rank only what has weights to be had")
    ] = True,
    out: options.PlotFolder = PLOTS,
    format: options.OutputFormat = Format.rich,
) -> None:
    """The Pareto-best methods for a memory and a batch size, with where each figure is from."""
    size = bytes_of(memory)
    make_case({"method": "var", "stack": stack, "precision": precision or "float32"})
    runs = find(targets) if targets else []
    from bench.figures import advice_figure
    from bench.measure import devices, machine
    from bench.predict.prediction import prediction_or_none
    from bench.tables import advice as advisor

    # A GPU need not be here to be predicted for.
    chosen = devices.default_device() if device in (None, "auto") else str(device)
    settings = {
        "batch_size": batch,
        "stack": stack,
        "precision": precision or ("float32" if chosen == "cpu" else "fp16"),
        "device": chosen,
    }
    limits = advisor.Limits(size, max_fid, max_latency, obtainable)
    here = machine.environment()
    hardware = here.get("hardware")  # older runs have a machine's name only
    runs = [run for run in runs or every_run() if run.env.get("hardware", hardware) == hardware]
    cases = [*advisor.grid(settings), *advisor.of_plugins(runs, settings)]
    evaluated, _ = evaluations.every(RESULTS)
    with Progress(Console(stderr=True)) as progress:
        for number, case in enumerate(cases, 1):
            prediction_or_none(case)  # which remembers it
            progress.count("predicting", number, len(cases), "cases")
        found = advisor.candidates(cases, runs, here["machine"], evaluated)
    advice = advisor.advise(found, limits, batch)
    paths = advice_figure.draw(advice, limits, out)
    printing.show(advisor.printed(advice, limits), format)
    for path in paths:
        print(path, file=sys.stderr)
