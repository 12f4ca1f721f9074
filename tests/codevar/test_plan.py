"""Plans: what each method runs, what it refuses, and that names of models do not matter."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

import codevar
from codevar import Sampling, VARConfig
from codevar.plan import (
    Plan,
    Step,
    code,
    original,
    subnet,
    swap_scale,
    variant,
)
from codevar.steps import equidistant
from tests import tiny

MIXES = ["".join(names) for names in product("AB", repeat=4) if len(set(names)) == 2]
ALL = tuple(range(30))


@pytest.fixture(scope="module")
def small_vqvae():
    return tiny.vqvae()


@pytest.fixture(scope="module")
def d30():
    return tiny.on_meta(30)


@pytest.fixture(scope="module")
def d16():
    return tiny.on_meta(16)


def runs_of(plan, **names):
    """[(name of the model, layers, how many scales in a row), ...]"""
    name_of = {model: name for name, model in names.items()}
    runs = []
    for step in plan.steps:
        run = name_of[step.model], step.layers
        if runs and runs[-1][:2] == run:
            runs[-1] = (*run, runs[-1][2] + 1)
        else:
            runs.append((*run, 1))
    return runs


def mixed(plans, names):
    """Scale k as the plan of that name has it."""
    return Plan(tuple(plans[name].steps[k] for k, name in enumerate(names)))


# One model under two names


@cache
def twins():
    return tiny.var(depth=3, dtype=torch.float64), tiny.var(depth=3, dtype=torch.float64)


def drawn(plan, vqvae, labels, sampling, stack):
    """Tokens, in double precision: another order of sums must not turn a close draw."""
    stack = replace(codevar.stack(stack), weights=torch.float64)
    return codevar.decode(plan, vqvae, labels, sampling, seed=5, stack=stack).tokens


@pytest.mark.parametrize("stack", ["published", "modern"])
@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("names", MIXES)
def test_two_names_of_one_model_decode_as_one(small_vqvae, names, depth, stack):
    a, b = (subnet(model, depth, range(1, 5)) for model in twins())
    sampling = Sampling(cfg=1.5, top_k=100, top_p=0.95, temperature=1.2)
    one = drawn(a, small_vqvae, [3, 7, 1], sampling, stack)
    two = drawn(mixed({"A": a, "B": b}, names), small_vqvae, [3, 7, 1], sampling, stack)
    assert torch.equal(one, two)


@pytest.mark.parametrize("stack", ["published", "modern"])
@pytest.mark.parametrize("mix", range(2))
def test_two_names_of_one_model_decode_as_one_at_256_pixels(vqvae, refiner, labels, mix, stack):
    a, b = (
        original(codevar.load_var(refiner.state_dict(), device="cpu", dtype=torch.float64))
        for _ in range(2)
    )
    names = np.random.default_rng(mix).permutation(list("AAAAABBBBB"))
    sampling = Sampling(cfg=1.5, top_k=50, top_p=0.9)
    one = drawn(a, vqvae, labels, sampling, stack)
    two = drawn(mixed({"A": a, "B": b}, names), vqvae, labels, sampling, stack)
    assert torch.equal(one, two)


def test_other_weights_under_the_second_name_are_noticed(small_vqvae):
    a, b = tiny.var(depth=3, seed=0), tiny.var(depth=3, seed=1)
    one = codevar.decode(a, small_vqvae, [3, 7]).tokens
    for names in MIXES:
        plan = mixed({"A": original(a), "B": original(b)}, names)
        assert not torch.equal(one, codevar.decode(plan, small_vqvae, [3, 7]).tokens)


# What the methods run


def test_original_runs_all_layers_at_every_scale(d30):
    assert runs_of(original(d30), d30=d30) == [("d30", ALL, 10)]


@pytest.mark.parametrize("N", range(1, 10))
def test_code_hands_over_after_its_last_drafted_scale(d30, d16, N):
    runs = runs_of(code(d30, d16, draft_steps=N), drafter=d30, refiner=d16)
    assert runs == [("drafter", ALL, N), ("refiner", ALL[:16], 10 - N)]


@pytest.mark.parametrize("N", range(10))
def test_variant_thins_out_after_its_bridge(d30, N):
    runs = runs_of(variant(d30, depth=2, bridge_scales=N), d30=d30)
    assert runs == [("d30", ALL, N), ("d30", (0, 29), 10 - N)][N == 0 :]


@pytest.mark.parametrize("depth", [2, 16, 30])
def test_variant_that_is_all_bridge_is_the_original(d30, depth):
    assert variant(d30, depth, bridge_scales=10) == original(d30)


def test_code_with_itself_is_the_original(d30):
    assert code(d30, d30, draft_steps=6) == original(d30)


def test_original_leaves_a_plan_as_it_is(d30, d16):
    plan = code(d30, d16, draft_steps=6)
    assert original(plan) == plan


def test_swap_replaces_one_scale(d30, d16):
    runs = runs_of(swap_scale(d30, d16, scale=4), base=d30, other=d16)
    assert runs == [("base", ALL, 3), ("other", ALL[:16], 1), ("base", ALL, 6)]


def test_subnet_thins_out_the_given_scales_only(d30):
    runs = runs_of(subnet(d30, depth=2, scales=[4, 6]), d30=d30)
    assert [(layers == (0, 29), n) for _, layers, n in runs] == [
        (False, 3),
        (True, 1),
        (False, 1),
        (True, 1),
        (False, 4),
    ]


def test_code_refines_with_a_subnet(d30, d16):
    plan = code(d16, subnet(d30, depth=4, scales=range(7, 11)), draft_steps=4)
    assert runs_of(plan, drafter=d16, refiner=d30) == [
        ("drafter", ALL[:16], 4),
        ("refiner", ALL, 2),
        ("refiner", (0, 9, 19, 29), 4),
    ]


def test_variant_of_a_plan_thins_out_each_of_its_models(d30, d16):
    plan = variant(code(d30, d16, draft_steps=8), depth=2, bridge_scales=6)
    assert runs_of(plan, drafter=d30, refiner=d16) == [
        ("drafter", ALL, 6),
        ("drafter", (0, 29), 2),
        ("refiner", (0, 15), 2),
    ]


def test_swap_takes_the_scale_as_the_other_plan_has_it(d30, d16):
    other = variant(d16, depth=2, bridge_scales=6)
    plan = swap_scale(code(d30, d16, draft_steps=8), other, scale=7)
    assert runs_of(plan, drafter=d30, refiner=d16) == [
        ("drafter", ALL, 6),
        ("refiner", (0, 15), 1),
        ("drafter", ALL, 1),
        ("refiner", ALL[:16], 2),
    ]


def test_subnet_of_a_subnet_chooses_among_its_layers(d30):
    plan = subnet(subnet(d30, depth=4, scales=range(1, 11)), depth=3, scales=range(1, 11))
    assert runs_of(plan, d30=d30) == [("d30", (0, 9, 29), 10)]


def test_models_are_named_once_in_order_of_first_use(d30, d16):
    assert swap_scale(d30, d16, scale=1).models == [d16, d30]


# Equation 2


@pytest.mark.parametrize(
    ("D", "layers"),
    [
        (30, (0, 29)),
        (30, (0, 9, 19, 29)),
        (30, (0, 4, 8, 12, 16, 20, 24, 29)),
        (30, (0, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29)),
        (16, (0, 5, 10, 15)),
        (4, (0, 1, 3)),
    ],
)
def test_equidistant_layers(D, layers):
    assert equidistant(tuple(range(D)), len(layers)) == layers


@pytest.mark.parametrize("D", [2, 4, 16, 20, 24, 30, 36])
def test_equidistant_layers_rise_from_first_to_last(D):
    for d in range(2, D + 1):
        layers = equidistant(tuple(range(D)), d)
        assert (layers[0], layers[-1], len(layers)) == (0, D - 1, d)
        assert list(layers) == sorted(set(layers))
    assert layers == tuple(range(D))


# What is refused


@pytest.mark.parametrize("N", [-1, 0, 10, 11])
def test_code_refuses_draft_steps(d30, d16, N):
    with tiny.refused("draft_steps", "1..9", str(N)):
        code(d30, d16, draft_steps=N)


@pytest.mark.parametrize("d", [-1, 0, 1, 31])
def test_variant_refuses_depth(d30, d):
    for N in (0, 6, 10):
        with tiny.refused("depth", "2..30", str(d)):
            variant(d30, depth=d, bridge_scales=N)


def test_depth_must_fit_the_shallowest_model_of_a_plan(d30, d16):
    with tiny.refused("depth", "2..16", "20"):
        variant(code(d30, d16, draft_steps=6), depth=20, bridge_scales=6)


@pytest.mark.parametrize("N", [-1, 11])
def test_variant_refuses_bridge_scales(d30, N):
    with tiny.refused("bridge_scales", "0..10", str(N)):
        variant(d30, depth=2, bridge_scales=N)


@pytest.mark.parametrize("k", [-1, 0, 11])
def test_scales_outside_the_pyramid_are_refused(d30, d16, k):
    with tiny.refused("scale", "1..10", str(k)):
        swap_scale(d30, d16, scale=k)
    with tiny.refused("scale", "1..10", str(k)):
        subnet(d30, depth=2, scales=[3, k])


@pytest.mark.parametrize("wrong", [None, "var_d16", 16, VARConfig(depth=2), "a vqvae"])
def test_what_is_no_model_is_refused_by_the_name_of_its_argument(small_vqvae, d30, wrong):
    wrong = small_vqvae if wrong == "a vqvae" else wrong
    for name, plan in {
        "model": lambda: original(wrong),
        "drafter": lambda: code(wrong, d30, draft_steps=2),
        "refiner": lambda: code(d30, wrong, draft_steps=2),
        "base": lambda: swap_scale(wrong, d30, scale=4),
        "other": lambda: swap_scale(d30, wrong, scale=4),
        "a step's model": lambda: Step(wrong, (0,)),
        "steps": lambda: Plan((wrong,) * 10),
    }.items():
        with tiny.refused(name, "not "):
            plan()


@pytest.mark.parametrize("wrong", [7.5, 7.0, "7", None, [[7], [8]], torch.ones(3, 2)])
def test_what_is_no_whole_number_is_refused_by_the_name_of_its_argument(d30, d16, wrong):
    for name, plan in {
        "draft_steps": lambda: code(d30, d16, draft_steps=wrong),
        "depth": lambda: variant(d30, depth=wrong, bridge_scales=6),
        "bridge_scales": lambda: variant(d30, depth=2, bridge_scales=wrong),
        "scale": lambda: swap_scale(d30, d16, scale=wrong),
        "each of the scales": lambda: subnet(d30, depth=2, scales=[wrong]),
        "scales": lambda: subnet(d30, depth=2, scales=wrong),
        "layers": lambda: Step(d30, wrong),
    }.items():
        with tiny.refused(name, "whole number", "not "):
            plan()


def test_whole_numbers_are_those_of_numpy_and_torch_too(d30, d16):
    assert code(d30, d16, draft_steps=np.int64(6)) == code(d30, d16, draft_steps=torch.tensor(6))
    wanted = subnet(d30, depth=2, scales=[7, 8])
    assert subnet(d30, depth=2, scales=np.array([7, 8])) == wanted
    assert subnet(d30, depth=2, scales=torch.tensor([7, 8])) == wanted


DISAGREEING = [
    ("patch_sizes", (1, 2, 3, 5), "(1, 2, 3, 4)"),
    ("vocab", 64, "128"),
    ("channels", 8, "16"),
    ("classes", 5, "10"),
]


@pytest.mark.parametrize(("name", "value", "ours"), DISAGREEING)
def test_models_must_agree(name, value, ours):
    other = tiny.var(**{name: value})
    for plan in (
        lambda: code(tiny.var(), other, draft_steps=2),
        lambda: swap_scale(tiny.var(), other, scale=4),
    ):
        with tiny.refused(name, ours, str(value)):
            plan()


@pytest.mark.parametrize(
    "plan",
    [
        lambda four, three: code(four, three, draft_steps=2),
        lambda four, three: code(three, four, draft_steps=2),
        lambda four, three: swap_scale(three, four, scale=3),
        lambda four, three: code(four, three, draft_steps=3),
        lambda four, three: swap_scale(four, three, scale=4),
    ],
)
def test_models_must_agree_in_the_number_of_scales(plan):
    with tiny.refused("patch_sizes", "(1, 2, 3, 4)", "(1, 2, 3)"):
        plan(tiny.var(), tiny.var(patch_sizes=(1, 2, 3)))


def test_a_plan_needs_a_step_for_each_scale(d30):
    with tiny.refused("9 steps", "10 scales"):
        Plan((Step(d30, ALL),) * 9)
