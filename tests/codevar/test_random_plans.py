"""What holds for every plan, whatever it leaves out."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import codevar
from codevar import Sampling
from codevar.decoding import generate
from codevar.plan import original, prune_tokens, skip_scales, unguided
from tests import tiny
from tests.random_plans import base_plans, modified_plans, neutral

BIG, SMALL = tiny.var(3, dtype=torch.float64), tiny.var(2, seed=1, dtype=torch.float64)
VQVAE = tiny.vqvae()
SAMPLING = Sampling(cfg=1.5, top_k=60, top_p=0.95)
PUBLISHED, MODERN = (
    replace(codevar.stack(name), weights=torch.float64) for name in ("published", "modern")
)
few = settings(deadline=None, max_examples=60, derandomize=True)


def made(plan, stack=MODERN, seed=(5, 6), sampling=SAMPLING, labels=(3, 7)):
    return generate(plan, VQVAE, list(labels), sampling, seed, stack)


@few
@given(modified_plans(BIG, SMALL, quantised=True), st.data())
def test_a_modifier_that_leaves_nothing_out_changes_no_token(plan, data):
    same, stack = plan, data.draw(st.sampled_from([PUBLISHED, MODERN]))
    for modify in data.draw(st.lists(st.sampled_from([*neutral(plan)]), min_size=1, unique=True)):
        with suppress(ValueError):  # a budget beside a window
            same = modify(same)
    one, two = made(plan, stack), made(same, stack)
    assert torch.equal(one.tokens, two.tokens)
    assert torch.equal(one.f_hat, two.f_hat)
    assert one.kv_cache_bytes == two.kv_cache_bytes


@few
@given(modified_plans(BIG, SMALL))
def test_both_caches_give_the_same_tokens(plan):
    """In double precision; the published one concatenates, the other writes in place."""
    assert torch.equal(made(plan, PUBLISHED).tokens, made(plan, MODERN).tokens)


@few
@given(modified_plans(BIG, SMALL))
def test_an_image_depends_on_its_own_seed_and_class_alone(plan):
    both = made(plan).tokens
    alone = [made(plan, seed=[s], labels=[c]).tokens for s, c in ((5, 3), (6, 7))]
    assert torch.equal(both, torch.cat(alone))


@few
@given(base_plans(BIG, SMALL), st.sets(st.integers(1, 4)))
def test_without_its_half_a_scale_is_drawn_as_with_cfg_0(plan, scales):
    scales = scales - {4} or {2}
    cfg = [0.0 if k in scales else 1.5 for k in range(1, 5)]
    one = made(plan, sampling=replace(SAMPLING, cfg=cfg))
    two = made(unguided(plan, scales), sampling=replace(SAMPLING, cfg=[1.5] * 4))
    assert torch.equal(one.tokens, two.tokens)


@few
@given(base_plans(BIG, SMALL), st.sets(st.integers(2, 4), min_size=1), st.booleans())
def test_a_skipped_scale_has_no_tokens_and_scales_before_it_are_as_they_were(
    plan, scales, one_seed
):
    seed = 5 if one_seed else (5, 6)
    tokens, whole = made(skip_scales(plan, scales), seed=seed).tokens, made(plan, seed=seed).tokens
    slices = plan.scales.slices
    assert all((tokens[:, slices[k - 1]] == -1).all() for k in scales)
    before = slices[min(scales) - 1].start
    assert torch.equal(tokens[:, :before], whole[:, :before])


def test_guidance_needs_a_cfg():
    with tiny.refused("guidance", "cfg"):
        made(unguided(original(BIG), [4]), sampling=Sampling(cfg=0))


@pytest.mark.parametrize("stack", [PUBLISHED, MODERN])
def test_a_random_choice_takes_none_of_the_noise(stack):
    plan = prune_tokens(BIG, {4: 0.5}, selector="random")
    start = plan.scales.slices[3].start
    one, two = made(plan, stack).tokens, made(original(BIG), stack).tokens
    assert torch.equal(one[:, :start], two[:, :start])
