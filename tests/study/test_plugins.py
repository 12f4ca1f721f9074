"""A method from a file of the user's: run with its plugin, read without."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

import codevar
from bench.figures import looks, registry
from bench.methods.meta import meta_plan
from bench.metrics import METRICS
from bench.metrics.metric import kept_facts, register_kept
from bench.report import page
from bench.study import cases, columns, experiment, plugins
from bench.study.cases import make_case, methods
from bench.study.errors import UsageError
from bench.study.folders import CODE
from bench.tables import advice, frames
from bench.tables.case_rows import rows_of
from bench.tables.catalogue import catalogue
from codevar.eviction import SCORES
from codevar.plan import evict_cache, prune_tokens
from codevar.pruning import RESTORERS, SELECTORS
from tests import tiny

BENCH = [sys.executable, str(CODE / "bench.py")]
EXPERIMENT = CODE / "examples/my_experiment.toml"
METHOD = CODE / "examples/my_method.py"
METHODS = ["VAR-d12", "Funnel N=7 -3 (d12)"]
QUICK = ["--set", "samples=1", "--set", "warmup=0", "--set", "max_seconds=0.1"]
QUICK += ["--set", "method=var,funnel", "--set", "fewer=3"]


@pytest.fixture(autouse=True)
def _registries_stay_as_they_are(monkeypatch):
    """What a test's plugins register is gone after it, in this process."""
    methods()
    monkeypatch.setenv(plugins.FILES, "")
    kept = [cases._registered, METRICS, columns.COLUMNS, SELECTORS, RESTORERS, SCORES]
    before = [dict(one) for one in kept]
    yield
    for one, values in zip(kept, before, strict=True):
        one.clear()
        one.update(values)


