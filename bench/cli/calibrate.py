"""`bench.py calibrate`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.cli import options
from bench.cli.targets import check_targets
from bench.study.calibrated import METHODS
from bench.study.errors import UsageError
from codevar.progress import Progress

NAMES = [name for names in METHODS.values() for name in names]
#: What `--budget` is by default: a share of tokens, of layers, of the most changed token's
#: change or, of SkipVAR, the least SSIM.
BUDGETS = {"scalekv": 0.3, "ams_kv": 0.25, "hack": 0.3, "sparsevar": 0.6, "skipvar": 0.86}


def calibrate(
    method: Annotated[str, typer.Argument(metavar="METHOD", help=f"one of {', '.join(NAMES)}")],
    target: Annotated[
        str, typer.Argument(metavar="EXPERIMENT|METHOD", help="its one case makes the images")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="FILE.json")],
    images: Annotated[int, typer.Option(min=1, max=100_000, help="to measure on")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="of the images")] = 0,
    budget: Annotated[
        float | None,
        typer.Option(min=0.001, max=1, help="share of tokens, layers or most change; least SSIM"),
    ] = None,
    changes: options.Changes = [],  # noqa: B006
    device: options.Device = None,
    download: options.Download = False,
) -> None:
    """Measure a method's settings on images of a model: for `cache_policy = "METHOD FILE.json"`."""
    if method not in NAMES:
        raise UsageError(f"METHOD must be one of {', '.join(NAMES)}, not {method}")
    if out.suffix != ".json":
        raise UsageError(f"--out {out}: name a file that ends in .json")
    check_targets([target], changes)
    from bench.quality import calibrating, chosen

    cases = chosen.cases_of([target], changes, device, download)
    if len(cases) != 1:
        raise UsageError(f"{target}: has {len(cases)} cases; choose one with --set")
    told = {"budget": BUDGETS[method] if budget is None else options.finite(budget)}
    progress = Progress(Console(stderr=True))
    with progress:
        settings = calibrating.calibrate(
            method, cases[0], images, seed, told, out, download, progress
        )
    print(json.dumps(settings, indent=1), out, sep="\n")
