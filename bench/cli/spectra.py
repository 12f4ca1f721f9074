"""`bench.py spectra`: parse, call, print."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from bench.cli import options
from bench.cli.pictures import sampled_how
from bench.cli.targets import check_targets
from bench.study import printing
from bench.study.errors import UsageError
from bench.study.printing import Format
from codevar.files import atomic_write
from codevar.progress import Progress


def spectra(
    targets: options.Drawn,
    out: options.PictureFile,
    images: Annotated[int, typer.Option(min=1, max=4096, help="of each case")] = 64,
    changes: options.Changes = [],  # noqa: B006
    device: options.Device = None,
    download: options.Download = False,
    format: options.OutputFormat = Format.rich,
) -> None:
    """Fourier spectra of what the first and last three scales add to images (CoDe, Figure 3 b).

    A CSV file with its numbers is written beside the picture.
    """
    check_targets(targets, changes)
    import torch

    from bench.figures import canvas, picture_rows, spectra_figure
    from bench.quality import chosen, sampling
    from bench.quality import spectra as fourier

    files = picture_rows.files_of(out)
    cases = chosen.cases_of(targets, changes, device, download)
    found = []
    with Progress(Console(stderr=True)) as progress:
        for case, name in zip(cases, chosen.names_of(cases), strict=True):
            progress.count(name, 0, images)
            loaded, parts = sampling.load(case, download), []
            for first in range(0, images, chosen.BATCH):
                numbers = range(first, min(first + chosen.BATCH, images))
                with sampling.one_line(case):
                    parts.append(sampling.tokens_of(loaded, case.seed, numbers))
                progress.count(name, numbers.stop, images)
            found.append(fourier.spectra_of(name, loaded.vqvae, torch.cat(parts)))
    if len({(len(one.made), len(one.made[0].cycles)) for one in found}) > 1:
        raise UsageError("these cases have token maps of different sizes: name them one by one")
    footer = f"{images} images, {sampled_how(cases)}"
    result = fourier.printed(found)
    canvas.save(spectra_figure.draw(found, footer), files)
    table = files[0].with_suffix(".csv")
    try:
        with atomic_write(table, sync=False) as part:
            part.write_text(printing.to_csv(result.data), encoding="utf-8")
    except OSError as e:
        raise UsageError(f"{table}: cannot be written ({e.strerror})") from None
    printing.show(result, format)
    print(*files, table, sep="\n")
