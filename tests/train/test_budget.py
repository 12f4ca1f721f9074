"""Trainings that share a given time: each ends in its share with a model; calls go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import codevar
from bench.cli.app import app
from codevar.progress import Progress
from codevar.train import budget, checkpoint, loop, optim, recipes
from codevar.train.time_limit import TimeLimit
from tests.train.small import config, refused, same, toml

#: Seconds of a step, and of making a model's objects, on the fake clock.
STEP_S = {"vqvae": 3.0, "classifier": 1.0, "var": 6.0, "code-drafter": 9.0, "code-refiner": 12.0}
START_S = 10.0


class World:
    """A fake clock that steps and starts of runs move on, and the rates of each step."""

    def __init__(self, monkeypatch, folder: Path) -> None:
        self.now, self.rates, self.folder = 1000.0, {}, folder
        self.kill_at: tuple[str, int] | None = None
        start, step, set_rate = loop.build, loop.Run._step, optim.set_rate

        def starting(recipe, group, say):
            self.now += START_S
            return start(recipe, group, say)

        def stepping(run, batches):
            self.now += STEP_S.get(run.recipe.recipe, 8.0)
            step(run, batches)
            if self.kill_at == (run.recipe.recipe, run.done + 1):
                raise KeyboardInterrupt

        def rating(optimizers, settings, done, steps, begun):
            share = set_rate(optimizers, settings, done, steps, begun)
            self.rates.setdefault(optimizers[0], []).append(share)  # which keeps it apart
            return share

        monkeypatch.setattr(loop, "build", starting)
        monkeypatch.setattr(loop.Run, "_step", stepping)
        monkeypatch.setattr(optim, "set_rate", rating)

    def runs(self, steps: int = 400) -> list[recipes.Recipe]:
        """The seven stages as the mini world's configs have them, over tiny models."""
        model = {
            name: f"{self.folder}/{name}/model.safetensors" for name in ("vqvae", "large", "small")
        }
        start = {"vqvae": model["vqvae"], "init": model["large"]}
        stages = [
            ("vqvae", {"unquantised": 100}),
            ("classifier", {}),
            ("var", {"vqvae": model["vqvae"], "model.depth": 4, "out": "large"}),
            ("var", {"vqvae": model["vqvae"], "out": "small"}),
            ("code-drafter", start | {"draft_steps": [2, 3], "out": "drafter_{draft_steps}"}),
            ("code-refiner", start | {"init": model["small"], "teacher": model["large"]}),
            ("variant", start | {"keep": [0.2, 0.6]}),
        ]
        found = []
        for n, (recipe, changes) in enumerate(stages):
            out = f"{self.folder}/{changes.get('out', recipe)}"
            decay = {"optimizer.decay": "linear", "steps": steps, "log_every": 20}
            decay |= {"checkpoint_every": 100}
            values = config(self.folder, recipe, **changes | {"out": out} | decay)
            file = self.folder / f"{n}.toml"
            file.write_text(toml(values))
            found += recipes.load(file)
        return found

    def train(self, seconds: float, resume: bool = False, **changes) -> list[Path]:
        quiet = Progress(quiet=True)
        made = budget.train_all(
            self.runs(**changes),
            seconds,
            device="cpu",
            resume=resume,
            progress=quiet,
            clock=lambda: self.now,
        )
        return list(made)


@pytest.fixture
def world(monkeypatch, tmp_path):
    return World(monkeypatch, tmp_path)


def card(path: Path) -> dict:
    return json.loads(path.with_name(checkpoint.CARD).read_text())


@pytest.mark.parametrize("seconds", [100, 1600])
def test_every_stage_ends_in_its_time_with_a_model(world, seconds):
    """However short the time is, and with rates that have fallen."""
    began = world.now
    made = world.train(seconds)
    assert [path.parent.name for path in made] == [
        *("vqvae", "classifier", "large", "small", "drafter_2", "drafter_3"),
        *("code-refiner", "variant"),
    ]
    # A run cannot be shorter than its start, a step and one more with the rate of an end.
    assert world.now - began <= max(seconds, sum(START_S + 2 * 12.0 for _ in made))
    assert world.now - began >= 0.7 * seconds
    vqvae = codevar.load_vqvae(made[0], device="cpu")
    var = codevar.load_var(made[2], device="cpu")
    assert codevar.decode(var, vqvae, [1, 2]).images.isfinite().all()
    for path in made:
        assert card(path)["share"] == 1
        assert card(path)["time_limit_s"] <= seconds
    if seconds == 1600:
        assert card(made[2])["steps"] > card(made[4])["steps"] > 5
        for rates in world.rates.values():
            assert rates[-1] <= 2 / len(rates)
        assert card(made[0])["shortened"]["unquantised"] < 0.5 * card(made[0])["steps"]
        assert {path.name for path in made[-1].parent.glob("model*")} == {
            *("model.safetensors", "model_20.safetensors", "model_60.safetensors")
        }


