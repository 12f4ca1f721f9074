"""Options that several commands have."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from bench.study.printing import Format

ExperimentName = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="a name from `list`, or a TOML file")
]
Changes = Annotated[
    list[str], typer.Option("--set", metavar="AXIS=VALUES", help="change an axis: batch_size=1,8")
]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")
]
OutputFormat = Annotated[Format, typer.Option("--format", help="how to print")]
Targets = Annotated[
    list[str] | None,
    typer.Argument(help="experiments (their newest run) or folders of runs; default: newest run"),
]


def finite(value: float | None) -> float | None:
    """For options: a minimum lets "inf" pass and, by version of typer, "nan"."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value
