"""`pytest benchmarks/` writes what `compare` reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.tables import compare, sides
from bench.tables.sides import NotComparableError
from benchmarks import kernels

ROOT = Path(__file__).parents[2]


def test_a_case_is_measured_and_compared(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # or it measures nothing
    file = tmp_path / "base" / "1.json"
    file.parent.mkdir()
    words = ["-k", "VARiant and modern", "--benchmark-min-rounds=2", f"--benchmark-json={file}"]
    command = [sys.executable, "-m", "pytest", "benchmarks", "--quiet", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    (case,) = sides.of_benchmarks(file).cases.values()
    assert case.label.startswith("VARiant-d2 N=6 (d4), batch 1, modern")
    assert [*case.samples] == ["latency", *(f"scale {k}" for k in range(1, 11))]
    scales = [case.samples[f"scale {k}"][1] for k in range(1, 11)]
    assert sum(scales) == pytest.approx(case.samples["latency"][1])

    told = json.loads(file.read_text())
    told["machine_info"]["hardware"]["host"] = "another"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(told))
    with pytest.raises(NotComparableError, match="other hardware, host"):
        compare.compare(sides.of_benchmarks(file.parent), sides.of_benchmarks(other))


def test_the_parts_that_methods_add_to_a_layer_run():
    for _, _, run in kernels.added():
        run()
