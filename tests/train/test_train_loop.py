"""Runs: that they learn, go on after anything, and stop in one line."""

from __future__ import annotations

import json
import re
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import codevar
from bench.cli.app import app
from codevar.mini.cards import row
from codevar.mini.classifier import load_classifier
from codevar.mini.factors import OUTPUTS, load_factor_reader
from codevar.progress import Progress
from codevar.train import checkpoint, loop, optim, parallel
from codevar.train.recipes import OptimizerConfig, TrainVAR, TrainVQVAE
from codevar.train.step import Step
from tests.train.small import CLEAN, PATCH_SIZES, config, files, refused, same, toml, train

RECIPES = ("vqvae", "var", "code-drafter", "code-refiner", "variant", "perturb", "classifier")
RECIPES += ("factor-reader",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("train")
    files(path)
    return path


def metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / loop.METRICS).read_text().splitlines()]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_and_its_model_loads(folder, recipe):
    values = config(folder, recipe)
    path = train(values)
    if recipe == "vqvae":
        model = codevar.load_vqvae(path, device="cpu")
        assert model.config.patch_sizes == PATCH_SIZES
        assert model.encode(torch.rand(2, 3, 8, 8)).shape == (2, 30)
    elif recipe == "factor-reader":
        assert load_factor_reader(path)(torch.rand(2, 3, 16, 16)).shape == (2, OUTPUTS)
    elif recipe == "classifier":
        assert load_classifier(path).features(torch.rand(2, 3, 8, 8)).shape == (2, 128)
    else:
        model = codevar.load_var(path, device="cpu")
        vqvae = codevar.load_vqvae(folder / "vqvae.safetensors", device="cpu")
        assert codevar.decode(model, vqvae, [1, 2]).images.shape == (2, 3, 8, 8)
    rows = metrics(path.parent)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    scales = {
        "code-drafter": {"scale_1", "scale_2"},
        "perturb": {"scale_3", "scale_4"},
        "classifier": set(),
        "factor-reader": set(),
    }
    assert {k for k in rows[0 if recipe != "vqvae" else -1] if k.startswith("scale_")} == (
        scales.get(recipe, {"scale_1", "scale_2", "scale_3", "scale_4"})
    )
    card = json.loads((path.parent / checkpoint.CARD).read_text())
    assert card["steps"] == 6
    assert card["recipe"]["data"]["seed"] == 0
    assert card["last"]["loss"] == rows[-1]["loss"]


def test_a_var_learns_its_images(folder, tmp_path):
    out = train(
        config(tmp_path, "var", **{"out": str(tmp_path / "o"), "steps": 60, "data.images": 8})
        | {"vqvae": f"{folder}/vqvae.safetensors"}
    ).parent
    rows = metrics(out)
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]


def test_the_layout_comes_first(folder, tmp_path):
    values = config(folder, "var", out=str(tmp_path / "o"), layout=0.5, layout_scales=2)
    rows = metrics(train(values).parent)
    trained = [sum(key.startswith("scale_") for key in row) for row in rows]
    assert trained == [2, 2, 2, 4, 4, 4]


def test_drawn_layout_steps_may_weigh_as_all_scales_do(folder, tmp_path):
    drawn = {"layout": 0.5, "layout_scales": 2, "layout_when": "drawn"}
    values = config(folder, "var", out=str(tmp_path / "o"), **drawn)
    trained = [
        sum(key.startswith("scale_") for key in row) for row in metrics(train(values).parent)
    ]
    assert set(trained) == {2, 4}
    assert trained != sorted(trained)
    recipe = TrainVAR.model_validate(values | {"balanced": True})
    steps = [Step(n, 2000, 0, 8, range(8)) for n in range(2000)]
    mean = np.mean([recipe.weights(step, 4) for step in steps], axis=0)
    assert mean == pytest.approx([1, 1, 1, 1], abs=0.1)


