"""Somebody else's code as a method: measured, sampled and held against ours, by an adapter."""

from __future__ import annotations

import json
import os
import sys

import pytest
from typer.testing import CliRunner

from bench.cli.app import app
from bench.measure import child
from bench.methods.loaded import LoadedAdapter
from bench.quality.sample_set import SampleSet
from bench.report import page
from bench.study import cases, plugins
from bench.study.cases import make_case
from bench.study.errors import UsageError
from bench.study.folders import CODE
from bench.tables import frames, sides

STAND_IN = CODE / "tests/data/published_layout"
PUBLISHED = CODE / "examples/published_code.py"
DOTS = """
from typing import ClassVar, Literal

import torch
from torch import nn

from bench.methods.adapter import Adapter, Sampler
from bench.study.cases import register


@register
class Dots(Adapter):
    "Any function of labels and a seed."

    method: Literal["dots"] = "dots"
    wrong: Literal["nothing", "shape", "range", "kind"] = "nothing"
    label_format: ClassVar = "Dots"
    classes: ClassVar = 10
    side: ClassVar = 48

    def sampler(self, device):
        net = nn.Linear(8, 3 * 48 * 48, device=device)

        def sample(labels, seed, mark):
            generator = torch.Generator(device).manual_seed(seed)
            x = torch.rand(len(labels), 8, generator=generator)
            images = net(x).sigmoid().unflatten(1, (3, 48, 48))
            return {"shape": images[:, :2], "range": 2 * images - 1}.get(
                self.wrong, images
            )

        return None if self.wrong == "kind" else Sampler(sample, [net])
"""
EXPERIMENT = """
title = "Dots beside VAR"
baseline = { method = "var" }
paired = true
rounds = 1
samples = 2
warmup = 0
max_seconds = 0.2

[defaults]
batch_size = 2
weights = "mini"
precision = "float32"

[[cases]]
method = "var"
sampling = "mini"

[[cases]]
method = "dots"
wrong = ["nothing", "range"]
"""


def bench(*words):
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory):
    """Both plugins, registered for these tests alone."""
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "dots.py").write_text(DOTS)
    (folder / "dots.toml").write_text(EXPERIMENT)
    cases.methods()
    known, modules, path = dict(cases._registered), set(sys.modules), [*sys.path]
    cases.add_plugins([folder / "dots.py", PUBLISHED])
    yield folder
    cases._registered.clear()
    cases._registered.update(known)
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] == "models" or name.startswith("codevar_plugin_"):
            del sys.modules[name]
    sys.path[:] = path
    del os.environ[plugins.FILES]


@pytest.fixture(scope="module")
def run(files):
    """A finished run of ours, of theirs, and of what gives no images in [0, 1]."""
    done = bench("run", files / "dots.toml", "--device", "cpu", "--out", files / "run")
    assert done.exit_code == 0, done.output
    return frames.load(files / "run")


def test_code_is_measured_in_pairs_with_ours_to_images(run):
    ours, theirs, wrong = run.records
    assert (theirs.status, theirs.predicted, theirs.samples.vqvae_latency_s) == ("ok", None, [])
    assert len(theirs.samples.scale_latency_s[0]) == 1
    assert theirs.paired.baseline == ours.key
    assert theirs.paired.latency_s
    assert theirs.memory.params_mib > 0
    assert theirs.start_up.first_image_s > 0
    row = frames.known(frames.frame(run))[1]
    assert row["speedup"] > 1
    assert row["not_predicted"] == "Dots has no plan here"
    assert wrong.status == "error"
    assert wrong.reason.startswith(f"plugin {run.folder.parent / 'dots.py'}: ValueError: images ")


def test_a_finished_run_of_code_is_read_without_its_plugin(run, monkeypatch):
    monkeypatch.delitem(cases._registered, "dots")
    monkeypatch.setenv(plugins.FILES, "")
    table = bench("table", run.folder, "--format", "md")
    assert "Not predicted: Dots has no plan here." in table.output
    assert "Latency to images, as they are not made apart: Dots" in table.output
    again = frames.load(run.folder)
    assert "Dots" in page.of_runs([again], [], "report")
    labels = [case.label for case in sides.of_run(again).cases.values()]
    assert any(label.startswith("Dots, batch 2, published float32") for label in labels)


def test_its_images_are_sampled_in_fixed_batches(files):
    words = ("sample", "dots", "--per-class", "1", "--batch-size", "4", "--device", "cpu")
    words += ("--set=precision=float32", "--format=npz", "--out", files / "set")
    assert bench(*words).exit_code == 0
    made = SampleSet.open(files / "set")
    assert (made.manifest["images"], made.manifest["preset"]) == (10, "own")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("shape", "ValueError: images must be (2, 3, 48, 48), not (2, 2, 48, 48)"),
        ("range", "ValueError: images must be in [0, 1], not -"),
        ("kind", "TypeError: sampler must return a Sampler, not None"),
    ],
)
def test_what_is_no_image_is_one_line_with_the_file(wrong, told, files):
    case = make_case({"method": "dots", "wrong": wrong, "device": "cpu", "precision": "float32"})
    with pytest.raises(UsageError) as error:
        LoadedAdapter.of(case).draw([0, 1], seed=0)
    assert str(error.value).startswith(f"plugin {files / 'dots.py'}: {told}")
    assert "\n" not in str(error.value)


SMALL = {"repo": str(STAND_IN), "depth": 2, "device": "cpu", "precision": "float32"}


@pytest.mark.parametrize(
    "keys", [{"method": "original_var"}, {"method": "original_code", "refiner_depth": 1}]
)
def test_the_published_layouts_are_measured_by_scale(keys, job):
    case = make_case({**SMALL, **keys})
    result = json.loads(json.dumps(child.run(case, job)))
    assert result["status"] == "ok"
    assert len(result["samples"]["scale_latency_s"][0]) == 10
    assert result["samples"]["vqvae_latency_s"]
    held = result["memory"]["kv_cache_by_scale_mib"]
    assert held[0] < held[8]


def test_the_published_layout_decides_as_ours(files):
    words = ("conform", "original_var", "--against", "var", "--images", "1", "--device", "cpu")
    words += (f"--set=repo={STAND_IN}", "--set=depth=1")
    done = bench(*words)
    assert "VAR-d1 decides as Original VAR-d1 does" in done.stderr, done.output
    assert done.exit_code == 0
    done = bench(*words, "--set=cfg=3")  # which changes ours alone
    assert done.exit_code == 1
    assert "VAR-d1 and Original VAR-d1 part at scale " in done.stderr
    assert ", which leads by " in done.stderr


def test_what_cannot_be_compared_is_refused(files):
    words = ("--set=precision=float32", "--device", "cpu")
    done = bench("conform", "dots", "--against", "var", "--set=weights=mini", *words)
    assert done.exit_code == 2
    assert "Dots gives images only, and no tokens to compare" in done.stderr
    done = bench("conform", "dots", "--against", "dots", *words)
    assert done.exit_code == 2
    assert "Dots and Dots: neither is a plan of ours" in done.stderr


def test_a_repo_that_is_none_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"repo: .* has no models/__init__\.py"):
        make_case({"method": "original_var", **SMALL, "repo": str(tmp_path)})
