"""What a plan makes its models do, pass by pass and layer by layer."""

from __future__ import annotations

import pytest

import codevar
from codevar.plan import code, original, subnet, swap_scale, variant
from codevar.work import room, work
from tests import tiny

GROWING, STATIC = codevar.stack("published"), codevar.stack("modern")


@pytest.fixture(scope="module")
def d30():
    return tiny.on_meta(30)


@pytest.fixture(scope="module")
def d16():
    return tiny.on_meta(16)


def of_model(plan, model, stack=STATIC):
    return [p for p in work(plan, 1, stack) if p.model is model]


def test_passes_read_what_the_model_has_missed(d30, d16):
    plan = swap_scale(d30, d16, scale=4)
    assert [(p.scales[0], p.scale) for p in of_model(plan, d16)] == [(0, 3)]
    passes = of_model(plan, d30)
    assert [(p.scales[0], p.scale) for p in passes][2:5] == [(2, 2), (3, 4), (5, 5)]
    assert [p.is_first for p in passes] == [True] + [False] * 8
    assert [p.is_last for p in passes] == [False] * 8 + [True]


def test_a_layer_attends_to_what_it_has_itself_cached(d30):
    *_, last = work(variant(d30, depth=2, bridge_scales=6), 3, STATIC)
    assert [(v.layer, v.rows, v.queries, v.past) for v in last.visits] == [
        (0, 6, 256, 424),
        (29, 6, 256, 424),
    ]
    back = subnet(d30, depth=2, scales=range(4, 7))
    _, layer_1, *_ = work(back, 1, STATIC)[6].visits
    assert (layer_1.past, layer_1.queries) == (1 + 4 + 9, 64)  # scales 4 to 6 never reach it


def test_modern_computes_adaln_once_and_the_published_code_in_each_pass(d30):
    plan = variant(d30, depth=2, bridge_scales=1)
    rows = lambda stack: [sum(v.conditions for v in p.visits) for p in work(plan, 1, stack)]  # noqa: E731
    assert rows(STATIC) == [60] + [0] * 9
    assert rows(GROWING) == [60] + [4] * 9


@pytest.mark.parametrize("N", [6, 9])
def test_the_published_refiner_has_logits_of_all_that_it_reads_at_the_hand_over(d30, d16, N):
    """CoDe's code, `autoregressive_infer_cfg_refine`: `get_logits(x)` of the draft too."""
    plan, maps = code(d30, d16, N), d30.scales.tokens
    of_draft = sum(maps[:N])
    assert [(p.logit_rows, p.logit_tokens) for p in work(plan, 4, STATIC)] == [(4, n) for n in maps]
    found = [(p.logit_rows, p.logit_tokens) for p in work(plan, 4, GROWING)]
    assert found == [(8, n + of_draft * (k == N)) for k, n in enumerate(maps)]


# What is cached


@pytest.mark.parametrize(
    ("plan_of", "batch", "mib"),
    [
        (lambda d30, d16: original(d30), 64, 28687.5),
        (lambda d30, d16: variant(d30, 16, 7), 64, 18351.6),
        (lambda d30, d16: variant(d30, 2, 6), 64, 5495.6),
        (lambda d30, d16: variant(d30, 8, 6), 128, 20930.6),
        (lambda d30, d16: variant(d30, 2, 6), 128, 10991.2),
        (lambda d30, d16: variant(d30, 2, 6), 256, 21982.5),
    ],
)
def test_cached_tokens_give_the_papers_kv_figures(d30, d16, plan_of, batch, mib):
    assert kv_mib(plan_of(d30, d16), d30, batch) == pytest.approx(mib, abs=0.1)


@pytest.mark.parametrize("N", [1, 6, 9])
def test_refiner_caches_the_draft_too(d30, d16, N):
    assert kv_mib(code(d30, d16, N), d16, 64) == pytest.approx(8160.0, abs=0.1)


def kv_mib(plan, model, batch):
    """Both halves of guidance; float32 keys and half-precision values."""
    return 2 * batch * model.config.width * (4 + 2) * sum(cached(plan, model)) / 2**20


def cached(plan, model, stack=GROWING):
    """Tokens in the published cache in the end, by layer."""
    kept = room(work(plan, 1, stack), model)
    return [kept.get((layer, 0), (0, 0))[1] for layer in range(model.config.depth)]


def read_again(plan, model):
    """Tokens in a cache that is allocated once, by layer."""
    return cached(plan, model, STATIC)


def test_drafter_caches_its_own_scales_only(d30, d16):
    assert set(cached(code(d30, d16, draft_steps=6), d30)) == {91}


def test_a_layer_left_out_caches_nothing(d30):
    assert cached(variant(d30, depth=2, bridge_scales=6), d30) == [680, *[91] * 28, 680]


def test_a_layers_last_pass_is_not_read_again(d30, d16):
    assert set(read_again(original(d30), d30)) == {680 - 256}
    assert read_again(variant(d30, depth=2, bridge_scales=6), d30) == [424, *[55] * 28, 424]
    plan = code(d30, d16, draft_steps=6)
    assert set(read_again(plan, d30)) == {91 - 36}
    assert set(read_again(plan, d16)) == {680 - 256}
    assert set(read_again(code(d30, d16, draft_steps=9), d16)) == {0}


def test_a_swapped_scale_is_cached_by_both_models(d30, d16):
    plan = swap_scale(d30, d16, scale=4)
    assert (set(cached(plan, d30)), set(cached(plan, d16))) == ({680}, {30})
