"""Published methods as settings: the numbers their papers and codes print."""

from __future__ import annotations

import pytest

import codevar
from codevar import methods
from codevar.work import work
from tests import tiny


@pytest.fixture(scope="module")
def d16():
    return tiny.on_meta(16)


@pytest.mark.parametrize(
    ("drafters", "budget", "refiner"),
    [(2, 920, 632), (2, 1490, 594), (2, 2510, 526), (2, 4100, 420), (1, 6385, 465)],
)
def test_scalekvs_budgets_are_those_shipped_for_infinity(drafters, budget, refiner):
    assert methods.refiner_budget(32, 650, drafters, budget) == refiner


def test_scalekvs_layers_keep_their_budgets(d16):
    plan = methods.scalekv(d16, (8, 9), 100, {k: [0, 9] for k in (8, 9)}, {8: 170, 9: 240})
    passes = work(plan, 1, codevar.stack("published"))
    kept = [[visit.heads[0].kept for visit in p.visits] for p in passes]
    assert (kept[7][0], kept[7][1], kept[8][9], kept[8][8]) == (170, 90, 240, 80)


def test_fastvar_prunes_the_last_two_scales_in_the_middle_layers(d16):
    *_, ninth, last = work(methods.fastvar(d16), 1, codevar.stack("modern"))
    assert [visit.queries for visit in ninth.visits] == [169] * 2 + [102] * 12 + [169] * 2
    assert [visit.queries for visit in last.visits] == [256] * 2 + [128] * 12 + [256] * 2


def test_ams_kv_keeps_two_scales_and_a_window(d16):
    *_, last = work(methods.ams_kv(d16, demanding=[3]), 1, codevar.stack("modern"))
    past = [visit.past for visit in last.visits]
    assert set(past) == {1 + 4 + 169, 1 + 4 + 100 + 169}
    assert past[3] == 1 + 4 + 100 + 169


def test_a_guidance_interval_is_guided_inside_alone(d16):
    plan = methods.guidance_interval(d16, 4, 7)
    assert [k for k, step in enumerate(plan.steps, 1) if step.guided] == [4, 5, 6, 7]
