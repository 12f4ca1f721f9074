"""`bench.py plot`: parse, call, print."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.targets import find
from bench.study import experiment
from bench.study.errors import UsageError, nearest
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
    shipped: options.Shipped = False,
) -> None:
    """The papers' figures, as PNG and PDF: `plot code_table1`, `plot memory quick`."""
    from bench.figures.known import check, figure_names

    # What is refused, is refused before torch is imported.
    check(figure or [])
    of_trainings = figure_names("training_figure")
    known = [*figure_names(), *of_trainings]
    figures, runs = list(figure or []), []
    for target in targets or []:
        if target in known:
            figures += ["memory", "timeline"] if target == "memory" else [target]
        elif target.endswith(".toml") or target in experiment.names() or Path(target).exists():
            runs.append(target)
        else:
            what = "no such figure, experiment or folder"
            raise UsageError(f"{target}: {what}{nearest(target, [*known, *experiment.names()])}")
    for target in runs:
        if target.endswith(".toml"):
            experiment.load(target)
    from bench.figures import registry, training

    if {*figures} & {*of_trainings} or any(map(training.is_training, runs)):
        for path in training.draw_trainings(runs, figures, out):
            print(path)
        return
    found = find(runs, shipped)
    names = Counter(run.sweep.name for run in found)
    for run in found:
        several = names[run.sweep.name] > 1
        called = "-".join(run.folder.absolute().parts[-2:]) if several and run.folder else ""
        for path in registry.draw(run, figures, out, called):
            print(path)
