"""One seed per image: an image is the same whatever it is decoded with."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import codevar
from codevar import Sampling
from codevar.noise import ImageNoise, mix, signed
from codevar.plan import code
from codevar.sampling import draw, smooth_codes
from tests import tiny

LABELS = [3, 7, 3, 0, 9, 1, 3]
SEEDS = [5, 2**64 - 1, 6, 0, 5, 12345, 5]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models():
    return code(tiny.var(depth=3, seed=0), tiny.var(depth=2, seed=1), 2), tiny.vqvae()


def in_batches(models, size, **options):
    """Every image of LABELS, decoded so many at a time."""
    parts = [
        codevar.decode(*models, LABELS[i : i + size], seed=SEEDS[i : i + size], **options)
        for i in range(0, len(LABELS), size)
    ]
    return torch.cat([part.tokens for part in parts]), torch.cat([part.images for part in parts])


@pytest.mark.parametrize("more_smooth", [False, True])
@pytest.mark.parametrize("stack", ["published", "modern"])
def test_an_image_is_the_same_alone_and_in_any_batch(models, stack, more_smooth):
    options = {"stack": codevar.stack(stack), "sampling": Sampling(more_smooth=more_smooth)}
    tokens, images = in_batches(models, 1, **options)
    for size in (2, 3, 7):
        others, pictures = in_batches(models, size, **options)
        assert torch.equal(others, tokens)
        torch.testing.assert_close(pictures, images, atol=1e-4, rtol=0)
    assert torch.equal(tokens[0], tokens[6])  # the same class and seed
    assert len(tokens.unique(dim=0)) == 6
    assert len(images[[0, 1, 2, 3, 4, 5]].flatten(1).unique(dim=0)) == 6


def test_its_place_in_the_batch_does_not_matter(models):
    tokens = codevar.decode(*models, LABELS, seed=SEEDS).tokens
    backwards = codevar.decode(*models, LABELS[::-1], seed=SEEDS[::-1]).tokens
    assert torch.equal(backwards.flip(0), tokens)


def test_editing_takes_a_seed_per_image(models):
    mask, pictures = torch.zeros(8, 8), tiny.images(3)
    mask[4:] = 1

    def edited(rows):
        seeds, labels = [SEEDS[i] for i in rows], [LABELS[i] for i in rows]
        return codevar.edit(*models, pictures[rows], labels, mask, seed=seeds).tokens

    together = edited([0, 1, 2])
    assert torch.equal(together, torch.cat([edited([0]), edited([1, 2])]))


def test_one_seed_is_one_generator_as_before(models):
    one = codevar.decode(*models, [3, 3], seed=1).tokens
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize("of", [torch.tensor, np.array], ids=["tensor", "array"])
@pytest.mark.parametrize("seed", [7, [7, 9]], ids=["one", "each"])
def test_seeds_may_be_tensors_and_arrays(models, of, seed):
    tokens = codevar.decode(*models, [3, 7], seed=of(seed)).tokens
    assert torch.equal(tokens, codevar.decode(*models, [3, 7], seed=seed).tokens)


@pytest.mark.parametrize(
    ("seed", "said"),
    [
        ([1], "1 for 2"),
        ([1, 2, 3], "3 for 2"),
        ([], "0 for 2"),
        ([1, 2.5], "2.5"),
        ("ab", "a"),
        (1.5, "1.5"),
        (None, "None"),
        (torch.tensor([1, 2, 3]), "3 for 2"),
        (torch.tensor([1.0, 2.5]), "2.5"),
        (np.array(1.5), "1.5"),
    ],
)
def test_other_than_one_seed_per_image_is_refused(models, seed, said):
    with tiny.refused("seed", said):
        codevar.decode(*models, [3, 7], seed=seed)


# The noise itself


def splitmix64(seed, count):
    """As published: https://prng.di.unimi.it/splitmix64.c."""
    x, found = seed, []
    for _ in range(count):
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        z = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        found.append(z ^ (z >> 31))
    return found


def test_the_numbers_are_splitmix64s():
    assert splitmix64(0, 1) == [0xE220A8397B1DCDAF]
    noise = ImageNoise([0, 7], CPU)
    drawn = torch.cat([noise.bits(3), noise.bits(4)], dim=1)
    assert drawn.tolist() == [[signed(x) for x in splitmix64(mix(s), 7)] for s in (0, 7)]


def test_exponentials_are_exponential_positive_and_of_any_width():
    noise = ImageNoise(range(40), CPU)
    drawn = noise.exponentials(torch.empty(40, 100, 101))
    assert drawn.shape == (40, 100, 101)
    assert drawn.min() > 0
    assert drawn.isfinite().all()
    n = drawn.numel()
    assert drawn.mean().item() == pytest.approx(1, abs=5 / math.sqrt(n))
    for quantile in (1e-4, 0.1, 0.5, 0.9, 0.999):
        share = (drawn < -math.log1p(-quantile)).double().mean().item()
        assert share == pytest.approx(quantile, abs=5 * math.sqrt(quantile / n))


def test_noise_of_images_tokens_codes_and_scales_is_independent():
    noise = ImageNoise(range(64), CPU)
    one, two = (noise.exponentials(torch.empty(64, 16, 64)).log() for _ in range(2))
    pairs = [
        (one[:-1], one[1:]),
        (one[:, :-1], one[:, 1:]),
        (one[..., :-1], one[..., 1:]),
        (one, two),
    ]
    for a, b in pairs:
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()
        assert abs(correlation) < 5 / math.sqrt(a.numel())


def test_draws_follow_the_probabilities():
    p = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    logits = p.log().expand(100, 400, 5)
    drawn = draw(logits, 1.0, ImageNoise(range(100), CPU))
    shares = torch.bincount(drawn.flatten(), minlength=5) / drawn.numel()
    assert shares.tolist() == pytest.approx(p.tolist(), abs=0.01)
    assert shares[4] == 0


def test_a_code_without_a_rival_is_always_drawn():
    logits = torch.full((50, 200, 33), -torch.inf)
    logits[..., 17] = 0
    assert (draw(logits, 1.0, ImageNoise(range(50), CPU)) == 17).all()


def test_mixtures_differ_by_seed_only():
    logits = torch.zeros(3, 4, 32)
    mixtures = smooth_codes(logits, 0.5, torch.eye(32), ImageNoise([1, 2, 1], CPU))
    assert torch.equal(mixtures[0], mixtures[2])
    assert not torch.equal(mixtures[0], mixtures[1])


@pytest.mark.gpu
def test_a_gpu_draws_the_same_numbers_and_waits_for_none():
    device = torch.device("cuda")
    torch.zeros(1, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = ImageNoise(range(64), device).exponentials(torch.empty(64, 16, 128, device="meta"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    wanted = ImageNoise(range(64), CPU).exponentials(torch.empty(64, 16, 128))
    torch.testing.assert_close(drawn.cpu(), wanted)