def test_weights_are_averaged_over_the_end_of_the_run(folder, tmp_path):
    """Over a half: step i counts i times.  At every checkpoint there is one that can be used."""
    values = config(folder, "var", out=str(tmp_path / "o"), half=False, checkpoint_every=1, steps=3)
    each = [train(values | {"out": str(tmp_path / f"after_{n}"), "steps": n}) for n in (1, 2, 3)]
    average = train(values | {"average": 0.5})
    found, weights = load_file(average), [load_file(path) for path in each]
    last = load_file(average.with_name("model_latest.safetensors"))
    for name in found.keys() - {"lvl_1L"}:
        wanted = sum(n * of_step[name] for n, of_step in enumerate(weights, 1)) / 6
        assert torch.allclose(found[name], wanted, atol=1e-6), name
        assert torch.allclose(last[name], (weights[0][name] + 2 * weights[1][name]) / 3, atol=1e-6)


def test_models_on_the_way_are_kept(folder, tmp_path):
    values = config(folder, "variant", out=str(tmp_path / "o"), keep=(0.5, 0.67))
    out = train(values).parent
    found = {path.name: path for path in out.glob("model*")}
    assert found.keys() == {"model.safetensors", "model_50.safetensors", "model_67.safetensors"}
    assert not same(found["model_50.safetensors"], found["model.safetensors"])
    with safe_open(found["model_50.safetensors"], "pt") as file:
        assert json.loads(file.metadata()["card"])["steps"] == 3


