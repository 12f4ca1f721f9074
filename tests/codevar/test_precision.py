"""What half precision changes: the best token of a scale, given the same scales before it.

`modern` runs its products in half precision, and its sums, norms and logits in float32.  What is
left are ties: the mini world's textures have many codes that are as good as each other.

    python tests/codevar/test_precision.py    # the table of docs/notes/performance.md, minutes
"""

from __future__ import annotations

import functools

import pytest
import torch

import codevar
from codevar import VAR, VQVAE, Sampling
from codevar.decoding import generate
from codevar.plan import original

FREE = Sampling(cfg=1.5, top_k=0, top_p=0)
# Least share of equal tokens at any scale, and of all; fp16 has three bits more than bf16.
LEAST = {"fp16": (0.99, 0.995), "bf16": (0.965, 0.983)}
VQVAES = {512: "mini_vqvae", 4096: "seeded:vae_ch160v4096z32"}  # by vocabulary
SEEDED = ("seeded:var_d4", 2)  # images


@functools.cache
def forced(name: str, stack: str, precision: str, images: int = 20) -> tuple[torch.Tensor, ...]:
    """Best tokens by scale, after the scales that the float32 model draws."""
    how = codevar.stack(stack, precision)
    var = how.prepare(codevar.load_var(name, dtype=how.weights))
    drawn = leader(name, images).split(var.scales.tokens, dim=1)
    best: list[torch.Tensor] = []

    def choose(logits_BlV: torch.Tensor, k: int) -> torch.Tensor:
        best.append(logits_BlV.argmax(dim=-1))
        return drawn[k]

    generate(original(var), vqvae(var), labels(var, images), FREE, stack=how, choose=choose)
    return tuple(best)


@functools.cache
def leader(name: str, images: int) -> torch.Tensor:
    """(B, L) what the float32 model draws."""
    var = codevar.load_var(name)
    return generate(original(var), vqvae(var), labels(var, images), FREE).tokens


def vqvae(var: VAR) -> VQVAE:
    return codevar.load_vqvae(VQVAES[var.config.vocab], patch_sizes=var.scales.patch_sizes)


def labels(var: VAR, images: int) -> list[int]:
    return [image % var.config.classes for image in range(images)]


def shares(name: str, stack: str, precision: str, images: int = 20) -> list[float]:
    """Of equal tokens: by scale, then of all."""
    exact = forced(name, "published", "float32", images)
    half = forced(name, stack, precision, images)
    pairs = [*zip(exact, half, strict=True), (torch.cat(exact, 1), torch.cat(half, 1))]
    return [(a == b).float().mean().item() for a, b in pairs]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(("name", "images"), [("mini_large", 20), ("mini_small", 20), SEEDED])
def test_half_precision_finds_the_same_best_tokens(name, images, precision):
    *by_scale, whole = shares(name, "modern", precision, images)
    tokens = [best.numel() for best in forced(name, "published", "float32", images)]
    # Of fewer tokens one is more than a percent.
    many = [share for share, n in zip(by_scale, tokens, strict=True) if n >= 100]
    assert min(many) >= LEAST[precision][0], by_scale
    assert whole >= LEAST[precision][1], by_scale


def test_bf16_is_as_near_as_autocast():
    """The published stack's autocast keeps weights, head and sums in float32, too."""
    modern, published = (shares("mini_large", s, "bf16")[-1] for s in ("modern", "published"))
    assert modern >= published - 0.005


if __name__ == "__main__":
    for stack, precision in (("modern", "bf16"), ("published", "bf16"), ("modern", "fp16")):
        told = " | ".join(f"{share:.1%}" for share in shares("mini_large", stack, precision, 80))
        print(f"| `{stack}` {precision} | {told} |")
