"""Files of calibrated settings: as axes of an experiment, and refused."""

from __future__ import annotations

import json

import pytest

from bench.measure import runner
from bench.methods.meta import meta_plan
from bench.predict.prediction import predict
from bench.quality.sampling import check_same
from bench.quality.wanted import Wanted
from bench.study import calibrated, experiment, savings
from bench.study.cases import make_case
from bench.study.errors import UsageError
from bench.study.records import RunFolder
from codevar.steps import Eviction, Window
from tests import tiny

MINI = {"method": "var", "weights": "mini", "device": "cpu", "precision": "float32"}


def plan_of(**keys):
    return meta_plan(make_case(MINI | keys))


def rules(plan, layer, k):
    return plan.steps[k - 1].cache.of(layer)


def test_shipped_settings_are_rules_of_the_layers():
    settings = calibrated.by_number(calibrated.read("scalekv", "mini_scalekv")["settings"])
    plan = plan_of(cache_policy="scalekv mini_scalekv")
    layer = settings["drafters"][9][0]
    assert rules(plan, layer, 9).budget == settings["drafter_budgets"][9]
    control = plan_of(cache_policy="scalekv mini_scalekv random")
    assert rules(control, layer, 9) == Eviction(rules(plan, layer, 9).budget, "random", (2, 3))
    demanding = calibrated.read("ams_kv", "mini_ams_kv")["settings"]["demanding"]
    plan = plan_of(cache_policy="ams_kv mini_ams_kv")
    assert rules(plan, demanding[0], 9) == Window(2, 2, tuple(demanding))


def test_hacks_controls_have_its_counts_in_other_heads_or_of_other_keys():
    case = make_case(MINI | {"cache_policy": "hack mini_hack"})
    *controls, _ = savings.controls(case)
    policies = [values["cache_policy"] for values in controls]
    assert policies == [f"hack mini_hack {score}" for score in ("random", "recent", "random_heads")]
    whole, *others = (
        predict(make_case(MINI | {"cache_policy": p})) for p in ["hack mini_hack", *policies]
    )
    assert all(other.kv_cache_bytes == whole.kv_cache_bytes for other in others)
    assert others[2].flops == whole.flops
    assert [*savings.controls(make_case(controls[2]))] == [savings.whole(controls[2]) | {"seed": 1}]


def test_sparsevars_counts_are_those_of_its_file_and_its_control_has_as_many():
    kept = calibrated.by_number(calibrated.read("sparsevar", "mini_sparsevar")["settings"])["kept"]
    case = make_case(MINI | {"prune": "sparsevar mini_sparsevar"})
    *controls, _ = savings.controls(case)
    plan, control = meta_plan(case), plan_of(prune=controls[0]["prune"])
    assert controls[0]["prune"] == "sparsevar mini_sparsevar random"
    assert controls[1]["skip_scales"] == "8"  # 64 tokens for 25 and 37
    for k, count in kept.items():
        for rule in (plan.steps[k - 1].tokens, control.steps[k - 1].tokens):
            assert rule.kept(plan.scales.tokens[k - 1]) == count
    assert predict(case).flops == predict(make_case(controls[0])).flops


def test_settings_are_those_of_one_of_the_plans_models():
    plan = plan_of(cache_policy="ams_kv mini_ams_kv", method="code", draft_steps=8)
    assert [bool(step.cache.rules) for step in plan.steps] == [True] * 8 + [False] * 2


def test_every_shipped_file_says_what_it_was_measured_on():
    for path in calibrated.SHIPPED.glob("*.json"):
        found = json.loads(path.read_text())
        assert {"case", "images", "seed", "options", "sources"} <= {*found["measured_on"]}, path


