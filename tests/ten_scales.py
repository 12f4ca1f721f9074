"""Checkpoints of a size at which the published ten scales take milliseconds: 32 x 32 pixels."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from codevar import PATCH_SIZES_256, VAR, VQVAE, VQVAEConfig
from tests import tiny

SIDE = 32
#: Of a case that runs on them.
SETTINGS = ["weights={folder}", "precision=float32", "stack=modern", "depth=3"]


def write(folder: Path) -> Path:
    """`var_d3`, `var_d2` and the VQVAE, as a folder of `weights`."""
    for depth in (3, 2):
        config = tiny.var_config(depth, patch_sizes=PATCH_SIZES_256)
        save_file(tiny.state_dict(VAR, config, seed=depth), folder / f"var_d{depth}.safetensors")
    tensors = tiny.state_dict(VQVAE, VQVAEConfig(**tiny.SMALL_VQVAE))
    save_file(tensors, folder / "vae_ch160v4096z32.safetensors")
    return folder


def words(folder: Path) -> list[str]:
    """The `--set` of a command."""
    return [w for s in SETTINGS for w in ("--set", s.format(folder=folder))]
