"""`bench.py plot`: parse, call, print."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.targets import find
from bench.study import experiment
from bench.study.folders import PLOTS


def plot(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="figures (memory: both of it), experiments or folders of runs or trainings"
        ),
    ] = None,
    figure: Annotated[list[str] | None, typer.Option(help="only these figures")] = None,
    out: options.PlotFolder = PLOTS,
) -> None:
    """The papers' figures, as PNG and PDF: `plot code_table1`, `plot memory quick`."""
    for target in targets or []:
        if target.endswith(".toml"):
            experiment.load(target)  # what it refuses, it refuses before torch is imported
    from bench.figures import registry, training

    figures, runs = list(figure or []), []
    for target in targets or []:
        if target == "memory":
            figures += ["memory", "timeline"]
        elif target in registry.figures() or target in training.FIGURES:
            figures.append(target)
        else:
            runs.append(target)
    if {*figures} & training.FIGURES.keys() or any(map(training.is_training, runs)):
        for path in training.draw_trainings(runs, figures, out):
            print(path)
        return
    found = find(runs)
    names = Counter(run.sweep.name for run in found)
    for run in found:
        several = names[run.sweep.name] > 1
        called = "-".join(run.folder.absolute().parts[-2:]) if several and run.folder else ""
        for path in registry.draw(run, figures, out, called):
            print(path)
