"""`bench.py report`: parse, call, print."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.compare import compared
from bench.cli.targets import find
from bench.study.errors import UsageError
from bench.study.folders import PROGRAM


def report(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN...",
            help="experiments (their newest run) or folders of runs; default: newest run",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="the page")] = Path("report.html"),
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="BASE NEW", help="two results side by side, as `compare` judges them"),
    ] = None,
    samples: Annotated[
        list[Path] | None,
        typer.Option(help="folder of a sample set, or a picture; may be repeated"),
    ] = None,
    threshold: Annotated[
        str | None, typer.Option(help="with --compare: change that matters; 3% by default")
    ] = None,
    shipped: options.Shipped = False,
) -> None:
    """One HTML page to read it all: figures, tables, images, machine, raw samples."""
    words = [*(targets or []), *(["--compare", *compare] if compare else [])]
    words += [word for path in samples or [] for word in ("--samples", str(path))]
    words += ["--shipped"] * shipped
    command = shlex.join([PROGRAM, "report", *words])
    if compare and (targets or samples):
        raise UsageError("--compare makes a page of its own: leave out RUN and --samples")
    if threshold and not compare:
        raise UsageError("--threshold goes with --compare")
    if compare:
        judged = compared(*compare, threshold or "3%")
        from bench.report import page

        html = page.of_comparison(judged, command)
    else:
        runs = find(targets, shipped)
        from bench.report import page

        html = page.of_runs(runs, samples or [], command)
    page.write(html, out)
    print(f"{out} ({len(html.encode()) / 1e6:.1f} MB)")
