"""Weights from a published name, a file, a state dict, or a seed.

A source is one of

    "var_d16", "vae_ch160v4096z32", "drafter_6", ...   a published name (`files.PUBLISHED`)
    "mini_large", "mini_vqvae", "mini_drafter_6", ...  one of the mini world's (`files.SHIPPED`)
    "path/to/var_d16.pth", ".safetensors"              a file
    "seeded:var_d16", "seeded:var_d16:7"               random weights from a seed (0, or 7)
    {"pos_start": tensor, ...}                         a state dict

Published files are pickles and read as tensors only (`weights_only=True`).  Nothing is
downloaded unless asked.  Sizes are read off the tensors, not asked for.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from codevar.checks import one_of, shown
from codevar.config import VARConfig, VQVAEConfig
from codevar.files import (
    VAR_MARK,
    VQVAE_MARK,
    CheckpointError,
    atomic_write,
    check_tensors,
    file_of,
    first_line,
    pyramid_of,
    read_tensors,
    shapes_of,
    sized,
    state_dict_of,
)
from codevar.scales import PATCH_SIZES_256
from codevar.shapes import Shapes
from codevar.var import VAR
from codevar.vqvae import VQVAE

Source = str | os.PathLike[str] | Mapping[str, Any]
Model = TypeVar("Model", bound=nn.Module)

# Buffers of the published files that follow from the sizes.
_DERIVED = re.compile(r"lvl_1L|attn_bias_for_masking|.*zero_k_bias|.*ema_vocab_hit_SV")


def load_var(
    source: Source,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    patch_sizes: tuple[int, ...] | None = None,
    heads: int | None = None,
    download: bool = False,
) -> VAR:
    """A VAR in evaluation mode.

    device: a GPU where there is one, by default.  patch_sizes: only for files without `lvl_1L`
    whose pyramid is none of the published.  heads: only for files without `scale_mul_1H11`, which
    do not tell it.  download: fetch a published name that is not in
    the hub's local cache.

    Raises CheckpointError for what is missing, damaged or does not fit.
    """
    if (seeded := _seeded(source)) is not None:
        name, seed = seeded
        depth = re.fullmatch(r"var_d(\d+)", name)
        if not depth or int(depth[1]) < 1:
            raise CheckpointError(f"{source}: seeded VARs are named var_d16, var_d30, ...")
        config = VARConfig.published(int(depth[1]))
        return _fill_from_seed(lambda: VAR(config), seed, device, dtype)

    tensors, where = _tensors(source, download, VAR_MARK)
    pyramid = patch_sizes or _pyramid(tensors, where)
    read = VARConfig.from_shapes
    return _fill(lambda shapes: VAR(read(shapes, pyramid, heads)), tensors, where, device, dtype)


def load_vqvae(
    source: Source,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    patch_sizes: tuple[int, ...] | None = None,
    download: bool = False,
) -> VQVAE:
    """A multi-scale VQVAE in evaluation mode.

    patch_sizes: a VQVAE serves any pyramid; by default that of the file's `lvl_1L`, which only
    files of `codevar.train` have, or the published one of 256 px; `PATCH_SIZES_512` for
    VAR-d36.  dtype: of encoder and decoder; the quantiser stays float32.  The rest is as for
    `load_var`.
    """
    if (seeded := _seeded(source)) is not None:
        name, seed = seeded
        if name != "vae_ch160v4096z32":
            raise CheckpointError(f"{source}: the seeded VQVAE is vae_ch160v4096z32")
        config = VQVAEConfig(patch_sizes=patch_sizes or PATCH_SIZES_256)
        return _fill_from_seed(lambda: VQVAE(config), seed, device, dtype)
    tensors, where = _tensors(source, download, VQVAE_MARK)
    pyramid = patch_sizes or _pyramid(tensors, where) or PATCH_SIZES_256
    read = VQVAEConfig.from_shapes
    return _fill(lambda shapes: VQVAE(read(shapes, pyramid)), tensors, where, device, dtype)


def check_var(source: str) -> VARConfig:
    """Sizes of a VAR in a file, of which nothing but the shapes of its tensors is read.

    Raises CheckpointError as `load_var` does for these.
    """
    shapes, pyramid = shapes_of(source, VAR_MARK)
    return _shaped(lambda s: VAR(VARConfig.from_shapes(s, pyramid)), shapes, source).config


def check_vqvae(source: str) -> VQVAEConfig:
    """Sizes of a VQVAE, as `check_var`."""
    shapes, levels = shapes_of(source, VQVAE_MARK)
    pyramid = levels or PATCH_SIZES_256
    return _shaped(lambda s: VQVAE(VQVAEConfig.from_shapes(s, pyramid)), shapes, source).config


def default_device() -> torch.device:
    """The first GPU where torch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# Sources


def _seeded(source: Source) -> tuple[str, int] | None:
    """(name, seed) of a "seeded:..." source."""
    if not isinstance(source, str) or not source.startswith("seeded:"):
        return None
    name, _, seed = source.removeprefix("seeded:").partition(":")
    if seed and not seed.isdecimal():
        raise CheckpointError(f"{source}: the seed must be a whole number, not {seed}")
    return name, int(seed or 0)


