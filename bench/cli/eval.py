"""`bench.py eval`: parse, call, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.cli.targets import check_paths
from bench.study import evaluations, printing
from bench.study.errors import UsageError
from bench.study.folders import RESULTS
from bench.study.printing import Format
from codevar.progress import Progress


def evaluate(
    samples: Annotated[
        Path, typer.Argument(help="a sample set, a folder of PNG or JPEG, or an .npz of images")
    ],
    reference: Annotated[
        str | None,
        typer.Option(metavar="REF", help=".npz of statistics or images, folder, or mini:test"),
    ] = None,
    extractor: Annotated[
        str | None, typer.Option(help="inception, mini or a classifier's file; default: by REF")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="file of the extractor's weights")] = None,
    download: Annotated[
        bool, typer.Option("--download", help="fetch Inception's weights if they are not cached")
    ] = False,
    metrics: Annotated[
        str | None, typer.Option(help="only these: fid,sfid,inception_score,precision,recall,...")
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, metavar="N", help="95 % intervals from N halves of the samples")
    ] = 0,
    save_statistics: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="keep the samples' statistics as a REF")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=4096)] = 64,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N")] = None,
    cache: Annotated[Path | None, typer.Option(help="folder of features that are kept")] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of the record; results/MACHINE/evaluations")
    ] = None,
    format: Annotated[Format, typer.Option("--format", help="how to print")] = Format.rich,
) -> None:
    """FID, sFID, IS, precision and recall of images, by OpenAI's protocol."""
    if save_statistics is not None and save_statistics.suffix != ".npz":
        raise UsageError(f"--save-statistics {save_statistics}: name a file that ends in .npz")
    if 0 < bootstrap < 20:
        raise UsageError(f"--bootstrap {bootstrap}: too few for an interval; 20 at least")
    check_paths(samples)
    import torch

    from bench.measure import devices, machine
    from bench.quality import evaluate as quality
    from bench.quality import features
    from bench.quality.images import open_images
    from bench.quality.reference import Reference, open_reference
    from bench.quality.reference import save_statistics as save

    chosen = devices.chosen_device(device)
    images = open_images(samples)
    held = open_reference(reference, images.size) if reference else Reference("none")
    network = features.extractor_of(
        extractor or features.default_for(reference),
        weights,
        download,
        torch.device(chosen),
    )
    kept = cache or features.default_cache()
    with Progress(Console(stderr=True)) as progress:
        if save_statistics is not None:
            gaussians = quality.statistics_of(images, network, kept, batch_size, progress.count)
            save(save_statistics, gaussians, network, images.size)
            progress.say(f"statistics: {save_statistics}")
            if not reference:
                return
        asked = [name.strip() for name in metrics.split(",")] if metrics else None
        record, notes = quality.evaluate(
            images, held, network, asked, bootstrap, kept, batch_size, progress.count
        )
    folder = out or RESULTS / machine.environment()["machine"] / "evaluations"
    file = evaluations.append(folder, record)
    printing.show(printed(record, notes), format)
    print(f"record: {file}", file=sys.stderr)


def printed(record: evaluations.Evaluation, notes: list[str]) -> printing.Printed:
    """A row for each metric."""
    import pandas as pd

    from bench.metrics import METRICS

    rows = []
    for name, value in record.metrics.items():
        if name not in METRICS:
            continue
        heading = METRICS[name].heading
        spread = record.metrics.get(f"{name}_std")
        low, high = record.intervals.get(name, (None, None))
        rows.append(
            {
                "metric": heading,
                "value": f"{value:.4g}" + (f" ± {spread:.2g}" if spread is not None else ""),
                "95 %": f"{low:.4g} to {high:.4g}" if low is not None else "",
            }
        )
    text = pd.DataFrame(rows)
    what = record.label or record.samples
    against = "" if record.reference == "none" else f"; against {record.reference}"
    rests_on = f"{record.images:,} images; features of {record.extractor}{against}."
    data = pd.DataFrame([{**record.to_json(), **record.metrics}])
    return printing.Printed(
        f"Quality of {what}", data, text.loc[:, (text != "").any()], [rests_on, *notes]
    )
