"""What travels to a machine without network is enough to measure there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.measure.profile import kit

ROOT = Path(__file__).parents[3]
#: Tables and pictures need them; a machine that measures need not have them.
ABSENT = ("pandas", "scipy", "matplotlib", "torch_fidelity", "tabulate", "adjustText")
DRY_RUN = f"""
import sys
sys.modules |= dict.fromkeys({ABSENT})
from bench.cli.app import app
app()
"""


def test_measuring_needs_no_library_of_tables_or_pictures():
    command = [sys.executable, "-c", DRY_RUN, "profile", "--dry-run", "--minutes", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ceilings" in done.stdout


def test_wheels_are_those_that_a_machine_with_torch_lacks():
    there, wanted = kit.closure(kit.THERE, "3.12"), kit.closure(kit.NEEDED, "3.12")
    assert {"torch", "numpy", "triton", "filelock", "sympy"} <= there.keys()
    assert {"pydantic", "pydantic-core", "typer", "click", "pytest", "diffusers"} <= wanted.keys()
    assert not {"pandas", "scipy", "matplotlib"} & wanted.keys()


@pytest.mark.parametrize(
    ("path", "goes"),
    [
        ("bench.py", True),
        ("codevar/mini/weights/large.safetensors", True),
        ("results/papers/code_table1.csv", True),
        ("tests/test_gpu.py", True),
        ("tests/data/cases.npz", True),
        ("tests/data/layouts.json", False),
        ("docs/pictures/a.png", False),
        ("results/shipped/amd-epyc-2-threads/mini_table1/records.jsonl", False),
    ],
)
def test_the_tree_goes_without_pictures_and_results(path, goes):
    assert kit.is_needed(path) is goes
    assert not goes or path in kit.tree()
