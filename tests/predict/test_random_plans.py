"""Predictions of plans that leave anything out, against decodes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from bench.measure import memory
from bench.predict.footprint import of_plan
from bench.predict.prediction import flops, kv_cache_bytes
from bench.predict.simulate import PRIME
from codevar import VAR, Sampling, quantise_weights, stack
from codevar.decoding import generate
from codevar.plan import Plan, branch, original
from tests import tiny
from tests.random_plans import modified_plans

MIB = 2**20
BIG, SMALL = tiny.var(3), tiny.var(2, seed=1)
VQVAE = tiny.vqvae()
INT_MM = {torch.ops.aten._int_mm: lambda a, b, *_, out_shape=None, **__: 2 * a[0] * a[1] * b[1]}
STACKS = [stack(name, attention="math") for name in ("published", "modern")]


@settings(deadline=None, max_examples=200, derandomize=True)
@given(modified_plans(BIG, SMALL, quantised=True), st.sampled_from(STACKS), st.integers(1, 3))
def test_flops_and_cache_are_those_of_the_decode(plan, how, images):
    totals, counter = [], FlopCounterMode(display=False, custom_mapping=INT_MM)

    def on_scale(k):
        counts = counter.get_flop_counts().get("Global", {})
        totals.append(sum(n for op, n in counts.items() if "convolution" not in str(op)))

    with counter:
        made = generate(plan, VQVAE, [1] * images, Sampling(), stack=how, on_scale=on_scale)
    assert list(flops(plan, images, how)) == [b - a for a, b in itertools.pairwise(totals)]
    assert kv_cache_bytes(plan, images, how) == made.kv_cache_bytes


def without_weights(plan: Plan) -> Plan:
    """The same plan on models without data."""
    with torch.device("meta"):
        models = {m: quantise_weights(VAR(m.config), m.weight_bits) for m in plan.models}
    return Plan(tuple(replace(step, model=models[step.model]) for step in plan.steps))


@settings(deadline=None, max_examples=6, derandomize=True)
@given(modified_plans(BIG, SMALL, quantised=True), st.sampled_from(["published", "modern"]))
def test_memory_is_that_of_the_decode(plan, name):
    how, images = stack(name), 3
    lines = of_plan(without_weights(plan), how, Sampling(), "cpu", images)

    def decode(on_scale):
        return generate(plan, VQVAE, [1] * images, None, 0, how, on_scale=on_scale)

    used, made = memory.measure_memory(decode, [*plan.models, VQVAE], torch.device("cpu"))
    above = [b - used.params_mib for b in used.live_by_scale_mib]
    assert above == pytest.approx([b / MIB for b in lines.live_bytes(images)], abs=0.001)
    running = max(lines.peak_bytes(images)) - max(made.kv_cache_bytes)
    assert running / MIB == pytest.approx(used.running_mib, rel=0.1, abs=0.02)
    assert used.accounted


@pytest.mark.parametrize("name", ["published", "modern"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_memory_of_a_decision_is_that_of_its_two_decodes(name, precision):
    """The images of 64 x 64 pixels need ten times what the models do."""
    how, images = stack(name, precision), 2
    sizes = {"multipliers": (1,) * 5}
    vqvae = how.prepare(tiny.vqvae(**sizes).cast(how.weights))
    model = tiny.var(2, dtype=how.weights)

    def branching(model):
        return branch(model, 3, lambda before, now, salt_B: salt_B % 1, [original(model)])

    def decode(on_scale):
        return generate(branching(model), vqvae, [1] * images, stack=how, on_scale=on_scale)

    with torch.device("meta"):
        plan = branching(VAR(model.config).to(how.weights))
    lines = of_plan(plan, how, Sampling(), "cpu", images, vqvae.config)
    used, made = memory.measure_memory(decode, [model, vqvae], torch.device("cpu"))
    running = max(lines.peak_bytes(images)) - max(made.kv_cache_bytes)
    assert running / MIB == pytest.approx(used.running_mib, rel=0.03)


@settings(deadline=None, max_examples=10, derandomize=True)
@given(modified_plans(BIG, SMALL), st.sampled_from(["published", "modern"]))
def test_one_decode_on_a_simulated_gpu_tells_every_batch_size(plan, name):
    how = stack(name)
    every = of_plan(without_weights(plan), how, Sampling(), "cuda", PRIME)
    three = of_plan(without_weights(plan), how, Sampling(), "cuda", 3)
    assert every.peak_bytes(3) == pytest.approx(three.peak_bytes(3), rel=0.1)
    assert all(
        peak >= cache
        for peak, cache in zip(every.peak_bytes(3), kv_cache_bytes(plan, 3, how), strict=True)
    )