def test_accumulation_changes_nothing(folder, tmp_path):
    whole = train(config(folder, "var", out=str(tmp_path / "whole")))
    parts = train(config(folder, "var", out=str(tmp_path / "parts"), micro_batch=2))
    for one, other in zip(metrics(whole.parent), metrics(parts.parent), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["gradient"] == pytest.approx(other["gradient"], rel=1e-4)


def test_recomputing_changes_nothing(folder, tmp_path):
    plain = train(config(folder, "variant", out=str(tmp_path / "plain")))
    again = train(config(folder, "variant", out=str(tmp_path / "again"), recompute=True))
    for one, other in zip(metrics(plain.parent), metrics(again.parent), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(folder, tmp_path, precision):
    out = train(config(folder, "var", out=str(tmp_path / "o"), precision=precision)).parent
    exact = train(config(folder, "var", out=str(tmp_path / "e"))).parent
    assert metrics(out)[-1]["loss"] == pytest.approx(metrics(exact)[-1]["loss"], rel=0.02)


@pytest.mark.parametrize("recipe", ["vqvae", "variant"])
def test_a_run_that_is_stopped_goes_on_to_the_same_weights(folder, tmp_path, recipe, monkeypatch):
    changes = {"optimizer.name": "muon", "average": 0.5, "data.tokens": ""}
    changes = changes if recipe == "variant" else {}
    wanted = train(config(folder, recipe, out=str(tmp_path / "whole"), **changes))
    values = config(folder, recipe, out=str(tmp_path / "stopped"), **changes)
    step = loop.Run._step

    def stopping(self, batches):
        if self.done == 5:
            raise KeyboardInterrupt
        step(self, batches)

    monkeypatch.setattr(loop.Run, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(values)
    monkeypatch.undo()
    got = train(values, resume=True)
    assert same(got, wanted)
    assert same(got.with_name(checkpoint.FILE), wanted.with_name(checkpoint.FILE))
    assert [row["step"] for row in metrics(got.parent)] == [1, 2, 3, 4, 5, 6]


def test_the_optimiser_goes_on_in_the_layout_of_its_weights(folder, tmp_path):
    """A VQVAE's kernels have their channels last; fused kernels on a GPU refuse a mixture."""
    values = config(folder, "vqvae", out=str(tmp_path / "o"))
    train(values)
    recipe, alone = TrainVQVAE.model_validate(values), parallel.join("cpu")
    run = loop.Run(recipe, tmp_path / "o", alone, True, Progress(quiet=True))
    (optimizer,) = run.optimizers
    assert any(not parameter.is_contiguous() for parameter in optimizer.state)
    for parameter, state in optimizer.state.items():
        assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()


def test_a_run_that_is_killed_goes_on_to_the_same_weights(folder, tmp_path):
    """SIGKILL, again and again, wherever it hits: a checkpoint at every step is often half
    written."""
    changes = {"steps": 120, "checkpoint_every": 1}
    wanted = train(config(folder, "var", out=str(tmp_path / "whole"), **changes))
    values = config(folder, "var", out=str(tmp_path / "killed"), **changes)
    lines, killed, before = tmp_path / "killed" / loop.METRICS, 0, 0
    for wait in (0.003, 0.111, 0.05, 0.237):
        process = CLEAN.Process(target=train, args=(values,), kwargs={"resume": True})
        process.start()
        while process.is_alive() and (
            not lines.exists() or len(lines.read_text().splitlines()) <= before
        ):
            time.sleep(0.001)
        time.sleep(wait)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        before = len(lines.read_text().splitlines())
    assert killed >= 2
    assert before > 0
    got = train(values, resume=True)
    assert same(got, wanted)
    assert [row["step"] for row in metrics(got.parent)] == list(range(1, 121))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    folder, tmp_path, monkeypatch
):
    values = config(folder, "var", out=str(tmp_path / "o"), log_every=3)
    good = train(values | {"steps": 2, "out": str(tmp_path / "two"), "log_every": 3})
    step = loop.Run._step

    def spoiling(self, batches):
        if self.done == 4:
            self.objective.model.head.weight.data[0] = torch.nan
        step(self, batches)

    monkeypatch.setattr(loop.Run, "_step", spoiling)
    with refused("step 5", "loss is nan", "checkpoint of step 4 is intact", "--resume"):
        train(values)
    kept = load_file(tmp_path / "o" / checkpoint.FILE)
    assert all(tensor.isfinite().all() for tensor in kept.values())
    assert not (tmp_path / "o" / checkpoint.MODEL).exists()
    assert good.exists()


def on_a_full_disk(values, limit, said):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with refused("the checkpoint of step 2 cannot be written", "no checkpoint yet"):
        train(values)
    said.write_text("so")


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(folder, tmp_path):
    """A limit on the size of files is a full disk to whoever writes."""
    values = config(folder, "var", out=str(tmp_path / "o"))
    train(values | {"out": str(tmp_path / "whole")})
    limit = (tmp_path / "whole" / checkpoint.FILE).stat().st_size // 2
    said = tmp_path / "said"
    process = CLEAN.Process(target=on_a_full_disk, args=(values, limit, said))
    process.start()
    process.join()
    assert said.exists()
    assert {path.name for path in (tmp_path / "o").iterdir()} == {".lock", loop.METRICS}


def test_a_checkpoint_that_cannot_be_replaced_is_intact(folder, tmp_path, monkeypatch):
    values = config(folder, "var", out=str(tmp_path / "o"))

    def full(path, tensors, metadata):
        if json.loads(metadata["about"])["step"] == 4:
            raise OSError(28, "No space left on device")
        write(path, tensors, metadata)

    write = checkpoint.write_tensors
    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with refused("step 4 cannot be written", "No space left", "checkpoint of step 2 is intact"):
        train(values)
    monkeypatch.undo()
    assert same(train(values, resume=True), train(config(folder, "var", out=str(tmp_path / "w"))))


def test_a_folder_with_a_run_is_not_overwritten(folder, tmp_path):
    values = config(folder, "var", out=str(tmp_path / "o"))
    train(values)
    with refused("step 6", "--resume"):
        train(values)
    with refused("begun with batch_size = 8, not 16"):
        train(values | {"batch_size": 16}, resume=True)
    with refused("begun with optimizer.lr = 0.001, not 0.5;"):
        train(values | {"optimizer": {"lr": 0.5, "clip": 1.0}}, resume=True)


def test_a_run_may_be_made_longer_or_shorter(folder, tmp_path):
    values = config(folder, "var", out=str(tmp_path / "o"))
    train(values)
    path = train(values | {"steps": 8}, resume=True)
    card = json.loads((path.parent / checkpoint.CARD).read_text())
    assert card["lengths"] == [{"from": 0, "steps": 6}, {"from": 6, "steps": 8}]
    assert [row["step"] for row in metrics(path.parent)] == list(range(1, 9))
    with refused("at step 8 already", "more than 7"):
        train(values | {"steps": 7}, resume=True)


def stopped_after(monkeypatch, owner, name, where):
    """Makes the run stop right after a call of the function for which `where` is true."""
    call = getattr(owner, name)

    def stopping(*args):
        call(*args)
        if where(*args):
            raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, stopping)


def steps_of(model: Path) -> int:
    with safe_open(model, "pt") as file:
        return json.loads(file.metadata()["card"])["steps"]


def test_a_longer_run_that_is_stopped_before_its_model_writes_it_after_all(
    folder, tmp_path, monkeypatch
):
    values = config(folder, "var", out=str(tmp_path / "o"))
    train(values)
    stopped_after(monkeypatch, loop.Run, "_save", lambda run: run.done == 8)
    with pytest.raises(KeyboardInterrupt):
        train(values | {"steps": 8}, resume=True)
    monkeypatch.undo()
    path = train(values | {"steps": 8}, resume=True)
    assert steps_of(path) == 8
    assert json.loads((path.parent / checkpoint.CARD).read_text())["steps"] == 8


def test_a_run_that_is_stopped_after_a_checkpoint_has_kept_its_model(folder, tmp_path, monkeypatch):
    values = config(folder, "var", out=str(tmp_path / "o"), keep=(0.5,))
    stopped_after(monkeypatch, loop.Run, "_save", lambda run: run.done == 3)
    with pytest.raises(KeyboardInterrupt):
        train(values)
    monkeypatch.undo()
    path = train(values, resume=True)
    assert steps_of(path.with_name("model_50.safetensors")) == 3


@pytest.mark.parametrize("lines", [None, "", '{"step": 2, "lo'])
def test_a_run_that_lost_its_metrics_at_its_last_step_is_finished(folder, tmp_path, lines):
    values = config(folder, "var", out=str(tmp_path / "o"), steps=2)
    path = train(values)
    wanted = load_file(path)
    path.unlink()
    path.with_name(loop.METRICS).unlink()
    if lines is not None:
        path.with_name(loop.METRICS).write_text(lines)
    train(values, resume=True)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in load_file(path).items())
    card = json.loads(path.with_name(checkpoint.CARD).read_text())
    assert card["steps"] == 2
    assert card.keys() & {"seconds", "last"} == set()  # nobody knows
    assert "| ? | ? |" in row("lost", card)


