"""Editing: what the mask keeps, what it changes, and which shapes it may have."""

from __future__ import annotations

import pytest
import torch

import codevar
from codevar import Sampling
from codevar.plan import code
from tests import tiny

LABELS = [3, 7]
LEFT = torch.zeros(8, 8)
LEFT[:, :4] = 1


@pytest.fixture(scope="module")
def small_vqvae():
    return tiny.vqvae()


@pytest.fixture(scope="module", params=["var", "code"])
def plan(request):
    big = tiny.var(depth=3)
    return big if request.param == "var" else code(big, tiny.var(depth=2, seed=1), 2)


def edited(plan, vqvae, mask, **settings):
    return codevar.edit(plan, vqvae, tiny.images(), LABELS, mask, **settings)


def test_a_mask_of_zeros_keeps_the_reconstruction(plan, small_vqvae):
    reconstruction = small_vqvae.decode(small_vqvae.encode(tiny.images()))
    assert torch.equal(edited(plan, small_vqvae, torch.zeros(8, 8)).images, reconstruction)


def test_with_nothing_to_change_the_model_reads_the_kept_images_own_scales(small_vqvae):
    model, fed = tiny.var(), []
    hook = model.word_embed.register_forward_pre_hook(lambda _, args: fed.append(args[0]))
    edited(model, small_vqvae, torch.zeros(8, 8))
    hook.remove()
    kept = small_vqvae.teacher_forcing_input(small_vqvae.encode(tiny.images()))
    torch.testing.assert_close(torch.cat(fed, dim=1), kept)


@pytest.mark.parametrize("more_smooth", [False, True])
def test_a_mask_of_ones_is_a_plain_decode(plan, small_vqvae, more_smooth):
    settings = {"sampling": Sampling(cfg=2.0, more_smooth=more_smooth), "seed": 4}
    result = edited(plan, small_vqvae, torch.ones(8, 8), **settings)
    plain = codevar.decode(plan, small_vqvae, LABELS, **settings)
    assert torch.equal(result.tokens, plain.tokens)
    assert torch.equal(result.images, plain.images)


@pytest.mark.parametrize(
    "mask",
    [
        LEFT,
        LEFT[None],
        LEFT.expand(2, 8, 8),
        LEFT[::2, ::2],
        LEFT.repeat_interleave(3, 0).repeat_interleave(3, 1),
        LEFT.bool(),
        LEFT.to(torch.uint8),
        LEFT.to(torch.uint8) * 255,
        LEFT * 255,
        LEFT.tolist(),
        LEFT.numpy(),
    ],
    ids=[
        *("H W", "1 H W", "B H W", "cells", "larger", "bool", "uint8"),
        *("0 and 255", "0.0 and 255.0", "lists", "NumPy"),
    ],
)
def test_mask_shapes_that_mean_the_same(small_vqvae, mask):
    model = tiny.var()
    result = edited(model, small_vqvae, mask)
    wanted = edited(model, small_vqvae, LEFT)
    assert torch.equal(result.tokens, wanted.tokens)
    assert torch.equal(result.images, wanted.images)


def test_each_image_has_its_own_mask(plan, small_vqvae):
    masks = torch.stack((torch.zeros(8, 8), torch.ones(8, 8)))
    first, second = edited(plan, small_vqvae, masks).images
    assert torch.equal(first, edited(plan, small_vqvae, masks[0]).images[0])
    assert torch.equal(second, edited(plan, small_vqvae, masks[1]).images[1])


def test_features_outside_the_mask_are_the_kept_images(small_vqvae, monkeypatch):
    features = []
    decode_features = small_vqvae.decode_features
    monkeypatch.setattr(
        small_vqvae, "decode_features", lambda f: (features.append(f), decode_features(f))[1]
    )
    edited(tiny.var(), small_vqvae, LEFT)
    small_vqvae.decode(small_vqvae.encode(tiny.images()))
    new, kept = features
    assert torch.equal(new[..., 2:], kept[..., 2:])
    assert not torch.isclose(new[..., :2], kept[..., :2]).any()


def test_another_class_changes_the_edit(plan, small_vqvae):
    greedy = Sampling(top_k=1, top_p=0)
    one, other = (
        codevar.edit(plan, small_vqvae, tiny.images(), labels, LEFT, greedy).images
        for labels in (LABELS, [3, 8])
    )
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mask": torch.ones(8)}, "(H, W) or (B, H, W)"),
        ({"mask": torch.ones(2, 1, 8, 8)}, "(H, W) or (B, H, W)"),
        ({"mask": torch.ones(3, 8, 8)}, "3 masks"),
        ({"labels": [3]}, "1 labels"),
        ({"labels": [3, 10]}, "0..9"),
        ({"images": torch.rand(2, 3, 16, 16)}, "(B, 3, 8, 8)"),
        ({"images": torch.rand(3, 8, 8), "labels": [1, 2, 3]}, "(B, 3, 8, 8)"),
        ({"labels": torch.tensor(3)}, "labels"),
        ({"labels": ["heart", "disc"]}, "labels must be a list of classes 0..9, not ['heart'"),
        ({"labels": None}, "labels must be a list of classes 0..9, not None"),
        ({"labels": [True, False]}, "labels must be a list of classes 0..9, not [True, False]"),
        ({"labels": [3, 10**30]}, "labels must be a list of classes 0..9, not [3, 1000"),
        ({"images": torch.ones(2, 3, 8, 8, dtype=torch.uint8)}, "[0, 1], not torch.uint8"),
    ],
)
def test_what_does_not_fit_is_refused(small_vqvae, wrong, said):
    right = {"images": tiny.images(), "labels": LABELS, "mask": LEFT}
    with tiny.refused(said):
        codevar.edit(tiny.var(), small_vqvae, **(right | wrong))
