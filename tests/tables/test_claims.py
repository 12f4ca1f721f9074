"""What the papers claim, as `bench.py claims` decides it."""

from __future__ import annotations

import math

import pytest

from bench.study import experiment
from bench.tables import claims
from bench.tables.frames import Run
from tests.synthetic import fake_evaluation


@pytest.mark.parametrize("claim", claims.read(), ids=lambda claim: claim.says)
def test_every_claim_is_the_papers_and_can_be_measured(claim):
    sweep = experiment.load(claim.experiment)
    for keys in (claim.better, claim.worse):
        of_keys = [
            case
            for case in sweep.cases
            if all(str(getattr(case, key, None)) == text for key, text in keys.items())
        ]
        assert len(of_keys) == 1
    if claim.paper:
        assert claim.printed(claim.paper_better) < claim.printed(claim.paper_worse)


def test_a_claim_is_decided_by_the_paired_difference():
    """The sets' own intervals overlap by far; what one has worse the other has worse too."""
    sweep = experiment.load("mini_variant_table1")
    by_scales = {getattr(case, "scales", ""): case for case in sweep.cases}
    late, early = by_scales["7-10"], by_scales["1-3"]
    luck = [math.sin(7 * i) for i in range(50)]

    def known(case, fid):
        own = {"intervals": {"fid": (fid - 3, fid + 3)}}
        own["replicates"] = {"fid": [fid + one for one in luck]}
        return fake_evaluation(case, images=500, fid=fid).model_copy(update=own)

    def row(*found):
        printed = claims.table(lambda name: [Run(experiment.load(name), evaluations=[*found])])
        return next(r for r in printed.data.to_dict("records") if "early" in r["claim"])

    assert row()["verdict"] == "not measured"
    assert row(known(late, 5.0), known(early, 6.0))["verdict"] == "holds"
    assert row(known(late, 6.0), known(early, 5.0))["verdict"] == "does not hold"


def test_what_is_not_resolved_says_what_would_resolve_it():
    assert claims.verdict((-2.0, 1.0)) == "not resolved"
    assert claims.images_to_decide(-0.5, (-2.0, 1.0), 500) == 4500
    assert [claims.at_least(n) for n in (4501, 99, math.inf)] == ["4,600", "99", "over 1,000,000"]
