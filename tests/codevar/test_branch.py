"""Plans that branch: each image goes on as it is decided, as if it had been alone."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import codevar
from bench.predict.prediction import flops, kv_cache_bytes
from codevar import Sampling, skipvar
from codevar.decoding import generate
from codevar.plan import branch, code, original, skip_scales, unguided, variant
from tests import tiny
from tests.random_plans import modified_plans

BIG, SMALL = tiny.var(3, dtype=torch.float64), tiny.var(2, seed=1, dtype=torch.float64)
VQVAE = tiny.vqvae()
SAMPLING = Sampling(cfg=1.5, top_k=60, top_p=0.95)
STACKS = [
    replace(codevar.stack(name, attention="math"), weights=torch.float64)
    for name in ("published", "modern")
]
few = settings(deadline=None, max_examples=12, derandomize=True, phases=[Phase.generate])
LABELS, SEEDS = [3, 7, 1, 5], [5, 6, 7, 8]


def made(plan, stack=STACKS[1], labels=LABELS, seed=SEEDS, **more):
    return generate(plan, VQVAE, labels, SAMPLING, seed, stack, **more)


def by_label(before, now, salt_B):
    """The plan is told by what sets images apart; of none of them by how the batch is made up."""
    return salt_B % 3


@few
@given(modified_plans(BIG, SMALL), st.integers(2, 3), st.sampled_from(STACKS))
def test_each_image_is_what_its_own_plan_makes_of_it(plan, at, stack):
    ways = [plan, skip_scales(plan, [4]), unguided(plan, [4])]
    branching = branch(plan, at, by_label, ways)
    one = made(branching, stack)
    alone = [made(way, stack).tokens for way in ways]
    assert len(one.decisions) == len(LABELS)
    for image, way in enumerate(one.decisions):
        assert torch.equal(one.tokens[image], alone[way][image])


@few
@given(modified_plans(BIG, SMALL), st.integers(2, 3), st.sampled_from(STACKS))
def test_each_way_costs_what_is_predicted_for_it(plan, at, stack):
    ways = [plan, skip_scales(plan, [4]), unguided(plan, [4])]
    for path in branch(plan, at, by_label, ways).paths:
        counter, totals = FlopCounterMode(display=False), []

        def on_scale(k, counter=counter, totals=totals):
            totals.append(products(counter))

        with counter:
            found = made(path, stack, on_scale=on_scale)
        took = [b - a for a, b in itertools.pairwise(totals)]
        took[at] -= decoder_flops(found.f_hat, stack)
        assert took == list(flops(path, len(LABELS), stack))
        assert kv_cache_bytes(path, len(LABELS), stack) == found.kv_cache_bytes


def products(counter):
    counts = counter.get_flop_counts().get("Global", {})
    return sum(n for op, n in counts.items() if "convolution" not in str(op))


def decoder_flops(f_hat, stack):
    """Of the two images that a decision looks at."""
    with torch.no_grad(), stack.running(f_hat.device), FlopCounterMode(display=False) as counter:
        VQVAE.decode_features(f_hat)
    return 2 * products(counter)


def test_within_code_and_variant_too():
    for plan in (code(BIG, SMALL, 2), code(BIG, SMALL, 3), variant(BIG, 2, 2)):
        ways = [plan, skip_scales(plan, [4])]
        one = made(branch(plan, 3, lambda *images: images[2] % 2, ways))
        alone = [made(way).tokens for way in ways]
        assert all(torch.equal(one.tokens[i], alone[j][i]) for i, j in enumerate(one.decisions))


def test_what_cannot_branch_is_refused_in_one_line():
    plan = original(BIG)
    with tiny.refused("at must be 2..3"):
        branch(plan, 4, by_label, [plan])
    with tiny.refused("a branch needs plans"):
        branch(plan, 3, by_label, [])
    with tiny.refused("alike up to scale 3"):
        branch(plan, 3, by_label, [skip_scales(plan, [2])])
    with tiny.refused("gives up before"):
        branch(skip_scales(plan, [4]), 3, by_label, [plan])
    with tiny.refused("drafter branches"):
        code(branch(plan, 3, by_label, [plan]), SMALL, 2)
    with tiny.refused("decide must give 4 numbers"):
        made(branch(plan, 3, lambda *images: torch.tensor([0, 1, 2, 9]), [plan, plan]))


@pytest.mark.parametrize("shares", [(), (0.25, 0.25, 0.25, 0.25)])
def test_skipvars_decision_is_that_of_plain_arithmetic(shares):
    images = torch.rand(2, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    features = plain_features(*images)
    torch.testing.assert_close(skipvar.features(*images), features)
    x = torch.cat((features, features + 1))
    labels = (torch.arange(10) // 5, torch.arange(10) // 5)
    decision = skipvar.fitted(x, labels, classes=(2, 3))
    salt = torch.arange(5) * 12345678901234
    if not shares:  # the first half of what it was fitted to skips nothing and keeps its guidance
        assert decision(*images, salt).tolist() == [0] * 5
        return
    control = replace(decision, shares=shares)
    chosen = control(
        *images, torch.randint(2**62, (5,), generator=torch.Generator().manual_seed(1))
    )
    assert torch.equal(control(*images.flip(0), salt), control(*images, salt))
    assert set(chosen.tolist()) <= {0, 1, 2, 3}


def plain_features(before, now):
    """Of each image, number by number."""
    found = []
    for b, n in zip(before.mean(1), now.mean(1), strict=True):
        change = (plain_edges(n) - plain_edges(b)).abs().mean()
        spectrum = torch.fft.fftshift(torch.fft.fft2(n)).abs()
        H, W = n.shape
        far = torch.tensor(
            [
                [
                    ((y - H // 2) ** 2 + (x - W // 2) ** 2) ** 0.5 > 0.4 * min(H, W) / 2
                    for x in range(W)
                ]
                for y in range(H)
            ]
        )
        found.append(torch.stack((change, spectrum[far].sum() / spectrum.sum())))
    return torch.stack(found)


def plain_edges(grey):
    padded, (H, W) = torch.nn.functional.pad(grey, (1, 1, 1, 1)), grey.shape
    out = torch.zeros_like(grey)
    for y in range(H):
        for x in range(W):
            p = padded[y : y + 3, x : x + 3]
            gx = p[0, 2] + 2 * p[1, 2] + p[2, 2] - p[0, 0] - 2 * p[1, 0] - p[2, 0]
            gy = p[2, 0] + 2 * p[2, 1] + p[2, 2] - p[0, 0] - 2 * p[0, 1] - p[0, 2]
            out[y, x] = (gx**2 + gy**2) ** 0.5
    return out
