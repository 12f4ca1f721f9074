"""Training on a CUDA device: `make test-gpu`."""

from __future__ import annotations

import json
import math

import pytest
import torch

from codevar.train import loop
from tests.train.small import config, files, train

pytestmark = pytest.mark.gpu
RECIPES = ("vqvae", "var", "code-drafter", "code-refiner", "variant", "perturb", "classifier")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if not torch.cuda.is_available():
        pytest.fail("no CUDA device here")
    path = tmp_path_factory.mktemp("gpu")
    files(path)
    return path


def losses(path) -> list[float]:
    lines = (path.parent / loop.METRICS).read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_as_on_a_cpu(folder, tmp_path, recipe, compiled):
    values = config(folder, recipe, out=str(tmp_path / "cpu"))
    here = train(values)
    there = train(
        values | {"out": str(tmp_path / "gpu"), "precision": "bf16", "compile": compiled},
        device="cuda",
    )
    assert losses(there)[0] == pytest.approx(losses(here)[0], rel=0.03)
    assert all(math.isfinite(loss) for loss in losses(there))


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [("variant", {"optimizer.name": "muon", "precision": "fp16"}), ("vqvae", {"unquantised": 9})],
)
def test_a_run_goes_on_after_a_stop(folder, tmp_path, monkeypatch, recipe, changes):
    values = config(folder, recipe, out=str(tmp_path / "whole"), **changes)
    whole = train(values, device="cuda")
    step = loop.Run._step

    def stopping(self, batches):
        if self.done == 5:
            raise KeyboardInterrupt
        step(self, batches)

    monkeypatch.setattr(loop.Run, "_step", stopping)
    stopped = values | {"out": str(tmp_path / "stopped")}
    with pytest.raises(KeyboardInterrupt):
        train(stopped, device="cuda")
    monkeypatch.undo()
    resumed = losses(train(stopped, device="cuda", resume=True))
    assert resumed == pytest.approx(losses(whole), rel=1e-3)
