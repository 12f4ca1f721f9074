"""`bench.py serve`: parse, call, print."""

from typing import Annotated

import typer

from bench.cli import options
from bench.cli.targets import find
from bench.study import printing
from bench.study.errors import UsageError
from bench.study.printing import Format


def serve(
    targets: options.Targets = None,
    rate: Annotated[
        str | None, typer.Option(metavar="RATES", help="requests a second: 2,5,10")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="images of a batch")] = 64,
    wait: Annotated[
        float, typer.Option(min=0, callback=options.finite, help="seconds a request may wait")
    ] = 0.05,
    limit: Annotated[
        float, typer.Option(min=0.001, callback=options.finite, help="seconds to an image, at most")
    ] = 1.0,
    requests: Annotated[int, typer.Option(min=100, max=10_000_000, help="simulated")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="of the arrivals")] = 0,
    shipped: options.Shipped = False,
    format: options.OutputFormat = Format.rich,
) -> None:
    """Time to image and goodput where requests arrive at random, from a run's measured batches."""
    rates = rates_of(rate) if rate else []
    from bench.tables import serving

    policy = serving.Policy(max_batch, wait, limit)
    for run in find(targets, shipped):
        printing.show(serving.table(run, rates, policy, requests, seed), format)


def rates_of(text: str) -> list[float]:
    """The numbers of "2,5,10".  Raises UsageError."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < rate < 1e6 for rate in found):
        raise UsageError(f"--rate {text}: write requests a second like 2,5,10")
    return found
