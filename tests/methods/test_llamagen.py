"""LlamaGen against the outputs of its published code."""

from __future__ import annotations

from itertools import pairwise

import torch

from bench.methods.steps import generate
from tests.methods import small_baselines as small


def test_logits_are_the_published_ones():
    labels, tokens = small.reference("llamagen_labels"), small.reference("llamagen_idx")
    logits = small.logits_of(small.method(small.LLAMAGEN), labels.tolist(), tokens)[:2]
    expected = small.reference("llamagen_logits")
    torch.testing.assert_close(logits[:, ::4], expected, atol=1e-3, rtol=0)


def test_greedy_tokens_are_the_published_ones():
    decode = small.method(small.LLAMAGEN, cfg=2.0, top_k=1)
    labels = small.REFERENCE["llamagen_labels"].tolist()
    made = generate(decode, labels, 0, small.MODERN)
    assert (made.tokens == small.reference("llamagen_greedy_cfg2")).all()


def test_the_cache_is_written_in_place():
    """One allocation, and after a step nothing before its position has changed."""
    decode, copies, places = small.method(small.LLAMAGEN), [], set()

    class Watched(type(decode)):
        def step(self, state, i):
            super().step(state, i)
            places.add(tuple(kv.data_ptr() for kv in state.kv))
            copies.append(torch.stack([kv.clone() for kv in state.kv]))

    made = generate(Watched(decode.model), [1, 2], 0, small.MODERN)
    assert len(places) == 1
    assert set(made.kv_cache_bytes) == {copies[0].nbytes}
    for i, (before, after) in enumerate(pairwise(copies)):
        assert (before[..., : i + 1, :] == after[..., : i + 1, :]).all()
        assert not after[..., i + 2 :, :].any()


def test_draws_follow_the_seed():
    decode = small.method(small.LLAMAGEN)
    one, same, other = (generate(decode, [1, 2], s, small.MODERN).tokens for s in (7, 7, 8))
    assert (one == same).all()
    assert (one != other).any()
