"""`bench.py sample` and `bench.py fidelity`: parse, call, print."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import options
from bench.cli.targets import record_folder
from bench.study import experiment
from bench.study.cases import make_case

if TYPE_CHECKING:
    from bench.quality.sample_set import Manifest


class Form(StrEnum):
    """How images lie on disk."""

    png = "png"
    npz = "npz"


class Preset(StrEnum):
    """Sampling settings by name."""

    var = "var"
    code = "code"
    mini = "mini"


def sample(
    target: Annotated[
        str, typer.Argument(metavar="EXPERIMENT|METHOD", help="a name from `list`, or a TOML file")
    ],
    out: Annotated[Path, typer.Option(help="folder; of several cases each has one in it")],
    changes: options.Changes = [],  # noqa: B006
    per_class: options.PerClass = 50,
    format: Annotated[Form, typer.Option(help="PNG files, or one samples.npz")] = Form.png,
    batch_size: options.BatchSize = 32,
    preset: Annotated[
        Preset | None, typer.Option(help="the papers' sampling settings, if not the case's own")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="of the set, if not the case's own")
    ] = None,
    device: options.Device = None,
    resume: options.Resume = False,
    download: options.Download = False,
) -> None:
    """Images of every class, equally many, to disk; torchrun in front of it shares the work."""
    axes = {"device": device, "sampling": preset and preset.value}
    changes = [*changes, *(f"{key}={value}" for key, value in axes.items() if value)]
    experiment.cases_of(target, changes)  # what it refuses, it refuses before torch is imported
    from bench.measure import devices, machine
    from bench.quality import sampling
    from bench.quality.wanted import sets_of
    from codevar.progress import Progress
    from codevar.train import parallel

    cases = experiment.cases_of(target, changes, devices.default_device())
    wanted = sets_of(cases, per_class, format.value, batch_size, seed)
    devices.check_devices([one.case for one in wanted.values()])
    env, progress = machine.environment(), Progress()
    try:
        for name, one in wanted.items():
            folder = out / name if len(wanted) > 1 else out
            made = sampling.sample(one, folder, env, progress, resume=resume, download=download)
            if parallel.is_first():
                for line in told(made.manifest):
                    progress.say(line)
                progress.say(f"samples: {folder}")
    except sampling.ToldByFirst:
        raise typer.Exit(2) from None
    finally:
        parallel.leave()


def told(manifest: Manifest) -> list[str]:
    """What one should know of a set, in a line or two."""
    line = f"{manifest['label']}: {manifest['images']} images, preset {manifest['preset']}"
    if manifest["images_per_s"] is not None:
        line += (
            f", {manifest['images_per_s']:.4g} images/s, "
            f"{manifest['waited_for_writing_s']:.2g} s of it waiting for the disk"
        )
    lines = [line]
    if manifest["case"]["weights"] == "seeded":
        lines.append("weights are random, from a seed: the images show nothing; --set weights=")
    return lines


def fidelity(
    a: Annotated[Path, typer.Argument(metavar="A", help="a sample set: what is compared with")],
    b: Annotated[Path, typer.Argument(metavar="B", help="the same on another stack or precision")],
    images: Annotated[int, typer.Option(min=1, help="of so many the tokens are compared")] = 64,
    batch_size: options.BatchSize = 32,
    reference: options.Reference = None,
    extractor: options.Extractor = None,
    weights: options.ExtractorWeights = None,
    cache: options.Cache = None,
    device: options.Device = None,
    out: options.RecordFolder = None,
    download: options.Download = False,
) -> None:
    """Whether a stack or a precision changes tokens, images and FID: two sets, side by side."""
    import torch

    from bench.measure import devices, machine
    from bench.quality import features
    from bench.quality import fidelity as comparing
    from bench.quality.sample_set import SampleSet
    from bench.study import printing

    chosen = devices.chosen_device(device)
    sets = SampleSet.open(a), SampleSet.open(b)
    devices.check_devices([make_case({**s.manifest["case"], "device": chosen}) for s in sets])
    fid = None
    if reference is not None:
        which = extractor or features.default_for(reference)
        network = features.extractor_of(which, weights, download, torch.device(chosen))
        kept = cache or features.default_cache()
        fid = partial(
            comparing.fids, reference=reference, extractor=network, cache=kept, batch_size=64
        )
    env = machine.environment()
    folder = record_folder(out, "fidelity")
    found = comparing.compare(*sets, chosen, images, batch_size, download, fid)
    path = comparing.append(folder, found, env, chosen)
    printing.show(comparing.printed(found), "rich")
    print(f"record: {path}")
