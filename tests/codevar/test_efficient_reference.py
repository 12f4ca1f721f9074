"""Decodes that leave something out, against the published code's (`tests/data/efficient.npz`)."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import codevar
from codevar import Sampling, eviction, pruning
from codevar.decoding import generate
from codevar.plan import (
    code,
    evict_cache,
    keep_cache,
    prune_tokens,
    skip_scales,
    subnet,
    unguided,
    variant,
)
from tests.conftest import DATA

NO_MARGIN = 9  # stands for that of a skipped token
TIE = 1e-3

FASTVAR = {"drop": {9: 0.4, 10: 0.5}, "layers": range(1, 4), "restore_from": 8}
PLANS = {
    "skip_last": lambda big, small: skip_scales(big, [10]),
    "skip_last_two": lambda big, small: skip_scales(big, [9, 10]),
    "skip_scale7": lambda big, small: skip_scales(big, [7]),
    "window_2_1": lambda big, small: keep_cache(big, first=2, last=1),
    "window_0_1": lambda big, small: keep_cache(big, first=0, last=1),
    "window_2_2": lambda big, small: keep_cache(big, first=2, last=2),
    "window_2_2_skip7": lambda big, small: skip_scales(keep_cache(big, 2, 2), [7]),
    "fastvar": lambda big, small: prune_tokens(big, **FASTVAR),
    "fastvar_last": lambda big, small: prune_tokens(big, {10: 0.75}, range(1, 4), restore_from=9),
    "unguided_9_10": lambda big, small: unguided(big, [9, 10]),
    "late_guidance_6": lambda big, small: unguided(big, range(1, 6)),
    "guidance_gap_7_8": lambda big, small: unguided(big, [7, 8]),
    "evict_observed_64": lambda big, small: evict_cache(big, budget=64),
    "evict_observed_20": lambda big, small: evict_cache(big, budget=20),
    "code_unguided_9_10_N8": lambda big, small: unguided(code(big, small, 8), [9, 10]),
    "code_late_guidance_N8": lambda big, small: unguided(code(big, small, 8), [9]),
    "code_skip7_N8": lambda big, small: skip_scales(code(big, small, 8), [7]),
    "code_window_2_1_N7": lambda big, small: keep_cache(code(big, small, 7), 2, 1),
    "code_fastvar_N8": lambda big, small: prune_tokens(code(big, small, 8), **FASTVAR),
    "code_evict_observed_64_N7": lambda big, small: evict_cache(code(big, small, 7), 64),
    "variant_N6_window_2_1_unguided_9_10_skip_last": lambda big, small: skip_scales(
        unguided(keep_cache(variant(big, 2, 6), 2, 1), [9, 10]), [10]
    ),
    "variant_N6_fastvar_last": lambda big, small: prune_tokens(
        variant(big, 2, 6), {10: 0.5}, layers=range(1, 4), restore_from=8
    ),
    "variant_mid_window_2_1": lambda big, small: keep_cache(subnet(big, 2, range(4, 7)), 2, 1),
}


@pytest.fixture(scope="module")
def expected():
    return np.load(DATA / "efficient.npz")


@pytest.fixture(scope="module")
def models(drafter, refiner):
    modern = codevar.stack("modern")
    return {
        "published": (drafter, refiner),
        "modern": tuple(modern.prepare(copy.deepcopy(m)) for m in (drafter, refiner)),
    }


def test_every_case_is_here(expected):
    names = {name.removesuffix("_greedy_tokens") for name in expected if "_greedy_tokens" in name}
    assert names == set(PLANS)


@pytest.mark.parametrize("stack", ["published", "modern"])
@pytest.mark.parametrize("name", PLANS)
def test_tokens_and_margins_are_the_published_codes(
    name, stack, models, vqvae, labels, expected, meta
):
    """The decode is led along the published tokens, so that a tie changes nothing after it."""
    plan, slices = PLANS[name](*models[stack]), vqvae.scales.slices
    wanted = torch.from_numpy(expected[f"{name}_greedy_tokens"].astype(np.int64))
    wanted_margins = torch.from_numpy(expected[f"{name}_greedy_margins"]).float()
    best, margins = torch.full_like(wanted, -1), torch.full_like(wanted_margins, NO_MARGIN)

    def choose(logits_BlV, k):
        two_Bl2, tokens_Bl2 = logits_BlV.topk(2)
        best[:, slices[k]] = tokens_Bl2[..., 0]
        margins[:, slices[k]] = two_Bl2[..., 0] - two_Bl2[..., 1]
        return wanted[:, slices[k]]

    sampling = Sampling(cfg=meta["cfg"], top_k=0, top_p=0)
    how = codevar.stack(stack)
    made = generate(plan, vqvae, labels, sampling, stack=how, choose=choose)
    assert torch.equal(made.tokens, wanted)
    decided = wanted_margins >= TIE
    assert torch.equal(best[decided], wanted[decided])
    torch.testing.assert_close(margins, wanted_margins, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["fastvar", "evict_observed_64", "code_unguided_9_10_N8"])
def test_a_decode_gives_the_published_tokens(name, models, vqvae, labels, expected, meta):
    """Up to the first tie of an image, after which anything may follow."""
    greedy, how = Sampling(cfg=meta["cfg"], top_k=1, top_p=0), codevar.stack("modern")
    made = codevar.decode(PLANS[name](*models["modern"]), vqvae, labels, greedy, stack=how)
    decided = np.cumsum(expected[f"{name}_greedy_margins"] < TIE, axis=1) == 0
    wanted = expected[f"{name}_greedy_tokens"]
    assert np.array_equal(made.tokens.numpy()[decided], wanted[decided])


@pytest.mark.parametrize("stack", ["published", "modern"])
def test_a_skipped_scale_leaves_the_others_their_noise(stack, models, vqvae, labels, expected):
    plan, sampling = skip_scales(models[stack][0], [7]), Sampling(cfg=1.5, top_k=40, top_p=0.96)
    made = codevar.decode(plan, vqvae, labels, sampling, seed=7, stack=codevar.stack(stack))
    wanted = expected["skip_scale7_sampled_tokens_seed7_k40_p096_cfg15"]
    assert np.array_equal(made.tokens.numpy(), wanted)


def test_fastvar_keeps_and_restores_what_its_code_does(expected):
    x_BlC, source_BmC, out_BkC = (
        torch.from_numpy(expected[f"fastvar_{name}"])
        for name in ("x", "cache_6x6", "branch_of_kept")
    )
    kept_Bk = pruning.SELECTORS["fastvar"](x_BlC, 26, None)
    assert np.array_equal(kept_Bk, expected["fastvar_kept_indices"])
    restored_BlC = pruning.put(pruning.enlarged(source_BmC, 64), kept_Bk, out_BkC)
    np.testing.assert_allclose(restored_BlC, expected["fastvar_restored"], atol=1e-6)


def test_scalekv_keeps_what_its_paper_and_its_code_do(expected):
    q_BHlc, k_BHKc = (torch.from_numpy(expected[f"scalekv_{name}"]) for name in "qk")
    of_map_o = eviction.observers("observed", 8, torch.device("cpu"))
    seen_o = of_map_o + k_BHKc.shape[2] - 64
    q_BHoc = q_BHlc[:, :, of_map_o] * q_BHlc.shape[-1] ** -0.5
    keys = eviction.Keys(k_BHKc, q_BHoc, seen_o, None)
    kept_BHn = eviction.chosen(eviction.observed(keys), seen_o, budget=80)
    assert np.array_equal(kept_BHn, expected["scalekv_kept_indices_paper"])
    kept_BHn = eviction.chosen(eviction.observed_maxpool(keys), seen_o, budget=80)
    wanted = torch.from_numpy(expected["scalekv_kept_indices_maxpool"].astype(np.int64))
    pooled_BHK = pooled((q_BHoc @ k_BHKc.mT).sum(2), seen_o)  # ties may be cut in any order
    ours, theirs = (pooled_BHK.gather(2, kept).sort().values for kept in (kept_BHn, wanted))
    assert torch.equal(ours, theirs)


def pooled(products_BHK, seen_o):
    products_BHK[..., seen_o] = -torch.inf
    pooled_BHK = torch.nn.functional.max_pool1d(products_BHK, 5, stride=1, padding=2)
    pooled_BHK[..., seen_o] = 0
    return pooled_BHK