def test_enough_time_is_the_configs_own_training(world, tmp_path):
    made = world.train(100_000, steps=6)
    assert [card(path)["steps"] for path in made] == [6] * 8
    assert "shortened" not in card(made[0])
    large = next(run for run in world.runs(steps=6) if run.out.endswith("large"))
    plain = loop.train(large, tmp_path / "plain", device="cpu", progress=Progress(quiet=True))
    assert same(plain, made[2])


def test_a_killed_call_goes_on_with_what_has_no_model(world):
    world.kill_at = ("var", 5)
    with pytest.raises(KeyboardInterrupt):
        world.train(1500)
    world.kill_at = None
    before = {
        name: (world.folder / name / "model.safetensors").stat().st_mtime_ns
        for name in ("vqvae", "classifier")
    }
    with refused("has a run: --resume goes on"):
        world.train(400)
    made = world.train(400, resume=True)
    assert [path.parent.name for path in made][:2] == ["large", "small"]
    for name, at in before.items():
        assert (world.folder / name / "model.safetensors").stat().st_mtime_ns == at


def test_a_second_call_goes_on_where_nothing_else_rests_on_it(world):
    first = {path.parent.name: card(path)["steps"] for path in world.train(600)}
    began = world.now
    second = {path.parent.name: card(path) for path in world.train(1200, resume=True)}
    assert second.keys() == first.keys() - {"vqvae", "large", "small"}
    for name, now in second.items():
        assert now["steps"] > first[name]
        assert [length["steps"] for length in now["lengths"]] == [first[name], now["steps"]]
    assert world.now - began <= 1200


def test_a_machine_that_slows_down_makes_it_shorter():
    now = [0.0]
    limit, steps = TimeLimit(100, lambda: now[0]), []
    for done in range(1, 60):
        now[0] += 1 if done < 20 else 4
        if steps and done == steps[-1]:
            break
        steps.append(limit.fitting_steps(done, 1000))
    assert steps[0] == 1000
    assert steps[10] == pytest.approx(95, abs=1)
    assert steps[-1] < 45
    assert now[0] <= 100 + 4


def test_shares_are_said_first(world, capsys):
    progress = Progress()
    runs = world.runs()
    next(budget.train_all(runs, 60, device="cpu", progress=progress, clock=lambda: world.now))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 min for 8 models, each finished in its share:"
    assert "token maps" in lines[1]
    told = [float(line.split()[0]) for line in lines[1:10]]
    assert sum(told) == pytest.approx(1, abs=0.05)


def test_the_command_says_its_plan_and_every_model(tmp_path):
    (tmp_path / "configs").mkdir()
    for n, recipe in enumerate(("vqvae", "classifier")):
        values = config(tmp_path, recipe, steps=6)
        (tmp_path / "configs" / f"{n}.toml").write_text(toml(values))
    command = ["train", "all", "--config", str(tmp_path / "configs"), "--device", "cpu"]
    done = CliRunner().invoke(app, [*command, "--minutes", "0.01"])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("0.01 min for 2 models, each finished in its share:\n")
    for recipe in ("vqvae", "classifier"):
        assert f"model: {tmp_path}/{recipe}/model.safetensors" in done.stdout.splitlines()
    done = CliRunner().invoke(app, [*command, "--minutes", "0.01"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "--resume goes on with it" in done.stderr
    done = CliRunner().invoke(app, [*command, "--minutes", "1", "--resume"])
    assert done.exit_code == 0, done.stderr
    assert {
        card(tmp_path / recipe / "model.safetensors")["steps"] for recipe in ("vqvae", "classifier")
    } == {6}
    done = CliRunner().invoke(app, [*command, "--minutes", "1", "--resume"])
    assert done.stdout == "every model is finished: there is nothing to go on with\n"
