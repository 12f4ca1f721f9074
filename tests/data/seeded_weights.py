"""Seeded weights for the published VAR, VQVAE and CoDe checkpoint layouts.

No trained checkpoint can be downloaded here, so the reference cases in this
folder use weights that anyone can rebuild from a seed: one independent NumPy
generator per tensor, keyed by the tensor's name in the published state dict.
`layouts.json` lists those names and shapes.  Feed the result to the project's
own checkpoint loader exactly as if it had been read from `var_d16.pth`.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def layout(name: str) -> dict[str, list[int]]:
    """Names and shapes of the published state dict `name` (a key of layouts.json)."""
    return json.loads((HERE / "layouts.json").read_text())[name]


def tensor(key: str, shape: list[int], seed: int) -> np.ndarray:
    """One float32 tensor, the same on every machine for the same (key, shape, seed)."""
    if key.endswith("zero_k_bias") or key.endswith("ema_vocab_hit_SV"):
        return np.zeros(shape, np.float32)
    noise = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(
        shape, dtype=np.float32
    )
    if key.endswith("scale_mul_1H11"):
        return math.log(4.0) + 0.1 * noise
    if key in ("pos_1LC", "pos_start") or key.endswith(("class_emb.weight", "lvl_embed.weight")):
        return 0.5 * noise
    if key.endswith("embedding.weight"):
        return noise
    if key.endswith("bias"):
        return 0.1 * noise
    if noise.ndim == 1:  # normalisation gains
        return 1.0 + 0.1 * noise
    gain = 6.0 if key == "head.weight" else 0.5 if "ada_lin" in key or "ada_gss" in key else 1.0
    fan_in = int(np.prod(shape[1:])) if "ada_gss" not in key else shape[-1]
    return (gain / math.sqrt(fan_in)) * noise


def state_dict(
    name: str, seed: int, patch_nums=(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
) -> dict[str, np.ndarray]:
    """The whole state dict `name`, buffers included, as NumPy arrays."""
    out = {}
    for key, shape in layout(name).items():
        if key in ("lvl_1L", "attn_bias_for_masking"):
            level = np.concatenate([np.full(p * p, k) for k, p in enumerate(patch_nums)])
            out[key] = (
                level[None].astype(np.int64)
                if key == "lvl_1L"
                else np.where(level[:, None] >= level[None], 0.0, -np.inf).astype(np.float32)[
                    None, None
                ]
            )
        else:
            out[key] = tensor(key, shape, seed)
    return out
