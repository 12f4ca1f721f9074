"""What a case leaves out: read from strings, in its label, in its plan."""

from __future__ import annotations

import pytest

from bench.methods.meta import meta_plan
from bench.predict.prediction import predict
from bench.study.cases import make_case
from bench.study.errors import UsageError
from codevar.plan import early_exit, evict_cache, keep_cache, original, prune_tokens
from tests import tiny

D16 = {"method": "var", "depth": 16, "device": "cpu", "precision": "float32"}


def plan_of(**keys):
    return meta_plan(make_case(D16 | keys))


def test_every_key_is_the_modifier_of_its_name():
    plan = plan_of()
    fastvar = plan_of(prune="fastvar 9:0.4,10:0.5 from 8 in 1-14")
    assert fastvar == prune_tokens(plan, {9: 0.4, 10: 0.5}, range(1, 15), restore_from=8)
    assert plan_of(prune="random 10:0.5 zeros") == prune_tokens(plan, {10: 0.5}, None, "random")
    assert plan_of(cache_policy="window 2+1") == keep_cache(plan, 2, 1)
    assert plan_of(cache_policy="random 64 in 1,3") == evict_cache(plan, 64, "random", [1, 3])
    assert plan_of(early_exit="9:12,10:8") == early_exit(plan, {9: 12, 10: 8})
    assert [s.skip for s in plan_of(skip_scales="7,9-10").steps] == [
        k in (7, 9, 10) for k in SCALES
    ]
    assert [s.guided for s in plan_of(guidance_off_from=9).steps] == [k < 9 for k in SCALES]
    assert {s.cache.bits for s in plan_of(cache_bits=8).steps} == {8}
    assert [plan_of(weight_bits=b).models[0].weight_bits for b in (16, "W8A8")] == [16, "W8A8"]
    assert plan == original(plan.models[0])


SCALES = range(1, 11)


def test_the_label_says_what_is_left_out():
    keys = {"guidance_off_from": 9, "cache_policy": "window 2+1", "cache_bits": 4}
    case = make_case(D16 | {"method": "code", "draft_steps": 8} | keys)
    assert case.label == ("CoDe N=8 (d16+d16), no guidance from 9, cache window 2+1, int4 cache")
    labels = [make_case(D16 | {"weight_bits": bits}).label for bits in (16, "W8A8", "W8A16")]
    assert labels == ["VAR-d16", "VAR-d16, W8A8", "VAR-d16, W8A16 emulated"]


def test_weights_in_8_bits_weigh_less_and_do_the_same_work():
    whole, less = (predict(make_case(D16 | {"weight_bits": bits})) for bits in (16, "W8A8"))
    assert whole.flops == less.flops  # AdaLN, the head and the VQVAE stay as they are
    ratio = less.params_bytes / whole.params_bytes
    assert ratio == pytest.approx(0.64, abs=0.01)


def test_half_the_rows_of_the_last_two_scales_are_much_of_the_work():
    whole, off = (
        sum(predict(make_case(D16 | keys)).flops) for keys in ({}, {"guidance_off_from": 9})
    )
    assert whole / off == pytest.approx(1.45, abs=0.02)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"prune": "fastvar 9:0.4"}, 'prune must be like "fastvar'),
        ({"prune": "nearest 9:0.4 zeros"}, "selector must be one of fastvar, random"),
        ({"prune": "fastvar 9:1.0 zeros"}, "drop must be at least 0 and below 1"),
        ({"prune": "fastvar 1:0.5 zeros"}, "scale 1 cannot be pruned"),
        ({"prune": "fastvar 9:0.4 from 9"}, "cannot restore scale 9 from scale 9"),
        ({"prune": "fastvar 9:0.4 from 10"}, "cannot restore scale 9 from scale 10"),
        ({"prune": "fastvar 8:0.1,9:0.4 from 8"}, "cannot restore"),
        ({"prune": "fastvar 9:0.4 from 8", "skip_scales": "8"}, "cannot restore scale 9"),
        ({"cache_policy": "observed 16"}, "budget must be 17 tokens or more, not 16"),
        ({"cache_policy": "h2o 64"}, "score must be one of"),
        ({"cache_policy": "window 2"}, 'cache_policy must be like "window 2+1"'),
        ({"cache_bits": 3}, "cache_bits"),
        ({"weight_bits": 8}, "weight_bits must be 16, 'W8A16' or 'W8A8', not 8"),
        ({"skip_scales": "1"}, "scale 1 cannot be skipped"),
        ({"skip_scales": "1-10"}, "scale 1 cannot be skipped"),
        ({"skip_scales": "11"}, "scale must be 1..10"),
        ({"early_exit": "9:17"}, "depth must be 1..16"),
        ({"guidance_off_from": 11}, "guidance_off_from must be 1..10"),
        ({"guidance_off_from": 9, "cfg": 0}, "guidance_off_from: there is no guidance"),
        (
            {"prune": "fastvar 9:0.4 from 8", "cache_policy": "observed 64"},
            "layer 0 is pruned, so its cache cannot be observed",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_anything_runs(keys, says):
    with tiny.refused(says, error=UsageError):
        plan_of(**keys)
