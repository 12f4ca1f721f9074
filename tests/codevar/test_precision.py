"""What half precision changes: the best token of a scale, given the same scales before it.

`modern` runs its products in half precision, and its sums, norms and logits in float32.  What is
left are ties: the mini world's textures have many codes that are as good as each other.
"""

from __future__ import annotations

import functools

import pytest
import torch

import codevar
from codevar import Sampling
from codevar.decode import generate
from codevar.plan import original

CLASSES = 10
FREE = Sampling(cfg=1.5, top_k=0, top_p=0)
# Least share of equal tokens at any scale; fp16 has three bits more than bf16.
LEAST = {"fp16": 0.99, "bf16": 0.95}


@functools.cache
def forced(name: str, stack: str, precision: str) -> tuple[torch.Tensor, ...]:
    """Best tokens by scale, after the scales that the float32 model draws."""
    how = codevar.stack(stack, precision)
    var = how.prepare(model(name, how.weights))
    vqvae = codevar.load_vqvae("mini_vqvae", patch_sizes=var.scales.patch_sizes)
    best: list[torch.Tensor] = []

    def choose(logits_BlV: torch.Tensor, k: int) -> torch.Tensor:
        best.append(logits_BlV.argmax(dim=-1))
        return leader(name).split(var.scales.tokens, dim=1)[k]

    generate(original(var), vqvae, labels(name), FREE, stack=how, choose=choose)
    return tuple(best)


@functools.cache
def leader(name: str) -> torch.Tensor:
    """(B, L) what the float32 model draws."""
    var = model(name, torch.float32)
    vqvae = codevar.load_vqvae("mini_vqvae", patch_sizes=var.scales.patch_sizes)
    return generate(original(var), vqvae, labels(name), FREE).tokens


def labels(name: str) -> list[int]:
    return list(range(CLASSES)) * 2


def model(name: str, dtype: torch.dtype) -> codevar.VAR:
    return codevar.load_var(name, dtype=dtype)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["mini_large", "mini_small"])
def test_half_precision_finds_the_same_best_tokens(name, precision):
    exact, half = forced(name, "modern", "float32"), forced(name, "modern", precision)
    shares = [(a == b).float().mean().item() for a, b in zip(exact, half, strict=True)]
    few = 4  # scales of so few tokens that one of them is more than a percent
    assert min(shares[few:]) >= LEAST[precision], shares
    assert sum(len(a[0]) * s for a, s in zip(exact, shares, strict=True)) >= 0.98 * sum(
        len(a[0]) for a in exact
    )


def test_bf16_is_as_near_as_autocast():
    """The published stack's autocast keeps weights, head and sums in float32, too."""
    exact = torch.cat(forced("mini_large", "published", "float32"), dim=1)
    shares = {
        stack: (torch.cat(forced("mini_large", stack, "bf16"), dim=1) == exact).float().mean()
        for stack in ("published", "modern")
    }
    assert shares["modern"] >= shares["published"] - 0.005, shares
