"""SparseVAR, against a plain and slow version of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import codevar
from codevar import Sampling, anchored
from codevar.decoding import generate
from codevar.plan import code, prune_tokens, skip_scales, unguided
from tests import tiny

SIDES = (1, 2, 4, 6, 7)
CFG = 1.5
LABELS = [3, 7]
HOW = replace(codevar.stack("modern"), weights=torch.float64)
KEPT = {4: 20, 5: 24}  # of 36 and 49


@pytest.fixture(scope="module")
def models():
    big = tiny.var(4, dtype=torch.float64, patch_sizes=SIDES)
    small = tiny.var(2, seed=1, dtype=torch.float64, patch_sizes=SIDES)
    return big, small, tiny.vqvae(SIDES).double()


def sparse(model, selector="sparsevar", source=3):
    drop = {k: (SIDES[k - 1] ** 2 - n + 0.5) / SIDES[k - 1] ** 2 for k, n in KEPT.items()}
    return prune_tokens(model, drop, selector=selector, restore_from=source)


def plainly(model, vqvae):
    """Greedy tokens (B, L): at each scale all that is read so far goes through the model again."""
    quantizer, scales = vqvae.quantize, model.scales
    labels_R = torch.tensor(LABELS + [model.config.classes] * 2)
    cond_RC = model.class_emb(labels_R)
    parts, levels = [model.first_input(cond_RC) + model.positions()[:, :1]], [0]
    tokens, f_hat, before, grid, change = [], 0.0, None, None, None
    for k, side in enumerate(SIDES):
        if k:
            map_BlZ = quantizer.input_map(f_hat, k, scales)
            x_RlC = model.word_embed(map_BlZ).repeat(2, 1, 1)
            x_RlC = x_RlC + model.positions()[:, scales.slices[k]]
            if k >= 3:  # each image's own tokens stay
                grown = F.interpolate(change[:, None], (side, side), mode="nearest").flatten(1)
                lines = [i for i in range(side) if i % 4 == 0 or i == side - 1]
                grid = {y * side + x for y in lines for x in lines}
                stay = [
                    sorted(
                        sorted(range(side * side), key=lambda i, g=g: (i not in grid, -g[i], i))[
                            : KEPT[k + 1]
                        ]
                    )
                    for g in grown.tolist()
                ]
                x_RlC = torch.stack([x_RlC[r, stay[r % 2]] for r in range(4)])
            parts.append(x_RlC)
            levels += [k] * x_RlC.shape[1]
        x_RnC, level = torch.cat(parts, 1), torch.tensor(levels)
        condition = model.block_condition(cond_RC)
        for layer, block in enumerate(model.blocks):
            if layer == 1:
                entered = x_RnC
            x_RnC = block(x_RnC, model.modulation(layer, condition), level[:, None] >= level)
            if layer == 1 and k == 2:
                square = (x_RnC - entered)[:, -16:].square().mean(-1)
                change = ((square[:2] + square[2:]) / 2).unflatten(1, (4, 4))
        h_RnC = model.features(x_RnC[:, level == k], cond_RC)
        silent = torch.zeros(2, side * side, dtype=torch.bool)
        if k == 2:
            before = h_RnC
        if k >= 3:
            logits, h_RnC = (
                before.mT.unflatten(-1, (4, 4)),
                stood_in(h_RnC, before, stay, grid, side, silent),
            )
        t = CFG * k / (len(SIDES) - 1)
        logits = model.project(h_RnC)
        best = ((1 + t) * logits[:2] - t * logits[2:]).argmax(-1)
        codes = quantizer.codes(best).masked_fill(silent[..., None], 0)
        tokens.append(best.masked_fill(silent, -1))
        f_hat = f_hat + quantizer.feature_map(codes, k, scales)
    return torch.cat(tokens, 1)


def stood_in(h_RkC, before, stay, grid, side, silent):
    """(R, l, C) with the best anchor's where a token did not run; those like none are noted."""
    grown = F.interpolate(before.mT.unflatten(-1, (4, 4)), (side, side), mode="nearest")
    grown = grown.flatten(2).mT
    whole = torch.zeros(4, side * side, h_RkC.shape[-1], dtype=h_RkC.dtype)
    for image in (0, 1):
        rows = [image, image + 2]
        own = {token: h_RkC[rows, i] for i, token in enumerate(stay[image])}
        for token in range(side * side):
            y, x = divmod(token, side)
            lines = [(i // 4 * 4, min(i // 4 * 4 + 4, side - 1)) for i in (y, x)]
            around = [a * side + b for a in lines[0] for b in lines[1]]
            assert set(around) <= grid
            alike = [
                F.cosine_similarity(grown[rows, token], grown[rows, a], dim=-1).mean().item()
                for a in around
            ]
            whole[rows, token] = own.get(token, own[around[alike.index(max(alike))]])
            silent[image, token] = token not in own and max(alike) <= anchored.ALIKE
    return whole


@pytest.mark.parametrize("stack", ["published", "modern"])
def test_tokens_are_those_of_a_plain_version(stack, models, monkeypatch):
    big, _, vqvae = models
    monkeypatch.setattr(
        anchored, "ALIKE", 0.97
    )  # of these weights: some are like an anchor, some are not
    with torch.no_grad():
        wanted = plainly(big, vqvae)
    how = replace(codevar.stack(stack), weights=torch.float64)
    made = generate(sparse(big), vqvae, LABELS, Sampling(cfg=CFG, top_k=1, top_p=0), stack=how)
    assert torch.equal(made.tokens, wanted)
    silent = (wanted == -1).sum(1)
    assert (silent > 0).all()
    assert (silent < 16 + 25).all()


def test_the_control_keeps_as_many_and_the_anchors(models):
    big, _, vqvae = models
    one, two = (
        generate(plan, vqvae, LABELS, seed=(1, 2), stack=HOW)
        for plan in (sparse(big), sparse(big, "sparsevar_random"))
    )
    assert one.kv_cache_bytes == two.kv_cache_bytes
    before = big.scales.slices[3].start
    assert torch.equal(one.tokens[:, :before], two.tokens[:, :before])
    assert not torch.equal(one.tokens[:, before:], two.tokens[:, before:])


def test_what_cannot_be_looked_back_at_is_refused(models):
    big, small, _ = models
    for plan, source in [
        (skip_scales(big, [3]), 3),
        (code(small, big, 3), 3),
        (unguided(big, [3]), 3),
        (big, 4),
        (big, 9),
    ]:
        with tiny.refused(f"scale 4 cannot look back at scale {source}"):
            sparse(plan, source=source)
    with tiny.refused("scale 5 keeps 5 tokens", "9 anchors"):
        prune_tokens(big, {5: 0.9}, selector="sparsevar", restore_from=4)
    with tiny.refused("sparsevar looks back at a scale"):
        prune_tokens(big, {5: 0.5}, selector="sparsevar")
    with tiny.refused("all layers, not of some"):
        prune_tokens(big, {5: 0.5}, [1, 2], "sparsevar", 4)
