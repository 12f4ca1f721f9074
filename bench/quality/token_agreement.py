"""Does half precision, or another stack, change the tokens?  Two sample sets of the same method,
weights and seeds, decoded again and compared at each scale.

Tokens are compared twice.  Teacher-forced: both predict each scale from A's tokens of the scales
before, and the best token of the guided logits counts, so that a difference is of that one
prediction.  Free-running: each draws its own from the same seeds, so that a token that differs
changes all that come after it.

Shapes: N images, L tokens of all scales, l of one, V codes, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from bench.quality.against import image_distances, summary
from bench.quality.sample_set import Images, Manifest, SampleSet, common
from bench.quality.sampling import generated, load, one_line, pixels, tokens_of
from bench.quality.wanted import FREE
from bench.study.cases import make_case, planned
from bench.study.errors import UsageError
from bench.study.printing import Printed
from codevar import Scales
from codevar.checkpoints import weights_sha256

# What of a case may differ: how it is run, not what is run.
HOW = ("stack", "precision", "attention", *FREE)


@dataclass(frozen=True)
class Tokens:
    """One side's decodes.  drawn: (N, L) its own.  best: (N, L) the best token of each place
    after A's tokens of the scales before.  forced: (N, H, W, 3) its images of A's tokens."""

    drawn: torch.Tensor
    best: torch.Tensor
    forced: Images


def agreement(
    a: SampleSet,
    b: SampleSet,
    device: str,
    images: int,
    batch_size: int,
    download: bool = False,
) -> dict[str, Any]:
    """Shares of equal tokens at each scale, and the distances of images of A's tokens, which the
    VQVAEs alone make.

    images: so many, the first of the sets, are looked at.
    Raises UsageError for sets that differ in more than how they were run.
    """
    check_same(a, b)
    numbers = range(min(images, len(a)))
    scales, of_a = tokens(a, device, numbers, batch_size, download)
    _, of_b = tokens(b, device, numbers, batch_size, download, of_a.drawn)
    apart = image_distances([(of_a.forced, of_b.forced)])
    return {
        "images": len(numbers),
        "teacher_forced": by_scale(of_a.best, of_b.best, scales),
        "free_running": by_scale(of_a.drawn, of_b.drawn, scales),
        "images_of_same_tokens": {name: summary(values_N) for name, values_N in apart.items()},
    }


def check_same(a: SampleSet, b: SampleSet) -> None:
    """Raises UsageError unless the sets differ in nothing but how they were run."""
    one, other = same_of(a.manifest), same_of(b.manifest)
    weights = common(a.manifest["weights_sha256"], b.manifest["weights_sha256"])
    for side_, hashes in zip((one, other), weights, strict=True):
        side_ |= {f"the weights' hash of {source}": sha for source, sha in hashes.items()}
    differ = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    if differ:
        key = differ[0]
        raise UsageError(
            f"{a.folder} and {b.folder} differ in more than stack and precision: {key} is "
            f"{one.get(key)} and {other.get(key)}"
        )


def same_of(manifest: Manifest) -> dict[str, Any]:
    """What must not differ."""
    case = {key: value for key, value in manifest["case"].items() if key not in (*HOW, "seed")}
    keys = ("seed", "images", "classes", "side", "sources", "sampling")
    return {**case, **{key: manifest[key] for key in keys}}  # type: ignore[literal-required]


def tokens(
    samples: SampleSet,
    device: str,
    numbers: range,
    batch_size: int,
    download: bool,
    leader: torch.Tensor | None = None,
) -> tuple[Scales, Tokens]:
    """One side's, decoded anew; the models are gone when it returns.

    leader: (N, L) A's drawn tokens; None for A itself.
    """
    (case,) = planned([make_case(samples.manifest["case"])], str(samples.folder))
    loaded = load(case, download, device)
    for source, sha in samples.manifest["weights_sha256"].items():
        if weights_sha256(source) != sha:
            raise UsageError(f"{source}: no longer the weights that made {samples.folder}")
    scales, seed = loaded.plan.scales, samples.manifest["seed"]
    drawn, best, forced = [], [], []
    with one_line(case):
        for first in range(0, len(numbers), batch_size):
            part = numbers[first : first + batch_size]
            own = tokens_of(loaded, seed, part)
            along = own if leader is None else leader[part.start : part.stop].to(own.device)
            picked: list[torch.Tensor] = []

            def choose(
                logits_BlV: torch.Tensor,
                k: int,
                along: torch.Tensor = along,
                picked: list[torch.Tensor] = picked,
            ) -> torch.Tensor:
                picked.append(logits_BlV.argmax(dim=-1))
                return along[:, scales.slices[k]]

            made = generated(loaded, seed, part, choose)
            drawn.append(own.cpu())
            best.append(torch.cat(picked, dim=1).cpu())
            forced.append(pixels(loaded, made).cpu().numpy())
    return scales, Tokens(torch.cat(drawn), torch.cat(best), np.concatenate(forced))


def by_scale(one: torch.Tensor, other: torch.Tensor, scales: Scales) -> list[float]:
    """Share of equal tokens at each scale."""
    equal = (one == other).double()
    return [equal[:, where].mean().item() for where in scales.slices]


def printed(found: dict[str, Any]) -> Printed:
    """The shares for people."""
    ways = {"teacher-forced": "teacher_forced", "free-running": "free_running"}
    columns = ["equal tokens", *(f"scale {k + 1}" for k in range(len(found["free_running"])))]
    data = pd.DataFrame([[name, *found[key]] for name, key in ways.items()], columns=columns)
    text = data.map(lambda cell: cell if isinstance(cell, str) else f"{cell:.4f}")
    same = found["images_of_same_tokens"]
    notes = [
        "Teacher-forced: the best token after the baseline's tokens of the scales before.  "
        "Free-running: each draws its own from the same seeds.",
        f"Images of the same tokens: {same['psnr_db']['mean']:.1f} dB, "
        f"SSIM {same['ssim']['mean']:.4f}.",
    ]
    return Printed(f"Tokens of {found['images']} images", data, text, notes)
