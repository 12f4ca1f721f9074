"""The workflow of the regression gate: its commands exist, and run one after the other."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from bench.cli import app
from bench.study import experiment
from bench.tables import stats

ROOT = Path(__file__).parents[2]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "gate.yml").read_text())
JOB = WORKFLOW["jobs"]["gate"]
SCRIPTS = {step["name"]: step["run"] for step in JOB["steps"] if "run" in step}
TINY = """
title = "tiny"
samples = 1
rounds = 1
warmup = 0
max_seconds = 0.1
[defaults]
depth = 2
precision = "float32"
[[cases]]
method = "var"
"""


def commands():
    lines = [line for script in SCRIPTS.values() for line in script.splitlines()]
    return [found[1] for line in lines if (found := re.search(r"python bench\.py (.*)", line))]


@pytest.mark.parametrize("line", commands())
def test_its_commands_are_those_of_the_command_line(line):
    words = shlex.split(re.split(r" > | \|\| ", line)[0])
    group = typer.main.get_command(app.app)
    group.commands[words[0]].make_context(words[0], words[1:])


def test_every_command_is_covered():
    assert [line.split()[0] for line in commands()] == ["env", "run", "run", "compare", "compare"]


def test_what_it_runs_is_the_default_size_of_the_gate():
    sweep = experiment.load(str(ROOT / JOB["env"]["EXPERIMENT"]))
    assert (sweep.experiment.rounds, sweep.experiment.samples) == (stats.ROUNDS, stats.SAMPLES)
    assert len(sweep.cases) <= 30  # as in docs/guide/gate.md


def test_nothing_from_outside_reaches_a_shell_or_our_machines():
    assert not any("${{" in script for script in SCRIPTS.values())
    assert "head.repo.full_name == github.repository" in JOB["if"]
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in WORKFLOW[True]  # YAML reads `on` as true
    assert JOB["timeout-minutes"] <= 360
    pinned = [step["uses"] for step in JOB["steps"] if "uses" in step]
    assert all(re.search(r"@(v\d+|[0-9a-f]{40})$", action) for action in pinned)


def test_without_a_gpu_one_job_measures_both_commits_as_often_as_the_gate_asks():
    text = (ROOT / ".github" / "workflows" / "gate-cpu.yml").read_text()
    (job,) = yaml.safe_load(text)["jobs"].values()
    scripts = {step["name"]: step["run"] for step in job["steps"] if "run" in step}
    assert not any("${{" in script for script in scripts.values())
    rounds = range(1, stats.ROUNDS + 1)
    measuring = scripts["Measure both commits in turns"]
    assert f"for round in {' '.join(map(str, rounds))}; do" in measuring
    assert f"--benchmark-min-rounds={stats.SAMPLES} " in measuring
    for line in re.findall(r"python bench\.py (.*)", scripts["Compare"]):
        words = shlex.split(re.split(r" > ", line)[0])
        typer.main.get_command(app.app).commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.slow
def test_it_runs_from_end_to_end(tmp_path):
    """All its scripts but the set-up, on a project of two commits and a tiny model."""
    work, temp = tmp_path / "work", tmp_path / "temp"
    for folder in ("bench", "codevar", "experiments", "results/papers"):
        shutil.copytree(ROOT / folder, work / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "bench.py", work)
    (work / "tiny.toml").write_text(TINY)
    (work / ".gitignore").write_text("__pycache__/\n")
    temp.mkdir()

    def git(*words):
        told = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *told, *words], cwd=work, check=True, capture_output=True)
        return done.stdout.decode().strip()

    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message=base")
    base = git("rev-parse", "HEAD")
    git("update-ref", "refs/remotes/origin/main", base)
    git("commit", "--quiet", "--allow-empty", "--message=head")
    environ = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "EXPERIMENT": "tiny.toml",
        "TARGET": "main",
        "BASE": base,
        "CUDA_VISIBLE_DEVICES": "",
        "GITHUB_WORKSPACE": str(work),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "RUNNER_TEMP": str(temp),
    }
    for name, script in SCRIPTS.items():
        if name == "Set up":
            continue
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        done = subprocess.run(shell, cwd=work, env=environ, capture_output=True, text=True)
        # One round has no power, which the comparison says.
        expected = 2 if name == "Compare" else 0
        assert done.returncode == expected, f"{name}: {done.stdout}{done.stderr}"
    output = (tmp_path / "output").read_text()
    assert f"base={base}" in output
    assert re.search(r"^machine=[a-z0-9-]+$", output, re.MULTILINE)
    assert f'"commit": "{base}"' in (work / "gate" / "base" / "records.jsonl").read_text()
    assert (
        f'"commit": "{git("rev-parse", "HEAD")}"'
        in (work / "gate" / "head" / "records.jsonl").read_text()
    )
    assert "| VAR-d2" in (tmp_path / "summary.md").read_text()
    assert "::notice title=Benchmark::" in done.stdout
    assert (work / "gate" / "junit.xml").read_text().startswith("<?xml")
    assert list((work / "gate" / "pictures").glob("*.png"))
