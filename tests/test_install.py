"""What `pip install .` puts on a machine, and that it works there, away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    building = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run(building, check=True)
    (file,) = folder.iterdir()
    return file


def test_the_wheel_holds_all_that_the_project_ships(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "bench", "codevar", "experiments", "results"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    there = [path for path in tracked if (ROOT / path).exists()]
    moved = ("experiments/", "results/")
    wanted = {f"bench/data/{path}" if path.startswith(moved) else path for path in there}
    assert wanted - held == set()
    for ending in (".toml", ".csv", ".jsonl", ".safetensors", ".mat", ".html", ".css", ".js"):
        assert any(path.endswith(ending) for path in held)
    assert not [path for path in held if path.startswith(("tests/", "bench/data/results/x"))]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """`codevar-bench` as a user types it, in an empty folder; its libraries are those of here."""
    site, empty = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    before = {path for path in site.rglob("*") if "__pycache__" not in path.parts}

    def call(*words):
        script = [sys.executable, str(site / "bin" / "codevar-bench"), *words]
        environ = {**os.environ, "PYTHONPATH": str(site), "CODEVAR_MACHINE": "here"}
        done = subprocess.run(script, cwd=empty, capture_output=True, text=True, env=environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    call.folder = empty
    yield call
    left = {path for path in site.rglob("*") if "__pycache__" not in path.parts}
    assert left == before, "commands wrote into the package"


@pytest.mark.slow
def test_installed_it_lists_every_experiment(installed):
    rows = json.loads(installed("list", "--format", "json"))
    listed = {row["name"] for row in rows if row["kind"] == "experiment"}
    assert listed == {path.stem for path in (ROOT / "experiments").glob("*.toml")}


@pytest.mark.slow
def test_installed_it_prints_the_papers_numbers(installed):
    rows = json.loads(installed("table", "code_table1", "--format", "json"))
    assert rows[0]["latency_s_paper"] == 3.62
    assert "mini_table1" in installed("history", "--shipped", "--format", "csv")


@pytest.mark.slow
def test_installed_it_runs_and_writes_to_the_working_folder(installed):
    effort = [word for key in ("rounds", "samples") for word in ("--set", f"{key}=1")]
    installed("run", "quick", *effort, "--device", "cpu")
    (run,) = (installed.folder / "results" / "here").iterdir()
    lines = (run / "records.jsonl").read_text().splitlines()
    assert {json.loads(line)["status"] for line in lines} == {"ok"}
    assert json.loads((run / "env.json").read_text())["commit"] is None
    rows = json.loads(installed("table", "--format", "json"))
    assert {row["status"] for row in rows} >= {"ok"}
    installed("plot", "quick")
    assert list((installed.folder / "plots").glob("quick-*.png"))
