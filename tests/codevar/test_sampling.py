"""Guidance, filters, temperature, the draw, smoothing, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codevar import PRESETS, Sampling, Scales
from codevar.noise import CHUNK, exponentials
from codevar.sampling import draw, draw_as_published, smooth_codes
from tests import tiny

TEN = Scales()
PLAIN = {"cfg": 0, "top_k": 0, "top_p": 0}


def logits_of(*probabilities):
    """(2, 1, V) logits of both halves whose softmax is this."""
    return torch.tensor(probabilities).log().repeat(2, 1, 1)


def kept(logits_2BlV, **settings):
    """Codes that are left to draw from."""
    filtered = Sampling(**(PLAIN | settings)).at(0, TEN).filtered(logits_2BlV)
    return filtered.isfinite().nonzero()[:, -1].tolist()


def random_logits(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(11)


# The draw


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("top_k", [0, 1, 5])
def test_draw_is_multinomial_with_the_same_generator(generator, temperature, top_k):
    other = generator.clone_state()
    filtered = Sampling(cfg=0, top_k=top_k, top_p=0).at(0, TEN).filtered(random_logits(6, 16, 128))
    for _ in range(3):
        p = (filtered / temperature).softmax(-1).view(-1, 128)
        wanted = torch.multinomial(p, 1, replacement=True, generator=other).view(3, 16)
        assert torch.equal(draw(filtered, temperature, generator), wanted)


def test_noise_is_torchs_own_to_the_bit_over_several_chunks(generator):
    other = generator.clone_state()
    like = torch.empty(3, 100, 1001)
    assert like.numel() > 4 * CHUNK
    for _ in range(2):  # the second from where the first left the generator
        assert torch.equal(exponentials(like, generator), exponentials(like, other, True))


def test_draw_never_takes_a_filtered_code(generator):
    filtered = torch.full((1, 5000, 128), -torch.inf)
    filtered[..., [4, 90]] = 0
    assert set(draw(filtered, 1.0, generator).flatten().tolist()) == {4, 90}


def test_draw_follows_the_probabilities(generator):
    drawn = draw(logits_of(0.6, 0.3, 0.1)[:1].expand(1, 20000, 3), 1.0, generator)
    shares = drawn.flatten().bincount(minlength=3) / 20000
    torch.testing.assert_close(shares, torch.tensor([0.6, 0.3, 0.1]), atol=0.02, rtol=0)


# Guidance


def test_guidance_ramps_up_from_the_first_scale_to_the_last():
    strengths = [Sampling(cfg=4.5).at(k, TEN).guidance for k in range(10)]
    assert strengths == pytest.approx([0.5 * k for k in range(10)])


def test_a_sequence_gives_each_strength_itself():
    cfg = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    assert [Sampling(cfg=cfg).at(k, TEN).guidance for k in range(10)] == cfg


@pytest.mark.parametrize("k", [0, 4, 9])
def test_guided_logits(k):
    cond, uncond = random_logits(2, 4, 32), random_logits(2, 4, 32, seed=1)
    t = 3.0 * k / 9
    guided = Sampling(cfg=3.0, top_k=0, top_p=0).at(k, TEN).filtered(torch.cat((cond, uncond)))
    assert torch.equal(guided, (1 + t) * cond - t * uncond)


@pytest.mark.parametrize("k", [0, 4, 9])
def test_guidance_before_the_head_gives_guided_logits(k):
    at, head = Sampling(cfg=3.0, top_k=0, top_p=0).at(k, TEN), torch.nn.Linear(16, 32)
    h_2BlC = random_logits(4, 5, 16)
    with torch.no_grad():
        torch.testing.assert_close(at.kept(head(at.guided(h_2BlC))), at.filtered(head(h_2BlC)))


@pytest.mark.parametrize("top_k", [0, 1, 7, 900])
@pytest.mark.parametrize("top_p", [0, 0.5, 0.96])
@pytest.mark.parametrize("temperature", [0.7, 1.1])
def test_draw_as_published_draws_the_same(top_k, top_p, temperature):
    at = Sampling(top_k=top_k, top_p=top_p, temperature=temperature).at(5, TEN)
    logits_2BlV = random_logits(4, 50, 32)
    noise = torch.Generator().manual_seed(0)
    published = draw_as_published(logits_2BlV, [50], [at], noise)
    noise = torch.Generator().manual_seed(0)
    assert torch.equal(published, draw(at.filtered(logits_2BlV), temperature, noise))


def test_of_several_maps_the_last_is_drawn_as_if_alone():
    """As at the hand-over: the others are drawn for nothing, from noise of their own."""
    maps, sampling = [1, 4, 9], Sampling()
    logits_2BnV = random_logits(4, 14, 32)
    alone, together = (torch.Generator().manual_seed(0) for _ in range(2))
    wanted = draw_as_published(logits_2BnV[:, 5:].clone(), maps[2:], [sampling.at(2, TEN)], alone)
    settings = [sampling.at(k, TEN) for k in range(3)]
    assert torch.equal(draw_as_published(logits_2BnV, maps, settings, together), wanted)
    assert torch.equal(alone.get_state(), together.get_state())


# Filters


@pytest.mark.parametrize(
    ("top_k", "codes"), [(0, [0, 1, 2, 3]), (1, [1]), (2, [1, 2]), (4, [0, 1, 2, 3])]
)
def test_top_k_keeps_the_best(top_k, codes):
    assert kept(logits_of(0.1, 0.4, 0.3, 0.2), top_k=top_k) == codes


def test_top_k_above_the_vocabulary_keeps_all():
    assert kept(logits_of(0.1, 0.4, 0.3, 0.2), top_k=900) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("top_p", "codes"),
    [(0, [0, 1, 2, 3]), (1, [0, 1, 2, 3]), (0.97, [0, 1, 2, 3]), (0.9, [1, 2, 3]), (0.6, [1, 2])],
)
def test_top_p_keeps_the_smallest_set_that_exceeds_p(top_p, codes):
    assert kept(logits_of(0.05, 0.5, 0.3, 0.15), top_p=top_p) == codes


@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.5])
def test_top_p_always_keeps_the_best(top_p):
    assert kept(logits_of(0.05, 0.5, 0.3, 0.15), top_p=top_p) == [1]


def test_top_p_counts_what_top_k_left():
    p = (0.1, 0.4, 0.3, 0.2)
    assert kept(logits_of(*p), top_p=0.5) == [1, 2]
    assert kept(logits_of(*p), top_p=0.5, top_k=2) == [1]


def test_temperature_comes_after_the_filters(generator):
    hot = Sampling(**(PLAIN | {"top_p": 0.6, "temperature": 1e6})).at(0, TEN)
    filtered = hot.filtered(logits_of(0.05, 0.5, 0.3, 0.15))
    drawn = draw(filtered.expand(1, 1000, 4), hot.temperature, generator)
    counts = drawn.flatten().bincount(minlength=4).tolist()
    assert counts[0] == counts[3] == 0
    assert counts[1] == pytest.approx(500, abs=60)


@pytest.mark.parametrize("name", ["top_k", "top_p", "temperature"])
def test_a_sequence_is_one_number_per_scale(name):
    values = [1, 0.5, 1] if name != "top_k" else [1, 5, 9]
    sampling = Sampling(**{name: values})
    assert [getattr(sampling.at(k, Scales((1, 2, 3))), name) for k in range(3)] == values


# Smoothing


@pytest.mark.parametrize(("ratio", "temperature"), [(0.0, 0.27), (0.5, 0.14175), (1.0, 0.0135)])
def test_smooth_codes_are_gumbel_softmax_mixtures(generator, ratio, temperature):
    logits = random_logits(2, 9, 32)
    other = generator.clone_state()
    gumbel = -torch.empty_like(logits).exponential_(generator=other).log()
    wanted = ((logits * (1 + ratio) + gumbel) / temperature).softmax(-1)
    mixtures = smooth_codes(logits, ratio, torch.eye(32), generator)
    torch.testing.assert_close(mixtures, wanted)


# Settings


def test_presets_are_the_papers_settings():
    assert PRESETS["var"] == Sampling(cfg=1.5, top_k=900, top_p=0.96, temperature=1.0)
    code = [PRESETS["code"].at(k, TEN) for k in range(10)]
    assert {(s.top_k, s.top_p) for s in code} == {(600, 0.96)}
    assert [s.temperature for s in code] == [1.1] * 7 + [1.0] * 3
    assert code[-1].guidance == 1.5


def test_the_default_is_vars_own_evaluation():
    assert Sampling() == PRESETS["var"]


def test_lists_and_tuples_are_the_same_settings():
    assert Sampling(cfg=[1, 2]) == Sampling(cfg=(1, 2))
    assert hash(Sampling(cfg=[1, 2])) == hash(Sampling(cfg=(1, 2)))


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("cfg", -0.1, "at least 0"),
        ("cfg", float("nan"), "at least 0"),
        ("top_k", -1, "0 or more"),
        ("top_k", 1.5, "whole number"),
        ("top_p", -0.1, "between 0 and 1"),
        ("top_p", 1.1, "between 0 and 1"),
        ("temperature", 0, "above 0"),
        ("temperature", -1, "above 0"),
        ("top_k", float("inf"), "whole number"),
        ("cfg", float("inf"), "at least 0"),
    ],
)
def test_impossible_values_are_refused(name, value, wanted):
    for given in (value, [1, value]):
        with tiny.refused(name, wanted, str(value)):
            Sampling(**{name: given})


@pytest.mark.parametrize("name", ["cfg", "top_k", "top_p", "temperature", "more_smooth"])
@pytest.mark.parametrize(
    "value", [np.ones(10), torch.ones(10), torch.tensor(1.0), "1", None, [None], [[1, 1]], 1j]
)
def test_what_is_no_number_is_refused(name, value):
    wanted = "True or False" if name == "more_smooth" else "a number or a list of them"
    with tiny.refused(name, wanted, "not "):
        Sampling(**{name: value})


def test_numbers_of_numpy_are_numbers():
    assert Sampling(cfg=np.float32(2), top_k=np.int64(5)) == Sampling(cfg=2.0, top_k=5)
