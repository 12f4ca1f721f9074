"""`bench.py eval`: parse, call, print."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.study import evaluations, printing
from bench.study.errors import UsageError
from bench.study.folders import RESULTS
from bench.study.printing import Format


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
    if reference is None and save_statistics is None:
        raise UsageError("name what to hold the samples against with --reference")
    if save_statistics is not None and save_statistics.suffix != ".npz":
        raise UsageError(f"--save-statistics {save_statistics}: name a file that ends in .npz")
    if 0 < bootstrap < 20:
        raise UsageError(f"--bootstrap {bootstrap}: too few for an interval; 20 at least")
    import torch

    from bench.measure import devices, machine
    from bench.quality import evaluate as quality
    from bench.quality import features
    from bench.quality.images import open_images
    from bench.quality.reference import open_reference
    from bench.quality.reference import save_statistics as save

    chosen = devices.default_device() if device in (None, "auto") else str(device)
    devices.check_device(chosen)
    images = open_images(samples)
    held = open_reference(reference, images.size) if reference is not None else None
    network = features.extractor_of(
        extractor or features.default_for(reference),
        weights,
        download,
        torch.device(chosen),
    )
    kept = cache or features.default_cache()
    console = Console(stderr=True)
    with Watch(console) as shown:
        if save_statistics is not None:
            gaussians = quality.statistics_of(images, network, kept, batch_size, shown.tell)
            save(save_statistics, gaussians, network, images.size)
            console.print(f"statistics: {save_statistics}", soft_wrap=True, highlight=False)
        if held is None:
            return
        asked = [name.strip() for name in metrics.split(",")] if metrics else None
        record, notes = quality.evaluate(
            images, held, network, asked, bootstrap, kept, batch_size, shown.tell
        )
    folder = out or RESULTS / machine.environment()["machine"] / "evaluations"
    file = evaluations.append(folder, record)
    printing.show(printed(record, notes), format)
    print(f"record: {file}", file=sys.stderr)


class Watch:
    """What is in work, as bars on a terminal; elsewhere a line every half a minute."""

    def __init__(self, console: Console) -> None:
        parts = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        text = TextColumn("{task.description}")
        off = not console.is_terminal
        self._bars = Progress(text, *parts, console=console, transient=True, disable=off)
        self._tasks: dict[str, Any] = {}
        self._said = time.monotonic()

    def __enter__(self) -> Watch:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def tell(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done)
        if self._bars.disable and time.monotonic() > self._said + 30:
            self._said = time.monotonic()
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr)


def printed(record: evaluations.Evaluation, notes: list[str]) -> printing.Printed:
    """A row for each metric."""
    import pandas as pd

    from bench.metrics import METRICS

    rows = []
    for name, value in record["metrics"].items():
        if name not in METRICS:
            continue
        heading = METRICS[name].heading
        spread = record["metrics"].get(f"{name}_std")
        low, high = record["intervals"].get(name, (None, None))
        rows.append(
            {
                "metric": heading,
                "value": f"{value:.4g}" + (f" ± {spread:.2g}" if spread is not None else ""),
                "95 %": f"{low:.4g} to {high:.4g}" if low is not None else "",
            }
        )
    text = pd.DataFrame(rows)
    what = record["label"] or record["samples"]
    notes = [
        f"{record['images']:,} images; features of {record['extractor']}; "
        f"against {record['reference']}.",
        *notes,
    ]
    data = pd.DataFrame([{**record, **record["metrics"]}])
    return printing.Printed(f"Quality of {what}", data, text.loc[:, (text != "").any()], notes)
