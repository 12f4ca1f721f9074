"""What samples are held against: REF of `bench.py eval`.

VIRTUAL_imagenet256_labeled.npz   arr_0, mu, sigma, mu_s, sigma_s: OpenAI's reference, whose
                                  statistics are of the training set and whose 10,000 images
                                  are for precision and recall
FILE.npz                          the same without images: `--save-statistics`, or others'
FILE.npz                          images alone (arr_0)
FOLDER                            of PNG or JPEG, or another sample set
mini:test, mini:test:2000         the mini world's test images by number, 10,000 by default
mini:test:10000-20000             a block of them
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.metrics.frechet import Gaussian
from bench.quality.features import Extractor, file_sha256
from bench.quality.images import (
    ImageSet,
    archive,
    is_archive,
    mini_world,
    open_images,
    readable,
)
from bench.study.errors import UsageError
from codevar.files import atomic_write

MINI_IMAGES = 10_000  # of the test split, unless the user says
MINI_END = 1_000_000  # there are more, but nobody waits for hours of them
#: (mu, sigma) of each layer, as OpenAI's file names them.
KEYS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclass(frozen=True)
class Reference:
    """name: what to call it.  gaussians: ready statistics, by layer.  images: where it has any.
    size: (H, W), where that is known.  extractor: key of the one that made the statistics, where
    the file says.  sha256: of the file; of what has none, the features' digest says more.
    end: of the mini world, the number after its last image.
    """

    name: str
    gaussians: Mapping[str, Gaussian] = field(default_factory=dict)
    images: ImageSet | None = None
    size: tuple[int, int] | None = None
    extractor: str | None = None
    sha256: str | None = None
    end: int = 0


def open_reference(text: str, size: tuple[int, int]) -> Reference:
    """REF as the user writes it.  size: of the samples.

    Raises UsageError for what is missing or damaged, and for images of another size.
    """
    if text.startswith("mini:"):
        found = _mini(text, size)
    elif is_archive(Path(text)):
        found = _file(Path(text))
    else:
        images = open_images(Path(text))
        found = Reference(images.name, images=images, size=images.size)
    if found.size is not None and found.size != size:
        raise UsageError(
            f"the samples are {size[1]} x {size[0]} pixels, {found.name} is "
            f"{found.size[1]} x {found.size[0]}: figures of different sizes mean nothing"
        )
    return found


def floor_of(reference: Reference, count: int) -> ImageSet | None:
    """As many other real images, where there are any: of the mini world."""
    if not reference.name.startswith("mini:") or not reference.images or not reference.size:
        return None
    return mini_world(
        reference.name.removeprefix("mini:"), count, reference.size, start=reference.end
    )


def _mini(text: str, size: tuple[int, int]) -> Reference:
    parts = re.fullmatch(r"mini:([a-z]+)(?::(?:(\d+)-)?(\d+))?", text)
    start, end = (int(parts[2] or 0), int(parts[3] or MINI_IMAGES)) if parts else (0, 0)
    if parts is None or start >= end or end > MINI_END:
        raise UsageError(
            f"{text}: write mini:test, mini:test:2000 for so many images, or "
            f"mini:test:10000-20000 for a block of them; its last number is {MINI_END:,}"
        )
    images = mini_world(parts[1], end - start, size, start)
    return Reference(f"mini:{parts[1]}", images=images, size=size, end=end)


def _file(path: Path) -> Reference:
    """An `.npz`: of statistics, of images, or of both."""
    with readable(path), np.load(path, allow_pickle=False) as file:
        names = set(file.files)
        if not names & {name for pair in KEYS.values() for name in pair}:
            images = archive(path)
            return Reference(path.name, images=images, size=images.size)
        gaussians = {
            layer: _gaussian(path, file, *pair) for layer, pair in KEYS.items() if names & {*pair}
        }
        height, width = file["size"].tolist() if "size" in names else (0, 0)
        extractor = str(file["extractor"]) if "extractor" in names else None
    if "pool" not in gaussians:
        raise UsageError(f"{path}: has mu_s and sigma_s but no mu and sigma")
    held = archive(path) if "arr_0" in names else None
    size = held.size if held else (height, width) if height else None
    return Reference(path.name, gaussians, held, size, extractor, file_sha256(path))


def _gaussian(path: Path, file: Any, mu_name: str, sigma_name: str) -> Gaussian:
    for name in (mu_name, sigma_name):
        if name not in file.files:
            other = sigma_name if name == mu_name else mu_name
            raise UsageError(f"{path}: has {other} but no {name}: no statistics for a FID")
    mu, sigma = file[mu_name], file[sigma_name]
    if (
        not mu.dtype.kind == sigma.dtype.kind == "f"
        or mu.ndim != 1
        or sigma.shape != (*mu.shape, *mu.shape)
    ):
        raise UsageError(
            f"{path}: {mu_name} is {mu.dtype} {mu.shape}, {sigma_name} {sigma.dtype} "
            f"{sigma.shape}: no mean and covariance"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UsageError(f"{path}: {mu_name} or {sigma_name} is not finite")
    if np.abs(sigma - sigma.T).max(initial=0) > 1e-3 * np.abs(sigma).max(initial=0):
        raise UsageError(f"{path}: {sigma_name} is not symmetric: no covariance")
    # Whatever their precision and the order of their bytes.
    both = (torch.from_numpy(np.ascontiguousarray(a, np.float64)) for a in (mu, sigma))
    return Gaussian(*both)


def save_statistics(
    path: Path, gaussians: Mapping[str, Gaussian], extractor: Extractor, size: tuple[int, int]
) -> None:
    """Writes what `open_reference` reads, whole or not at all.  Raises UsageError."""
    arrays: dict[str, Any] = {"extractor": extractor.key, "size": size}
    for layer, gaussian in gaussians.items():
        mu, sigma = KEYS[layer]
        arrays |= {mu: gaussian.mu.cpu().numpy(), sigma: gaussian.sigma.cpu().numpy()}
    try:
        with atomic_write(path) as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as e:
        raise UsageError(f"{path}: cannot be written ({e.strerror})") from None
