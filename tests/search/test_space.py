"""Searched plans as data: valid for any models, and as the papers have theirs."""

from __future__ import annotations

import random
import shutil

import pytest

from bench.search.space import plan_of, published, savings
from bench.search.target import Target
from bench.study import cases, plugins
from bench.study.folders import CODE
from codevar import plan
from codevar.plan import Plan
from tests import tiny

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12)
SAVINGS = savings(SIZES, small=True)


@pytest.fixture(scope="module")
def models():
    """Two pairs of other depths."""
    deep = [tiny.var(depth, patch_sizes=SIZES) for depth in (7, 4, 12, 3)]
    return deep[:2], deep[2:]


def test_any_savings_are_a_plan_of_any_models(models):
    draw = random.Random(0)
    for _ in range(200):
        chosen = draw.sample(SAVINGS, draw.randrange(len(SAVINGS)))
        steps = plan_of(chosen, len(SIZES))
        assert steps == plan_of(reversed(chosen), len(SIZES))
        for pair in models:
            Plan.from_dict({"steps": steps}, pair)
    for steps in published(len(SIZES), small=True).values():
        Plan.from_dict({"steps": steps}, models[0])


def test_savings_make_the_plans_of_the_papers(models):
    large, small = models[0]
    by_name = {saving.name: saving for saving in SAVINGS}

    def made(*names):
        steps = plan_of([by_name[name] for name in names], len(SIZES))
        return Plan.from_dict({"steps": steps}, models[0])

    assert made() == plan.original(large)
    assert made("model 0 at 9-10") == plan.code(large, small, 8)
    assert made("model 0 at 1-8") == plan.code(small, large, 8)
    assert made("guided 0 at 10", "skip 0 at 9") == plan.unguided(
        plan.skip_scales(large, [9]), [10]
    )
    assert made("tokens 0.6 at 9", "tokens 0.3 at 10") == plan.prune_tokens(
        large, {9: 0.4, 10: 0.7}, restore_from=8
    )
    assert made("bits 8 at 1-10", "cache 0 at 9") == plan.quantise_cache(
        plan.keep_cache(large, 2, 1, scales=[9]), 8
    )
    assert not any(saving.kind == "model" for saving in savings(SIZES, small=False))


def test_a_method_from_outside_is_one_to_beat(monkeypatch, tmp_path):
    """At its defaults, as shares, so that it fits any depth."""
    monkeypatch.setattr(cases, "_registered", dict(cases.methods()))
    monkeypatch.setenv(plugins.FILES, "")
    shutil.copy(CODE / "examples/my_method.py", tmp_path)
    cases.add_plugins([tmp_path / "my_method.py"])
    for text, label in (("mini,1,modern", "d12"), ("d30+d16,1,modern", "d30")):
        target = Target(text, {"flops": 1.0}, "cpu", "float32")
        steps = target.rivals()[f"Funnel N=7 -2 ({label})"]
        assert [step["scales"] for step in steps] == ["1-7", "8", "9", "10"]
        assert target.costs(steps)["flops"] < target.costs([{"scales": "1-10"}])["flops"]
