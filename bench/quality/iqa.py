"""Image quality without a reference: MUSIQ, CLIPIQA and NIQE by pyiqa (CoDe, Table 5).

The paper does not say how it measured.  Its figures have the ranges of pyiqa's defaults (MUSIQ
trained on KonIQ-10k, 0 to 100; CLIPIQA on CLIP's RN50, 0 to 1; NIQE with LIVE's parameters), and
these are what is computed here, as means over all pictures at their own size.

pyiqa fetches weights on its own and unpickles them; here nothing is fetched unless asked, and
files are read as tensors only.  NIQE's parameters stand beside this file (with LIVE's notice), so
it needs no weights.  pyiqa gives what LIVE's MATLAB code gives within 1 % on ordinary pictures,
and within 6 % on very noisy ones.

Shapes: N pictures, B of a batch, H W pixels.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib
import importlib.util
import logging
import math
import pickle
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import packaging.version
import pandas as pd
import torch
from scipy.stats import t as student

from bench.metrics.metric import of_pixels
from bench.quality.features import file_sha256
from bench.quality.images import ImageSet, digest_of
from bench.study.errors import UsageError
from bench.study.evaluations import SCHEMA
from bench.study.printing import Printed
from codevar.files import first_line

NIQE_PARAMETERS = Path(__file__).parent / "niqe_modelparameters.mat"
BLOCK = 96  # pixels; NIQE's covariance needs two whole blocks at least

Scorer = Callable[[torch.Tensor], torch.Tensor]  # (B, 3, H, W) in [0, 1] -> (B,)


@dataclass(frozen=True)
class Weights:
    """A published file.  sha256: the beginning of its hash."""

    file: str
    sha256: str
    where: str


#: Metric -> its weights.
METRICS: dict[str, Weights | None] = {
    "niqe": None,
    "musiq": Weights("musiq_koniq_ckpt-e95806b9.pth", "e95806b9", "pyiqa's musiq-koniq10k"),
    "clipiqa": Weights(
        "RN50.pt",
        "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
        "OpenAI's CLIP RN50",
    ),
}


@dataclass(frozen=True)
class Score:
    """A metric: its function, and the hash of its weights."""

    name: str
    scorer: Scorer
    sha256: str

    @property
    def published(self) -> bool:
        weights = METRICS[self.name]
        return weights is None or self.sha256.startswith(weights.sha256)


def pyiqa() -> Any:
    """The library.  Raises UsageError if it is not installed."""
    try:
        import pyiqa as library
    except ImportError as e:
        missing = f" ({e.name} is missing)" if e.name != "pyiqa" else ""
        raise UsageError(
            f"image-quality scores need pyiqa{missing}: pip install -e '.[iqa]'"
        ) from None
    return library


def scores_of(
    wanted: Sequence[str] | None,
    size: tuple[int, int],
    weights: Path | None,
    download: bool,
    device: torch.device,
) -> tuple[list[Score], list[str]]:
    """The metrics, and a note for each that is left out because it cannot be had.

    wanted: names; None takes what there is.  size: (H, W) of the pictures.  weights: a folder
    with the published files, by default pyiqa's cache.  download: fetch what is missing.

    Raises UsageError for an unknown metric, one that was asked for and cannot be had, or none.
    """
    for name in wanted or ():
        if name not in METRICS:
            raise UsageError(f"--metrics {name}: no such metric; there are {', '.join(METRICS)}")
    pyiqa()
    scores, notes = [], []
    for name in wanted or METRICS:
        try:
            scores.append(score_of(name, size, weights, download, device))
        except UsageError as e:
            if wanted:
                raise
            notes.append(f"Without {e}.")
    if not scores:
        raise UsageError(" ".join(notes))
    return scores, notes


def score_of(
    name: str, size: tuple[int, int], folder: Path | None, download: bool, device: torch.device
) -> Score:
    """Raises UsageError, which begins with the metric's name."""
    weights = METRICS[name]
    if weights is None:
        height, width = size
        if (height // BLOCK) * (width // BLOCK) < 2:
            raise UsageError(
                f"niqe: it rests on blocks of {BLOCK} x {BLOCK} pixels, of which pictures of "
                f"{width} x {height} have fewer than two"
            )
        return Score(name, niqe(device), file_sha256(NIQE_PARAMETERS))
    path = weights_file(name, weights, folder, download)
    make = {"musiq": musiq, "clipiqa": clipiqa}[name]
    try:
        with quiet():
            return Score(name, make(path, device), file_sha256(path))
    except (OSError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as e:
        raise UsageError(
            f"{name}: {path} does not hold {weights.where} ({first_line(e)})"
        ) from None


def weights_file(name: str, weights: Weights, folder: Path | None, download: bool) -> Path:
    """Raises UsageError if it is not there and may not, or cannot, be fetched."""
    caches = {"musiq": "pyiqa", "clipiqa": "clip"}
    path = (folder or Path(torch.hub.get_dir()) / caches[name]) / weights.file
    if path.is_file():
        return path
    if not download:
        raise UsageError(
            f"{name}: {weights.file} ({weights.where}) is not in {path.parent}; "
            "name its folder with --weights, or fetch it with --download"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url_of(name), str(path), hash_prefix=weights.sha256)
    except (OSError, RuntimeError) as e:
        raise UsageError(f"{name}: {weights.file} could not be fetched ({e})") from None
    return path


def url_of(name: str) -> str:
    """Where pyiqa has the weights from."""
    if name == "musiq":
        from pyiqa.archs.musiq_arch import default_model_urls

        return default_model_urls["koniq10k"]
    from pyiqa.archs.clip_model import _MODELS

    return _MODELS["RN50"]


# The metrics


def niqe(device: torch.device) -> Scorer:
    parameters = str(NIQE_PARAMETERS)
    with quiet():
        metric = pyiqa().create_metric("niqe", device=device, pretrained_model_path=parameters)
    return lambda images: metric(images).reshape(len(images))


def musiq(path: Path, device: torch.device) -> Scorer:
    """Without a path of its own, so that pyiqa neither fetches nor unpickles."""
    metric = pyiqa().create_metric("musiq", device=device, pretrained=False)
    metric.net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return lambda images: metric(images).reshape(len(images))


def clipiqa(path: Path, device: torch.device) -> Scorer:
    """The file is a TorchScript archive, which pyiqa reads as such, not as a pickle."""
    torch.jit.load(str(path), map_location="cpu")  # or pyiqa would go on to unpickle it
    import_clip()
    metric = pyiqa().create_metric("clipiqa", device=device, backbone=str(path))
    return lambda images: metric(images).reshape(len(images))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What pyiqa and what it calls say of themselves does not go where the figures go."""
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def import_clip() -> None:
    """openai-clip wants `packaging` from `pkg_resources`, which setuptools has given up (82)."""
    if importlib.util.find_spec("pkg_resources") is not None:
        return
    stand_in = types.ModuleType("pkg_resources")
    stand_in.packaging = packaging  # type: ignore[attr-defined]
    sys.modules["pkg_resources"] = stand_in
    try:
        importlib.import_module("clip")
    finally:
        del sys.modules["pkg_resources"]


# The figures


def evaluate(
    images: ImageSet,
    scores: Sequence[Score],
    batch_size: int,
    device: torch.device,
    tell: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Means over all pictures, with 95 % intervals (Student's), as an evaluation's record has
    them.

    Raises UsageError for pictures that a metric gives no number for.
    """
    began = time.perf_counter()
    values: dict[str, list[float]] = {score.name: [] for score in scores}
    digests, done = [], 0
    for chunk in images.chunks():
        pixels_NHW3 = chunk.pixels()
        digests.append(chunk.digest)
        for first in range(0, len(pixels_NHW3), batch_size):
            pixels_BHW3 = torch.from_numpy(pixels_NHW3[first : first + batch_size])
            batch_B3HW = pixels_BHW3.to(device).permute(0, 3, 1, 2) / 255
            for score in scores:
                values[score.name] += scored(score, batch_B3HW, images.name, done)
            done += len(batch_B3HW)
            tell(done)
    means = {name: float(np.mean(found)) for name, found in values.items()}
    return {
        "samples_sha256": digest_of(digests),
        "images": done,
        "metrics": means,
        "intervals": {name: interval(found) for name, found in values.items() if done > 1},
        "duration_s": time.perf_counter() - began,
    }


@torch.no_grad()
def scored(score: Score, images: torch.Tensor, name: str, first: int) -> list[float]:
    """Of each picture.  Raises UsageError for one that is not finite."""
    with quiet():
        try:
            found = score.scorer(images)
        except torch.linalg.LinAlgError:  # one of them spoils the batch: which?
            found = torch.cat([alone(score, image) for image in images.split(1)])
    found = found.double().cpu()
    wrong = (~found.isfinite()).nonzero()[:, 0].tolist()
    if wrong:
        raise UsageError(
            f"{score.name}: no number for picture {first + wrong[0]} of {name}, so none for all "
            "(it may be of one colour)"
        )
    return found.tolist()


def alone(score: Score, image: torch.Tensor) -> torch.Tensor:
    """(1,) of one picture; NaN where its features have no covariance."""
    try:
        return score.scorer(image)
    except torch.linalg.LinAlgError:
        return torch.full((1,), torch.nan)


def record_of(
    images: ImageSet,
    scores: Sequence[Score],
    figures: dict[str, Any],
    env: dict[str, Any],
    device: str,
) -> dict[str, Any]:
    """The line that is kept: that of an evaluation, without a reference."""
    manifest = images.manifest
    of_samples = ("case", "label", "preset", "seed", "sources", "weights_sha256")
    sampled = {key: manifest.get(key) for key in ("machine", "torch", "commit", "dirty")}
    weights = {score.name: score.sha256 for score in scores}
    return {
        "schema": SCHEMA,
        "samples": images.name,
        "size": list(images.size),
        **{name: manifest.get(name) for name in of_samples},
        "sampled": sampled if manifest else None,
        "reference": "none",
        "reference_sha256": None,
        "reference_images": None,
        "extractor": f"pyiqa-{version('pyiqa')}",
        "extractor_sha256": hashlib.sha256(repr(sorted(weights.items())).encode()).hexdigest(),
        "metric_weights_sha256": weights,
        "published": all(score.published for score in scores),
        **figures,
        "bootstrap": 0,
        "class_accuracy_by_class": None,
        "machine": env["machine"],
        "device": device,
        "packages": {**env["packages"], "pyiqa": version("pyiqa")},
        "commit": env["commit"],
        "dirty": env["dirty"],
        "evaluated_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def printed(lines: Sequence[dict[str, Any]], notes: Sequence[str]) -> Printed:
    """A row for each line."""
    data = pd.DataFrame([{**line, **line["metrics"]} for line in lines])
    text = pd.DataFrame({"samples": data["samples"], "method": data["label"].fillna("")})
    text["images"] = [f"{images:,}" for images in data["images"]]
    shown = [metric for name, metric in of_pixels().items() if name in data]
    for metric in shown:
        name, heading, form = metric.name, metric.heading, metric.format
        text[heading] = data[name].map(form.format, na_action="ignore").fillna("")
        text[f"{heading} 95 %"] = [
            " to ".join(form.format(end) for end in line["intervals"].get(name, ()))
            for line in lines
        ]
    better = {m.heading: "less" if m.lower_is_better else "more" for m in shown}
    told = [*notes, *(f"{heading}: {which} is better." for heading, which in better.items())]
    if not all(line["published"] for line in lines):
        told.append("The weights are not the published ones: do not compare these with papers.")
    return Printed("Image quality without a reference", data, text, told)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean."""
    mean, n = float(np.mean(values)), len(values)
    half = float(student.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return mean - half, mean + half
