"""`bench.py eval`: parse, call, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.cli import options
from bench.cli.targets import check_paths, record_folder, reference_paths
from bench.study import evaluations, printing
from bench.study.errors import UsageError
from bench.study.printing import Format
from codevar.progress import Progress


def evaluate(
    samples: Annotated[
        Path, typer.Argument(help="a sample set, a folder of pictures, or an .npz of images")
    ],
    reference: options.Reference = None,
    plugin: options.Plugins = [],  # noqa: B006
    against: Annotated[
        Path | None,
        typer.Option(metavar="BASELINE", help="as many images: differences, with 95 % intervals"),
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=0, metavar="N", help="with --against: of N images, equal tokens")
    ] = 0,
    lpips: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="with --against: LPIPS, by the weights in it"),
    ] = None,
    extractor: options.Extractor = None,
    weights: options.ExtractorWeights = None,
    download: options.Download = False,
    metrics: Annotated[
        str | None, typer.Option(help="only these: fid,sfid,inception_score,precision,recall,...")
    ] = None,
    intervals: options.Intervals = True,
    as_published: Annotated[
        bool,
        typer.Option("--as-published", help="distances in float16, as OpenAI's evaluator has them"),
    ] = False,
    save_statistics: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="keep the samples' statistics as a REF")
    ] = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = None,
    cache: options.Cache = None,
    out: options.RecordFolder = None,
    format: options.OutputFormat = Format.rich,
) -> None:
    """FID, IS, precision, recall and others of images; what differs from a baseline's."""
    if save_statistics is not None and save_statistics.suffix != ".npz":
        raise UsageError(f"--save-statistics {save_statistics}: name a file that ends in .npz")
    if not (reference or extractor or against or save_statistics):
        raise UsageError("name a --reference; or an --extractor, for what needs none, as IS")
    if tokens and against is None:
        raise UsageError("--tokens: compares two sample sets; name the other one with --against")
    if lpips and against is None:
        raise UsageError("--lpips: compares images of two sets; name the other one with --against")
    check_paths(samples, *filter(None, [against, lpips, weights]), *reference_paths(reference))
    import torch

    from bench.measure import devices
    from bench.quality import evaluate as quality
    from bench.quality import features, token_agreement
    from bench.quality import lpips as similarity
    from bench.quality.images import open_images
    from bench.quality.reference import Reference, open_reference
    from bench.quality.reference import save_statistics as save
    from bench.quality.sample_set import SampleSet

    chosen = devices.chosen_device(device)
    images = open_images(samples)
    baseline = open_images(against) if against else None
    sets = (SampleSet.open(against), SampleSet.open(samples)) if against and tokens else None
    which = extractor or ("inception" if save_statistics else features.default_for(reference))
    network = features.extractor_of(which, weights, download, torch.device(chosen))
    with Progress(Console(stderr=True)) as progress:
        protocol = quality.Protocol(
            open_reference(reference, images.size) if reference else Reference("none"),
            network,
            cache or features.default_cache(),
            batch_size,
            [name.strip() for name in metrics.split(",")] if metrics else None,
            intervals,
            as_published,
            progress.count,
            similarity.load(lpips, torch.device(chosen)) if lpips else None,
        )
        if save_statistics is not None:
            gaussians = quality.statistics_of(images, protocol)
            save(save_statistics, gaussians, network, images.size)
            for line in (*images.notes, f"statistics: {save_statistics}"):
                progress.say(line)
            if not reference:
                return
        folder = record_folder(out, "evaluations")
        record, notes = quality.evaluate(images, protocol, baseline)
        if sets:
            found = token_agreement.agreement(*sets, chosen, tokens, batch_size, download)
            record.against = {**(record.against or {}), "tokens": found}
    file = evaluations.append(folder, record)
    printing.show(printed(record, notes), format)
    if sets:
        printing.show(token_agreement.printed(found), format)
    print(f"record: {file}", file=sys.stderr)


def printed(record: evaluations.Evaluation, notes: list[str]) -> printing.Printed:
    """A row for each metric."""
    import pandas as pd

    from bench.metrics import METRICS

    against, floor = record.against, record.floor or {}
    rows = []
    for name in (name for name in record.metrics if name in METRICS):
        spread = record.metrics.get(f"{name}_std")
        row = {
            "metric": METRICS[name].heading,
            "value": f"{record.metrics[name]:.4g}" + (f" ± {spread:.2g}" if spread else ""),
            "95 %": span(record.intervals.get(name)),
            "real images": f"{floor[name]:.4g}" if name in floor else "",
        }
        if against and name in against["metrics"]:
            from bench.quality.against import told_apart

            row["baseline"] = f"{against['metrics'][name]:.4g}"
            row["difference"] = f"{against['differences'][name]:+.3g}"
            row["95 % of it"] = span(against["difference_intervals"][name], "+")
            row["is"] = told_apart(against, name)
        rows.append(row)
    text = pd.DataFrame(rows, columns=None if rows else ["metric"]).fillna("")
    what = record.label or record.samples
    held = "" if record.reference == "none" else f"; against {record.reference}"
    if record.reference_images:
        held += f", {record.reference_images:,} images"
    of = f"; features of {record.extractor}" if record.extractor != "none" else ""
    rests_on = [f"{record.images:,} images{of}{held}."]
    if against:
        rests_on.append(f"Baseline: {against['label'] or against['samples']}.")
    if against and against["distances"]:
        rests_on.append(distances_in_words(against["distances"]))
    data = pd.DataFrame([{**record.to_json(), **record.metrics}])
    text = text.loc[:, (text != "").any()]
    return printing.Printed(f"Quality of {what}", data, text, [*rests_on, *notes])


def span(interval: tuple[float, float] | None, sign: str = "") -> str:
    """An interval in words."""
    return f"{interval[0]:{sign}.4g} to {interval[1]:{sign}.4g}" if interval else ""


def distances_in_words(found: dict[str, Any]) -> str:
    """The images of one seed and class, side by side."""
    kinds = {
        "psnr_db": "PSNR",
        "ssim": "SSIM",
        "lpips": "LPIPS",
        "feature_distance": "features apart",
    }
    told = [
        f"{words} {found[name]['mean']:.4g} (90 % of images {found[name]['quantiles'][0]:.4g} to "
        f"{found[name]['quantiles'][-1]:.4g})"
        for name, words in kinds.items()
        if name in found
    ]
    return f"Image by image: {', '.join(told)}; {found['identical']:.1%} identical."