def _tensors(
    source: Source, download: bool, mark: str | None = None
) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors of a source that is not seeded, and what to call it in a message.

    mark: as `state_dict_of`.
    """
    if isinstance(source, Mapping):
        tensors, where = dict(source), "state dict"
    elif not isinstance(source, str | os.PathLike):
        raise CheckpointError(f"{shown(source)} is no name, file or state dict")
    else:
        path = file_of(source, download)
        tensors, where = read_tensors(path), str(path)
    tensors = state_dict_of(tensors, where, mark)
    for name, tensor in tensors.items():
        if isinstance(tensor, np.ndarray):
            try:
                tensors[name] = torch.from_numpy(tensor)
            except TypeError as e:  # numbers that torch lacks
                raise CheckpointError(f"{where}: {name}: {first_line(e)}") from None
    check_tensors(tensors, where)
    return tensors, where


def _pyramid(tensors: dict[str, torch.Tensor], where: str) -> tuple[int, ...] | None:
    """Patch sizes, where the file tells them."""
    levels = tensors.get("lvl_1L")
    return None if levels is None else pyramid_of(levels.flatten().tolist(), where)


def weights_sha256(source: Source) -> str | None:
    """SHA-256 of a source's tensors in the precision they are kept in, the same for the same
    tensors in a `.pth` and a `.safetensors`; None for seeded weights, whose name says all.

    Raises CheckpointError as `load_var` does; downloads nothing.
    """
    return None if _seeded(source) else fingerprint(_tensors(source, download=False)[0])


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


# Filling a model


def _fill(
    build: Callable[[Shapes], Model],
    tensors: dict[str, torch.Tensor],
    where: str,
    device: torch.device | str | None,
    dtype: torch.dtype,
) -> Model:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    model = _shaped(build, shapes, where)
    return _assign(model, lambda name: tensors[name], device, dtype)


def _shaped(build: Callable[[Shapes], Model], shapes: Shapes, where: str) -> Model:
    """A model without data.  Raises CheckpointError where the tensors are not just its own."""
    with torch.device("meta"):
        model = sized(where, lambda: build(shapes))
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        if name not in shapes:
            raise CheckpointError(f"{where}: tensor {name} is missing")
        if shapes[name] != tuple(tensor.shape):
            raise CheckpointError(
                f"{where}: tensor {name} is {shapes[name]}, expected {tuple(tensor.shape)}"
            )
    for name in shapes:
        if name not in wanted and not _DERIVED.fullmatch(name):
            raise CheckpointError(f"{where}: tensor {name} is not part of such a model")
    return model


def _fill_from_seed(
    build: Callable[[], Model],
    seed: int,
    device: torch.device | str | None,
    dtype: torch.dtype,
) -> Model:
    with torch.device("meta"):
        model = build()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(seeded_tensor(name, shapes[name], seed))

    return _assign(model, tensor, device, dtype)


def _assign(
    model: Model,
    tensor: Callable[[str], torch.Tensor],
    device: torch.device | str | None,
    dtype: torch.dtype,
) -> Model:
    """Fills a model built on the meta device, tensor by tensor, so that no second copy of the
    whole is ever in memory."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating torch.dtype, not {shown(dtype)}")
    try:
        target = torch.device(device) if device is not None else default_device()
        one_of("device", target.type, ("cpu", "cuda", "meta"))
        torch.empty(0, device=target)
    except (RuntimeError, TypeError, AssertionError) as e:
        raise ValueError(f"device {shown(device)}: {first_line(e)}") from None
    if target.type == "cuda" and target.index is None:
        # Said here, as each of the threads below has a current GPU of its own: the first.
        target = torch.device("cuda", torch.cuda.current_device())

    def placed(name: str) -> torch.Tensor:
        precision = torch.float32 if name.startswith("quantize.") else dtype
        return tensor(name).to(target, precision, copy=True)

    names = list(model.state_dict())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        filled = dict(zip(names, pool.map(placed, names), strict=True))
    model.load_state_dict(filled, assign=True)
    return model.eval()


def seeded_tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """One float32 tensor, the same on every machine for the same (name, shape, seed).

    Scaled so that activations stay of order one and logits are as sharp as a trained model's:
    decoding random weights costs the same and meets the same branches.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    noise = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("scale_mul_1H11"):
        return np.float32(math.log(4.0)) + np.float32(0.1) * noise
    if name in ("pos_1LC", "pos_start") or name.endswith(("class_emb.weight", "lvl_embed.weight")):
        return 0.5 * noise
    if name.endswith("embedding.weight"):
        return noise
    if name.endswith("bias"):
        return 0.1 * noise
    if noise.ndim == 1:  # gains of normalisations
        return 1.0 + 0.1 * noise
    gain = 6.0 if name == "head.weight" else 0.5 if "ada_lin" in name or "ada_gss" in name else 1.0
    fan_in = int(np.prod(shape[1:])) if "ada_gss" not in name else shape[-1]
    noise *= np.float32(gain / math.sqrt(fan_in))
    return noise


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """A safetensors file, whole or not at all.  Raises OSError or SafetensorError."""
    with atomic_write(path) as part:
        save_file(tensors, part, metadata)
