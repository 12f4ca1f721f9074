"""Two processes do what one does with the same batch."""

from __future__ import annotations

import json
import os
import socket

import pytest
import torch.multiprocessing as mp
from safetensors.torch import load_file

from codevar.train import checkpoint, loop, parallel
from tests.train.small import config, files, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("parallel")
    files(path)
    return path


def process(rank: int, port: int, runs: list[dict], stopped: list[dict]) -> None:
    """What torchrun starts.  Runs of `stopped` are made once as they are and once in two goes."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    for values in runs + stopped:
        train(values)
    step = loop.Run._step

    def stopping(self, batches):
        if self.done == 2:
            raise KeyboardInterrupt
        step(self, batches)

    for values in stopped:
        again = values | {"out": values["out"] + "-stopped"}
        loop.Run._step = stopping  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            train(again)
        loop.Run._step = step  # type: ignore[method-assign]
        train(again, resume=True)
    parallel.leave()
    parallel.leave()


def column(out: str, name: str) -> list[float]:
    with open(f"{out}/{loop.METRICS}") as lines:
        return [json.loads(line)[name] for line in lines]


CASES = (
    ("var", {"micro_batch": 2}),
    ("vqvae", {"unquantised": 9}),
    ("code-refiner", {}),
    ("variant", {"bridge_scales": 0, "ratio": 0.5, "measure_every": 1}),
    ("variant", {"parallel": "fsdp", "micro_batch": 2, "recompute": True, "measure_every": 1}),
)


def test_two_processes_give_the_losses_of_one(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    twos = [
        config(folder, r, **c, steps=4, out=f"{folder}/two{i}") for i, (r, c) in enumerate(CASES)
    ]
    # Codes no process used are thrown away after step 3; those used in step 2 stay.
    rare = {"unquantised": 1, "restart_every": 3, "model.vocab": 128, "steps": 4}
    restarted = config(folder, "vqvae", **rare, out=f"{folder}/restarted")
    stopped = [twos[-1], restarted]
    arguments = (port, twos[:-1], stopped)
    mp.start_processes(process, arguments, nprocs=2, start_method="forkserver")
    for i, (two, (recipe, changes)) in enumerate(zip(twos, CASES, strict=True)):
        alone = {k: v for k, v in changes.items() if k != "parallel"}
        if "micro_batch" in alone:  # as many rows of a forward over both processes
            alone["micro_batch"] = 4
        one = config(folder, recipe, **alone, steps=4, out=f"{folder}/one{i}")
        path = train(one)
        watched = [("loss", {"abs": 1e-5}), ("gradient", {"rel": 1e-4})]
        if "measure_every" in changes:
            watched += [("loss_subnet", {"abs": 1e-5})]
            watched += [("gradient_full_only_flexible_full", {"rel": 1e-3})]
        for name, near in watched:
            wanted = pytest.approx(column(one["out"], name), **near)
            assert column(two["out"], name) == wanted, (recipe, changes)
        a, b = (load_file(f"{run['out']}/{checkpoint.FILE}") for run in (one, two))
        assert a.keys() == b.keys()
        assert all(a[name].shape == b[name].shape for name in a)
        assert path.exists()
    for run in stopped:
        wanted = pytest.approx(column(run["out"], "loss"), abs=1e-6)
        assert column(run["out"] + "-stopped", "loss") == wanted
