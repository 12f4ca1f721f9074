"""`bench.py reproduce`: experiments that share sample sets, and what is refused before sampling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from bench.cli import app, targets
from bench.cli import reproduce as reproduce_cli
from bench.measure import machine
from bench.quality import ablations, features, sampling
from bench.study import evaluations, experiment, storage
from bench.study.cases import make_case
from codevar.checkpoints import weights_sha256
from codevar.train import checkpoint, loop
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
    monkeypatch.setattr(reproduce_cli, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(reproduce_cli, "PLOTS", tmp_path / "plots")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    for name, steps in (("one", 8), ("two", 9)):
        text = EXPERIMENT.format(weights=weights, draft_steps=steps)
        (tmp_path / f"{name}.toml").write_text(text)

    def call(*words):
        always = ["--device", "cpu", "--no-speed", "--no-intervals", "--reference"]
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
    told = {line.label: f"{line.metrics['fid']:.2f}" for line in lines}
    assert len(lines) == len(told) == 3
    assert all(result.stdout.count(f"{fid} ") for fid in told.values())
    monkeypatch.setattr(sampling, "make", lambda *_: pytest.fail("sampled again"))
    assert bench(*words).exit_code == 0
    assert len(evaluations.read(home / evaluations.FILE)[0]) == 3


def test_every_case_is_compared_with_the_baseline_of_its_experiment(bench, tmp_path, monkeypatch):
    text = (tmp_path / "one.toml").read_text()
    text = text.replace("[defaults]", 'baseline = { method = "var" }\n[defaults]')
    (tmp_path / "based.toml").write_text(text)
    words = ["based.toml", "--per-class", 15, "--intervals", "--out", "out"]
    result = bench(*words)
    assert result.exit_code == 0, result.output
    lines, _ = evaluations.read(tmp_path / "out" / evaluations.FILE)
    (base,) = (line for line in lines if line.against is None)
    (other,) = (line for line in lines if line.against is not None)
    assert base.case["method"] == "var"
    assert other.against["case"] == base.case
    assert other.floor == pytest.approx(base.floor)  # of as many real images
    apart = other.metrics["fid"] - base.metrics["fid"]
    assert other.against["differences"]["fid"] == pytest.approx(apart)
    assert "FID - baseline's" in " ".join(result.stdout.split())
    assert bench(*words).exit_code == 0
    assert len(evaluations.read(tmp_path / "out" / evaluations.FILE)[0]) == 2
    with (tmp_path / "based.toml").open("a") as file:
        file.write("[[views]]\nshare = [0.1, 0.9]\n[[views]]\njpeg = 75\n")
        file.write('[[views]]\nreference = "mini:test:150-300"\n')
    result = bench(*words)
    assert result.exit_code == 0, result.output
    assert "left out: VAR-d3, the first 10% of the images" in result.output
    assert "VAR-d3: JPEG of quality 75: fid " in " ".join(result.output.split())
    assert "95 % of it" in " ".join(result.stdout.split())  # what each setting is worth
    seen = evaluations.read(tmp_path / "out" / evaluations.FILE)[0][2:]
    assert all(line.case is None for line in seen)  # tables link none of them
    share, jpeg, block = seen
    assert (share.images, share.reference_sha256) == (135, base.reference_sha256)
    assert 10 < jpeg.against["distances"]["psnr_db"]["mean"] < 100
    assert block.reference_sha256 != base.reference_sha256
    assert block.samples_sha256 == base.samples_sha256
    assert bench(*words).exit_code == 0
    assert len(evaluations.read(tmp_path / "out" / evaluations.FILE)[0]) == 5


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
    assert len({line.extractor_sha256 for line in lines}) == len(lines) == 2
    for line in lines:
        line.evaluated_at = "2026-01-01"
    storage.write_lines(file, lines)
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
        ("--per-class 13 --reference mini:test:128", "128 images are too few"),
        ("--per-class 13 --reference mini:test:128", "give more than 128"),
        ("--per-class 13 --reference mini:nope", "the mini world has train, test"),
        ("--per-class 13 --reference a.npz", "a.npz: No such file"),
        ("--per-class 13 --set weights=nowhere", "weights nowhere: no such folder"),
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
    assert sampling.sizes(make_case(values)) == (classes, side)


MISSING = """
title = "A model that does not ship"
[defaults]
depth = 4
stack = "modern"
precision = "float32"
sampling = "mini"
[[cases]]
method = "var"
weights = "mini:runs/tiny/{name}/model.safetensors"
"""
TRAINING = """
recipe = "perturb"
out = "runs/tiny/perturbed"
vqvae = "runs/tiny/vqvae/model.safetensors"
init = "runs/tiny/small/model.safetensors"
steps = 20
batch_size = 4
checkpoint_every = 1
[data]
source = "mini"
side = 48
images = 64
tokens = "runs/tiny/tokens"
[optimizer]
lr = 1e-4
"""


@pytest.fixture
def trainable(bench, tmp_path, monkeypatch):
    """An experiment whose model a config makes, from models that are not here either."""
    monkeypatch.setattr(ablations, "EXPERIMENTS", tmp_path / "experiments")
    (tmp_path / "experiments" / "train").mkdir(parents=True)
    (tmp_path / "experiments" / "train" / "perturb.toml").write_text(TRAINING)
    (tmp_path / "three.toml").write_text(MISSING.format(name="perturbed"))
    (tmp_path / "four.toml").write_text(MISSING.format(name="nobody"))
    return bench


def test_a_model_that_does_not_ship_is_trained_when_asked(trainable, tmp_path, monkeypatch):
    words = ["three.toml", "--per-class", 13]
    refused = trainable(*words)
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
    command = "`bench.py reproduce three.toml --train 0.2`"
    assert command in refused.stderr
    picture = CliRunner().invoke(app.app, ["grid", "three.toml", "-o", "grid.png"])
    assert (picture.exit_code, command in picture.stderr) == (2, True)
    assert not (tmp_path / "runs").exists()

    step = loop.Run._step

    def stopped(self, batches):
        if self.done == 3 and self.out == Path("runs/tiny/perturbed"):
            raise KeyboardInterrupt
        step(self, batches)

    monkeypatch.setattr(loop.Run, "_step", stopped)
    first = trainable(*words, "--train", 0.2)
    assert first.exit_code != 0
    assert "runs/tiny/perturbed: 4 steps of 4 images from mini_small" in first.stdout
    monkeypatch.setattr(loop.Run, "_step", step)

    second = trainable(*words, "--train", 0.2)
    assert second.exit_code == 0, second.output
    assert "runs/tiny/perturbed: 1 steps of 4" in second.stdout
    assert "perturb: on from step 3 of 4" in second.stdout
    card = checkpoint.read_card(tmp_path / "runs" / "tiny" / "perturbed")
    assert card["steps"] == 4
    assert card["init_sha256"] == weights_sha256("mini_small")
    (line,) = evaluations.read(tmp_path / "results" / "here" / "three" / evaluations.FILE)[0]
    assert line.images == 130

    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained again"))
    assert trainable(*words).exit_code == 0
    assert trainable(*words, "--train", 0.2).exit_code == 0


def test_a_model_that_no_config_makes_is_one_line(trainable, tmp_path):
    result = trainable("four.toml", "--per-class", 13, "--train", 0.2)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "runs/tiny/nobody/model.safetensors: no such file" in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "name", ["mini_code_perturbed", "mini_variant_table5", "mini_variant_figure7"]
)
def test_every_model_that_an_experiment_lacks_has_its_training(name):
    cases = [case for case in experiment.load(name).cases if case.weights.startswith("mini:")]
    files = [Path(file) for case in cases for file in case.model_names() if Path(file).suffix]
    made = {file for one in ablations.needed(files, 0.2) for file in one.files}
    assert files
    assert made == set(files)
    for one in ablations.needed(files, 0.2):
        shares = {f"model_{100 * share:.0f}" for share in one.recipe.keep} | {"model"}
        assert {file.stem for file in one.files} <= shares
