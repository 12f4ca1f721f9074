"""The composition map: pairs are found by what sets their cases apart, and held against each."""

from __future__ import annotations

import pandas as pd
import pytest

from bench.figures import registry
from bench.study import experiment
from bench.study.errors import UsageError
from bench.tables import composition, frames
from bench.tables.case_rows import NoDataError
from bench.tables.composition import Pair
from bench.tables.frames import Run

FILE = """
title = "Pairs"
controls = false
baseline = { method = "var" }
[defaults]
weights = "mini"
sampling = "mini"
precision = "float32"
device = "cpu"
[[cases]]
method = "var"
[[cases]]
method = "var"
guidance_off_from = 9
[[cases]]
method = "var"
cache_bits = 8
[[cases]]
method = "code"
draft_steps = 8
[[cases]]
method = "var"
guidance_off_from = 9
cache_bits = 8
[[cases]]
method = "code"
draft_steps = 8
guidance_off_from = 9
"""
OFF, INT8, CODE = "no guidance from 9", "int8 cache", "CoDe N=8 (d12+d4)"
FIGURES = {  # speed-up, FID difference, its half-width
    "VAR-d12": (1.0, None, None),
    "VAR-d12, no guidance from 9": (1.5, 1.0, 0.3),
    "VAR-d12, int8 cache": (0.9, 0.5, 0.4),
    "CoDe N=8 (d12+d4)": (2.0, 2.0, 0.5),
    "VAR-d12, no guidance from 9, int8 cache": (1.35, 1.5, 0.0),
    "CoDe N=8 (d12+d4), no guidance from 9": (2.4, 6.0, 0.0),
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "pairs.toml").write_text(FILE)
    found = Run(experiment.load(str(tmp_path / "pairs.toml")))
    rows = []
    for case in found.sweep.cases:
        speed, loss, half = FIGURES[case.label]
        row = {"method": case.label, "speedup": speed, "fid_difference": loss}
        if loss is not None:
            row |= {"fid_difference_low": loss - half, "fid_difference_high": loss + half}
        rows.append(row)
    monkeypatch.setattr(frames, "frame", lambda run: pd.DataFrame(rows))
    return found


def test_a_pair_is_held_against_the_product_and_the_sum_of_each_alone(run):
    names, pairs = composition.pairs_of(run)
    assert names == [OFF, INT8, CODE]
    assert pairs == [
        Pair(OFF, INT8, speed=pytest.approx(1.0), loss=0.0, loss_within=pytest.approx(0.5)),
        Pair(OFF, CODE, speed=pytest.approx(0.8), loss=3.0, loss_within=pytest.approx(0.34**0.5)),
    ]
    text = composition.table(run).text
    assert text["one"].tolist() == [OFF, OFF]
    assert text["FID loss - sum"].tolist() == ["+3.00 ± 0.58", "+0.00 ± 0.50"]


def test_its_picture_has_speed_above_the_diagonal_and_loss_below(run):
    drawn = registry.figures()["composition"].draw(run, [])
    where = {t.get_text(): t.get_position() for t in drawn.axes[0].texts}
    assert where["0.80"] == (2, 0)
    assert where["+3.00\n±0.58"] == (0, 2)


def test_a_run_without_pairs_is_one_line():
    alone = Run(experiment.load("mini_table1"))
    with pytest.raises(UsageError, match="no two methods alone and together"):
        composition.pairs_of(alone)
    with pytest.raises(NoDataError):
        registry.figures()["composition"].draw(alone, [])


def test_every_pair_of_the_experiment_is_one():
    sweep = experiment.load("mini_pairs")
    sizes = [len(composition.parts_of(case, sweep.cases[0])) for case in sweep.cases]
    assert sizes[0] == 0
    assert sizes[1:10] == [1] * 9
    assert sizes[10:] == [2] * 32
