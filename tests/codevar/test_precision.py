"""What half precision changes: the best token of a scale, given the same scales before it.

`modern` runs its products in half precision, and its sums, norms and logits in float32.  What is
left are ties: the mini world's textures have many codes that are as good as each other.

    python tests/codevar/test_precision.py    # the table of docs/performance.md, minutes
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
def forced(name: str, stack: str, precision: str, images: int = 20) -> tuple[torch.Tensor, ...]:
    """Best tokens by scale, after the scales that the float32 model draws."""
    how = codevar.stack(stack, precision)
    var = how.prepare(codevar.load_var(name, dtype=how.weights))
    vqvae = codevar.load_vqvae("mini_vqvae", patch_sizes=var.scales.patch_sizes)
    drawn = leader(name, images).split(var.scales.tokens, dim=1)
    best: list[torch.Tensor] = []

    def choose(logits_BlV: torch.Tensor, k: int) -> torch.Tensor:
        best.append(logits_BlV.argmax(dim=-1))
        return drawn[k]

    generate(original(var), vqvae, labels(images), FREE, stack=how, choose=choose)
    return tuple(best)


@functools.cache
def leader(name: str, images: int) -> torch.Tensor:
    """(B, L) what the float32 model draws."""
    var = codevar.load_var(name)
    vqvae = codevar.load_vqvae("mini_vqvae", patch_sizes=var.scales.patch_sizes)
    return generate(original(var), vqvae, labels(images), FREE).tokens


def labels(images: int) -> list[int]:
    return [image % CLASSES for image in range(images)]


def shares(name: str, stack: str, precision: str, images: int = 20) -> list[float]:
    """Of equal tokens: by scale, then of all."""
    exact = forced(name, "published", "float32", images)
    half = forced(name, stack, precision, images)
    pairs = [*zip(exact, half, strict=True), (torch.cat(exact, 1), torch.cat(half, 1))]
    return [(a == b).float().mean().item() for a, b in pairs]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["mini_large", "mini_small"])
def test_half_precision_finds_the_same_best_tokens(name, precision):
    *by_scale, whole = shares(name, "modern", precision)
    few = 4  # scales of so few tokens that one of them is more than a percent
    assert min(by_scale[few:]) >= LEAST[precision], by_scale
    assert whole >= 0.98


def test_bf16_is_as_near_as_autocast():
    """The published stack's autocast keeps weights, head and sums in float32, too."""
    modern, published = (shares("mini_large", s, "bf16")[-1] for s in ("modern", "published"))
    assert modern >= published - 0.005


if __name__ == "__main__":
    for stack, precision in (("modern", "bf16"), ("published", "bf16"), ("modern", "fp16")):
        told = " | ".join(f"{share:.1%}" for share in shares("mini_large", stack, precision, 80))
        print(f"| `{stack}` {precision} | {told} |")
