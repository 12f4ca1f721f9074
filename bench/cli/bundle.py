"""`bench.py bundle`, `verify` and `board`: parse, call, print."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.targets import check_paths, find
from bench.study import archive, printing
from bench.study.errors import UsageError
from bench.study.folders import PROGRAM
from bench.study.printing import Format


def bundle(
    run: Annotated[str, typer.Argument(help="an experiment (its newest run) or a run's folder")],
    out: Annotated[Path, typer.Option("--out", "-o", help="FILE.zip")],
    shipped: options.Shipped = False,
    format: options.OutputFormat = Format.rich,
) -> None:
    """Packs a run with its quality, for others to check; says what `verify` will."""
    if out.suffix != ".zip":
        raise UsageError(f"--out {out}: name a file that ends in .zip")
    (found,) = find([run], shipped)
    from bench.tables import bundle as bundles

    bundles.write(found, out)
    printing.show(bundles.printed(bundles.verify(out)), format)
    if format is Format.rich:
        print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")


def verify(
    file: Annotated[Path, typer.Argument(help="a bundle, FILE.zip")],
    format: options.OutputFormat = Format.rich,
) -> None:
    """Checks somebody's bundle offline, a line a check; exit code 1 if one fails."""
    check_paths(file)
    archive.read_manifest(file)  # what it refuses, it refuses before torch is imported
    from bench.tables import bundle as bundles

    found = bundles.verify(file)
    printing.show(bundles.printed(found), format)
    if found.failed:
        raise typer.Exit(1)


def board(
    bundles: Annotated[Path, typer.Argument(metavar="DIR", help="folder of bundles")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder of the pages")] = Path("site"),
) -> None:
    """A static leaderboard of all bundles in a folder that pass `verify`."""
    check_paths(bundles)
    from bench.report import board as boards

    command = shlex.join([PROGRAM, "board", str(bundles)])
    for line in boards.write(bundles, out, command):
        print(line)
