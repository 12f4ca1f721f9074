"""Models of a size at which a decode takes milliseconds: four scales, 30 tokens, 8 x 8 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import codevar
from codevar import VAR, VQVAE, VARConfig, VQVAEConfig
from codevar.checkpoints import seeded_tensor

PATCH_SIZES = (1, 2, 3, 4)
SIDE = 8
CODES = {"vocab": 128, "channels": 16}
SMALL_VAR = {"width": 64, "heads": 2, "classes": 10, "patch_sizes": PATCH_SIZES} | CODES
SMALL_VQVAE = {"width": 32, "multipliers": (1, 1), "res_blocks": 1} | CODES


def state_dict(model_of, config, seed: int = 0) -> dict[str, torch.Tensor]:
    """Seeded tensors for `model_of(config)`, with logits flat enough that draws differ."""
    with torch.device("meta"):
        wanted = model_of(config).state_dict()
    tensors = {
        name: torch.from_numpy(seeded_tensor(name, tuple(tensor.shape), seed))
        for name, tensor in wanted.items()
    }
    if "head.weight" in tensors:
        tensors["head.weight"] *= 0.2
    return tensors


def var_config(depth: int = 2, **sizes) -> VARConfig:
    return VARConfig(depth=depth, **(SMALL_VAR | sizes))


def var(depth: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32, **sizes) -> VAR:
    config = var_config(depth, **sizes)
    weights = state_dict(VAR, config, seed)
    told = {"patch_sizes": config.patch_sizes, "heads": config.heads}
    return codevar.load_var(weights, device="cpu", dtype=dtype, **told)


def vqvae(patch_sizes: tuple[int, ...] = PATCH_SIZES, **sizes) -> VQVAE:
    weights = state_dict(VQVAE, VQVAEConfig(**(SMALL_VQVAE | sizes)))
    return codevar.load_vqvae(weights, device="cpu", patch_sizes=patch_sizes)


def images(count: int = 2, side: int = SIDE) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def on_meta(depth: int) -> VAR:
    """The published VAR of this depth, without its weights."""
    with torch.device("meta"):
        return VAR(VARConfig.published(depth))


@contextmanager
def refused(*parts: str, error: type[Exception] = ValueError) -> Iterator[None]:
    """The block must raise the error, in one line in which all of the parts occur."""
    with pytest.raises(error) as e:
        yield
    message = str(e.value)
    assert len(message.splitlines()) == 1
    assert all(part in message for part in parts), message
