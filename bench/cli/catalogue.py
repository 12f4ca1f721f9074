"""`bench.py list`, `env` and `predict`: parse, call, print."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from bench.cli import options
from bench.study import experiment, printing
from bench.study.errors import UsageError, bytes_of
from bench.study.printing import Format


def list_experiments(
    format: options.OutputFormat = Format.rich,
    plugin: options.Plugins = [],  # noqa: B006
) -> None:
    """Experiments, methods and published models."""
    from bench.tables.catalogue import catalogue

    printing.show(catalogue(), format)


def env(format: options.OutputFormat = Format.rich) -> None:
    """This machine."""
    from bench.measure import machine
    from bench.tables import tables

    found = machine.environment()
    if format is Format.json:
        print(json.dumps(found, indent=1))
    else:
        printing.show(tables.environment(found), format)


def predict(
    experiment_: options.ExperimentName = "code_table1",
    changes: options.Changes = [],  # noqa: B006
    plugin: options.Plugins = [],  # noqa: B006
    allow_plugins: options.AllowPlugins = False,
    format: options.OutputFormat = Format.rich,
    max_batch: Annotated[
        bool, typer.Option("--max-batch", help="the largest batch that fits into --memory")
    ] = False,
    memory: Annotated[
        str | None, typer.Option(help="of the card, as sold: 48GiB; CUDA's own 0.5 GiB come off")
    ] = None,
    ecc: Annotated[
        bool,
        typer.Option(help="the card keeps 1/16 for ECC: L20, L40S, A6000; not A100, H100"),
    ] = True,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001, callback=options.finite, help="hours instead, at so many TFLOP/s of a card"
        ),
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, callback=options.finite, help="of an hour of a card")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="cards that share the work")] = 1,
    images: Annotated[
        int | None, typer.Option(min=1, help="hours to sample so many with each case")
    ] = None,
) -> None:
    """Parameters, KV cache, running memory and FLOPs of each case, from shapes alone."""
    sweep = experiment.load(experiment_, changes)
    if rate is not None and max_batch:
        raise UsageError("--rate is for hours, --max-batch for memory; one at a time")
    if rate is None and (price is not None or images is not None or gpus != 1):
        raise UsageError("--price, --gpus and --images need the card's speed: --rate TFLOP/S")
    if max_batch and memory is None:
        raise UsageError("--max-batch needs the card's memory: --memory 48GiB")
    if memory is not None and not max_batch:
        raise UsageError("--memory goes with --max-batch")
    card_bytes = None if memory is None else bytes_of(memory)
    from bench.tables import hours, tables

    if rate is not None:
        printing.show(hours.estimate(sweep, hours.Terms(rate * 1e12, price, gpus, images)), format)
    elif card_bytes is not None:
        printing.show(tables.largest_batches(sweep, card_bytes, ecc), format)
    else:
        printing.show(tables.predictions(sweep), format)
