"""A plan as data comes back the same, fits models of other sizes, and is checked as it is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings

from codevar.plan import Plan, code, evict_cache, prune_tokens, skip_scales, subnet, unguided
from codevar.spans import read_spans, write_spans
from tests import tiny
from tests.random_plans import modified_plans

BIG, SMALL = tiny.var(3), tiny.var(2, seed=1)
K = BIG.scales.K
ALL = f"1-{K}"


@settings(deadline=None, max_examples=100, derandomize=True)
@given(modified_plans(BIG, SMALL))
def test_every_plan_comes_back_from_its_json(plan):
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict())), plan.models) == plan


def test_it_is_short_where_scales_are_alike():
    plan = skip_scales(code(BIG, subnet(SMALL, 2, [3, 4]), 2), [K])
    assert plan.to_dict() == {
        "steps": [
            {"scales": "1-2"},
            {"scales": "3", "model": 2},
            {"scales": "4", "model": 2, "skip": True},
        ]
    }


def test_a_relative_plan_fits_a_deeper_model():
    deep = tiny.var(6, seed=2)
    plan = unguided(evict_cache(subnet(BIG, 2, [3]), 20), [4])
    shares = plan.to_dict(relative=True)
    assert Plan.from_dict(shares, [BIG]) == plan
    deeper = Plan.from_dict(shares, [deep])
    assert [len(step.layers) for step in deeper.steps] == [6, 6, 4, 6]
    assert [step.guided for step in deeper.steps] == [True, True, True, False]
    assert deeper.steps[0].cache.rules[0].budget == 20


def test_what_is_of_one_depth_alone_is_not_relative():
    with pytest.raises(ValueError, match="no even spread"):
        Plan.from_dict({"steps": [{"scales": ALL, "layers": "0-1"}]}, [BIG]).to_dict(relative=True)
    with pytest.raises(ValueError, match="some layers only"):
        prune_tokens(BIG, {4: 0.5}, layers=[1]).to_dict(relative=True)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([], 'a plan must be {"steps": [...]}, not []'),
        ({"steps": "1-4"}, 'a plan must be {"steps": [...]}'),
        ({"steps": [{"scales": "1-3"}]}, f"the steps must be of scales 1-{K}, not 1-3"),
        ({"steps": [{"scales": "1-9"}]}, f"the steps must be of scales 1-{K}, not 1-9"),
        ({"steps": [{"scales": ALL}, {"scales": "2"}]}, "scale 2 is told twice"),
        ({"steps": [{"scales": "x"}]}, "scales 'x': must be like 7-10 or 1-3,5, not 'x'"),
        ({"steps": [{"scales": "1-99999999999"}]}, "is more than 10,000 numbers"),
        ({"steps": [{}]}, "scales None: must be like"),
        ({"steps": [7]}, "a step has the keys scales, model, layers"),
        ({"steps": [{"scales": ALL, "depth": 3}]}, "a step has the keys scales, model, layers"),
        ({"steps": [{"scales": ALL, "model": 2}]}, "model must be 1..1, not 2"),
        ({"steps": [{"scales": ALL, "model": "big"}]}, "model must be a whole number"),
        ({"steps": [{"scales": ALL, "layers": 0.0}]}, "layers must be a share in (0, 1]"),
        ({"steps": [{"scales": ALL, "layers": "0-3"}]}, "layers must rise within 0..2"),
        ({"steps": [{"scales": ALL, "guided": 1}]}, "guided must be true or false, not 1"),
        ({"steps": [{"scales": ALL, "skip": True}]}, "scale 1 cannot be skipped"),
        ({"steps": [{"scales": ALL, "tokens": {"share": 0.5}}]}, "must have the keys drop"),
        ({"steps": [{"scales": ALL, "cache": {"rules": [{"budget": 1.5}]}}]}, "a share in (0, 1]"),
        ({"steps": [{"scales": ALL, "cache": {"keep": 2}}]}, "cache has the keys bits, rules"),
    ],
)
def test_what_cannot_be_is_one_line(data, told):
    with pytest.raises(ValueError) as error:
        Plan.from_dict(data, [BIG])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_spans_are_read_as_they_are_written():
    assert read_spans("1,3-5") == [1, 3, 4, 5]
    assert write_spans([1, 3, 4, 5]) == "1,3-5"
    assert write_spans([7]) == "7"
