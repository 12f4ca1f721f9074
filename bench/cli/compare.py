"""`bench.py compare`: parse, call, print."""

from __future__ import annotations

import dataclasses
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.targets import find
from bench.study import evaluations, experiment, printing

if TYPE_CHECKING:
    from bench.tables.compare import Comparison
    from bench.tables.frames import Run


class GateFormat(StrEnum):
    """How the gate's verdict is printed: tables, or what a CI reads."""

    rich = "rich"
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"
    github = "github"
    junit = "junit"


def compare(
    base: Annotated[
        str, typer.Argument(help="a run's folder, or pytest-benchmark's JSON or a folder of it")
    ],
    new: Annotated[str, typer.Argument(help="the same, to be judged against BASE")],
    threshold: Annotated[
        str, typer.Option(help="change that matters: 3%, or latency=3%,memory=0%")
    ] = "3%",
    alpha: Annotated[float, typer.Option(help="chance of a false change in all the table")] = 0.01,
    allow_undecided: Annotated[
        bool, typer.Option("--allow-undecided", help="noise that hides a change is no failure")
    ] = False,
    format: Annotated[GateFormat, typer.Option("--format", help="how to print")] = GateFormat.rich,
    plot: Annotated[Path | None, typer.Option(help="folder for pictures of the samples")] = None,
) -> None:
    """Regression gate: exit code 1 for a regression, 2 for no verdict, 0 for neither."""
    comparison = compared(base, new, threshold, alpha, allow_undecided)
    from bench.figures import gate_figure
    from bench.tables import gate

    paths = gate_figure.draw(comparison, plot) if plot else []
    if format is GateFormat.github:
        print(gate.workflow_commands(comparison))
        gate.step_summary(comparison)
    elif format is GateFormat.junit:
        print(gate.junit(comparison))
    else:
        printing.show(gate.printed(comparison), format)
    for path in paths:
        print(path, file=sys.stderr)
    raise typer.Exit(comparison.exit_code)


def compared(
    base: str, new: str, threshold: str, alpha: float = 0.01, allow_undecided: bool = False
) -> Comparison:
    """Two runs, or two results of pytest-benchmark.  Raises UsageError."""
    for side in (base, new):
        if not Path(side).exists() and not side.endswith(".json"):
            experiment.load(side)  # refused before torch is imported
    from bench.tables import compare as gate
    from bench.tables import sides

    limits = gate.thresholds(threshold)
    both = [
        sides.of_benchmarks(Path(side))
        if sides.is_benchmarks(Path(side))
        else sides.of_run(own_quality(find([side])[0]))
        for side in (base, new)
    ]
    return gate.compare(both[0], both[1], limits, alpha, allow_undecided)


def own_quality(run: Run) -> Run:
    """The run with the evaluations in its own folder only: another run's are of another commit."""
    found = evaluations.every(run.folder)[0] if run.folder else []
    return dataclasses.replace(run, evaluations=found)
