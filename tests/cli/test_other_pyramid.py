"""A model of thirteen token maps is predicted, measured, drawn and reported like one of ten."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from bench.cli.app import app
from codevar import VAR, VARConfig
from codevar.files import var_config
from tests import tiny

MAPS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
METHODS = """
title = "Thirteen scales"
samples = 2
rounds = 1
warmup = 0
max_seconds = 0.1
[defaults]
depth = 3
device = "cpu"
precision = "float32"
stack = "modern"
sampling = "mini"
weights = "mini:{file}"
[[cases]]
method = "var"
[[cases]]
method = "variant"
subnet_depth = 2
bridge_scales = 11
[[cases]]
method = "subnet"
subnet_depth = 2
scales = "12-13"
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Seeded weights of a VAR of thirteen maps, which says its pyramid as trained ones do."""
    shipped = var_config("mini_small")
    config = VARConfig(
        depth=3,
        width=48,
        heads=2,
        classes=shipped.classes,
        vocab=shipped.vocab,
        channels=shipped.channels,
        patch_sizes=MAPS,
    )
    weights = tiny.state_dict(VAR, config) | {"lvl_1L": config.scales.level_of_token()[None]}
    path = tmp_path_factory.mktemp("weights") / "thirteen.pth"
    torch.save(weights, path)
    return path


@pytest.fixture
def experiment(tmp_path, file):
    path = tmp_path / "thirteen.toml"
    path.write_text(METHODS.format(file=file))
    return path


def said(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def test_thirteen_maps_are_predicted_measured_drawn_and_reported(experiment, tmp_path):
    predicted = json.loads(said("predict", experiment, "--format", "json"))
    assert [row["steps"] for row in predicted] == ["13", "11+2", "13"]
    assert [len(row["kv_cache_by_scale_mib"]) for row in predicted] == [13, 13, 13]
    run = tmp_path / "run"
    said("run", experiment, "--out", run)
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    assert [record["status"] for record in records] == ["ok"] * 3
    assert {len(s) for r in records for s in r["samples"]["scale_latency_s"]} == {13}
    measured = json.loads(said("table", run, "--format", "json"))
    assert all(
        row["kv_cache_by_scale_mib"] == told["kv_cache_by_scale_mib"]
        for row, told in zip(measured, predicted, strict=True)
    )
    said("plot", run, "--out", tmp_path / "plots", "--figure", "scales", "--figure", "timeline")
    drawn = {picture.stem for picture in (tmp_path / "plots").rglob("*.png")}
    assert len(drawn) == 2
    said("report", run, "--out", tmp_path / "page.html")
    assert "by scale, 1 to 13" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("bridge_scales=14", "bridge_scales must be 0..13, not 14"),
        ("scales=12-14", "in 1..13, not '12-14'"),
    ],
)
def test_a_scale_is_held_against_the_models_own_pyramid(experiment, change, line):
    done = CliRunner().invoke(app, ["predict", str(experiment), "--set", change])
    assert done.exit_code == 2
    assert line in done.output
