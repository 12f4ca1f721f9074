"""Options that several commands have, each declared once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from bench.study import cases, plugins
from bench.study.printing import Format

ExperimentName = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="a name from `list`, or a TOML file")
]
#: Experiments or methods whose cases are drawn or measured one after another.
Drawn = Annotated[list[str], typer.Argument(metavar="EXPERIMENT|METHODS", help="each of its cases")]
Changes = Annotated[
    list[str], typer.Option("--set", metavar="AXIS=VALUES", help="change an axis: batch_size=1,8")
]


def add_plugins(files: list[Path]) -> list[Path]:
    """Before anything else of the command is looked at, since it may name what they register."""
    cases.add_plugins(files)
    return files


def allow_plugins(allowed: bool) -> bool:
    """Before an experiment is read, which may ask for plugins of its own."""
    plugins.allowed = allowed
    return allowed


Plugins = Annotated[
    list[Path],
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        callback=add_plugins,
        is_eager=True,
        help="your own methods, metrics, ...: Python that runs as your code",
    ),
]
AllowPlugins = Annotated[
    bool,
    typer.Option(
        "--allow-plugins",
        callback=allow_plugins,
        is_eager=True,
        help="import the plugins that the experiment's file asks for",
    ),
]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="only say how many minutes, how much memory and disk")
]
Download = Annotated[
    bool, typer.Option("--download", help="fetch published weights that are not cached")
]
OutputFormat = Annotated[Format, typer.Option("--format", help="how to print")]
Targets = Annotated[
    list[str] | None,
    typer.Argument(help="experiments (their newest run) or folders of runs; default: newest run"),
]
Shipped = Annotated[
    bool,
    typer.Option("--shipped", help="records that the project ships, of other machines, not yours"),
]
BatchSize = Annotated[int, typer.Option(min=1, max=1024, help="images at a time")]
PerClass = Annotated[int, typer.Option(min=1, help="images of each class")]
Resume = Annotated[bool, typer.Option("--resume", help="go on with what --out holds")]
RunFolder = Annotated[Path | None, typer.Option(help="folder of the run")]
RecordFolder = Annotated[
    Path | None, typer.Option(help="folder of the record, if not one in results/MACHINE")
]
PlotFolder = Annotated[Path, typer.Option(help="folder for the pictures")]
PictureFile = Annotated[
    Path, typer.Option("--out", "-o", help="FILE.png; a PDF is written beside it")
]
Reference = Annotated[
    str | None,
    typer.Option(metavar="REF", help=".npz of statistics or images, folder, or mini:test"),
]
Extractor = Annotated[
    str | None, typer.Option(help="inception, clip, dinov2, mini, factors, none, or a classifier")
]
ExtractorWeights = Annotated[Path | None, typer.Option(help="file of the extractor's weights")]
Cache = Annotated[Path | None, typer.Option(help="folder of features that are kept")]
Intervals = Annotated[bool, typer.Option(help="95 % intervals of every figure")]
Precision = Annotated[
    str | None, typer.Option(help="float32, bf16 or fp16; default: fp16 on a GPU, else float32")
]
Box = Annotated[
    tuple[int, int, int, int] | None,
    typer.Option(metavar="X0 Y0 X1 Y1", help="where new content is wanted, in pixels"),
]
Mask = Annotated[
    Path | None, typer.Option(help="a picture that is light where new content is wanted")
]


def finite(value: float | None) -> float | None:
    """For options: a minimum lets "inf" pass and, by version of typer, "nan"."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value