def test_skipvar_branches_and_its_controls_go_one_way():
    plan = plan_of(branch="skipvar mini_skipvar")
    assert plan.branch.at == 7
    assert len(plan.branch.plans) == 1 + 3 + 3
    assert not plan.branch.decide.shares
    control = plan_of(branch="skipvar mini_skipvar random")
    assert sum(control.branch.decide.shares) == pytest.approx(1)
    whole, without_last = (
        predict(make_case(MINI | {"branch": f"skipvar mini_skipvar only{i}"})) for i in (0, 1)
    )
    assert whole.flops[:9] == without_last.flops[:9]
    assert (whole.flops[9] > 0, without_last.flops[9]) == (True, 0)
    assert make_case(MINI | {"branch": "skipvar mini_skipvar"}).label.endswith(
        ", skipvar mini_skipvar"
    )


def test_skipvars_control_draws_as_many_of_each_decision():
    case = make_case(MINI | {"branch": "skipvar mini_skipvar"})
    controls = [make_case(values) for values in savings.controls(case)]
    assert [(c.branch, c.seed) for c in controls] == [("skipvar mini_skipvar random", 0), (None, 1)]
    assert [*savings.controls(controls[0])] == [controls[1].model_dump()]


def test_a_run_goes_on_with_the_very_files_that_it_began_with(tmp_path):
    own, cases = tmp_path / "own.json", tmp_path / "own.toml"
    found = calibrated.read("ams_kv", "mini_ams_kv")
    own.write_text(json.dumps(found))
    cases.write_text(
        'title = "T"\ncontrols = false\n[[cases]]\nmethod = "var"\nweights = "mini"\n'
        f'cache_policy = ["window 2+1", "ams_kv {own}"]\n'
    )

    def begin(resume):
        what = runner.describe_run(experiment.load(str(cases), device="cpu"))
        RunFolder(tmp_path / "run", what, {}, resume).close()
        return what["settings"]

    hashes = begin(resume=False)
    assert [*hashes] == [str(own)]
    assert begin(resume=True) == hashes
    own.write_text(json.dumps(found | {"settings": found["settings"] | {"last": 2}}))
    with tiny.refused("began with other files of calibrated settings", error=UsageError):
        begin(resume=True)
    case = experiment.load(str(cases), device="cpu").cases[1]
    images = Wanted(case, 0, 1, "npz").values
    with tiny.refused("holds other samples (settings_sha256", error=UsageError):
        check_same(tmp_path, {**images, "settings_sha256": hashes}, images)


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path):
    own = tmp_path / "own.json"
    with tiny.refused("own.json: cannot be read", "mini_scalekv", error=UsageError):
        plan_of(cache_policy=f"scalekv {own}")
    own.write_text("{}")
    with tiny.refused("own.json: no file of settings", error=UsageError):
        plan_of(cache_policy=f"scalekv {own}")
    with tiny.refused("settings of ams_kv, not of scalekv", error=UsageError):
        plan_of(cache_policy="scalekv mini_ams_kv")
    with tiny.refused("of a model of depth 12 and width 128", error=UsageError):
        plan_of(cache_policy="scalekv mini_scalekv", weights="seeded", depth=16)
    with tiny.refused("variant must be one of importance, random", error=UsageError):
        plan_of(prune="sparsevar mini_sparsevar best")
    with tiny.refused("score must be one of", error=UsageError):
        plan_of(cache_policy="scalekv mini_scalekv best")
    with tiny.refused("of a model of depth 12", error=UsageError):
        plan_of(branch="skipvar mini_skipvar", depth=4)
    with tiny.refused("decides for one model alone", error=UsageError):
        plan_of(branch="skipvar mini_skipvar", method="code", draft_steps=8)
    with tiny.refused("variant must be one of observed, random, only0", error=UsageError):
        plan_of(branch="skipvar mini_skipvar only9")
    found = calibrated.read("scalekv", "mini_scalekv")
    own.write_text(json.dumps(found | {"settings": {"uniform": 3}}))
    with tiny.refused("settings that scalekv does not take", error=UsageError):
        plan_of(cache_policy=f"scalekv {own}")
