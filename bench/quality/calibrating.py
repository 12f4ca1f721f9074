"""Settings of a method, measured on images that a model has made, and written to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.methods.loaded import Loaded
from bench.quality.sampling import load, one_line, tokens_of
from bench.study import calibrated
from bench.study.cases import VARCase
from bench.study.errors import UsageError
from codevar.calibration import CALIBRATE
from codevar.progress import Progress

BATCH = 10


def calibrate(
    method: str,
    case: VARCase,
    images: int,
    seed: int,
    options: dict[str, Any],
    out: Path,
    download: bool,
    progress: Progress,
) -> dict[str, Any]:
    """The settings, which are in the file `out` then.  Raises UsageError."""
    if case.stack != "published":  # whose models are as loaded, so that attention can be watched
        raise UsageError(f"calibrate {method}: needs stack published, not {case.stack}")
    loaded = load(case, download)
    if len(loaded.plan.models) > 1:
        raise UsageError(f"{case.label}: settings are of one model; name a case that has one")
    (model,) = loaded.plan.models
    with one_line(case), loaded.how.running(model.device):
        batches = made(loaded, images, seed, progress)
        settings = CALIBRATE[method](model, loaded.vqvae, batches, **options)
    measured_on = {
        "case": case.label,
        "weights": case.weights,
        "sources": [Path(source).name for source in loaded.sources],
        "images": images,
        "seed": seed,
        "options": options,
    }
    try:
        calibrated.write(out, method, model.config, measured_on, settings)
    except OSError as e:
        raise UsageError(f"{out}: cannot be written ({e.strerror})") from None
    return settings


def made(loaded: Loaded, images: int, seed: int, progress: Progress):
    """Batches of labels (B,) and tokens (B, L) of the case's own images, each of its own seed."""
    classes = loaded.plan.models[0].config.classes
    for first in range(0, images, BATCH):
        numbers = range(first, min(first + BATCH, images))
        tokens_BL = tokens_of(loaded, seed, numbers).tokens
        progress.count("calibrate", numbers.stop, images, "images")
        yield torch.tensor([n % classes for n in numbers], device=tokens_BL.device), tokens_BL
