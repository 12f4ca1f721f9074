"""HACK: heads of two kinds keep keys of their own number, chosen each their own way."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

import codevar
from codevar import Sampling, eviction, methods
from codevar.decoding import generate
from codevar.plan import branch, evict_cache, original
from codevar.work import work
from tests import tiny

PATCH_SIZES = (1, 2, 3, 6, 7)
LABELS, SEEDS = [3, 7], [5, 6]
SETTINGS = {"contextual": {0: [1], 2: [0, 1]}, "contextual_budget": 9, "structural_budget": 45}


@pytest.fixture(scope="module")
def model():
    return tiny.var(3, dtype=torch.float64, patch_sizes=PATCH_SIZES)


@pytest.fixture(scope="module")
def vqvae():
    return tiny.vqvae(PATCH_SIZES)


def made(plan, vqvae, name="published"):
    stack = replace(codevar.stack(name, attention="math"), weights=torch.float64)
    return generate(plan, vqvae, LABELS, Sampling(cfg=1.5, top_k=60), SEEDS, stack)


def attend_apart(alive, q, k, v, attn_mask, scale, layer):
    """Number by number: of all keys each row and head sees those that it has kept so far."""
    out, (B, H, n, _), K = torch.empty_like(q), q.shape, k.shape[2]
    for where in torch.cartesian_prod(torch.arange(B), torch.arange(H)).tolist():
        seen = alive.get((layer, *where), []) + list(range(K - n, K))
        weights = (q[*where] @ k[*where][seen].T * scale).softmax(-1)
        out[*where] = weights @ v[*where][seen]
        is_contextual = where[1] in SETTINGS["contextual"].get(layer, ())
        budget = SETTINGS["contextual_budget" if is_contextual else "structural_budget"]
        if len(seen) > budget:
            asked = [i * n // min(32, n) for i in range(min(32, n))]
            score = {key: weights[asked, j].sum().item() for j, key in enumerate(seen)}
            first = () if is_contextual else {*seen[:5], *range(K - n, K)}
            ranked = sorted(seen, key=lambda key: (key in first, score[key]), reverse=True)
            seen = sorted(ranked[:budget])
        alive[(layer, *where)] = seen
    return out


def test_each_head_sees_what_a_plain_version_of_it_keeps(model, vqvae, monkeypatch):
    plan = methods.hack(model, range(1, 6), **SETTINGS)
    fast = [made(plan, vqvae, name) for name in ("published", "modern")]
    alive = {}
    for layer, block in enumerate(model.blocks):
        monkeypatch.setattr(block.attn, "attend", partial(attend_apart, alive, layer=layer))
    slow, whole = made(original(model), vqvae), alive[0, 0, 0]
    assert len(whole) == 45
    for one in fast:
        assert torch.equal(one.tokens, slow.tokens)
        torch.testing.assert_close(one.f_hat, slow.f_hat)


def test_budgets_are_those_of_the_heads():
    d16 = tiny.on_meta(16)
    plan = methods.hack(d16, (8, 9), {3: [0, 5]}, 60, 200)
    before, *_, last = work(plan, 1, codevar.stack("modern"))[7:]
    kept = [[(heads.count, heads.kept) for heads in visit.heads] for visit in before.visits]
    assert kept[3] == [(2, 60), (14, 200)]
    assert kept[4] == [(16, 200)]
    assert [(h.count, h.past) for h in last.visits[3].heads] == [(2, 60), (14, 200)]


def test_drawn_classes_have_as_many_heads_and_cost_the_same(model):
    stack = codevar.stack("modern")
    own, drawn = (
        work(methods.hack(model, range(1, 6), **SETTINGS, score=score), 2, stack)
        for score in ("heads", "random_heads")
    )
    for one, other in zip(own, drawn, strict=True):
        assert sorted((h.count, h.kept) for _, h in one.slots) == sorted(
            (h.count, h.kept) for _, h in other.slots
        )


def test_queries_that_score_are_spread_over_the_map():
    asked = [eviction.observers("attended", side, torch.device("cpu")) for side in (16, 3)]
    assert [of_map.tolist() for of_map in asked] == [list(range(0, 256, 8)), list(range(9))]


def test_plans_of_a_branch_keep_the_same_heads_together(model):
    apart = evict_cache(original(model), {4: 20}, "random", [0], [1])
    with tiny.refused("keeps other heads of a layer together"):
        branch(model, 3, lambda *images: images[2], [apart])
    branch(apart, 3, lambda *images: images[2], [apart])
