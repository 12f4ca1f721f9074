"""Two stacks or precisions on the same seeds."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bench.cli import app
from bench.measure import machine
from bench.metrics.frechet import Gaussian, frechet_distance
from bench.quality import features, fidelity, sampling
from bench.quality.features import Extractor
from bench.quality.images import open_images
from bench.quality.wanted import Wanted
from bench.study.errors import UsageError
from codevar import PRESETS
from codevar.progress import Progress
from tests import tiny
from tests.quality.tiny_sets import ENV, PER_CLASS, N, case_of, make_small, tiny_loaded


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_small(monkeypatch)


@pytest.fixture
def set_of(tmp_path):
    def make(name="", seed=0, per_class=PER_CLASS, **changes):
        case = case_of(**changes)
        folder = tmp_path / (name or f"{case.stack}-{case.precision}")
        wanted = Wanted(case, seed, per_class, "png")
        return sampling.sample(wanted, folder, ENV, Progress(quiet=True))

    return make


def compare(a, b, **options):
    return fidelity.compare(a, b, "cpu", **({"images": 12, "batch_size": 5} | options))


SAME = {"psnr_db": None, "identical": 1.0, "mean": 0.0, "max": 0}


def test_a_set_is_like_itself(set_of):
    one = set_of()
    found = compare(one, one)
    assert found["teacher_forced_agreement_by_scale"] == [1.0] * 4
    assert found["free_running_agreement_by_scale"] == [1.0] * 4
    assert found["same_tokens"] == found["free_running"] == SAME
    assert (found["images"], found["images_with_tokens"], found["fid"]) == (N, 12, None)


def test_stacks_in_float32_agree(set_of):
    found = compare(set_of(), set_of(stack="modern"), images=1000)
    assert found["images_with_tokens"] == N
    assert found["teacher_forced_agreement_by_scale"] == [1.0] * 4
    assert found["free_running_agreement_by_scale"] == [1.0] * 4
    assert found["same_tokens"]["max"] <= 1
    assert found["free_running"]["max"] <= 1


def test_half_precision_differs_and_says_where(set_of):
    a, b = set_of(), set_of(stack="modern", precision="bf16")
    found = compare(a, b, images=N)
    forced = found["teacher_forced_agreement_by_scale"]
    free = found["free_running_agreement_by_scale"]
    assert all(0.8 < share <= 1 for share in forced)
    assert min(forced) < 1
    assert free[-1] < forced[-1]  # what differs once is carried along
    assert found["free_running"]["psnr_db"] < found["same_tokens"]["psnr_db"]
    assert found["free_running"]["max"] > found["same_tokens"]["max"] > 0
    assert [found[side]["case"]["precision"] for side in "ab"] == ["float32", "bf16"]


@torch.no_grad()
def test_teacher_forced_tokens_are_those_of_a_forward_over_all_scales(set_of):
    """Without cache, loop or sampling of ours: the model's forward as in training."""
    samples, numbers = set_of(), range(6)
    leader = torch.randint(tiny.CODES["vocab"], (6, 30), generator=torch.Generator().manual_seed(0))
    scales, found = fidelity.tokens(samples, "cpu", numbers, 4, False, leader)
    loaded = tiny_loaded(case_of(), False)
    model, inputs = loaded.plan.models[0], loaded.vqvae.teacher_forcing_input(leader)
    labels = torch.tensor(numbers)
    cond, uncond = (model(rows, inputs) for rows in (labels, torch.full_like(labels, 10)))
    for k, where in enumerate(scales.slices):
        t = PRESETS["var"].at(k, scales).guidance
        best = ((1 + t) * cond[:, where] - t * uncond[:, where]).argmax(-1)
        assert torch.equal(found.best[:, where], best)
    assert not torch.equal(found.best, leader)


def test_distances():
    one = np.full((4, 8, 8, 3), 100, np.uint8)
    other = one.copy()
    other[2] += 1
    other[3] -= 100
    found = fidelity.distance(iter([(one[:3], other[:3]), (one[3:], other[3:])]))
    mse = (1 + 100**2) / 4
    assert found.psnr_db == pytest.approx(10 * math.log10(255**2 / mse))
    assert (found.identical, found.mean, found.max) == (0.5, 101 / 4, 100)


@pytest.fixture
def network():
    """Four features: the mean of each colour, and how much the brightness varies."""

    def layers(images_B3HW):
        x = images_B3HW.double()
        return {"pool": torch.cat([x.mean((2, 3)), x.std((1, 2, 3))[:, None]], dim=1).float()}

    return Extractor("four", "0" * 64, False, {"pool": 4}, layers, torch.device("cpu"))


