"""The commands as a user calls them."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app, plot, targets
from bench.measure import runner
from bench.study.cases import make_case
from tests.synthetic import fake_run, invent

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "RESULTS", tmp_path / "results")

    def call(*words):
        return CliRunner().invoke(app.app, list(words))

    return call


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("run nope", "nope: no such folder or experiment"),
        ("run d16_cpu --set batch_size=0", "--set batch_size must be 1..1024, not 0"),
        ("run d16_cpu --set pairde=true", "did you mean paired?"),
        ("run d16_cpu --set draft_steps=10", "draft_steps must be 1..9, not 10"),
        ("run d16_cpu --set subnet_depth=17", "subnet_depth must be 2..16, not 17"),
        ("run d16_cpu --device tpu", "device must be auto, cpu, cuda or cuda:N, not 'tpu'"),
        ("run d16_cpu --resume", "name its folder with --out"),
        ("run d16_cpu --out /proc/nowhere", "/proc/nowhere: cannot be written"),
        (
            "run d16_cpu --trace /tmp/x",
            "is of one case, and there are 10; choose with --set",
        ),
        ("run d16_cpu --trace /tmp/x --out y --resume", "leave out --resume"),
        ("run d16_cpu --set method=var --set stack=modern --snapshot x --device cpu", "of a GPU's"),
        ("run d16_cpu --set method=var --set stack=modern --trace /proc/x", "cannot be written"),
        ("predict d16_cpu --max-batch", "--memory 48GiB"),
        ("predict d16_cpu --memory 48GiB", "--memory goes with --max-batch"),
        ("predict d16_cpu --set device=cpu --max-batch --memory 8GiB", "leave out --set device"),
        ("predict d16_cpu --max-batch --memory 48", "a size must be like 48GiB"),
        ("predict d16_cpu --max-batch --memory lots", "a size must be like 48GiB"),
        ("predict d16_cpu --rate nan", "'--rate'"),
        ("predict d16_cpu --rate inf", "'--rate': inf is not a finite number"),
        ("predict d16_cpu --rate 9 --price inf", "'--price': inf is not a finite number"),
        ("run d16_cpu --throughput nan", "stream_seconds must be at least 0, not nan"),
        ("run d16_cpu --set max_seconds=nan", "max_seconds must be above 0, not nan"),
        ("plot memory", "no run under"),
        ("run --colour", "--colour"),
        ("predict d16_cpu --format jsn", "'--format'"),
        ("table", "no run under"),
        ("table nope", "nope: no such folder or experiment"),
        ("table /tmp", "no run.json here"),
        ("plot nope", "nope: no such figure, experiment or folder"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(bench, words, line):
    result = bench(*words.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert line in result.stderr
    assert result.stderr.count("\n") == 1


def test_list_names_experiments_methods_and_models(bench):
    result = bench("list", "--format", "json")
    names = {(row["kind"], row["name"]) for row in json.loads(result.stdout)}
    expected = {
        ("experiment", "code_table1"),
        ("method", "variant"),
        ("published model", "var_d36"),
    }
    assert expected <= names


def test_env_is_json_with_the_machine_and_the_versions(bench):
    found = json.loads(bench("env", "--format", "json").stdout)
    assert {"machine", "cpu", "gpus", "memory_gib", "commit", "packages"} <= found.keys()
    assert {"cpu_governor", "cpu_quota", "load_average", "cudnn", "variables"} <= found.keys()
    assert found["packages"]["torch"]


def test_predict_gives_the_papers_cache(bench):
    rows = json.loads(bench("predict", "code_table3", "--format", "json").stdout)
    at_64 = {row["method"]: row["kv_cache_mib"] for row in rows if row["batch_size"] == 64}
    assert at_64 == {"VAR-d30": 28687.5, "CoDe N=6 (d30+d16)": 8160.0}


@pytest.mark.parametrize(
    ("memory", "options", "fits"),
    [("48GiB", [], 77), ("45 GiB", ["--no-ecc"], 77), ("4GiB", [], 0)],
)
def test_predict_gives_the_largest_batch_of_a_card(bench, memory, options, fits):
    one = ["predict", "code_table3", "--set", "method=var", "--max-batch", "--memory", memory]
    (row,) = json.loads(bench(*one, *options, "--format", "json").stdout)
    assert row["largest_batch"] == fits
    parts = row["params_mib"] + row["kv_cache_mib"] + row["running_mib"]
    assert row["total_mib"] == pytest.approx(parts)
    said = " ".join(bench(*one, *options).stdout.split())
    assert ("not even one image fits" in said) == (fits == 0)


def test_a_run_keeps_a_trace_with_its_scales(bench, tmp_path):
    axes = ["method=var", "depth=4", "batch_size=1", "samples=1", "max_seconds=0.1"]
    changes = [word for axis in axes for word in ("--set", axis)]
    where = ["--out", str(tmp_path / "run"), "--trace", str(tmp_path / "traces")]
    result = bench("run", "quick", *changes, *where, "--device", "cpu")
    assert result.exit_code == 0, result.output
    (file,) = (tmp_path / "traces").iterdir()
    assert f"trace: {file}" in result.stdout.replace("\n", "")
    names = {
        str(event.get("name"))
        for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    }
    assert {name for name in names if name.startswith("scale ")} == {
        f"scale {k}" for k in range(1, 11)
    }


@pytest.mark.parametrize(
    ("ends", "code"), [(["error", "timeout"], 1), (["error", "oom"], 0), (["ok", "error"], 0)]
)
def test_a_run_in_which_everything_failed_ends_with_exit_code_1(
    bench, tmp_path, monkeypatch, ends, code
):
    left = iter(ends)

    def in_process(job, *_):
        good = invent(make_case(job["case"]), 1, gpu_gib=99)
        end = next(left)
        return good if end == "ok" else {"status": end, "reason": "no luck"}

    monkeypatch.setattr(runner, "run_in_process", in_process)
    axes = ["--set", "method=var", "--set", "rounds=1"]
    result = bench("run", "d16_cpu", *axes, "--device", "cpu", "--out", str(tmp_path / "run"))
    assert result.exit_code == code, result.output
    said = "nothing was measured, every case failed: see the logs in"
    assert [said in line for line in result.stderr.splitlines()] == [True] * code


def test_plot_memory_is_its_two_figures(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "find", lambda targets, shipped: [fake_run("d16_cpu")])
    result = bench("plot", "memory", "d16_cpu", "--out", str(tmp_path))
    names = sorted(file.name for file in tmp_path.glob("*.png"))
    assert result.exit_code == 0, result.output
    assert names == ["d16_cpu-memory.png", "d16_cpu-timeline.png"]


def test_plots_of_two_runs_of_an_experiment_are_two_files(bench, tmp_path, monkeypatch):
    runs = [fake_run("d16_cpu"), fake_run("d16_cpu")]
    runs[0].folder, runs[1].folder = Path("results/here/d16_cpu"), Path("results/there/d16_cpu")
    monkeypatch.setattr(plot, "find", lambda targets, shipped: runs)
    result = bench("plot", "d16_cpu", "quick", "--figure", "speed", "--out", str(tmp_path))
    assert result.exit_code == 0
    names = sorted(file.name for file in tmp_path.glob("*.png"))
    assert names == ["here-d16_cpu-speed.png", "there-d16_cpu-speed.png"]


def test_a_table_of_an_experiment_that_was_never_run_is_the_papers(bench):
    rows = json.loads(bench("table", "code_table1", "--format", "json").stdout)
    assert [row["status"] for row in rows] == ["not run"] * 11
    assert rows[0]["latency_s_paper"] == 3.62


def test_selfcheck_measures_the_timer_itself(bench):
    result = bench(
        "selfcheck", "--depth", "2", "--pairs", "6", "--device", "cpu", "--format", "json"
    )
    (found,) = json.loads(result.stdout)
    assert result.exit_code in (0, 1)  # a busy machine may fail it
    assert abs(found["missing"]) < 0.05
    assert 0 < found["clock_s"] < 1e-4
    low, high = found["overhead_interval"]
    assert low <= found["overhead"] <= high


def test_help_names_every_command():
    command = [sys.executable, "bench.py"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0
    for name in ("list", "env", "predict", "run", "table", "plot"):
        assert name in result.stdout
