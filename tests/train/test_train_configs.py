"""The configs that ship with the project are the papers' and fit each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import codevar
from codevar.progress import Progress
from codevar.train import loop, recipes
from codevar.train.errors import TrainError
from codevar.train.recipes import TrainDrafter, TrainRefiner, TrainVariant
from codevar.train.step import Step

FOLDER = Path(__file__).parents[2] / "experiments" / "train"
FILES = sorted(FOLDER.rglob("*.toml"))
PAPERS = FOLDER / "papers"
MINI = FOLDER / "mini-cpu"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(FOLDER)))
def test_every_config_is_one(file):
    assert recipes.load(file)


def tiny_runs(world: str, out: Path) -> list[recipes.Recipe]:
    """The world's own recipes, at a step each of two layers and an image; of several runs of a
    file the last one."""
    small = {"steps": "1", "batch_size": "1", "micro_batch": "1", "compile": "false"}
    small |= {"precision": "float32", "data.tokens": "", "data.images": "4"}
    sizes = {
        "1-vqvae": {"unquantised": "0", "model.width": "32", "model.multipliers": "[1, 1]"},
        "3-large": {"model.depth": "2", "model.width": "32", "model.heads": "1"},
        "4-small": {"model.depth": "1", "model.width": "32", "model.heads": "1"},
        "7-variants": {"subnet_depth": "2", "measure_every": "0"},
    }
    runs = []
    for file in sorted((FOLDER / world).glob("*.toml")):
        *_, run = recipes.load(file, small | sizes.get(file.stem, {}))
        keys = ("out", "vqvae", "init", "teacher")
        moved = {key: getattr(run, key, "").replace(f"runs/{world}", str(out)) for key in keys}
        runs.append(run.model_copy(update={k: v for k, v in moved.items() if v}))
    return runs


@pytest.mark.parametrize("world", ["mini-gpu", "mini-13"])
def test_a_mini_world_for_a_gpu_trains_a_step_of_each_of_its_models(world, tmp_path):
    for run in tiny_runs(world, tmp_path):
        assert loop.train(run, Path(run.out), device="cpu", progress=Progress(quiet=True)).is_file()
    vqvae, var = codevar.load_vqvae(tmp_path / "vqvae/model.safetensors", device="cpu"), "large"
    model = codevar.load_var(tmp_path / var / "model.safetensors", device="cpu")
    maps = {"mini-gpu": (10, 16, 680), "mini-13": (13, 32, 2729)}[world]
    assert (model.scales.K, model.config.patch_sizes[-1], model.scales.L) == maps
    assert vqvae.config.patch_sizes == model.config.patch_sizes


@pytest.mark.parametrize("world", ["mini-gpu", "mini-13", "mini-cpu"])
def test_a_mini_world_in_order_makes_what_it_needs(world):
    made = set()
    for file in sorted((FOLDER / world).glob("*.toml")):
        for run in recipes.load(file):
            for key in ("vqvae", "init", "teacher"):
                needed = getattr(run, key, "")
                assert not needed or needed in made, f"{file}: {needed}"
            made.add(f"{run.out}/model.safetensors")
    names = {Path(path).parent.name for path in made}
    drafts = (8, 9, 10, 11, 12) if world == "mini-13" else (6, 7, 8, 9)
    pairs = {f"{kind}_{n}" for kind in ("drafter", "refiner") for n in drafts}
    assert {"vqvae", "large", "small", "classifier", "factors"} | pairs <= names
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


DRAFTERS = FOLDER / "mini-cpu" / "5-drafters.toml"
SMALL = FOLDER / "mini-cpu" / "4-small.toml"
SHIPPED = {"vqvae": '"mini_vqvae"', "init": '"mini_large"'}


def test_one_value_may_stand_where_a_config_has_a_list():
    (run,) = recipes.load(DRAFTERS, {**SHIPPED, "draft_steps": "9"})
    run.check_files()
    assert run.out == "runs/mini-cpu/drafter_9"


@pytest.mark.parametrize(
    ("file", "changes", "line"),
    [
        (DRAFTERS, {"draft_steps": "10"}, "draft_steps must be 1..9, not 10"),
        (DRAFTERS, {"data.side": "50"}, "data.side"),
        (SMALL, {}, "either init or, of a new model, the sizes in"),
    ],
)
def test_what_a_config_and_headers_tell_is_refused_before_any_work(file, changes, line):
    with pytest.raises(TrainError, match=line):
        recipes.load(file, SHIPPED | changes)[0].check_files()


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


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("1-vqvae.toml", "model.width"),
        ("2-classifier.toml", "batch_size"),
        ("2-classifier.toml", "steps"),
        ("2-classifier.toml", "seed"),
        ("2-classifier.toml", "data.images"),
        ("2-classifier.toml", "data.side"),
        ("3-large.toml", "model.depth"),
        ("3-large.toml", "model.width"),
    ],
)
def test_a_number_out_of_all_range_is_refused_with_its_key(file, key):
    with pytest.raises(TrainError, match=f"{key}: must be less than"):
        recipes.load(MINI / file, {key: "99999999999999999999"})


def test_a_model_that_no_memory_holds_is_refused_before_it_is_made(tmp_path):
    sizes = {"width": "8192", "batch_size": "1048576", "data.side": "4096"}
    (run,) = recipes.load(MINI / "2-classifier.toml", sizes)
    with pytest.raises(TrainError, match="GiB at least, cpu has"):
        loop.train(run, tmp_path, device="cpu")
