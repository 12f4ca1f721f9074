"""A method from a file of the user's: run with its plugin, read without."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench.study import plugins
from bench.study.cases import methods
from bench.study.errors import UsageError
from bench.study.folders import CODE

BENCH = [sys.executable, str(CODE / "bench.py")]
EXPERIMENT = str(CODE / "examples/my_experiment.toml")
METHOD = CODE / "examples/my_method.py"
METHODS = ["VAR-d12", "Funnel N=7 -3 (d12)"]
QUICK = ["--set", "samples=1", "--set", "warmup=0", "--set", "max_seconds=0.1"]
QUICK += ["--set", "method=var,funnel", "--set", "fewer=3"]


def bench(*words):
    return subprocess.run([*BENCH, *map(str, words)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of the worked example."""
    folder = tmp_path_factory.mktemp("plugin") / "run"
    words = ["run", EXPERIMENT, "--plugin", METHOD, "--device", "cpu", "--out", folder, *QUICK]
    done = bench(*words)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_worked_example_is_under_40_lines():
    assert len((CODE / "examples/my_method.py").read_text().splitlines()) < 40


def test_a_finished_run_is_read_without_the_plugin(run):
    table = json.loads(bench("table", run, "--format", "json").stdout)
    assert [row["method"] for row in table] == METHODS
    assert {row["status"] for row in table} == {"ok"}
    assert all(row["kv_cache_mib"] == row["kv_cache_mib_predicted"] for row in table)


def test_it_is_resumed_with_the_same_plugin_only(run, tmp_path):
    changed = tmp_path / "my_method.py"
    changed.write_text(METHOD.read_text() + "\n# changed\n")
    words = ["run", EXPERIMENT, "--device", "cpu", "--out", run, "--resume", *QUICK]
    done = bench(*words, "--plugin", changed)
    assert (done.returncode, "began with other plugins" in done.stderr) == (2, True)
    assert bench(*words, "--plugin", METHOD).returncode == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nothing_that_there_is", "ModuleNotFoundError: No module named 'nothing_that"),
        ("def", "SyntaxError: invalid syntax"),
        (METHOD.read_text().replace('"funnel"', '"var"'), "method var: lacks a name of its own"),
        (None, "no such Python file"),
    ],
)
def test_one_that_cannot_be_used_is_one_line_with_its_file(text, told, tmp_path):
    file = tmp_path / "broken.py"
    if text is not None:
        file.write_text(text)
    assert "var" in methods()
    with pytest.raises(UsageError) as error:
        plugins.add([file])
    assert f"plugin {file}: " in str(error.value)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_without_the_plugin_the_method_is_unknown():
    done = bench("predict", EXPERIMENT)
    assert done.returncode == 2
    assert "no such method" in done.stderr
