"""Published weights of the baselines: files of many shapes, read as tensors only.

Nothing is downloaded unless asked.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.hub import download_url_to_file, get_dir
from torch.serialization import safe_globals

from codevar import checkpoints, files
from codevar.files import CheckpointError

Model = TypeVar("Model", bound=nn.Module)
Rename = Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]
# Under which key a training's checkpoint holds what its own evaluation loads, best first.
INSIDE = ("model_ema", "ema", "model", "module", "state_dict")


def load(
    model: Model,
    source: str,
    rename: Rename = dict,
    places: Mapping[str, tuple[str, str] | str] | None = None,
    *,
    device: str,
    dtype: torch.dtype,
    download: bool,
) -> Model:
    """The model, which is on the meta device, with its weights, in evaluation mode.

    source: of `bench.methods.sources.source_of`.  rename: published names to the model's.
    places: where a published name is to be had, as in `Case.published`.
    Raises CheckpointError for what is missing, damaged or does not fit.
    """
    if source.startswith("seeded:"):
        seed = int(source.rpartition(":")[2])
        return checkpoints._fill_from_seed(lambda: model, seed, device, dtype)
    is_path = "/" in source
    path = Path(source) if is_path else published(source, (places or {}).get(source), download)
    return checkpoints._fill(lambda shapes: model, rename(tensors(path)), str(path), device, dtype)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file, out of whatever a training has wrapped it in."""
    with safe_globals([argparse.Namespace]):  # some save the options of their training beside it
        found = files.read_tensors(path)
    while inside := next((k for k in INSIDE if isinstance(found.get(k), Mapping)), None):
        found = dict(found[inside])
    files.check_tensors(found, str(path))
    return found


def is_here(name: str, place: tuple[str, str] | str | None) -> bool:
    """Whether the file of a published name was downloaded before."""
    try:
        return published(name, place, download=False).is_file()
    except CheckpointError:
        return False


def published(name: str, place: tuple[str, str] | str | None, download: bool) -> Path:
    """The file of a published name, from where it was downloaded to before."""
    if place is None:
        raise CheckpointError(f"{name}: no published file is known; weights = seeded, or a folder")
    if not isinstance(place, str):
        return files.hub_file(name, *place, download)
    path = Path(get_dir()) / "checkpoints" / f"codevar-{name}.pth"
    if path.is_file():
        return path
    if not download:
        raise CheckpointError(f"{name}: not downloaded yet; pass download=True")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        download_url_to_file(place, str(path), progress=False)
    except OSError as e:
        raise CheckpointError(f"{name}: {place} cannot be reached ({e})") from None
    return path