def test_a_run_that_is_stopped_after_its_model_has_its_card(folder, tmp_path, monkeypatch):
    values = config(folder, "var", out=str(tmp_path / "o"))
    stopped_after(
        monkeypatch, checkpoint, "write_tensors", lambda path, *_: path.name == checkpoint.MODEL
    )
    with pytest.raises(KeyboardInterrupt):
        train(values)
    monkeypatch.undo()
    path = train(values, resume=True)
    with safe_open(path, "pt") as file:
        inside = json.loads(file.metadata()["card"])
    assert json.loads((path.parent / checkpoint.CARD).read_text()) == inside


def test_a_checkpoint_of_another_shape(folder, tmp_path):
    values = config(folder, "var", out=str(tmp_path / "o"))
    path = train(values).with_name(checkpoint.FILE)
    about = json.dumps(checkpoint.read_header(path.parent))
    tensors = load_file(path)
    tensors["model.head.bias"] = torch.zeros(3)
    save_file(tensors, path, {"about": about})
    with refused("model.head.bias is (3,), expected (32,)"):
        train(values, resume=True)
    path.write_bytes(path.read_bytes()[:100])
    with refused("damaged"):
        train(values, resume=True)


@pytest.mark.parametrize(
    ("recipe", "changes", "parts"),
    [
        ("var", {"speed": 3}, ["speed: no such key"]),
        ("var", {"optimizer.rate": 3}, ["optimizer.rate: no such key"]),
        ("var", {"steps": 0}, ["steps", "greater than or equal to 1, not 0"]),
        ("var", {"epochs": 1.0}, ["steps or epochs, one of them"]),
        ("var", {"batch_size": 9, "micro_batch": 4}, ["9", "multiple", "micro_batch 4"]),
        ("var", {"data.side": 16}, ["data.side is 16", "8 pixels"]),
        ("var", {"vqvae": "nowhere.pth"}, ["nowhere.pth"]),
        ("code-drafter", {"draft_steps": [2, 3]}, ["out must tell the runs apart"]),
        ("code-drafter", {"out": "{depth}"}, ["out may name seed, draft_steps only"]),
        ("code-drafter", {"draft_steps": 4}, ["draft_steps must be 1..3, not 4"]),
        ("variant", {"subnet_depth": 5}, ["subnet_depth must be 2..4, not 5"]),
        ("variant", {"phases": [5, -1, 5]}, ["phases.1", "greater than or equal to 0, not -1"]),
        ("variant", {"phases": [0, 0, 0]}, ["phases must not all be 0"]),
        ("vqvae", {"parallel": "fsdp"}, ["parallel: must be 'ddp', not 'fsdp'"]),
        ("vqvae", {"model.multipliers": []}, ["model.multipliers: must not be empty"]),
        ("vqvae", {"model.multipliers": [1, 0]}, ["model.multipliers.1", "not 0"]),
        ("var", {"optimizer.betas": [0.9, 1.5]}, ["optimizer.betas.1", "less than 1, not 1.5"]),
        ("code-drafter", {"draft_steps": []}, ["draft_steps: must not be empty"]),
        ("var", {"data.source": "folder", "data.folder": "nowhere"}, ["no such folder: nowhere"]),
        ("fast", {}, ["recipe must be one of vqvae, var, code-drafter", "not fast"]),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, recipe, changes, parts):
    changes = {"out": str(tmp_path / "o")} | changes
    values = config(folder, "var" if recipe == "fast" else recipe, **changes)
    file = tmp_path / "config.toml"
    file.write_text(toml(values | {"recipe": recipe}))
    done = CliRunner().invoke(app, ["train", "all", "--config", str(file), "--device", "cpu"])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("device", "parts"),
    [
        ("gpu", ["--device must be auto, cpu, cuda or cuda:N, not gpu"]),
        ("cuda:", ["not cuda:"]),
        ("cuda:9", ["no cuda:9 here", "2"]),
    ],
)
def test_devices_that_are_none_are_one_line(folder, tmp_path, monkeypatch, device, parts):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with refused(*parts):
        train(config(folder, "var", out=str(tmp_path / "o")), device=device)
    assert not (tmp_path / "o").exists()


