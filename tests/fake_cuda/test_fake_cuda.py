"""The host's side of a GPU, where there is none: cuda.cpp says what is real and what is not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
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
    "baselines/test_baselines_gpu.py": 10,
}
QUICK = "test_gpu.py"


@pytest.mark.parametrize(
    "file", [pytest.param(file, marks=[pytest.mark.slow] * (file != QUICK)) for file in FILES]
)
def test_what_needs_no_kernel_passes(card, file):
    """Cases, memory, out of memory, streams, captured graphs and their replay, Triton's code."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--quiet", HERE.parent / file]
    done = subprocess.run(command, env=card, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) == FILES[file]
