"""MAR against the outputs of its published code, and its diffusion against diffusers'."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import DDPMScheduler

from bench.methods.baselines.mar import network as mar
from bench.methods.steps import generate
from tests.methods import small_baselines as small


def thoughts():
    net, mask = small.model(small.MAR), small.reference("mar_mask")
    known = mask.argsort(dim=1, stable=True)[:, : int((mask[0] == 0).sum())]
    given = mar.take(small.reference("mar_tokens"), known)
    labels = torch.tensor(small.META["mar_small"]["labels"])
    return net(given, known, torch.arange(16).expand(2, -1), net.classes(labels))


def test_encoder_and_decoder_are_the_published_ones():
    torch.testing.assert_close(thoughts(), small.reference("mar_z"), atol=1e-3, rtol=0)


def test_denoiser_is_the_published_one():
    net = small.model(small.MAR).denoiser
    cond = net.cond_embed(small.reference("mar_z").flatten(0, 1))
    out = net(small.reference("mar_xt"), net.time_embed(small.reference("mar_t")), cond)
    torch.testing.assert_close(out, small.reference("mar_diffloss_out"), atol=1e-3, rtol=0)


def test_the_order_in_which_tokens_are_known_does_not_matter():
    net, known = small.model(small.MAR), torch.tensor([[2, 7, 11]])
    tokens = mar.take(small.reference("mar_tokens")[:1], known)
    wanted, label = torch.tensor([[5]]), net.classes(torch.tensor([3]))
    one = net(tokens, known, wanted, label)
    other = net(tokens.flip(1), known.flip(1), wanted, label)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [100, 7])
def test_denoising_is_that_of_diffusers(steps):
    theirs = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        timestep_spacing="linspace",
        clip_sample=False,
    )
    theirs.set_timesteps(steps)
    ours = mar.denoising(steps)
    assert [one.t for one in ours] == theirs.timesteps.tolist()
    x, noise, variance = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    for one in ours:
        both = [torch.Generator().manual_seed(one.t) for _ in range(2)]
        expected = theirs.step(torch.cat((noise, variance), 1), one.t, x, generator=both[0])
        got = one(x, noise, variance, both[1])
        torch.testing.assert_close(got, expected.prev_sample, atol=2e-3, rtol=2e-3)


def test_every_token_is_drawn_once():
    decode = small.method(small.MAR, rounds=8)
    drawn = [before - after for before, after in pairwise(decode.unknown)]
    drawn[-1] = decode.unknown[-2]
    assert sum(drawn) == 16
    assert min(drawn) >= 1
    made = generate(decode, [3, 7], 0, small.MODERN)
    assert made.tokens.shape == (2, 16, 4, 4)
    assert (made.tokens != 0).all()


def test_what_is_known_stays():
    decode = small.method(small.MAR, rounds=8)
    seen = []

    class Watched(mar.Rounds):
        def step(self, state, i):
            super().step(state, i)
            seen.append(state.tokens_BLZ.clone())

    generate(Watched(decode.model, rounds=8, denoising_steps=2), [3], 0, small.MODERN)
    for before, after in pairwise(seen):
        known = before != 0
        assert (after[known] == before[known]).all()
        assert (after != 0).sum() > known.sum()


def test_the_published_hundred_rounds_fall_by_a_cosine():
    left = mar.unknown(256, 100)
    assert (left[0], left[1], left[50], left[99], left[100]) == (256, 255, 181, 4, 1)


@pytest.mark.parametrize("rounds", [0, 17])
def test_more_rounds_than_tokens_are_refused(rounds):
    with pytest.raises(ValueError, match=r"rounds must be 1\.\.16"):
        mar.unknown(16, rounds)
