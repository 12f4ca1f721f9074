"""Settings of a method, measured on images that a model has made, and written to a file."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bench.methods.loaded import Loaded
from bench.quality.against import structural_similarity
from bench.quality.sampling import generated, load, one_line, tokens_of
from bench.study import calibrated
from bench.study.cases import VARCase
from bench.study.errors import UsageError
from codevar import skipvar
from codevar.calibration import CALIBRATE
from codevar.decoding import images_of
from codevar.methods import skipvar_plans
from codevar.plan import Plan, skip_scales
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
    # Where attention is watched, models must be as loaded.
    if method in CALIBRATE and case.stack != "published":
        raise UsageError(f"calibrate {method}: needs stack published, not {case.stack}")
    loaded = load(case, download)
    if len(loaded.plan.models) > 1:
        raise UsageError(f"{case.label}: settings are of one model; name a case that has one")
    (model,) = loaded.plan.models
    with one_line(case), loaded.how.running(model.device):
        if method == "skipvar":
            settings = skipvar_settings(loaded, images, seed, options["budget"], progress)
        else:
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


def skipvar_settings(
    loaded: Loaded, images: int, seed: int, least: float, progress: Progress
) -> dict[str, Any]:
    """SkipVAR (Section 4.2): of each image the most that may be left out such that its SSIM to the
    whole image is at least so much, and what tells it of the image so far."""
    plan = loaded.plan
    at = max(2, plan.scales.K - 3)
    ways, features, right = skipvar_plans(plan, at), [], []
    last, skips = plan.scales.K - at, range(1, plan.scales.K - at + 1)
    for first in range(0, images, BATCH):
        numbers = range(first, min(first + BATCH, images))

        def image_of(way: Plan, numbers: range = numbers) -> torch.Tensor:
            of_way = generated(replace(loaded, plan=way), seed, numbers)
            return images_of(of_way, loaded.vqvae, loaded.how).double()

        until = [skip_scales(plan, range(k + 1, plan.scales.K + 1)) for k in (at - 1, at)]
        features.append(skipvar.features(*(image_of(way).float() for way in until)).cpu())
        whole, *others = (image_of(way) * 255 for way in ways)
        alike_WB = torch.stack([structural_similarity(whole, other) for other in others])
        good_WB = (alike_WB >= least).cpu()
        skipped_B = torch.stack([i * good_WB[i - 1] for i in skips]).amax(0)
        starts = [(last - i) * good_WB[last + i] for i in range(last)]
        earliest_B = torch.stack(starts).amax(0)
        guidance_B = torch.where(earliest_B > 0, last + 1 - earliest_B, 0)
        right.append(torch.stack((skipped_B, guidance_B)))
        progress.count("calibrate", numbers.stop, images, "images")
    x_NF, right_2N = torch.cat(features), torch.cat(right, dim=1)
    decision = skipvar.fitted(x_NF, [*right_2N], (last + 1, last + 1))
    chosen_N = decision.of(x_NF)
    shares = torch.bincount(chosen_N, minlength=len(ways)) / len(x_NF)
    parts = {"mean", "std", "skip", "guidance"}
    told = {k: v for k, v in asdict(decision).items() if k in parts} | {"shares": shares.tolist()}
    return {"at": at, "decision": told}


def made(loaded: Loaded, images: int, seed: int, progress: Progress):
    """Batches of labels (B,) and tokens (B, L) of the case's own images, each of its own seed."""
    classes = loaded.plan.models[0].config.classes
    for first in range(0, images, BATCH):
        numbers = range(first, min(first + BATCH, images))
        tokens_BL = tokens_of(loaded, seed, numbers)
        progress.count("calibrate", numbers.stop, images, "images")
        yield torch.tensor([n % classes for n in numbers], device=tokens_BL.device), tokens_BL
