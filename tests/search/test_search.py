"""`bench.py search` from its words to its files, on models of milliseconds."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import codevar
from bench.cli.app import app
from bench.methods.loaded import Loaded
from bench.predict.prediction import predict
from bench.quality import sampling
from bench.search.confirm import WHOLE, Versus, corrected, p_value
from bench.search.target import Target
from bench.search.world import paired_kid
from bench.study import experiment
from bench.study.errors import UsageError
from tests import tiny

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12)
WORDS = "search --for mini,1,modern --max-flops 2.05e9 --evaluations 12 --images 10 --front 1"
CONFIRM = "--confirm 150 --reference mini:test:160"


def models(depth, other):
    sizes = {"patch_sizes": SIZES, "width": 16, "heads": 1}
    return [tiny.var(depth, seed, **sizes) for seed, depth in enumerate((depth, other))]


def run(words, folder):
    return CliRunner().invoke(app, [*words.split(), "--out", str(folder)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a search that has ended; beside it what it printed."""
    large, small = models(3, 2)  # in the place of 12 and 4 layers
    vqvae = tiny.vqvae(SIZES)

    def of(case, download):
        plan = case.plan(*[large, small][: len(case.depths)])
        sources = ["seeded:var_d12:0", "seeded:var_d4:0"][: len(case.depths)]
        return Loaded(case, plan, vqvae, codevar.stack("published", "float32"), sources)

    out = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling.Loaded, "of", of)
        done = run(f"{WORDS} {CONFIRM} --format json", out)
        assert done.exit_code == 0, done.output
        patch.setattr(sampling, "decode", None)  # nothing is left to decode
        again = run(f"{WORDS} {CONFIRM} --format json", out)
        assert again.exit_code == 0, again.output
    (out / "printed.json").write_text(done.stdout)
    return out


def test_what_was_found_is_compared_with_what_was_published_at_its_cost(folder):
    listed = json.loads((folder / "published.json").read_text())["plans"]
    flops = {one["name"]: one["costs"]["flops"] for one in listed}
    assert flops["CoDe N=8"] == pytest.approx(2.041e9, rel=1e-3)
    found = json.loads((folder / "printed.json").read_text())
    others = {one["other"] for one in found}
    assert WHOLE in others
    (best,) = experiment.load(str(folder / "found_1.toml")).cases[1:]
    own = sum(predict(best).flops)
    assert own <= 2.05e9
    same = {one for one in flops if 0.98 * own <= flops[one] <= 1.02 * 2.05e9}
    assert {*others} >= same & {"CoDe N=8"} or own == flops["CoDe N=8"]
    assert same >= others - {WHOLE}
    assert {one["metric"] for one in found} == {"fid", "class_accuracy"}


def test_a_found_plan_runs_on_models_of_other_depths(folder):
    file = str(folder / "found_1.toml")
    assert [case.depths for case in experiment.load(file).cases] in ([(12,), (12, 4)], [(12,)] * 2)
    changes = ["weights=seeded", "sampling=var", "depth=7", "other_depth=3", "batch_size=2"]
    case = experiment.load(file, changes).cases[1]
    plan = case.plan(*models(7, 3))
    assert plan.models[0].config.depth == 7
    assert codevar.decode(plan, tiny.vqvae(SIZES), [1, 2], seed=0).images.shape == (2, 3, 24, 24)


def test_another_search_is_refused_in_its_folder(folder):
    for words in ("--seed 1", "--max-flops 2.1e9", "--for mini,2,modern", "--images 20"):
        said = run(f"{WORDS} {words} --confirm 0", folder)
        assert said.exit_code == 2
        assert "holds another search" in said.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--max-flops 5", "fits 5 FLOPs: the least is 6.72e+06 FLOPs"),
        ("--max-flops 1e13", "fits the budget as it is: it takes 4.357e+09 FLOPs"),
        ("--for mini,1", "write MODEL,BATCH,STACK"),
        ("--confirm 100", "need 141 images, as many of each class: --confirm 150"),
        ("--images 9", "--images"),
        ("--max-latency 1 --device cuda:7", "no profile tells how fast cuda:7 is in fp16"),
    ],
)
def test_what_cannot_be_is_one_line(words, told, tmp_path):
    said = run(f"{WORDS} {words}", tmp_path / "none")
    assert (said.exit_code, said.stderr.count("\n")) == (2, 1), said.output
    assert told in said.stderr
    assert not (tmp_path / "none").exists()


def test_a_search_needs_a_budget():
    with pytest.raises(UsageError, match="needs a budget"):
        Target("d30,1,modern", {}, "cpu", "float32")


def test_p_values_are_those_of_the_intervals_and_corrected_over_published_plans_alone():
    assert p_value(-1.0, (-2.0, 0.0)) == pytest.approx(0.05)
    assert p_value(0.2, (0.0, 0.9)) == pytest.approx(0.05)  # lopsided: the end towards zero counts
    assert p_value(0.0, (0.0, 0.0)) == 1
    found = [
        Versus("found 1", other, "fid", 0, 0, apart, interval)
        for other, apart, interval in [
            (WHOLE, 1.0, (0.5, 1.5)),
            ("CoDe N=8", -1.0, (-1.9, -0.1)),
            ("FastVAR", -1.0, (-1.5, -0.5)),
        ]
    ]
    whole, code, fastvar = corrected(found)
    assert (whole.p, whole.verdict) == (None, "")
    assert code.p == pytest.approx(p_value(-1.0, (-1.9, -0.1)))
    assert fastvar.p == pytest.approx(2 * p_value(-1.0, (-1.5, -0.5)))
    assert (code.verdict, fastvar.verdict) == ("better", "better")
    worse = Versus("found 1", "CoDe N=8", "class_accuracy", 0, 0, -0.1, (-0.2, -0.05), 0.01)
    assert worse.verdict == "worse"


def test_other_images_of_the_same_distribution_lose_nothing_and_a_shift_shows():
    draw = torch.Generator().manual_seed(0)
    x_ND, y_ND, z_ND = torch.randn(3, 200, 8, generator=draw)
    found = torch.tensor(
        [paired_kid(x_ND[n : n + 40], y_ND[n : n + 40]) for n in range(0, 200, 40)]
    )
    assert found.mean().abs() < 3 * found.std() / 5**0.5 + 1e-3
    assert paired_kid(x_ND, x_ND) == pytest.approx(0)
    assert paired_kid(z_ND + 0.5, y_ND) > 10 * abs(paired_kid(z_ND, y_ND))
