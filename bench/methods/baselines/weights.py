"""Weights of the baselines: a published file, one in a folder, or a seed.

Published files are read as tensors only, and nothing is downloaded unless asked.
"""

from __future__ import annotations

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

LLAMAGEN = "FoundationVision/LlamaGen"
#: Name -> (hub repository, file).
HUB = {
    "sd_vae": ("stabilityai/sd-vae-ft-ema", "diffusion_pytorch_model.safetensors"),
    "vq_16": (LLAMAGEN, "vq_ds16_c2i.pt"),
    "llamagen_xxl_384": (LLAMAGEN, "c2i_XXL_384.pt"),
    "llamagen_xl_384": (LLAMAGEN, "c2i_XL_384.pt"),
    "llamagen_l_384": (LLAMAGEN, "c2i_L_384.pt"),
    "llamagen_l_256": (LLAMAGEN, "c2i_L_256.pt"),
    "llamagen_b_256": (LLAMAGEN, "c2i_B_256.pt"),
    "aim_xl": ("hp-l33/aim-xlarge", "model.safetensors"),
    "aim_l": ("hp-l33/aim-large", "model.safetensors"),
}
DROPBOX = "https://www.dropbox.com/scl/fi/"
#: Name -> where its authors have put it.
URLS = {
    "dit_xl2": "https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x256.pt",
    "kl_16": f"{DROPBOX}hhmuvaiacrarfg28qxhwz/kl16.ckpt?rlkey=l44xipsezc8atcffdp4q7mwmh&dl=1",
    "mar_b": (
        f"{DROPBOX}f6dpuyjb7fudzxcyhvrhk/checkpoint-last.pth?rlkey=a6i4bo71vhfo4anp33n9ukujb&dl=1"
    ),
    "mar_l": (
        f"{DROPBOX}pxacc5b2mrt3ifw4cah6k/checkpoint-last.pth?rlkey=m48ovo6g7ivcbosrbdaz0ehqt&dl=1"
    ),
    "mar_h": (
        f"{DROPBOX}1qmfx6fpy3k7j9vcjjs3s/checkpoint-last.pth?rlkey=4lae281yzxb406atp32vzc83o&dl=1"
    ),
}
ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
# Under which key a training's checkpoint holds what its own evaluation loads, best first.
INSIDE = ("model_ema", "ema", "model", "module", "state_dict")


def source_of(name: str, weights: str, seed: int) -> str:
    """What to load.  weights: "seeded", "published" or a folder of checkpoints."""
    if weights == "seeded":
        return f"seeded:{name}:{seed}"
    if weights == "published":
        return name
    found = [Path(weights) / f"{name}{ending}" for ending in ENDINGS]
    return str(next((path for path in found if path.is_file()), found[0]))


def load(
    build: Callable[[], Model],
    source: str,
    rename: Rename = dict,
    *,
    device: str,
    dtype: torch.dtype,
    download: bool,
) -> Model:
    """The model with its weights, in evaluation mode.

    source: of `source_of`.  rename: published names to the model's.
    Raises CheckpointError for what is missing, damaged or does not fit.
    """
    if source.startswith("seeded:"):
        seed = int(source.rpartition(":")[2])
        return checkpoints._fill_from_seed(build, seed, device, dtype)
    path = published(source, download) if "/" not in source else Path(source)
    return checkpoints._fill(
        lambda shapes: build(), rename(tensors(path)), str(path), device, dtype
    )


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file, out of whatever a training has wrapped it in."""
    with safe_globals([argparse.Namespace]):  # some save the options of their training beside it
        found = files.read_tensors(path)
    while inside := next((k for k in INSIDE if isinstance(found.get(k), Mapping)), None):
        found = dict(found[inside])
    wrong = [name for name, tensor in found.items() if not isinstance(tensor, torch.Tensor)]
    if wrong:
        raise CheckpointError(f"{path}: {wrong[0]} is no tensor")
    return found


def published(name: str, download: bool) -> Path:
    """The file of a published name, from where it was downloaded to before."""
    if name in HUB:
        return files.hub_file(name, *HUB[name], download)
    if name not in URLS:
        raise CheckpointError(f"{name}: no published file is known; weights = seeded, or a folder")
    path = Path(get_dir()) / "checkpoints" / f"codevar-{name}.pth"
    if path.is_file():
        return path
    if not download:
        raise CheckpointError(f"{name}: not downloaded yet; pass --download")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        download_url_to_file(URLS[name], str(path), progress=False)
    except OSError as e:
        raise CheckpointError(f"{name}: {URLS[name]} cannot be reached ({e})") from None
    return path
