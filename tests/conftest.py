"""Reference cases: outputs of the published code on seeded weights (`tests/data`)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import codevar
from bench.measure.machine import OtherLoad

DATA = Path(__file__).parent / "data"

# Two threads that wait for each other on a busy machine take ten times as long as one.
torch.set_num_threads(1)

spec = importlib.util.spec_from_file_location("seeded_weights", DATA / "seeded_weights.py")
assert spec is not None
assert spec.loader is not None
seeded_weights = importlib.util.module_from_spec(spec)
spec.loader.exec_module(seeded_weights)


def pytest_collection_modifyitems(items):
    """First the file that takes longest.  Last, those after which torch.compile has failed: from
    then on Python's own frames hold what they pass on until a call returns, so that memory is freed
    later (torch 2.9 to 2.15)."""
    order = {"test_fake_cuda.py": -1, "test_compiled.py": 1}
    items.sort(key=lambda item: order.get(item.path.name, 0))


@pytest.fixture(autouse=True)
def cores_others_keep_busy(monkeypatch):
    """The measurement as it is.  Every other test runs as if nothing else ran on its machine: a run
    measures again whatever it measured beside other work."""
    real = OtherLoad.cores
    monkeypatch.setattr(OtherLoad, "cores", lambda self: 0.0)
    return real


@pytest.fixture
def job():
    """What `bench.measure.child` is told besides the case: one sample."""
    return {
        "effort": {"warmup": 0, "samples": 1, "target": 1.0, "max_seconds": 0.1},
        "stream_seconds": 0,
        "paired_with": None,
        "download": False,
        "keep": {},
    }


@pytest.fixture(scope="session")
def cases():
    return np.load(DATA / "cases.npz")


@pytest.fixture(scope="session")
def meta(cases):
    return json.loads(str(cases["meta"]))


@pytest.fixture(scope="session")
def labels(meta):
    return torch.tensor(meta["labels"])


def reference_state_dict(name: str, seed: int) -> dict[str, np.ndarray]:
    return seeded_weights.state_dict(name, seed)


@pytest.fixture(scope="session")
def vqvae(meta):
    return codevar.load_vqvae(reference_state_dict(*meta["vae"]), device="cpu")


@pytest.fixture(scope="session")
def drafter(meta):
    return codevar.load_var(reference_state_dict(*meta["drafter"]), device="cpu")


@pytest.fixture(scope="session")
def refiner(meta):
    return codevar.load_var(reference_state_dict(*meta["refiner"]), device="cpu")


@pytest.fixture(scope="session")
def image_input(meta):
    """(2, 3, 256, 256) in [0, 1]."""
    noise = np.random.default_rng(meta["vae"][1]).uniform(-1, 1, (2, 3, 32, 32))
    small = torch.from_numpy(noise.astype(np.float32))
    return torch.nn.functional.interpolate(small, size=(256, 256), mode="nearest") * 0.5 + 0.5
