"""Settings measured on images of a model, against plain and slow versions of the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from codevar import calibration
from codevar.decoding import generate
from codevar.plan import original
from tests import tiny

DEPTH = 4
LABELS = torch.tensor([3, 7])


@pytest.fixture(scope="module")
def made():
    """A model, its VQVAE and two images of its own."""
    model, vqvae = tiny.var(DEPTH), tiny.vqvae()
    return model, vqvae, [(LABELS, generate(original(model), vqvae, LABELS, seed=[1, 2]).tokens)]


@pytest.fixture(scope="module")
def attention(made):
    """Of each layer (B, H, L, L), and its keys (B, H, L, c), by hand."""
    model, vqvae, [(labels, tokens)] = made
    seen = []
    hooks = [
        block.attn.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        for block in model.blocks
    ]
    with torch.no_grad():
        model(labels, vqvae.teacher_forcing_input(tokens))
        mask = model.scales.block_causal_mask(range(4), torch.device("cpu"))
        found = []
        for block, x in zip(model.blocks, seen, strict=True):
            attn = block.attn
            qkv = F.linear(x, attn.mat_qkv.weight, attn.qkv_bias())
            q, k, _ = attn.heads_of(qkv, attn.scale_mul_1H11)
            weights = torch.where(mask, (q @ k.mT).exp(), 0)
            found.append((weights / weights.sum(-1, keepdim=True), k))
    for hook in hooks:
        hook.remove()
    return found


def test_scalekvs_drafters_attend_least_to_the_map_in_hand_and_to_single_keys(made, attention):
    model, vqvae, images = made
    found = calibration.scalekv(model, vqvae, images, budget=0.6)
    assert found["uniform"] == 18
    assert found["drafters"] == {}  # the last scale's cache is nobody's: nothing is ever cut
    index = [
        (of_map[:, :, 5:14, 5:14].sum(-1) * of_map[:, :, 5:14, :5].sum(-1)).mean()
        for of_map, _ in attention
    ]
    found = calibration.scalekv(model, vqvae, images, budget=0.4)
    assert [*found["drafters"]] == [3]
    lowest = torch.stack(index).argsort()[: len(found["drafters"][3])]
    assert found["drafters"][3] == sorted(lowest.tolist())


def test_ams_kvs_demanding_layers_have_keys_least_like_those_before(made, attention):
    model, vqvae, images = made
    found = calibration.ams_kv(model, vqvae, images, budget=0.5)
    alike = []
    for _, k in attention:
        maps = [k[:, :, s].transpose(1, 2).flatten(2) for s in model.scales.slices]
        grown = F.interpolate(maps[2].mT.unflatten(-1, (3, 3)), (4, 4), mode="area").flatten(2).mT
        alike.append(F.cosine_similarity(grown, maps[3], dim=-1).mean())
    assert found["demanding"] == sorted(torch.stack(alike).argsort()[:2].tolist())


def test_hacks_contextual_heads_attend_alike_from_every_token_of_a_map(made, attention):
    model, vqvae, images = made
    found = calibration.hack(model, vqvae, images, budget=0.5)
    unlike = {
        (layer, head): sum(
            (of_map - of_map.mean(0)).square().mean(0).sum().item()
            for image in weights
            for of_map in (image[head, span, : span.stop] for span in model.scales.slices[1:])
        )
        for layer, (weights, _) in enumerate(attention)
        for head in range(2)
    }
    contextual = {(layer, h) for layer, heads in found["contextual"].items() for h in heads}
    assert contextual == set(sorted(unlike, key=unlike.__getitem__)[:4])
    assert (found["contextual_budget"], found["structural_budget"]) == (3, 27)  # 15 in the mean


def test_sparsevar_keeps_as_many_as_changed_much_or_are_anchors(made):
    model, vqvae, [(labels, tokens)] = made
    found = calibration.sparsevar(model, vqvae, [(labels, tokens)], budget=0.5)
    maps = []
    hook = model.blocks[1].register_forward_hook(lambda _, x, out: maps.append(out - x[0]))
    with torch.no_grad():
        model(labels, vqvae.teacher_forcing_input(tokens))
    hook.remove()
    square = maps[0][:, model.scales.slices[2]].square().mean(-1).unflatten(1, (1, 3, 3))
    grown = F.interpolate(square, (4, 4), mode="nearest").flatten(1)
    kept = [
        sum(i in (0, 3, 12, 15) or v > max(of_image) / 2 for i, v in enumerate(of_image))
        for of_image in grown.tolist()
    ]
    assert found == {"kept": {4: round(sum(kept) / 2)}, "source": 3}


def test_a_model_is_as_it_was_after_it_was_watched(made):
    model, vqvae, images = made
    calibration.ams_kv(model, vqvae, images, budget=0.5)
    assert all("attend" not in vars(block.attn) for block in model.blocks)
