"""Losses and the training forward against the published code's outputs and the decode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from codevar.train import losses, teacher_forcing
from codevar.train.objectives import Prediction
from codevar.train.recipes import DataConfig, OptimizerConfig, TrainVAR
from codevar.train.step import Step


@pytest.fixture(scope="module")
def prepared(cases, vqvae, drafter, refiner):
    """Tokens of the reference, and its models with the attention that training uses."""
    for model in (drafter, refiner):
        teacher_forcing.prepare(model, compiled=False)
    yield torch.from_numpy(cases["vqvae_tokens"].astype(np.int64))
    for model in (drafter, refiner):
        for block in model.blocks:
            del block.attn.attend


def forward(var, vqvae, tokens, labels, first=0, last=9, **options):
    inputs = teacher_forcing.inputs(vqvae.quantize, tokens, var.scales, last)
    return teacher_forcing.logits(var, var.class_emb(labels), inputs, first, last, **options)


@torch.no_grad()
def test_cross_entropy_is_the_references(prepared, cases, vqvae, drafter, labels):
    scales = drafter.scales
    nats = losses.cross_entropy(forward(drafter, vqvae, prepared, labels), prepared)
    ours = losses.by_scale(nats, scales, 0, 9)
    np.testing.assert_allclose(ours, cases["teacher_forcing_ce_per_scale"], atol=1e-4)


@torch.no_grad()
def test_both_kls_are_the_references(prepared, cases, vqvae, drafter, refiner, labels):
    p, q = (forward(m, vqvae, prepared, labels) for m in (drafter, refiner))
    for name, pair in {"teacher_student": (p, q), "student_teacher": (q, p)}.items():
        ours = losses.by_scale(losses.kl(*pair), drafter.scales, 0, 9)
        np.testing.assert_allclose(ours, cases[f"kl_{name}_per_scale"], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("first", "last"), [(0, 5), (0, 0), (7, 9), (3, 6)])
def test_a_part_of_the_scales_is_that_part_of_all(prepared, vqvae, drafter, labels, first, last):
    span = drafter.scales.span(first, last)
    whole = forward(drafter, vqvae, prepared, labels)[:, span]
    part = forward(drafter, vqvae, prepared, labels, first, last)
    torch.testing.assert_close(part, whole, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_drafter_runs_no_later_scale(prepared, vqvae, drafter, labels):
    lengths = []
    hook = drafter.blocks[0].register_forward_hook(lambda m, a, out: lengths.append(out.shape[1]))
    forward(drafter, vqvae, prepared, labels, 0, 5)
    hook.remove()
    assert lengths == [91]


class Appended:
    """A layer's cache and no more."""

    prunes = False
    keys = values = torch.empty(0)

    def append(self, q_BHlc, k_BHlc, v_BHlc, scale):
        new = k_BHlc, v_BHlc
        held = self.keys, self.values
        both = zip(held, new, strict=True)
        self.keys, self.values = (torch.cat((a, b), 2) if a.numel() else b for a, b in both)
        return [(((0, q_BHlc.shape[1]),), (self.keys, self.values))]

    def save(self, *branch, **which):
        pass


@torch.no_grad()
@pytest.mark.parametrize("bridge", [0, 4, 6, 10])
def test_a_subnet_trains_what_it_decodes(prepared, vqvae, drafter, labels, bridge):
    """Teacher forcing all scales at once gives the logits of a decode scale by scale."""
    scales, kept = drafter.scales, (0, 2)
    at_once = forward(drafter, vqvae, prepared, labels, layers=kept, bridge=bridge)
    inputs = vqvae.teacher_forcing_input(prepared)
    cond = drafter.class_emb(labels)
    x_BLC = torch.cat((drafter.first_input(cond), drafter.word_embed(inputs)), dim=1)
    x_BLC = x_BLC + drafter.positions()
    caches = [Appended() for _ in drafter.blocks]
    for k, where in enumerate(scales.slices):
        x = x_BLC[:, where]
        for layer, block in enumerate(drafter.blocks):
            if k < bridge or layer in kept:
                modulation = drafter.modulation(layer, cond)
                # The attention of training wants a mask; a decode's has none.
                block.attn.attend, mine = F.scaled_dot_product_attention, block.attn.attend
                x = block(x, modulation, None, caches[layer])
                block.attn.attend = mine
        wanted = drafter.logits(x, cond)
        torch.testing.assert_close(at_once[:, where], wanted, atol=1e-4, rtol=1e-4)


def test_the_quantiser_encodes_as_ever_and_its_gradient_goes_straight_through(vqvae, image_input):
    with torch.no_grad():
        f = vqvae.features(image_input)
    f.requires_grad_()
    f_hat, of_scale, tokens = losses.quantised(vqvae.quantize, f, vqvae.scales)
    assert torch.equal(tokens, vqvae.encode(image_input))
    *_, wanted = vqvae.quantize.partial_sums(tokens, vqvae.scales)
    torch.testing.assert_close(f_hat, wanted, atol=1e-4, rtol=1e-4)
    (gradient,) = torch.autograd.grad(f_hat.sum(), f, retain_graph=True)
    assert torch.equal(gradient, torch.ones_like(f))
    (of_codes,) = torch.autograd.grad(of_scale.sum(), vqvae.quantize.embedding.weight)
    assert of_codes.abs().sum() > 0


def test_weights_that_fade_do_not_turn_the_others_up():
    means, tokens = torch.tensor([2.0, 3.0]), [1, 3]
    assert losses.weighted(means, [1, 1], tokens).item() == pytest.approx((2 + 9) / 4)
    assert losses.weighted(means, [0, 1], tokens).item() == pytest.approx(9 / 4)


@torch.no_grad()
def test_mixup_mixes_inputs_classes_and_targets(prepared, vqvae, drafter, labels):
    step = Step(0, 1, 0, 2, range(2))
    data, optimizer = DataConfig(source="mini"), OptimizerConfig(lr=1e-3)
    plain = {"out": "", "steps": 1, "batch_size": 2, "data": data, "optimizer": optimizer}
    recipe = TrainVAR(vqvae="", init="any", label_dropout=0.0, mixup=0.2, **plain)
    objective = Prediction(drafter, vqvae.quantize, recipe)
    share = step.draw("mixup").beta(0.2, 0.2)
    found = objective({"tokens": prepared, "labels": labels}, step)["loss"]

    inputs = vqvae.teacher_forcing_input(prepared)
    cond = drafter.class_emb(labels)
    inputs, cond = (share * x + (1 - share) * x.flip(0) for x in (inputs, cond))
    logits = teacher_forcing.logits(drafter, cond, inputs, 0, 9).log_softmax(-1)
    own, other = (
        -logits.gather(-1, tokens[..., None]).mean() for tokens in (prepared, prepared.flip(0))
    )
    wanted = share * own + (1 - share) * other
    assert found.item() == pytest.approx(wanted.item(), abs=1e-4)
    assert abs(own - other) > 0.01
