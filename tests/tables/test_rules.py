"""How often the rules err: the simulation of docs/notes/rules-error-rates.md, smaller."""

from __future__ import annotations

import pytest

from bench.tables import rules
from benchmarks import rules_error_rates as simulated

WIDTH, LIKE = 8, 0.95  # of fewer features, so that it is quick


@pytest.mark.parametrize("kind", ["shifted", "failures"])
def test_a_planted_loss_never_passes_and_what_loses_nothing_does(kind):
    plants = nothing, some, much = [(kind, loss, LIKE) for loss in (0.0, 0.08, 0.25)]
    passed, fids = simulated.submissions(plants, 20, WIDTH)
    strict, loose = rules.LOSSES
    found = [fids[plant] / fids["baseline"] - 1 for plant in plants]
    assert found == pytest.approx([0.0, 0.08, 0.25], abs=0.03)
    assert passed[*nothing, strict] >= 16
    assert passed[*some, strict] == 0
    assert passed[*some, loose] == 20
    assert passed[*much, loose] == 0


def test_a_method_that_is_no_faster_is_shown_to_be_so_in_under_1_percent():
    assert simulated.speeds(1.0, 3, 2000) < 0.01
    assert simulated.speeds(1.3, 3, 500) > 0.95


def test_images_of_other_seeds_and_too_few_images_meet_no_gate():
    better = {"fid": [-0.2, -0.1]}
    found = {
        "paired": True,
        "metrics": {"fid": 4.0},
        "differences": {"fid": -0.15},
        "difference_intervals": better,
        "distances": {"psnr_db": {"interval": (34.9, 35.1)}},
    }
    assert rules.gates(found, 10_000) == [*rules.LOSSES, rules.SAME_SEED]
    assert rules.gates(found, 9_999) == []
    assert rules.gates({**found, "paired": False}, 10_000) == []
