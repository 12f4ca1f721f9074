"""A set of images against a baseline's: differences of figures, and distances image by image.

Both sets are as large.  Where image i of both has one seed and one class, what chance gives to one
it gives to the other: the difference is known far better than either figure.  Nothing of the
arithmetic depends on that: the same groups are left out of both sets, and the interval is that of
the difference's own replicates.

Shapes: B images of a batch, N of a set, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import conv2d

from bench.metrics import METRICS, Estimate
from bench.metrics.jackknife import interval_of_mean
from bench.quality.features import Features
from bench.quality.images import ImageSet, Pixels
from bench.quality.lpips import Distance
from bench.study.errors import UsageError

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
#: PSNR of images without any difference, which would be infinite.
IDENTICAL_DB = 100.0
ROWS = 64  # images compared at a time


@dataclass
class Measured:
    """A set's figures by metric, what they rest on, and what a reader must know."""

    estimates: dict[str, Estimate]
    features: Features
    reference_sha256: str | None
    notes: list[str] = field(default_factory=list)


def check_alike(samples: ImageSet, baseline: ImageSet) -> None:
    """Raises UsageError for sets of different counts or sizes."""
    for what in ("count", "size"):
        one, other = getattr(samples, what), getattr(baseline, what)
        if one != other:
            raise UsageError(
                f"{samples.name} and {baseline.name} differ in {what}, {one} and {other}: their "
                "figures are not comparable"
            )


def compared(
    samples: ImageSet,
    baseline: ImageSet,
    own: Measured,
    theirs: Measured,
    lpips: Distance | None = None,
) -> dict[str, Any]:
    """`against` of a record: the baseline's figures, the differences (samples less baseline)
    with 95 % intervals and what these follow from, and, of paired images, their distances."""
    paired = are_paired(samples, baseline)
    found = {name: own.estimates[name].less(other) for name, other in theirs.estimates.items()}
    return {
        "samples": baseline.name,
        "samples_sha256": theirs.features.digest,
        **{key: baseline.manifest.get(key) for key in ("case", "label", "seed", "weights_sha256")},
        "paired": paired,
        "metrics": {name: one.value for name, one in theirs.estimates.items()},
        "differences": {name: apart for name, (apart, _) in found.items()},
        "difference_intervals": {name: span for name, (_, span) in found.items()},
        "difference_replicates": {
            name: np.subtract(own.estimates[name].replicates, other.replicates).tolist()
            for name, other in theirs.estimates.items()
        },
        "distances": paired_distances(samples, baseline, own, theirs, lpips) if paired else None,
    }


def are_paired(one: ImageSet, other: ImageSet) -> bool:
    """Whether image i of both was drawn from the same seed, of the same class."""
    keys = ("seed", "classes", "images")
    return bool(one.manifest) and all(one.manifest[k] == other.manifest.get(k) for k in keys)


def told_apart(against: dict[str, Any], name: str) -> str:
    """Which of the two is better by a metric, as far as its interval says: "better", "worse" or
    "cannot be told"."""
    low, high = against["difference_intervals"][name]
    if low <= 0 <= high:
        return "cannot be told"
    return "better" if (high < 0) == METRICS[name].lower_is_better else "worse"


# Image by image


def paired_distances(
    samples: ImageSet,
    baseline: ImageSet,
    own: Measured,
    theirs: Measured,
    lpips: Distance | None = None,
) -> dict[str, Any]:
    """Summaries of `image_distances`, and of the way between the features of the pool."""
    pairs = zip(samples.pixels(), baseline.pixels(), strict=True)
    found = image_distances(pairs, lpips)
    if "pool" in own.features.layers:
        one, other = (side.features.layers["pool"].double() for side in (own, theirs))
        found["feature_distance"] = (one - other).norm(dim=1)
    return {
        "identical": float((found["psnr_db"] == IDENTICAL_DB).double().mean()),
        **{name: summary(values_N) for name, values_N in found.items()},
    }


def summary(values_N: torch.Tensor) -> dict[str, Any]:
    """mean; interval: 95 % of it; quantiles: of `QUANTILES`."""
    return {
        "mean": float(values_N.mean()),
        "interval": interval_of_mean(values_N),
        "quantiles": np.quantile(values_N.numpy(), QUANTILES).tolist(),
    }


def image_distances(
    pairs: Iterable[tuple[Pixels, Pixels]], lpips: Distance | None = None
) -> dict[str, torch.Tensor]:
    """(N,) each, over batches of images (B, H, W, 3) uint8.

    psnr_db: peak signal-to-noise ratio, at most `IDENTICAL_DB`.  ssim: structural similarity.
    max_level: the largest difference of any value.  lpips: where there is a network for it.
    """
    found: dict[str, list[torch.Tensor]] = {"psnr_db": [], "ssim": [], "max_level": []}
    found |= {"lpips": []} if lpips else {}
    for one, other in pairs:
        for first in range(0, len(one), ROWS):
            x, y = (
                torch.from_numpy(images[first : first + ROWS]).permute(0, 3, 1, 2).double()
                for images in (one, other)
            )
            mse_B = (x - y).square().mean(dim=(1, 2, 3))
            found["psnr_db"].append((10 * torch.log10(255**2 / mse_B)).clamp(max=IDENTICAL_DB))
            found["ssim"].append(structural_similarity(x, y))
            found["max_level"].append((x - y).abs().amax(dim=(1, 2, 3)))
            if lpips:
                found["lpips"].append(lpips(x, y))
    return {name: torch.cat(parts) for name, parts in found.items()}


def structural_similarity(x_BCHW: torch.Tensor, y_BCHW: torch.Tensor) -> torch.Tensor:
    """(B,) SSIM of images in 0..255 (Wang et al., 2004): Gaussian windows of 11 x 11 and sigma
    1.5, within the image; the mean over windows and colours."""
    side = min(11, *x_BCHW.shape[2:])
    offsets = torch.arange(side, dtype=x_BCHW.dtype) - (side - 1) / 2
    window = torch.exp(-offsets.square() / (2 * 1.5**2))
    window_11hw = torch.outer(window, window)[None, None] / window.sum() ** 2

    def mean(image_BCHW: torch.Tensor) -> torch.Tensor:
        return conv2d(image_BCHW.flatten(0, 1)[:, None], window_11hw)

    mu, nu = mean(x_BCHW), mean(y_BCHW)
    x_var, y_var = mean(x_BCHW**2) - mu**2, mean(y_BCHW**2) - nu**2
    covariance = mean(x_BCHW * y_BCHW) - mu * nu
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = (2 * mu * nu + c1) * (2 * covariance + c2)
    ssim /= (mu**2 + nu**2 + c1) * (x_var + y_var + c2)
    return ssim.reshape(len(x_BCHW), -1).mean(dim=1)
