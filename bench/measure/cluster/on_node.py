"""What runs on a node of the cluster: a Ray task that measures a family of cases.

Each case still has a process of its own.  The task only stands between Ray and
`runner.run_case`, and never touches the GPU itself.
"""

import contextlib
import os
import platform
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from bench.predict.shares import Family
from bench.study.cases import Case
from bench.study.experiment import Sweep
from bench.study.records import Record

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
LOG_CHARACTERS = 2**20


@dataclass(frozen=True)
class Job:
    """What a node is asked for.

    source: commit and dirty of the driver's working tree; the node has a copy without git.
    device: "cpu" (all of the node's CPU) or "cuda" (one GPU).  family: None: only say what the
    place is.  records: those that the sweep has of the family.
    """

    sweep: Sweep
    source: dict[str, Any]
    device: str
    download: bool
    node: str
    family: Family | None = None
    records: tuple[Record, ...] = ()


def measure(job: Job) -> Iterator[Any]:
    """Yields `describe`, then (record, log of its process) of each measurement that is missing.

    Ends after the first where the place has not got one GPU of its own.
    """
    from bench.measure.cluster.sweep_records import left

    about = describe(job)
    yield about
    if job.family is None or (job.device == "cuda" and len(about["cards"]) != 1):
        return
    place, env, records = about["place"], about["env"], list(job.records)
    while todo := left(job.sweep, job.family, records, env["machine"], place):
        round_, case = todo[0]
        record, log = measure_case(job, case, round_, env)
        record.place, record.on = place, job.family.on
        records.append(record)
        yield record, log


def describe(job: Job) -> dict[str, Any]:
    """`look_around` in a process set up as a case's, so that this one never holds a GPU; and the
    place's name."""
    # Ray sets it to the CPUs that a task asked for, hyperthreads and all; a case is to have as
    # many threads as in a local run, unless whoever started the node said otherwise.
    if "OMP_NUM_THREADS" not in psutil.Process().environ():
        os.environ.pop("OMP_NUM_THREADS", None)
    with contextlib.suppress(psutil.AccessDenied):  # `look_around` then says so
        psutil.Process().nice(0)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        found = process.submit(look_around, job.device).result()
    found["env"] |= job.source
    found["place"] = f"{job.node} GPU {found['gpu']}" if job.device == "cuda" else job.node
    return found


def measure_case(job: Job, case: Case, round_: int, env: dict[str, Any]) -> tuple[Record, str]:
    """A case's record, and what its process had to say."""
    from bench.measure import runner

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "logs").mkdir()
        record = runner.run_case(case, job.sweep, folder, env, job.download, round_)
        logs = [
            file.read_text("utf-8-sig", errors="replace") for file in (folder / "logs").iterdir()
        ]
    return record, "".join(logs)[-LOG_CHARACTERS:]


def look_around(device: str) -> dict[str, Any]:
    """The place as a process of a case sees it.

    env: `machine.environment`.  host: the same for whatever shares this host's cores, be it in
    another container.  cards: UUIDs of the GPUs that torch sees; gpu: Ray's number of the one.
    warnings: `machine.find_disturbances`.
    """
    import torch

    from bench.measure import machine

    count = torch.cuda.device_count() if device == "cuda" else 0
    cards = [str(torch.cuda.get_device_properties(i).uuid) for i in range(count)]
    busy = machine.find_disturbances(torch.device(device)) if device == "cpu" or cards else []
    if (niceness := psutil.Process().nice()) > 0:
        busy.append(f"Ray runs workers at niceness {niceness}: RAY_worker_niceness=0 ray start ...")
    return {
        "env": machine.environment(),
        "host": BOOT_ID.read_text().strip() if BOOT_ID.exists() else platform.node(),
        "cards": cards,
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "warnings": busy,
    }
