"""Plans of every kind, modified in every way, for property tests."""

from __future__ import annotations

import copy
import functools
from contextlib import suppress

from hypothesis import strategies as st

from codevar import eviction, methods, quantise_weights
from codevar import plan as plans
from codevar.pruning import SELECTORS
from codevar.steps import ANCHORED, BITS, RECENT

K = 4  # scales of the models in tests.tiny
SCORES = (*eviction.SCORES, RECENT)


@functools.cache
def in_8_bits(model):
    """The model with its weights in 8 bits; a big one W8A8, a small one W8A16."""
    bits = "W8A8" if model.config.depth > 2 else "W8A16"
    return quantise_weights(copy.deepcopy(model), bits)


def subset(draw, values, least=1):
    return draw(st.lists(st.sampled_from(list(values)), min_size=least, unique=True))


@st.composite
def base_plans(draw, big, small, quantised=False):
    """What the papers have; quantised: of some the weights are in 8 bits."""
    a, b = draw(st.permutations([big, small]))
    if quantised and draw(st.booleans()):
        a, b = in_8_bits(a), in_8_bits(b)
    N = draw(st.integers(1, K - 1))
    return draw(
        st.sampled_from(
            [
                lambda: plans.original(a),
                lambda: plans.code(a, b, N),
                lambda: plans.variant(a, 2, N),
                lambda: plans.subnet(a, 2, range(N, N + 2)),
                lambda: plans.swap_scale(a, b, N),
                lambda: plans.code(a, plans.subnet(b, 2, range(N + 1, K + 1)), N),
            ]
        )
    )()


def _unguided(draw, plan):
    return plans.unguided(plan, subset(draw, range(1, K + 1)))


def _skipped(draw, plan):
    return plans.skip_scales(plan, subset(draw, range(2, K + 1)))


def _pruned(draw, plan):
    drop = {k: draw(st.floats(0.05, 0.95)) for k in subset(draw, range(2, K + 1))}
    return plans.prune_tokens(
        plan,
        drop,
        layers=draw(st.sampled_from([None, [1], [1, 2], [0, 2]])),
        selector=draw(st.sampled_from([*SELECTORS])),
        restore_from=draw(st.sampled_from([None, 1, 2, 3])),
    )


def _anchored(draw, plan):
    drop = {k: draw(st.floats(0.05, 0.6)) for k in subset(draw, [3, 4])}
    source = draw(st.integers(1, min(drop) - 1))
    return plans.prune_tokens(plan, drop, None, draw(st.sampled_from(ANCHORED)), source)


def _windowed(draw, plan):
    counts = st.integers(0, 3)
    return plans.keep_cache(plan, draw(counts), draw(counts), draw(st.sampled_from([None, [0, 1]])))


def _evicted(draw, plan):
    score = draw(st.sampled_from(SCORES))
    budget = draw(st.integers(17 if score.startswith("observed") else 1, 29))
    layers = draw(st.sampled_from([None, [1], [0, 2]]))
    return plans.evict_cache(plan, budget, score, layers, draw(st.sampled_from([None, [0], [1]])))


def _quantised(draw, plan):
    return plans.quantise_cache(plan, draw(st.sampled_from(BITS)))


def _early(draw, plan):
    return plans.early_exit(plan, {k: draw(st.integers(1, 3)) for k in subset(draw, range(1, 5))})


def _of_one_model(draw, plan):
    """The scales of one of its models, and that model's depth."""
    model = draw(st.sampled_from(plan.models))
    scales = [k for k, step in enumerate(plan.steps, 1) if step.model is model]
    return scales, model.config.depth


def _ams_kv(draw, plan):
    scales, depth = _of_one_model(draw, plan)
    return methods.ams_kv(plan, scales, subset(draw, range(depth), 0), draw(st.integers(0, 2)))


def _scalekv(draw, plan):
    scales, depth = _of_one_model(draw, plan)
    chosen = subset(draw, scales)
    drafters = {k: subset(draw, range(depth))[: depth - 1] for k in chosen}
    budgets = {k: draw(st.integers(17, 24)) for k in chosen}
    score = draw(st.sampled_from(SCORES))
    return methods.scalekv(plan, scales, draw(st.integers(17, 24)), drafters, budgets, score)


def _hack(draw, plan):
    scales, depth = _of_one_model(draw, plan)
    contextual = {layer: draw(st.sampled_from([[0], [1], [0, 1]])) for layer in range(depth)}
    score = draw(st.sampled_from(["heads", "random_heads", "random", "recent"]))
    budgets = draw(st.integers(1, 14)), draw(st.integers(1, 29))
    return methods.hack(plan, subset(draw, scales), contextual, *budgets, score)


MODIFIERS = [_unguided, _skipped, _pruned, _anchored, _windowed, _evicted, _quantised, _early]
MODIFIERS += [_ams_kv, _scalekv, _hack]


@st.composite
def modified_plans(draw, big, small, quantised=False):
    """Any of them with any modifiers, in any order; one that does not fit is left out."""
    plan = draw(base_plans(big, small, quantised))
    for modify in subset(draw, MODIFIERS, least=0):
        with suppress(ValueError):
            plan = modify(draw, plan)
    return plan


def neutral(plan):
    """Modifiers of the plan that leave nothing out, nor undo what it leaves out."""
    yield lambda plan: plans.unguided(plan, [])
    yield lambda plan: plans.skip_scales(plan, [])
    yield lambda plan: plans.early_exit(
        plan, {k: len(step.layers) for k, step in enumerate(plan.steps, 1)}
    )
    if not any(step.tokens for step in plan.steps):
        yield lambda plan: plans.prune_tokens(plan, {2: 0.0, 3: 0.0, 4: 0.0}, restore_from=1)
        yield lambda plan: plans.prune_tokens(plan, {3: 0.0}, None, "sparsevar", 2)
    if not any(step.cache.rules for step in plan.steps):
        yield lambda plan: plans.keep_cache(plan, first=K, last=0)
        yield lambda plan: plans.keep_cache(plan, first=0, last=K)
        yield from (lambda plan, s=score: plans.evict_cache(plan, 30, s) for score in SCORES)
    if all(step.cache.bits == 16 for step in plan.steps):
        yield lambda plan: plans.quantise_cache(plan, 16)