def test_fids_are_of_both_sets_and_between_them(set_of, network, tmp_path):
    a, b = set_of(per_class=20), set_of(stack="modern", precision="bf16", per_class=20)
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (60, a.side, a.side, 3), dtype=np.uint8)
    np.savez(tmp_path / "reference.npz", arr_0=array)
    reference = str(tmp_path / "reference.npz")

    def fids(one, other):
        return fidelity.fids(one, other, reference, network, tmp_path / "cache", 16)

    def gaussian(images):
        pool = network.layers(torch.from_numpy(images).permute(0, 3, 1, 2))["pool"]
        return Gaussian.of(pool)

    one, other, theirs = (
        gaussian(images)
        for images in (*(np.concatenate([*open_images(s.folder).pixels()]) for s in (a, b)), array)
    )
    found = fids(a, b)
    assert found["a"] == pytest.approx(frechet_distance(one, theirs))
    assert found["b"] == pytest.approx(frechet_distance(other, theirs))
    assert found["between"] == pytest.approx(frechet_distance(one, other), abs=1e-6)
    low, high = found["difference_interval"]
    assert low <= found["b"] - found["a"] <= high
    assert (found["reference"], found["reference_images"]) == ("reference.npz", 60)
    same = fids(a, a)
    assert same["difference_interval"] == (0, 0)
    assert same["between"] == pytest.approx(0, abs=1e-6)
    few = set_of("few", per_class=3)
    assert fids(few, few)["difference_interval"] is None
    np.savez(tmp_path / "reference.npz", arr_0=array[:4])
    with tiny.refused("reference.npz: 4 images are too few", "more than 4", error=UsageError):
        fids(a, b)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"depth": 3}, "depth is 2 and 3"),
        ({"seed": 1}, "seed is 0 and 1"),
        ({"per_class": 1}, "images is 30 and 10"),
        ({"method": "variant", "subnet_depth": 2, "bridge_scales": 1}, "method is var and variant"),
    ],
)
def test_sets_that_differ_in_more_than_how_they_ran_are_refused(set_of, changes, said):
    with tiny.refused("differ in more than stack and precision", said, error=UsageError):
        compare(set_of("a"), set_of("b", **changes))


def test_weights_that_changed_since_are_refused(set_of, monkeypatch):
    monkeypatch.setattr(sampling, "weights_sha256", lambda source: "aa")
    one = set_of()
    with tiny.refused("no longer the weights", error=UsageError):
        compare(one, one)


def test_the_command_prints_and_adds_a_record(set_of, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "environment", lambda: ENV)
    a, b = set_of(), set_of(precision="bf16")
    words = ["fidelity", *(str(s.folder) for s in (a, b)), "--out", str(tmp_path), "--images", "4"]
    for _ in range(2):
        result = CliRunner().invoke(app.app, [*words, "--device", "cpu"])
        assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "VAR-d2: published float32 against published bf16, preset var" in said
    assert f"record: {tmp_path / 'fidelity.jsonl'}" in said
    one, other = (json.loads(line) for line in (tmp_path / "fidelity.jsonl").open())
    assert one["a"]["case"] == a.manifest["case"]
    assert one["b"]["case"]["precision"] == "bf16"
    assert {k: v for k, v in one.items() if k != "at"} == {
        k: v for k, v in other.items() if k != "at"
    }


def test_the_command_with_a_reference_has_fids(set_of, tmp_path, monkeypatch, network):
    monkeypatch.setattr(machine, "environment", lambda: ENV)
    monkeypatch.setattr(features, "extractor_of", lambda *_: network)
    a, b = set_of(), set_of(precision="bf16")
    words = ["fidelity", *(str(s.folder) for s in (a, b)), "--out", str(tmp_path), "--images", "4"]
    words += ["--reference", str(a.folder), "--cache", str(tmp_path / "c"), "--device", "cpu"]
    result = CliRunner().invoke(app.app, words)
    assert result.exit_code == 0, result.output
    (line,) = (json.loads(line) for line in (tmp_path / "fidelity.jsonl").open())
    assert line["fid"]["a"] == pytest.approx(0, abs=1e-6)
    assert line["fid"]["b"] == pytest.approx(line["fid"]["between"])
    assert "between the sets" in result.stdout
    refused = CliRunner().invoke(app.app, [*words, "--reference", "nowhere"])
    assert refused.exit_code == 2
    assert "nowhere: no such folder or file" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_what_is_no_sample_set_is_one_line(tmp_path):
    result = CliRunner().invoke(app.app, ["fidelity", str(tmp_path), str(tmp_path)])
    assert result.exit_code == 2
    assert "no samples.json here" in result.stderr
    assert result.stderr.count("\n") == 1
