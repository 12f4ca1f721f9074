"""`bench.py recommend`: parse, call, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.cli import options
from bench.cli.targets import check_targets, every_run, find
from bench.study import evaluations, experiment, printing
from bench.study.cases import Case, make_case
from bench.study.errors import UsageError, bytes_of
from bench.study.folders import PLOTS, RESULTS
from bench.study.printing import Format
from codevar.progress import Progress


def recommend(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPERIMENT|METHOD|FOLDER",
            help="what to choose from, folders of runs too; default: the papers' methods",
        ),
    ] = None,
    changes: options.Changes = [],  # noqa: B006
    plugin: options.Plugins = [],  # noqa: B006
    memory: Annotated[
        str, typer.Option(help="what the decode may take: of a card of 48 GiB some 44.5GiB")
    ] = "16GiB",
    batch: Annotated[
        int | None, typer.Option(min=1, max=1024, help="images at a time; default: TARGETS' or 1")
    ] = None,
    max_fid: Annotated[
        float | None, typer.Option(min=0, callback=options.finite, help="the worst FID to accept")
    ] = None,
    max_latency: Annotated[
        float | None, typer.Option(min=0, callback=options.finite, help="seconds a batch may take")
    ] = None,
    stack: Annotated[
        str | None,
        typer.Option(help="published, modern or compiled; default: TARGETS' or modern"),
    ] = None,
    precision: options.Precision = None,
    device: options.Device = None,
    obtainable: Annotated[
        bool, typer.Option("--obtainable/--all", help="rank only what has weights to be had")
    ] = True,
    out: options.PlotFolder = PLOTS,
    format: options.OutputFormat = Format.rich,
) -> None:
    """The Pareto-best methods for a memory and a batch size, and what the choice saves where."""
    size = bytes_of(memory)
    make_case({"method": "var", "stack": stack or "modern", "precision": precision or "float32"})
    folders = [target for target in targets or () if Path(target).is_dir()]
    names = [target for target in targets or () if target not in folders]
    check_targets(names, changes)
    if changes and not names:
        raise UsageError("--set changes experiments and methods: name one")
    runs = find(folders) if folders else []
    from bench.figures import advice_figure
    from bench.measure import devices, machine
    from bench.predict.prediction import prediction_or_none
    from bench.tables import advice as advisor

    # A GPU need not be here to be predicted for.
    chosen = devices.default_device() if device in (None, "auto") else str(device)
    settings = {"batch_size": batch, "stack": stack, "precision": precision, "device": device}
    cases: list[Case] = [
        case for run in runs for case in run.sweep.cases if not run.sweep.controlled(case)
    ]
    for name in names:
        cases += experiment.cases_of(name, [*changes, "controls=false"], chosen)
    if not cases:
        default = "float32" if chosen == "cpu" else "fp16"
        cases = [*advisor.grid({"batch_size": 1, "stack": "modern", "precision": default})]
        settings["device"] = chosen
    limits = advisor.Limits(size, max_fid, max_latency, obtainable)
    here = runs[0].env if runs else machine.environment()
    hardware = here.get("hardware")  # older runs have a machine's name only
    others = [run for run in every_run() if run.env.get("hardware", hardware) == hardware]
    asked = advisor.alike(cases, settings)
    if not targets:
        like = {name: getattr(asked[0], name) for name in settings}
        asked += advisor.of_plugins(others, like)
    evaluated = runs[0].evaluations if runs else evaluations.every(RESULTS)[0]
    with Progress(Console(stderr=True)) as progress:
        progress.say(f"{len(asked)} methods at batch {asked[0].batch_size}: cost and quality")
        for number, case in enumerate(asked, 1):
            prediction_or_none(case)  # which remembers it
            progress.count("predicting", number, len(asked), "cases")
        found = advisor.candidates(
            asked,
            [*runs, *others],
            here["machine"],
            evaluated if targets else advisor.published(evaluated),
            runs[0].folder if len(runs) == 1 else None,
        )
    advice = advisor.advise(found, limits, asked[0].batch_size)
    paths = advice_figure.draw(advice, limits, out)
    printing.show(advisor.printed(advice, limits), format)
    for path in paths:
        print(path, file=sys.stderr)