def test_the_command_wants_the_recipe_of_the_config(folder, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(toml(config(folder, "var")))
    done = CliRunner().invoke(app, ["train", "vqvae", "--config", str(file)])
    assert done.exit_code == 2
    assert "is for var: bench.py train var" in done.stderr


def test_two_runs_do_not_share_a_folder(folder, tmp_path):
    values = config(folder, "var", out=str(tmp_path / "o"))
    with FileLock(tmp_path / "o" / ".lock"), refused("another run is training there"):
        train(values)
    (tmp_path / "file").write_text("in the way")
    with refused("File exists", "no checkpoint yet"):
        train(values | {"out": str(tmp_path / "file")})


def test_a_finished_run_is_left_as_it_is(folder, tmp_path):
    values = config(folder, "var", out=str(tmp_path / "o"))
    path = train(values)
    before = path.stat().st_mtime_ns
    assert train(values, resume=True) == path
    assert path.stat().st_mtime_ns == before


def test_a_finished_model_without_its_checkpoint_is_not_overwritten(folder, tmp_path):
    values = config(folder, "var", out=str(tmp_path / "o"))
    path = train(values)
    path.with_name(checkpoint.FILE).unlink()
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with refused("has a finished model", f"to train anew delete {path}"):
        train(values)
    with refused("begun with batch_size = 8, not 16"):
        train(values | {"batch_size": 16}, resume=True)
    with refused("of 6 steps", "choose another --out"):
        train(values | {"steps": 4}, resume=True)
    assert train(values, resume=True) == path
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    path.write_bytes(b"no model")
    with refused("damaged, or of no training", "choose another --out"):
        train(values, resume=True)
    path.unlink()
    assert train(values) == path


def test_a_run_at_a_constant_rate_may_end_with_a_falling_one(folder, tmp_path):
    falling = {"lr": 1e-3, "decay": "linear", "cooldown": 0.25, "final": 0.2}
    rates = [optim.rate(OptimizerConfig(**falling), step, 100) for step in (0, 75, 85, 100)]
    assert rates == pytest.approx([1, 1, 1 - 0.8 * 0.4, 0.2])
    values = config(folder, "var", out=str(tmp_path / "o"))
    values["optimizer"] = {"lr": 1e-3}
    path = train(values)
    with refused("would have begun at step 5, and 6 are done"):
        train(values | {"optimizer": falling, "steps": 7}, resume=True)
    train(values | {"optimizer": falling, "steps": 8}, resume=True)
    assert json.loads(path.with_name(checkpoint.CARD).read_text())["steps"] == 8
    with refused('begun with optimizer.decay = "linear"'):
        train(values | {"optimizer": {"lr": 1e-3}, "steps": 9}, resume=True)


def test_weights_without_a_checkpoint_go_on_with_a_new_warm_up(folder, tmp_path, monkeypatch):
    """As on another machine: the model and its card are all that came along."""
    values = config(folder, "var", out=str(tmp_path / "o"), half=False)
    path = train(values)
    path.with_name(checkpoint.FILE).unlink()
    before, rates = load_file(path), []
    set_rate = optim.set_rate
    monkeypatch.setattr(optim, "set_rate", lambda *given: rates.append(set_rate(*given)))
    longer = values | {"steps": 9, "optimizer": {"lr": 1e-9}}
    with refused("begun with optimizer.lr = 0.001"):
        train(longer, resume=True)
    train(values | {"steps": 9}, resume=True)
    wanted = [(n + 1) / (optim.SECOND_WARMUP + 1) for n in range(3)]
    assert rates == pytest.approx(wanted)
    card = json.loads(path.with_name(checkpoint.CARD).read_text())
    assert card["steps"] == 9
    assert card["lengths"] == [
        {"from": 0, "steps": 6},
        {"from": 6, "steps": 9, "weights_only": True},
    ]
    moved = max(float((load_file(path)[name] - before[name]).abs().max()) for name in before)
    assert 0 < moved < 3e-3  # three small steps away: not trained anew
    rates.clear()
    train(values | {"steps": 10}, resume=True)  # now from the checkpoint, still warming up
    assert rates == pytest.approx([4 / (optim.SECOND_WARMUP + 1)])


def test_all_goes_on_past_a_model_that_is_finished(folder, tmp_path):
    configs = tmp_path / "configs"
    configs.mkdir()
    for n in (1, 2):
        values = config(folder, "var", out=str(tmp_path / f"o{n}"), steps=2)
        (configs / f"{n}.toml").write_text(toml(values))
    command = ["train", "all", "--config", str(configs), "--device", "cpu"]
    assert CliRunner().invoke(app, command).exit_code == 0
    first, second = (tmp_path / f"o{n}" for n in (1, 2))
    (first / checkpoint.FILE).unlink()
    (second / checkpoint.MODEL).unlink()
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert str(first / checkpoint.MODEL) in line
    done = CliRunner().invoke(app, [*command, "--resume"])
    assert done.exit_code == 0
    assert done.stdout.splitlines()[:2] == [
        "var: finished before",
        f"model: {first}/model.safetensors",
    ]
    assert (second / checkpoint.MODEL).exists()


def test_lists_make_a_run_each_and_lines_tell_how_far_it_is(folder, tmp_path):
    values = config(folder, "code-drafter", out=str(tmp_path) + "/drafter_{draft_steps}")
    file = tmp_path / "drafters.toml"
    file.write_text(toml(values | {"draft_steps": [2, 3]}))
    command = ["train", "code-drafter", "--config", str(file), "--set", "steps=2"]
    done = CliRunner().invoke(app, [*command, "--device", "cpu"])
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "drafter_2" / checkpoint.MODEL).exists()
    assert (tmp_path / "drafter_3" / checkpoint.MODEL).exists()
    said = ("token maps", "data: ")
    lines = [line for line in done.stdout.splitlines() if not line.startswith(said)]
    shown = r"code-drafter: step 1 of 2, loss [\d.]+, [\d.e+]+ images/s, 0:00:\d\d left, by scale"
    assert re.match(shown + r" [\d.]+ [\d.]+$", lines[0]), lines
    assert sum(line.startswith("model: ") for line in lines) == 2