def bench(*words):
    return subprocess.run([*BENCH, *map(str, words)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of the worked example, whose file asks for its plugin."""
    folder = tmp_path_factory.mktemp("plugin")
    for file in (EXPERIMENT, METHOD):
        (folder / file.name).write_text(file.read_text())
    done = bench(*words_of(folder))
    assert done.returncode == 0, done.stderr
    return folder / "run"


def words_of(folder):
    words = ["run", folder / EXPERIMENT.name, "--allow-plugins", "--device", "cpu"]
    return [*words, "--out", folder / "run", *QUICK]


def test_the_worked_example_is_under_40_lines_and_stands_in_the_guide():
    text = METHOD.read_text()
    assert len(text.splitlines()) < 40
    assert text[text.index("from __future__") :] in (CODE / "docs/guide/your-own.md").read_text()


def test_a_finished_run_is_read_without_the_plugin(run):
    table = json.loads(bench("table", run, "--format", "json").stdout)
    assert [row["method"] for row in table] == METHODS
    assert {row["status"] for row in table} == {"ok"}
    assert all(row["kv_cache_mib"] == row["kv_cache_mib_predicted"] for row in table)


def test_it_is_resumed_with_the_same_plugin_only(run):
    file, words = run.parent / METHOD.name, [*words_of(run.parent), "--resume"]
    before = (run / "records.jsonl").read_text()
    file.write_text(METHOD.read_text() + "\n# changed\n")
    done = bench(*words)
    told = "began with other plugins (my_method.py)"
    assert (done.returncode, told in done.stderr) == (2, True)
    file.write_text(METHOD.read_text())
    assert bench(*words).returncode == 0
    assert (run / "records.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nothing_that_there_is", "ModuleNotFoundError: No module named 'nothing_that"),
        ("def", "SyntaxError: invalid syntax"),
        (METHOD.read_text().replace('"funnel"', '"var"'), "method var: lacks a name of its own"),
        (METHOD.read_text() + "\n\nregister(Funnel)\n", "method funnel: lacks a name of its own"),
        (None, "no such Python file"),
    ],
)
def test_one_that_cannot_be_used_is_one_line_with_its_file(text, told, tmp_path):
    file = tmp_path / "broken.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError) as error:
        cases.add_plugins([file])
    assert f"plugin {file}: " in str(error.value)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_without_the_plugin_its_experiment_is_refused():
    done = bench("predict", EXPERIMENT)
    assert done.returncode == 2
    assert "asks for plugin" in done.stderr


def test_its_looks_and_its_place_in_tables_pictures_and_advice_are_read_without_it(run, tmp_path):
    measured = frames.load(run)
    rows = [row for row in rows_of(measured) if row["method"] == METHODS[1]]
    look = looks.of_case(rows[0]["name"], rows[0]["case"])
    assert (look["label"], look["color"], look["marker"]) == ("funnel", "#117733", "P")
    assert looks.by_name(rows)[rows[0]["name"]]["marker"] == "P"
    assert registry.draw(measured, ["tradeoff"], tmp_path)
    assert METHODS[1] in page.of_runs([measured], [], "report")
    here = {"batch_size": 1, "stack": "modern", "precision": "float32", "device": "cpu"}
    cases = advice.of_plugins([measured], here)
    (found,) = advice.candidates(cases, [measured], measured.env["machine"])
    assert (found.case.label, found.latency_from) == (METHODS[1], "measured")
    assert "funnel" not in methods()


def test_an_experiment_asks_for_its_own_plugins(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(METHOD.read_text().replace('"funnel"', '"own_funnel"'))
    file = tmp_path / "asks.toml"
    file.write_text(
        'title = "x"\nplugins = ["mine.py"]\n[[cases]]\nmethod = "own_funnel"\nweights = "mini"\n'
    )
    with pytest.raises(UsageError, match=r"asks for plugin .*mine\.py, .* --allow-plugins lets it"):
        experiment.load(str(file))
    monkeypatch.setattr(plugins, "allowed", True)
    (case,) = experiment.load(str(file)).cases[:1]
    assert case.label == "Funnel N=7 -2 (d12)"
    assert plugins.hashes().keys() == {"mine.py"}


def test_a_package_is_loaded_when_its_method_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "their_package.py").write_text(
        METHOD.read_text().replace('"funnel"', '"their_funnel"')
    )
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("their_funnel", "their_package", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    monkeypatch.setattr(plugins, "loaded", {})
    shown = catalogue().data.set_index("name")["what"]
    assert shown["their_funnel"] == "of an installed package, loaded when asked for: their_package"
    assert "their_package" not in sys.modules
    (case,) = experiment.cases_of("their_funnel")
    assert case.label == "Funnel N=7 -2 (d30)"


KINDS = '''
import torch
from bench.methods.baselines.dit import DiTCase
from bench.metrics import Estimate, Metric
from bench.study.cases import register
from codevar.eviction import SCORES
from codevar.pruning import RESTORERS, SELECTORS
from typing import ClassVar, Literal


@SELECTORS.register("first")
def first(x_BlC, kept, chance):
    return torch.arange(kept).expand(len(x_BlC), -1)


@RESTORERS.register("mean")
def mean(source_BmC, tokens):
    return source_BmC.mean(1, keepdim=True).repeat(1, tokens, 1)


@SCORES.register("long")
def long(of):
    return of.k_BHKc.float().norm(dim=-1)


Metric("mean_feature", "mean", "{:.1f}", 395, layer="pool", high=9.0,
       compute=lambda given: given.mean(given.samples["pool"].mean(1)))


@register
class Mine(DiTCase):
    """A baseline of one's own."""

    method: Literal["mine"] = "mine"
    label_format: ClassVar = "Mine {size}"
'''


def test_selectors_restorers_scores_metrics_and_baselines_too(tmp_path):
    (tmp_path / "kinds.py").write_text(KINDS)
    cases.add_plugins([tmp_path / "kinds.py"])
    assert methods()["mine"](method="mine").label.startswith("Mine ")
    kept = kept_facts(["fid", "mean_feature"])
    assert kept.keys() == {"mean_feature"}
    del METRICS["mean_feature"], columns.COLUMNS["mean_feature"]
    register_kept(kept)  # as a table has it, without the plugin
    assert columns.COLUMNS["mean_feature"].heading == "mean"
    big = tiny.var()
    plan = evict_cache(prune_tokens(big, {4: 0.5}, None, "first", 3, "mean"), {3: 8}, "long")
    made = codevar.decode(plan, tiny.vqvae(), [1, 2], stack=codevar.stack("modern"))
    assert made.tokens.shape == (2, 30)
    case = make_case({"method": "var", "prune": "first 10:0.5 mean 9", "cache_policy": "long 64"})
    assert case.label == "VAR-d30, first 10:0.5 mean 9, cache long 64"
    assert meta_plan(case).steps[9].tokens.restorer == "mean"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return None", "TypeError: method_plan must return a plan, not None"),
        ("return 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_one_that_gives_no_plan_is_one_line_with_its_file(body, told, tmp_path):
    file = tmp_path / "planless.py"
    head, _, _ = METHOD.read_text().partition("        found = ")
    file.write_text(head.replace('"funnel"', '"planless"') + f"        {body}\n")
    cases.add_plugins([file])
    with pytest.raises(UsageError) as error:
        meta_plan(make_case({"method": "planless", "weights": "mini"}))
    assert f"plugin {file}: {told}" in str(error.value)
    assert "\n" not in str(error.value)
