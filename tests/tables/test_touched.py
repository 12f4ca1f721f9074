"""What leaving something out saves of what it should, and controls beside what they control."""

from __future__ import annotations

import pytest

from bench.study import experiment
from bench.tables.frames import Run
from bench.tables.tables import measured
from bench.tables.touched import touched_scales
from tests.synthetic import ENV, fake_run

TOML = """
title = "mine"
baseline = { leaves_out = "nothing" }
[defaults]
batch_size = 1
depth = 16
stack = "modern"
precision = "float32"
[[cases]]
method = "var"
[[cases]]
method = "var"
guidance_off_from = 9
[[cases]]
method = "var"
prune = "fastvar 9:0.4,10:0.5 from 8 in 1-13"
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.toml").write_text(TOML)
    return str(tmp_path / "mine.toml")


def test_each_touched_scale_is_held_against_the_rows_that_are_left(mine):
    run = fake_run(mine)
    for record in run.records:  # each scale takes a second; an unguided one 0.6
        off = record.case.get("guidance_off_from") is not None
        seconds = [0.6 if off and k >= 8 else 1.0 for k in range(10)]
        record.samples.scale_latency_s = [seconds]
        record.samples.latency_s = [sum(seconds)]
    rows = touched_scales(Run(run.sweep, run.records, env=ENV)).data.to_dict("records")
    off = [row for row in rows if row["method"] == "VAR-d16, no guidance from 9"]
    assert [row["scale"] for row in off] == ["9", "10", "all"]
    assert [(row["left"], row["ratio"]) for row in off[:2]] == [("0.500", "1.20!")] * 2
    assert off[2]["saved of predicted"] == "25%"  # 8 % of the time, of 31 % of the FLOPs
    pruned = [row for row in rows if row["method"] == "VAR-d16, fastvar 9:0.4,10:0.5"]
    assert [row["scale"] for row in pruned] == ["8", "9", "10", "all"]  # 8 keeps what is restored
    assert pruned[1]["left"] == f"{(13 * 102 / 169 + 3) / 16:.3f}"


def test_what_has_a_method_has_its_controls_and_the_table_says_which(mine):
    text = measured(fake_run(mine)).text
    controls = dict(zip(text["method"], text["control of"], strict=True))
    assert controls["VAR-d16, random 9:0.4,10:0.5"] == "fastvar 9:0.4,10:0.5"
    assert controls["VAR-d16, fastvar 9:0.4,10:0.5 zeros"] == "fastvar 9:0.4,10:0.5"
    assert controls["VAR-d16, without scale 9"] == "no guidance from 9; fastvar 9:0.4,10:0.5"
    assert controls["VAR-d16, seed 1"].startswith("no guidance from 9")
    assert not controls["VAR-d16, no guidance from 9"]
    order = [*text["method"]]
    assert order.index("VAR-d16, random 9:0.4,10:0.5") == 1 + order.index(
        "VAR-d16, fastvar 9:0.4,10:0.5"
    )
    assert len(experiment.load(mine, ["controls=false"]).cases) == 3
