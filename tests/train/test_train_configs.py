"""The configs that ship with the project are the papers' and fit each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from codevar.train import recipes
from codevar.train.recipes import TrainDrafter, TrainRefiner, TrainVariant
from codevar.train.step import Step

FOLDER = Path(__file__).parents[2] / "experiments" / "train"
FILES = sorted(FOLDER.rglob("*.toml"))
PAPERS = FOLDER / "papers"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(FOLDER)))
def test_every_config_is_one(file):
    assert recipes.load(file)


@pytest.mark.parametrize("world", ["mini-gpu", "mini-cpu"])
def test_a_mini_world_in_order_makes_what_it_needs(world):
    made = set()
    for file in sorted((FOLDER / world).glob("*.toml")):
        for run in recipes.load(file):
            for key in ("vqvae", "init", "teacher"):
                needed = getattr(run, key, "")
                assert not needed or needed in made, f"{file}: {needed}"
            made.add(f"{run.out}/model.safetensors")
    names = {Path(path).parent.name for path in made}
    pairs = {f"{kind}_{n}" for kind in ("drafter", "refiner") for n in (6, 7, 8, 9)}
    assert {"vqvae", "large", "small", "classifier"} | pairs <= names
    assert sum(name.startswith("variant_d") for name in names) == 3


@pytest.mark.parametrize("ratio", ["0.1,1.0", "[0.1, 1.0]", "0.1"])
def test_ratios_that_are_set_make_a_run_each_with_its_name(ratio):
    file = FOLDER / "mini-cpu" / "ablations" / "variant-ratios.toml"
    outs = [run.out for run in recipes.load(file, {"ratio": ratio})]
    names = ["runs/mini-cpu/variant_d4_p0.1", "runs/mini-cpu/variant_d4_p1.0"]
    assert outs == names[: len(outs)]
    assert len(outs) == (1 if ratio == "0.1" else 2)


def test_code_is_trained_as_its_section_4_1_says():
    for file, kind, rate, decay, epochs in (
        ("drafters", TrainDrafter, 1e-6, 0.08, 0.05 * 350),
        ("refiners", TrainRefiner, 1e-5, 0.0, 0.25 * 200),
    ):
        runs = recipes.load(PAPERS / f"{file}.toml")
        assert [run.draft_steps for run in runs] == [6, 7, 8, 9]
        for run in runs:
            assert isinstance(run, kind)
            assert run.batch_size == 1024
            assert run.epochs == epochs
            assert (run.optimizer.name, run.optimizer.lr) == ("adamw", rate)
            assert run.optimizer.weight_decay == decay


@pytest.mark.parametrize(("depth", "epochs"), [(16, 25), (8, 28), (4, 32), (2, 35)])
def test_variant_is_trained_as_its_tables_6_and_7_say(depth, epochs):
    (run,) = recipes.load(PAPERS / f"variant_d{depth}.toml")
    assert isinstance(run, TrainVariant)
    assert run.epochs == sum(run.phases) == epochs
    assert (run.optimizer.lr, run.optimizer.decay, run.optimizer.warmup) == (1e-6, "constant", 0)
    assert (run.optimizer.weight_decay, run.optimizer.clip) == (0.05, 1.0)
    assert (run.batch_size, run.mixup, run.bridge_scales) == (1024, 0.2, 6)
    assert (run.data.flip, run.data.randaugment, run.precision) == (True, True, "fp16")


def test_the_ratio_rises_as_eq_5_says():
    (run,) = recipes.load(PAPERS / "variant_d16.toml")
    expected = {0: 0.2, 5: 0.2, 10: 0.2 + 0.8 * 5 / 15, 20: 1.0, 25: 1.0}
    for epoch, probability in expected.items():
        assert run.probability(epoch / 25) == pytest.approx(probability)
    fixed = run.model_copy(update={"ratio": 0.3})
    assert fixed.probability(0.0) == fixed.probability(1.0) == 0.3


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ((25, 0, 0), {0: 0.2, 12: 0.2, 24: 0.2, 25: 0.2}),
        ((0, 0, 25), {0: 1.0, 12: 1.0, 25: 1.0}),
        ((5, 0, 20), {0: 0.2, 4.9: 0.2, 5.1: 1.0, 25: 1.0}),
        ((0, 25, 0), {0: 0.2, 12.5: 0.6, 25: 1.0}),
    ],
)
def test_any_of_the_three_phases_may_be_left_out(phases, expected):
    (run,) = recipes.load(PAPERS / "variant_d16.toml", {"phases": str(list(phases))})
    found = {at: run.probability(at / 25) for at in expected}
    assert found == pytest.approx(expected)


def test_the_refiners_weight_falls_from_one_to_zero():
    run = recipes.load(PAPERS / "refiners.toml")[0]
    step = Step(0, 101, 0, 8, range(8))
    at = [run.weights(replace(step, number=n), 10) for n in (0, 50, 100)]
    assert [w[:6] for w in at] == [[1.0] * 6, [0.5] * 6, [0.0] * 6]
    assert all(w[6:] == [1.0] * 4 for w in at)
