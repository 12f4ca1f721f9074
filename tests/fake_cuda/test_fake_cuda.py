"""The host's side of a GPU, where there is none: cuda.cpp says what is real and what is not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.study import records

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a real one is here")


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """Environment variables of a machine with a card."""
    command = [sys.executable, HERE / "build.py", tmp_path_factory.mktemp("fake_cuda")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(done.stderr)
    return os.environ | dict(word.split("=", 1) for word in done.stdout.split())


FILES = {  # and how many tests are not skipped
    "fake_cuda/on_card.py": 26,
    "test_gpu.py": 16,
    "methods/test_baselines_gpu.py": 10,
}
ONE_OF_A_KIND = "not efficient and not flash and not fp16"


def passed(card, file, *options):
    """How many of its tests, none failed."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--quiet", HERE.parent / file, *options]
    done = subprocess.run(command, env=card, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:]
    return int(re.search(r"(\d+) passed", done.stdout)[1])


def test_what_needs_no_kernel_passes(card):
    """Cases, memory, out of memory, streams, captured graphs and their replay."""
    assert passed(card, "test_gpu.py", "-k", ONE_OF_A_KIND) == 12


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_all_that_needs_no_kernel_passes(card, file):
    """With every kind of attention and precision, Triton's code, the baselines."""
    assert passed(card, file) == FILES[file]


@pytest.mark.slow
def test_a_profile_of_the_card_runs_as_it_is(card, tmp_path):
    """Items, a shared process, records, archive, page; what a kernel computes is nonsense, so the
    smoke fails, and NVML is not there: both are recorded, and the rest goes on."""
    command = [sys.executable, ROOT / "bench.py", "profile", "--minutes", "5", "--device", "cuda"]
    out = ["--out", tmp_path / "run", "--pack", tmp_path / "packed", "--max-files", "8"]
    command += [*out, "--max-mib", "16"]
    done = subprocess.run(command, env=card, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    read, complaints = records.read(tmp_path / "run")
    assert complaints == []
    ran = {(record.method, record.stack) for record in read if record.ok}
    assert ("VAR-d30", "published") in ran
    assert all(record.memory and record.samples for record in read if record.ok)
    # On a busy machine no time was left for the page, which `import` makes.
    there = ["import", tmp_path / "packed", "--out", tmp_path / "there"]
    subprocess.run([sys.executable, ROOT / "bench.py", *there], check=True, timeout=300)
    assert records.read(tmp_path / "there") == (read, [])
    page = (tmp_path / "there" / "profile.md").read_text()
    assert "no NVML" in page
    assert "Left out for lack of time" in page
