"""`bench.py reproduce`: experiments that share sample sets, and what is refused before sampling."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from bench.cli import app, targets
from bench.cli import reproduce as reproduce_cli
from bench.measure import machine
from bench.quality import features, reproduce, sampling
from bench.study import evaluations
from bench.study.cases import make_case
from tests import ten_scales

torch.set_num_threads(1)
ENV = {"machine": "here", "commit": None, "dirty": None, "packages": {"torch": "2"}}
ENV |= {"gpus": [], "cpu": "a CPU"}

EXPERIMENT = """
title = "Some cases"
[defaults]
depth = 3
stack = "modern"
precision = "float32"
weights = "{weights}"
[[cases]]
method = "var"
[[cases]]
method = "code"
refiner_depth = 2
draft_steps = [{draft_steps}]
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return ten_scales.write(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def bench(tmp_path, monkeypatch, weights):
    """`bench.py reproduce` of experiments `one` and `two`, which have a case in common."""
    monkeypatch.setattr(machine, "environment", lambda: ENV)
    monkeypatch.setattr(features, "default_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(targets, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(reproduce_cli, "ROOT", tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    for name, steps in (("one", 8), ("two", 9)):
        text = EXPERIMENT.format(weights=weights, draft_steps=steps)
        (tmp_path / f"{name}.toml").write_text(text)

    def call(*words):
        always = ["--device", "cpu", "--no-speed", "--bootstrap", "0", "--reference"]
        command = ["reproduce", *always, "mini:test:150", *map(str, words)]
        return CliRunner().invoke(app.app, command)

    return call


def test_a_case_of_two_experiments_is_sampled_and_evaluated_once(bench, tmp_path, monkeypatch):
    words = ["one.toml", "two.toml", "--per-class", 13]
    result = bench(*words)
    assert result.exit_code == 0, result.output
    home = tmp_path / "results" / "here"
    assert len(list((home / "samples").iterdir())) == 3
    lines, complaints = evaluations.read(home / evaluations.FILE)
    assert not complaints
    told = {line["label"]: f"{line['metrics']['fid']:.2f}" for line in lines}
    assert len(lines) == len(told) == 3
    assert all(result.stdout.count(f"{fid} ") for fid in told.values())
    monkeypatch.setattr(sampling, "make", lambda *_: pytest.fail("sampled again"))
    assert bench(*words).exit_code == 0
    assert len(evaluations.read(home / evaluations.FILE)[0]) == 3


def test_another_network_or_other_samples_are_evaluated_again(bench, tmp_path):
    words = ["one.toml", "--set", "method=var", "--per-class", 13, "--out", "out"]
    assert bench(*words).exit_code == 0
    other = tmp_path / "other.safetensors"
    tensors = {name: 2 * tensor for name, tensor in load_file(features.MINI_WEIGHTS).items()}
    with safe_open(features.MINI_WEIGHTS, "pt") as file:
        save_file(tensors, other, file.metadata())
    assert bench(*words, "--weights", other).exit_code == 0
    file = tmp_path / "out" / evaluations.FILE
    lines = evaluations.read(file)[0]
    assert len({line["extractor_sha256"] for line in lines}) == len(lines) == 2
    file.write_text("".join(json.dumps(e | {"evaluated_at": "2026-01-01"}) + "\n" for e in lines))
    assert bench(*words).exit_code == 0  # sampled since
    assert len(evaluations.read(file)[0]) == 3


def test_sets_of_another_folder_are_used(bench, tmp_path, monkeypatch):
    kept = ["--per-class", 13, "--samples", tmp_path / "sets"]
    assert bench("one.toml", "--set", "draft_steps=8", "--out", "first", *kept).exit_code == 0
    assert len(list((tmp_path / "sets").iterdir())) == 2
    monkeypatch.setattr(sampling, "make", lambda *_: pytest.fail("sampled again"))
    assert bench("one.toml", "--out", "second", *kept).exit_code == 0
    (line, _) = (json.loads(text) for text in (tmp_path / "second/evaluations.jsonl").open())
    assert line["images"] == 130


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--per-class 12", "120 images of VAR-d3 are too few for a FID over 128 features, which "),
        ("--per-class 12", "which need 129: --per-class 13"),
        ("--per-class 28 --bootstrap 20", "a FID and its interval over 128 features, which need 2"),
        ("--per-class 13 --reference mini:test:128", "128 images are too few"),
        ("--per-class 13 --reference mini:test:128", "give more than 128"),
        ("--per-class 13 --reference mini:nope", "the mini world has train, test"),
        ("--per-class 13 --reference a.npz", "Inception's weights"),
        ("--per-class 13 --set weights=nowhere", "nowhere/var_d3.pth"),
        ("--per-class 13 --set weights=seeded", "VAR-d3: random weights have no quality; --set "),
        ("--per-class 13 one.toml two.toml more/one.toml", "two experiments of this name"),
    ],
)
def test_what_gives_no_figure_is_refused_before_sampling(bench, tmp_path, words, line):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "one.toml").write_text((tmp_path / "one.toml").read_text())
    result = bench("one.toml", *words.split())
    assert result.exit_code == 2
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("values", "classes", "side"),
    [
        ({"method": "var"}, 1000, 256),
        ({"method": "var", "depth": 36, "weights": "published"}, 1000, 512),
        ({"method": "var", "depth": 12, "weights": "mini"}, 10, 48),
    ],
)
def test_sizes_are_told_without_weights(values, classes, side):
    assert reproduce.sizes(make_case(values)) == (classes, side)
