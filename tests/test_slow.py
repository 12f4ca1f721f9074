"""Real sizes, on a CPU: `make test-slow`."""

from __future__ import annotations

import pytest
import torch

import codevar
from codevar.plan import code, variant

pytestmark = pytest.mark.slow
GREEDY = codevar.Sampling(top_k=1, top_p=0)


@pytest.fixture(scope="module")
def d16():
    return codevar.load_var("seeded:var_d16", device="cpu")


@pytest.fixture(scope="module")
def d8():
    return codevar.load_var("seeded:var_d8", device="cpu")


@pytest.fixture(scope="module")
def published_vqvae():
    return codevar.load_vqvae("seeded:vae_ch160v4096z32", device="cpu")


@pytest.mark.parametrize("method", ["var", "code", "variant"])
def test_both_stacks_draw_the_same_at_published_sizes(d16, d8, published_vqvae, method):
    plan = {"var": d16, "code": code(d16, d8, 6), "variant": variant(d16, 8, 6)}[method]
    made = [
        codevar.decode(plan, published_vqvae, [207], GREEDY, stack=codevar.stack(name))
        for name in ("published", "modern")
    ]
    assert (made[0].tokens == made[1].tokens).float().mean() > 0.99
    assert made[0].images.shape == (1, 3, 256, 256)


def test_d36_decodes_512_pixels():
    """Two layers of VAR-d36's form: shared AdaLN, 2240 tokens, a 32 x 32 feature map."""
    config = codevar.VARConfig(2, patch_sizes=codevar.PATCH_SIZES_512, shared_adaln=True)
    var = codevar.VAR(config)
    for p in var.parameters():
        torch.nn.init.normal_(p, std=0.02)
    vqvae = codevar.load_vqvae(
        "seeded:vae_ch160v4096z32", device="cpu", patch_sizes=codevar.PATCH_SIZES_512
    )
    result = codevar.decode(var.eval(), vqvae, [1])
    assert result.tokens.shape == (1, 2240)
    assert result.images.shape == (1, 3, 512, 512)
