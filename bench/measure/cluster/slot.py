"""One slot of a cluster, as it runs on its node: a GPU, or all of the CPU.

    python -m bench.measure.cluster.slot cpu|cuda        # what the slot is, as JSON

Each case still has a process of its own.  The slot only stands between Ray and
`runner.run_case`, and never touches the GPU itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from bench.study.folders import CODE

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
LOG_CHARACTERS = 2**20


class Slot:
    """A Ray actor (`bench.measure.cluster.nodes` makes it one).

    source: commit and dirty of the driver's working tree, of which this node has a copy without
    git.  device: "cpu" or "cuda".
    """

    def __init__(self, sweep: Any, source: dict[str, Any], device: str, download: bool) -> None:
        self.sweep, self.source, self.device, self.download = sweep, source, device, download
        # Ray sets it to the CPUs an actor asked for, hyperthreads and all; a case is to have as
        # many threads as in a local run, unless whoever started the node said otherwise.
        if "OMP_NUM_THREADS" not in psutil.Process().environ():
            os.environ.pop("OMP_NUM_THREADS", None)
        with contextlib.suppress(psutil.AccessDenied):  # `main` then says so
            psutil.Process().nice(0)

    def about(self) -> dict[str, Any]:
        """What `main` prints.  Raises RuntimeError with its last words."""
        command = [sys.executable, "-m", "bench.measure.cluster.slot", self.device]
        path = os.pathsep.join([str(CODE), os.environ.get("PYTHONPATH", "")])
        environ = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, capture_output=True, text=True, cwd=CODE, env=environ)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            raise RuntimeError(said[-1])
        found = json.loads(done.stdout)
        self.env = found["env"] = {**found["env"], **self.source}
        return found

    def measure(self, case: Any, round_: int) -> tuple[dict[str, Any], str]:
        """A case's record, and what its process had to say."""
        from bench.measure import runner

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "logs").mkdir()
            record = runner.run_case(case, self.sweep, folder, self.env, self.download, round_)
            logs = [file.read_text(errors="replace") for file in (folder / "logs").iterdir()]
        return record, "".join(logs)[-LOG_CHARACTERS:]


def main(device: str) -> dict[str, Any]:
    """env: `machine.environment`.  host: the same for whatever shares this host's cores, be it in
    another container.  cards: of the GPUs that torch sees, their UUIDs; gpu: Ray's number of the
    one.  warnings: `machine.busy`."""
    import torch

    from bench.measure import machine

    env = machine.environment()
    count = torch.cuda.device_count() if device == "cuda" else 0
    cards = [str(torch.cuda.get_device_properties(i).uuid) for i in range(count)]
    busy = machine.busy(torch.device(device)) if device == "cpu" or cards else []
    if (niceness := psutil.Process().nice()) > 0:
        busy.append(f"Ray runs workers at niceness {niceness}: RAY_worker_niceness=0 ray start ...")
    host = BOOT_ID.read_text().strip() if BOOT_ID.exists() else platform.node()
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"env": env, "host": host, "cards": cards, "gpu": gpu, "warnings": busy}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
