"""Weights in 8 bits, against the same arithmetic one number at a time."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import codevar
from bench.measure import memory
from bench.predict.floor import weight_bytes
from bench.predict.footprint import of_plan
from bench.predict.prediction import flops, kv_cache_bytes
from codevar import Sampling, quantise_weights
from codevar.decoding import generate
from codevar.linear import QuantisedLinear
from codevar.plan import code, unguided
from tests import tiny

VQVAE = tiny.vqvae()
BITS = ("W8A16", "W8A8")


class Slow(nn.Linear):
    """The same by loops over whole numbers, and one rounding at the end."""

    def forward(self, x):
        if self.bits == "W8A16":
            return (x @ self.codes.T.to(x.dtype)) * self.factor + self.own_bias
        most = x.float().abs().amax(dim=-1, keepdim=True) / 127
        x_codes = (x.float() / most.clamp_min(1e-30)).round().long()
        rows = [(x_codes * row.long()).sum(dim=-1) for row in self.codes]
        return torch.stack(rows, dim=-1) * most * self.factor + self.own_bias


def slow(model, bits):
    """The model with such layers in the place of its own."""
    for block in model.blocks:
        qkv_bias = block.attn.qkv_bias()
        for parent, name in ((block.attn, "mat_qkv"), (block.attn, "proj"), (block.ffn, "fc1"),
                             (block.ffn, "fc2")):  # fmt: skip
            layer = getattr(parent, name)
            factor = layer.weight.abs().amax(dim=1) / 127
            own = Slow(layer.in_features, layer.out_features)
            own.bits, own.factor = bits, factor
            own.codes = (layer.weight / factor[:, None]).round().to(torch.int8)
            own.own_bias = qkv_bias if name == "mat_qkv" else layer.bias
            setattr(parent, name, own)
    return model


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("stack", ["published", "modern"])
def test_a_decode_is_that_of_the_same_arithmetic_one_number_at_a_time(bits, stack):
    how = codevar.stack(stack)
    with torch.no_grad():
        plain, ours = slow(tiny.var(2), bits), how.prepare(quantise_weights(tiny.var(2), bits))
    made = [
        generate(code(model, model, 2), VQVAE, [1, 2], Sampling(top_k=1), 0, run)
        for model, run in ((plain, codevar.stack("published")), (ours, how))
    ]
    assert torch.equal(made[0].tokens, made[1].tokens)
    assert torch.allclose(made[0].f_hat, made[1].f_hat, atol=1e-4)


@pytest.mark.parametrize("bits", BITS)
def test_flops_and_weights_are_predicted(bits):
    """By torch's counter, with an entry for products of whole numbers."""
    model = quantise_weights(tiny.var(2), bits)
    entry = {torch.ops.aten._int_mm: lambda a, b, *_, out_shape=None, **__: 2 * a[0] * a[1] * b[1]}
    totals, counter = [], FlopCounterMode(display=False, custom_mapping=entry)

    def on_scale(k):
        counts = counter.get_flop_counts().get("Global", {})
        totals.append(sum(n for op, n in counts.items() if "convolution" not in str(op)))

    plan, how = unguided(model, [4]), codevar.stack("modern", attention="math")
    with counter:
        generate(plan, VQVAE, [1, 2], Sampling(), stack=how, on_scale=on_scale)
    assert list(flops(plan, 2, how)) == [b - a for a, b in itertools.pairwise(totals)]

    def decode(on_scale):
        return generate(plan, VQVAE, [1, 2], None, 0, codevar.stack("modern"), on_scale=on_scale)

    used, _ = memory.measure_memory(decode, [model, VQVAE], torch.device("cpu"))
    held = sum(p.nbytes for network in (model, VQVAE) for p in network.parameters())
    assert used.params_mib == pytest.approx(held / 2**20)
    block, whole = model.blocks[0], tiny.var(2).blocks[0]
    saved = sum(3 * one.codes.numel() - 4 * one.factor.numel() for one in layers(model)) / 2
    assert weight_bytes(whole, 4) - weight_bytes(block, 4) == saved - 4 * 64  # keys have a bias
    assert used.accounted
    with torch.device("meta"):
        empty = quantise_weights(codevar.VAR(model.config), bits)
    for device in ("cuda", "cpu"):  # the last as measured
        lines = of_plan(unguided(empty, [4]), codevar.stack("modern"), Sampling(), device, 2)
    running = max(lines.peak_bytes(2)) - max(kv_cache_bytes(plan, 2, how))
    assert running / 2**20 == pytest.approx(used.running_mib, rel=0.1, abs=0.02)


def layers(model):
    return [layer for layer in model.modules() if isinstance(layer, QuantisedLinear)]


def test_sixteen_bits_are_the_model_itself_and_what_cannot_be_is_refused():
    model = tiny.var(2)
    assert quantise_weights(model, 16) is model
    assert not layers(model)
    with tiny.refused("weight_bits must be one of 16, W8A16, W8A8"):
        quantise_weights(model, 8)
    with tiny.refused("once"):
        quantise_weights(quantise_weights(model, "W8A8"), "W8A16")
    with tiny.refused("once"):
        quantise_weights(codevar.stack("modern").prepare(tiny.var(2)), "W8A8")
