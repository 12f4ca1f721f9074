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

import contextlib
import hashlib
import importlib
import importlib.util
import logging
import pickle
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import packaging.version
import pandas as pd
import torch

from bench.metrics.metric import of_pixels
from bench.quality.features import Extractor, Layers, file_sha256
from bench.study.errors import UsageError, nearest
from bench.study.evaluations import Evaluation
from bench.study.printing import Printed
from codevar.files import first_line

NIQE_PARAMETERS = Path(__file__).parent / "niqe_modelparameters.mat"
BLOCK = 96  # pixels; NIQE's covariance needs two whole blocks at least

Scorer = Callable[[torch.Tensor], torch.Tensor]  # (B, 3, H, W) in [0, 1] -> a score each


@dataclass(frozen=True)
class Weights:
    """A published file.  sha256: the beginning of its hash."""

    file: str
    sha256: str
    where: str


#: By metric.
WEIGHTS = {
    "niqe": Weights(NIQE_PARAMETERS.name, "", "LIVE's parameters"),
    "musiq": Weights("musiq_koniq_ckpt-e95806b9.pth", "e95806b9", "pyiqa's musiq-koniq10k"),
    "clipiqa": Weights(
        "RN50.pt",
        "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
        "OpenAI's CLIP RN50",
    ),
}


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


def extractor_of(
    wanted: Sequence[str] | None,
    size: tuple[int, int],
    weights: Path | None,
    download: bool,
    device: torch.device,
) -> tuple[Extractor, list[str]]:
    """pyiqa's metrics as a network with a layer of width 1 for each, and a note for each metric
    that is left out because it cannot be had.

    wanted: names; None takes what there is.  size: (H, W) of the pictures.  weights: a folder
    with the published files, by default pyiqa's cache.  download: fetch what is missing.

    Raises UsageError for an unknown metric, one that was asked for and cannot be had, or none.
    """
    for name in wanted or ():
        if name not in WEIGHTS:
            raise UsageError(f"--metrics {name}: no such metric{nearest(name, WEIGHTS)}")
    library = f"pyiqa-{version(pyiqa().__name__)}"
    scorers: dict[str, Scorer] = {}
    hashes: dict[str, str] = {}
    notes = []
    for name in wanted or WEIGHTS:
        try:
            scorers[name], hashes[name] = scorer_of(name, size, weights, download, device)
        except UsageError as e:
            if wanted:
                raise
            notes.append(f"Without {e}.")
    if not scorers:
        raise UsageError(" ".join(notes))

    def layers(images_B3HW: torch.Tensor) -> Layers:
        images_B3HW = images_B3HW / 255
        return {name: scored(scorer, images_B3HW) for name, scorer in scorers.items()}

    published = all(hashes[name].startswith(WEIGHTS[name].sha256) for name in hashes)
    together = hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest()
    widths = dict.fromkeys(scorers, 1)
    return Extractor(library, together, published, widths, layers, device, hashes), notes


def scorer_of(
    name: str, size: tuple[int, int], folder: Path | None, download: bool, device: torch.device
) -> tuple[Scorer, str]:
    """A metric's function, and the hash of its weights.

    Raises UsageError, which begins with the metric's name.
    """
    weights, path = WEIGHTS[name], NIQE_PARAMETERS
    if name != "niqe":
        path = weights_file(name, weights, folder, download)
    elif (size[0] // BLOCK) * (size[1] // BLOCK) < 2:
        raise UsageError(
            f"niqe: it rests on blocks of {BLOCK} x {BLOCK} pixels, of which pictures of "
            f"{size[1]} x {size[0]} have fewer than two"
        )
    make = {"niqe": niqe, "musiq": musiq, "clipiqa": clipiqa}[name]
    try:
        with quiet():
            return make(path, device), file_sha256(path)
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


def niqe(path: Path, device: torch.device) -> Scorer:
    """By LIVE's parameters in the file."""
    return pyiqa().create_metric("niqe", device=device, pretrained_model_path=str(path))


def musiq(path: Path, device: torch.device) -> Scorer:
    """Without a path of its own, so that pyiqa neither fetches nor unpickles."""
    metric = pyiqa().create_metric("musiq", device=device, pretrained=False)
    metric.net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return metric


def clipiqa(path: Path, device: torch.device) -> Scorer:
    """The file is a TorchScript archive, which pyiqa reads as such, not as a pickle."""
    torch.jit.load(str(path), map_location="cpu")  # or pyiqa would go on to unpickle it
    import_clip()
    return pyiqa().create_metric("clipiqa", device=device, backbone=str(path))


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


# The scores


@torch.no_grad()
def scored(scorer: Scorer, images_B3HW: torch.Tensor) -> torch.Tensor:
    """(B, 1) of each picture; NaN where it has no score."""
    with quiet():
        try:
            return scorer(images_B3HW).reshape(-1, 1)
        except torch.linalg.LinAlgError:  # one of them spoils the batch
            if len(images_B3HW) == 1:
                return torch.full((1, 1), torch.nan)
            return torch.cat([scored(scorer, image) for image in images_B3HW.split(1)])


def printed(lines: Sequence[Evaluation], notes: Sequence[str]) -> Printed:
    """A row for each line."""
    data = pd.DataFrame([{**line.to_json(), **line.metrics} for line in lines])
    text = pd.DataFrame({"samples": data["samples"], "method": data["label"].fillna("")})
    text["images"] = [f"{images:,}" for images in data["images"]]
    shown = [metric for name, metric in of_pixels().items() if name in data]
    for metric in shown:
        name, heading, form = metric.name, metric.heading, metric.format
        text[heading] = data[name].map(form.format, na_action="ignore").fillna("")
        text[f"{heading} 95 %"] = [
            " to ".join(form.format(end) for end in line.intervals.get(name, ())) for line in lines
        ]
    better = {m.heading: "less" if m.lower_is_better else "more" for m in shown}
    told = [*notes, *(f"{heading}: {which} is better." for heading, which in better.items())]
    if not all(line.published for line in lines):
        told.append("The weights are not the published ones: do not compare these with papers.")
    return Printed("Image quality without a reference", data, text, told)
